"""The newest log-mel of a segment: which of it is quiet, and windows normalised for the encoder.

Log-mel is summed over blocks of 8 frames at fixed places of the segment, in float64 and in a fixed
order, so that the pieces in which audio arrived cannot change a bit of the result.

A block is *quiet* if no frequency band is more than 6.5 dB above the noise floor: the lowest power
that the band has over 160 ms within 1.3 s to either side (minimum statistics; Martin, "Noise Power
Spectral Density Estimation Based on Optimal Smoothing and Minimum Statistics", 2001). Speech varies
more than that, and loud sounds have no influence on what counts as quiet.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from parakeet_stt.model.frontend import GUARD, SILENCE, LogMel, standardize

BLOCK = 8
"""Mel frames per block (80 ms), which is one encoder frame."""

PADDING = 32
"""Mel frames of synthetic silence behind a closed window, which release the last word."""

# How these were chosen is in docs/benchmarks.md, "Conditions".
_BANDS = 8  # Of equal width in mel.
_REACH = 16  # Blocks to either side in which the noise floor is looked for: 1.3 s; a power of 2.
_MARGIN = 4.5  # Power relative to the noise floor: 6.5 dB.
_DIGITAL_SILENCE = 0.01 * GUARD  # Power up to 4.5 times this is quiet in any case.
_PAUSE_BLOCKS = 2  # A pause begins with so many quiet blocks (160 ms), which belong to its window.
_PAUSE_WEIGHT = 3.0  # In the statistics they stand for a pause of half a second.
# Quiet blocks count in the statistics as at most half as many as the others, or as 1.6 s.
_QUIET_SHARE = 0.5
_QUIET_BLOCKS = 20

Floats = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]


class MelBuffer:
    """Raw log-mel of a segment from some frame on.

    Attributes:
        start: Mel frame, counted from the segment's beginning, of the first that is kept; a
            multiple of :data:`BLOCK`.

    Args:
        bins: Mel bins.
        capacity: Maximum number of frames that are kept; a multiple of :data:`BLOCK`.
    """

    def __init__(self, bins: int, capacity: int) -> None:
        self.start = 0
        self._count = 0
        # Untouched memory costs nothing: a short segment uses what it needs.
        self._frames = np.empty((capacity, bins), np.float32)
        # Of each block: the sum and the sum of squares of every bin, and the power of every band.
        self._sums = np.empty((capacity // BLOCK, bins))
        self._squares = np.empty((capacity // BLOCK, bins))
        self._powers = np.empty((capacity // BLOCK, _BANDS))
        self._band_starts = np.arange(_BANDS) * bins // _BANDS
        self._band_widths = np.diff(np.append(self._band_starts, bins))
        self._quiet = np.empty(capacity // BLOCK, np.bool_)

    @property
    def end(self) -> int:
        """Mel frame behind the newest one."""
        return self.start + self._count

    @property
    def full(self) -> bool:
        """Whether there is no room left."""
        return self._count == len(self._frames)

    @property
    def pause(self) -> int | None:
        """Mel frame 160 ms behind the last sound, if all that was heard since is quiet and there is
        as much of it; otherwise None. It does not move while the pause goes on."""
        loud = np.flatnonzero(~self._quiet[: _blocks(self._count)])
        begin = (int(loud[-1]) + 1 if len(loud) else 0) + _PAUSE_BLOCKS
        return self.start + begin * BLOCK if begin <= self._count // BLOCK else None

    def append(self, mel: LogMel) -> LogMel:
        """Keep as many frames ``[frames, bins]`` as there is room for; returns the others."""
        taken, rest = np.split(mel, [len(self._frames) - self._count])
        first = self._count // BLOCK
        self._frames[self._count : self._count + len(taken)] = taken
        self._count += len(taken)
        self._summarize(first)
        return rest

    def drop(self, until: int) -> None:
        """Forget the frames before ``until``, a multiple of :data:`BLOCK`."""
        gone = until - self.start
        blocks = _blocks(self._count)
        left, gone_blocks = self._count - gone, gone // BLOCK
        self._frames[:left] = self._frames[gone : self._count].copy()
        for kept in (self._sums, self._squares, self._powers, self._quiet):
            kept[: blocks - gone_blocks] = kept[gone_blocks:blocks].copy()
        self._count = left
        self.start = until

    def open_window(self, begin: int) -> LogMel:
        """Frames from ``begin`` on, normalised by the statistics of all that are kept."""
        return self._normalize(self._frames[begin - self.start : self._count], self._count)

    def closed_window(self, begin: int) -> LogMel:
        """Frames from ``begin`` to the pause (without one, to the end), then :data:`PADDING`.

        They are normalised by the statistics of all frames that are kept up to there. What follows
        in a pause has no influence.
        """
        pause = self.pause
        count = self._count if pause is None else pause - self.start
        silence = np.full((PADDING, self._frames.shape[1]), SILENCE, np.float32)
        window = np.concatenate((self._frames[begin - self.start : count], silence))
        return self._normalize(window, count, 1.0 if pause is None else _PAUSE_WEIGHT)

    def _summarize(self, first: int) -> None:
        """Sum the blocks from ``first`` on, and judge again those that they may have changed."""
        whole, blocks = self._count // BLOCK, _blocks(self._count)
        if whole > first:
            frames = self._frames[first * BLOCK : whole * BLOCK].reshape(whole - first, BLOCK, -1)
            self._sums[first:whole], self._squares[first:whole] = _moments(frames)
            self._powers[first:whole] = self._band_powers(self._sums[first:whole], BLOCK)
        if blocks > whole:
            frames = self._frames[None, whole * BLOCK : self._count]
            self._sums[whole:blocks], self._squares[whole:blocks] = _moments(frames)
            # So few frames say little about noise: those before them are looked at as well.
            newest = self._frames[None, max(0, self._count - BLOCK) : self._count]
            self._powers[whole:blocks] = self._band_powers(_moments(newest)[0], newest.shape[1])
        changed = max(0, first - _REACH)
        self._quiet[changed:blocks] = self._judge(changed, blocks)

    def _band_powers(self, sums: Floats, length: int) -> Floats:
        """Geometric mean of the power of every band in blocks of ``length`` frames."""
        levels = np.add.reduceat(sums, self._band_starts, axis=1) / (self._band_widths * length)
        powers: Floats = GUARD * np.expm1(levels)
        return powers

    def _normalize(self, window: LogMel, count: int, end_weight: float = 1.0) -> LogMel:
        """Normalise a window by the first ``count`` frames that are kept: by those that are not
        quiet, and a bounded share of those that are.

        Args:
            window: Raw log-mel ``[frames, bins]``.
            count: Frames that the statistics are of.
            end_weight: Of the last :data:`_PAUSE_BLOCKS` among the quiet ones.
        """
        blocks = _blocks(count)
        quiet = self._quiet[:blocks]
        if count < self._count:
            # The newest blocks were judged by what follows, too.
            uncertain = max(0, blocks - _REACH)
            quiet = np.append(quiet[:uncertain], self._judge(uncertain, blocks))
        silent = int(np.count_nonzero(quiet))
        allowed = max(_QUIET_BLOCKS, _QUIET_SHARE * (blocks - silent))
        share = min(1.0, allowed / max(1, silent))
        lengths = np.full(blocks, BLOCK, np.float64)
        lengths[blocks - 1 :] = count - BLOCK * (blocks - 1)
        # Added up block by block: the rounding of a matrix product may depend on its shape.
        sums, squares, frames = (
            np.add.reduce(moment[~quiet], axis=0)
            + share * np.add.reduce(moment[quiet], axis=0)
            + share * (end_weight - 1) * np.add.reduce(moment[-_PAUSE_BLOCKS:], axis=0)
            for moment in (self._sums[:blocks], self._squares[:blocks], lengths)
        )
        return standardize(window, float(frames), sums, squares)

    def _judge(self, first: int, blocks: int) -> Flags:
        """Which blocks from ``first`` on are quiet, if only the first ``blocks`` are known."""
        begin = max(0, first - _REACH)
        powers = self._powers[begin:blocks]
        beyond = np.full((_REACH, _BANDS), np.inf)
        lowest = np.concatenate((beyond, (powers[1:] + powers[:-1]) / 2, beyond))
        width = 1
        while width < 2 * _REACH:  # Each pass doubles the width that the minimum is taken over.
            lowest = np.minimum(lowest[:-width], lowest[width:])
            width *= 2
        floor = np.maximum(lowest, _DIGITAL_SILENCE)[: len(powers)]
        quiet: Flags = (powers <= _MARGIN * floor).all(axis=1)
        return quiet[first - begin :]


def _blocks(frames: int) -> int:
    return -(-frames // BLOCK)


def _moments(blocks: LogMel) -> tuple[Floats, Floats]:
    """Sums and sums of squares of every bin of blocks ``[blocks, frames, bins]``.

    Relative to silence, so that bins that hold nothing have no rounding error at all. Frames are
    added in their order, whatever the number of blocks: numpy adds in pairs along the last axis
    only.
    """
    relative = blocks.astype(np.float64) - SILENCE
    return np.add.reduce(relative, axis=1), np.add.reduce(relative * relative, axis=1)
