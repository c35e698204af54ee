"""Samples to log-mel, as NeMo's ``AudioToMelSpectrogramPreprocessor`` computes it, in numpy.

Preemphasis 0.97, a symmetric 400-sample Hann window centred in 512, zeros beyond both ends, power
spectrum, Slaney mel filters, ``log(x + 2**-24)``, one frame of 10 ms per 160 samples. Log-mel stays
raw until it is encoded. Checked against NeMo in tests/test_frontend.py.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import numpy.typing as npt

from parakeet_stt.audio import SAMPLE_RATE, Samples

LogMel = npt.NDArray[np.float32]
"""float32 [frames, bins]; a frame is 10 ms."""

HOP = 160
"""Samples per mel frame."""

GUARD = 2.0**-24
"""Power that is added to every bin, so that silence has a logarithm."""

SILENCE = float(np.log(GUARD))
"""Raw log-mel of digital silence."""

_FFT = 512
_WINDOW = 400
_REACH = _WINDOW // 2  # How far a frame's window reaches to either side of its centre.
_PREEMPHASIS = 0.97
_STD_GUARD = 1e-5
_BLOCK = 8  # Frames that one matrix product takes, at fixed places of the stream.
_AT_ONCE = 64  # Frames that are computed at once, so that they fit into a processor's cache.

Floats = npt.NDArray[np.float64]


class LogMelStream:
    """Raw log-mel of audio that arrives in pieces of any size.

    A frame is returned as soon as the last sample that its window covers has been received (12.5 ms
    after its centre), or by :meth:`finish`. Its bits do not depend on the pieces: everything is
    computed in float64, each frame by itself or, for the matrix product, whose rounding depends on
    its shape, in its place in a block of 8.

    Args:
        bins: Mel bins, 80 or 128 in Parakeet models.
    """

    def __init__(self, bins: int) -> None:
        self._filters = np.ascontiguousarray(mel_filters(bins).T, np.float64)
        self._last = 0.0  # The sample before the next, for preemphasis.
        # Preemphasised samples from the left edge of the next frame's window on; before the
        # first sample there is silence.
        self._pending: Floats = np.zeros(_REACH)
        self._place = 0  # Of the next frame in its block.

    def push(self, samples: Samples) -> LogMel:
        """Feed ``float32 [samples]`` at 16 kHz; returns the frames that are now complete."""
        if len(samples) == 0:
            return self._frames(0)
        # The sample before them, then the samples; each is replaced by what preemphasis leaves.
        exact = np.empty(1 + len(samples))
        exact[0], exact[1:] = self._last, samples
        self._last = float(exact[-1])
        exact[1:] -= _PREEMPHASIS * exact[:-1]
        self._pending = np.concatenate((self._pending, exact[1:]))
        return self._frames(max(0, (len(self._pending) - _WINDOW) // HOP + 1))

    def finish(self) -> LogMel:
        """The last frames, with silence behind the end: one per whole 160 samples received."""
        received = len(self._pending) - _REACH  # Samples behind the next frame's centre.
        self._pending = np.concatenate((self._pending, np.zeros(_WINDOW)))
        return self._frames(max(0, received // HOP))

    def _frames(self, count: int) -> LogMel:
        """Cut ``count`` frames off the pending samples."""
        frames = np.empty((count, self._filters.shape[1]), np.float32)
        for begin in range(0, count, _AT_ONCE):
            end = min(begin + _AT_ONCE, count)
            samples = self._pending[begin * HOP : (end - 1) * HOP + _WINDOW]
            frames[begin:end] = self._log_mel(samples)
        self._pending = self._pending[count * HOP :]
        return frames

    def _log_mel(self, samples: Floats) -> Floats:
        """Log-mel of the next frames, whose windows cover these samples."""
        windows = np.lib.stride_tricks.sliding_window_view(samples, _WINDOW)[::HOP]
        # Where the window lies within the transform does not change the power spectrum.
        spectrum = np.fft.rfft(windows * _hann(), _FFT)
        first, count = self._place, len(spectrum)
        self._place = (first + count) % _BLOCK
        blocks = -(-(first + count) // _BLOCK)
        power = np.zeros((blocks * _BLOCK, spectrum.shape[1]))
        own = power[first : first + count]
        np.square(spectrum.real, out=own)
        own += np.square(spectrum.imag)
        mel = np.matmul(power.reshape(blocks, _BLOCK, -1), self._filters)
        found: Floats = mel.reshape(blocks * _BLOCK, -1)[first : first + count] + GUARD
        return np.log(found, out=found)


def standardize(mel: LogMel, frames: float, sums: Floats, squares: Floats) -> LogMel:
    """Give every bin zero mean and unit deviation (NeMo's ``per_feature``).

    Args:
        mel: Raw log-mel ``[frames, bins]``.
        frames: Number of frames that the statistics are of.
        sums: Sum of every bin over them, less :data:`SILENCE` in each frame: float64 [bins].
        squares: The same of the squares.
    """
    mean = sums / max(1.0, frames)
    variance = (squares - sums * mean) / max(1.0, frames - 1)
    # What rounding leaves of bins that never change must not become negative.
    scale = 1 / (np.sqrt(np.maximum(variance, 0)) + _STD_GUARD)
    normal: LogMel = ((mel - (mean + SILENCE)) * scale).astype(np.float32)
    return normal


@cache
def _hann() -> npt.NDArray[np.float64]:
    """Symmetric Hann window, float64 [400]."""
    return np.hanning(_WINDOW)


@cache
def mel_filters(bins: int) -> LogMel:
    """Slaney's mel filter bank with area normalisation, as librosa's: float32 [bins, 257].

    The mel scale is linear below 1 kHz and logarithmic above (Slaney, Auditory Toolbox, 1998).
    """
    step, break_hz, log_step = 200.0 / 3, 1000.0, np.log(6.4) / 27
    break_mel = break_hz / step
    top = break_mel + np.log(SAMPLE_RATE / 2 / break_hz) / log_step
    mels = np.linspace(0, top, bins + 2)
    edges = np.where(
        mels < break_mel, mels * step, break_hz * np.exp(log_step * (mels - break_mel))
    )
    frequencies = np.linspace(0, SAMPLE_RATE / 2, _FFT // 2 + 1)
    widths = np.diff(edges)
    slopes = edges[:, None] - frequencies[None, :]
    rising, falling = -slopes[:-2] / widths[:-1, None], slopes[2:] / widths[1:, None]
    triangles = np.maximum(0, np.minimum(rising, falling))
    filters: LogMel = (triangles * (2 / (edges[2:] - edges[:-2]))[:, None]).astype(np.float32)
    return filters
