"""Several channels to one."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]


class Downmix:
    """Average interleaved channels, in pieces of any size.

    A channel that is in opposite phase to the channels before it (a cable with swapped poles) would
    cancel them out, so it is inverted first. That is decided for every 20 ms of the stream, counted
    from its start, so that the result does not depend on the size of the pieces; up to 20 ms of
    several channels are held back for it. If the channels are neither alike nor opposite, the
    decision before stays.

    Args:
        channels: Number of channels.
        rate: Sample rate, Hz.
    """

    def __init__(self, channels: int, rate: int) -> None:
        self._channels = channels
        self._size = rate // 50
        self._group = rate // _COMPARED_RATE
        # A change takes 5 ms, so that it does not click.
        self._ramp = np.minimum(1, np.arange(1, self._size + 1) / (rate // 200)).astype(np.float32)
        self._held = np.zeros((0, channels), np.float32)
        self._signs = np.ones(channels, np.float32)  # Of the newest block.

    def __call__(self, frames: Floats) -> Floats:
        """Add ``float32 [frames, channels]``; returns ``float32 [samples]`` that are decided."""
        if self._channels == 1:
            return frames[:, 0]
        frames = np.concatenate([self._held, frames])
        whole = len(frames) // self._size * self._size
        self._held = frames[whole:]
        return self._mix(frames[:whole].reshape(-1, self._size, self._channels))

    def flush(self) -> Floats:
        """Return what was held back; the next piece starts a new stream."""
        rest = self._mix(self._held[None])
        self._held = self._held[:0]
        self._signs[:] = 1
        return rest

    def _mix(self, blocks: Floats) -> Floats:
        """``[blocks, frames, channels]`` to samples."""
        total = blocks[..., 0].copy()
        for channel in range(1, self._channels):
            other = blocks[..., channel]
            signs = self._decide(channel, total, other)
            before, now = signs[:-1, None], signs[1:, None]
            total += other * (before + (now - before) * self._ramp[: total.shape[1]])
        mono: Floats = total.reshape(-1) / np.float32(self._channels)
        return mono

    def _decide(self, channel: int, total: Floats, other: Floats) -> Floats:
        """The sign of a channel in the block before, and in each block."""
        first, second = self._compared(total), self._compared(other)
        product = np.einsum("bi,bi->b", first, second)
        energy = np.einsum("bi,bi->b", first, first) * np.einsum("bi,bi->b", second, second)
        decided = np.abs(product) > _ALIKE * np.sqrt(energy)
        newest = np.maximum.accumulate(np.where(decided, np.arange(1, len(decided) + 1), 0))
        signs = np.concatenate([self._signs[channel, None], np.sign(product)])
        signs = np.concatenate([signs[:1], signs[newest]]).astype(np.float32)
        self._signs[channel] = signs[-1]
        return signs

    def _compared(self, blocks: Floats) -> npt.NDArray[np.float64]:
        """The band of voices, by sums and differences: neither hiss nor hum nor an offset."""
        count = blocks.shape[1] // self._group
        groups = blocks[:, : count * self._group].reshape(len(blocks), count, self._group)
        return np.diff(groups.sum(axis=-1, dtype=np.float64))


_ALIKE = 0.7  # Correlation. Measured: lower, two distant microphones flip; higher, noise decides.
_COMPARED_RATE = 4_000  # Hz.
