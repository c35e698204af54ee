"""Samples to log-mel, as NeMo's ``AudioToMelSpectrogramPreprocessor`` computes it, in numpy.

Preemphasis 0.97, a symmetric 400-sample Hann window centred in 512, zeros beyond both ends, power
spectrum, Slaney mel filters, ``log(x + 2**-24)``, one frame of 10 ms per 160 samples. What is kept
is raw; :class:`Statistics` normalise what is encoded. Checked against NeMo in
tests/test_frontend.py.
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

_FFT = 512
_WINDOW = 400
_REACH = _WINDOW // 2  # How far a frame's window reaches to either side of its centre.
_PREEMPHASIS = np.float32(0.97)
_GUARD = np.float32(2.0**-24)
_STD_GUARD = np.float32(1e-5)


class LogMelStream:
    """Raw log-mel of audio that arrives in pieces of any size.

    The frames are those of feeding everything at once: a frame is given out when the last sample
    that its window reaches has been heard (12.5 ms behind its centre), or at :meth:`finish`.

    Args:
        bins: Mel bins, 80 or 128 in Parakeet models.
    """

    def __init__(self, bins: int) -> None:
        self._filters = mel_filters(bins)
        self._last = np.float32(0)  # The sample before the next, for preemphasis.
        # Preemphasised samples from the left edge of the next frame's window on; before the
        # first sample there is silence.
        self._pending: Samples = np.zeros(_REACH, np.float32)

    def push(self, samples: Samples) -> LogMel:
        """Feed ``float32 [samples]`` at 16 kHz; returns the frames that are now complete."""
        if len(samples) == 0:
            return self._frames(0)
        previous = np.concatenate(([self._last], samples[:-1]))
        emphasised = samples - _PREEMPHASIS * previous
        self._last = samples[-1]
        self._pending = np.concatenate((self._pending, emphasised))
        return self._frames(max(0, (len(self._pending) - _WINDOW) // HOP + 1))

    def finish(self) -> LogMel:
        """The last frames, with silence behind the end: one per whole 160 samples heard."""
        heard = len(self._pending) - _REACH  # Samples behind the next frame's centre.
        self._pending = np.concatenate((self._pending, np.zeros(_WINDOW, np.float32)))
        return self._frames(max(0, heard // HOP))

    def _frames(self, count: int) -> LogMel:
        """Cut ``count`` frames off the pending samples."""
        if count == 0:
            return np.zeros((0, len(self._filters)), np.float32)
        windows = np.lib.stride_tricks.sliding_window_view(self._pending, _WINDOW)[::HOP][:count]
        # Where the window lies within the transform does not change the power spectrum. NeMo
        # transforms in float32; numpy is faster in float64, and that is closer to both.
        spectrum = np.fft.rfft(windows * _hann(), _FFT).astype(np.complex64)
        power = spectrum.real**2 + spectrum.imag**2
        self._pending = self._pending[count * HOP :]
        mel: LogMel = np.log(power @ self._filters.T + _GUARD)
        return mel


def log_mel(samples: Samples, bins: int) -> LogMel:
    """Raw log-mel of ``float32 [samples]`` at 16 kHz, fed at once: ``[samples // 160, bins]``."""
    stream = LogMelStream(bins)
    return np.concatenate((stream.push(samples), stream.finish()))


class Statistics:
    """Mean and deviation of every bin over log-mel that comes and goes, for normalisation."""

    def __init__(self, bins: int) -> None:
        self._frames = 0
        self._sum = np.zeros(bins)
        self._squares = np.zeros(bins)

    def add(self, mel: LogMel) -> None:
        """Take in raw log-mel ``[frames, bins]``."""
        self._change(mel, 1)

    def remove(self, mel: LogMel) -> None:
        """Forget log-mel that was taken in before."""
        self._change(mel, -1)

    def normalize(self, mel: LogMel) -> LogMel:
        """Bring every bin to zero mean and unit deviation (NeMo's ``per_feature``)."""
        count = max(1, self._frames)
        mean = self._sum / count
        variance = (self._squares - self._sum * mean) / max(1, count - 1)
        # What rounding leaves of bins that never change must not become negative.
        scale = 1 / (np.sqrt(np.maximum(variance, 0)) + _STD_GUARD)
        normal: LogMel = (mel - mean.astype(np.float32)) * scale.astype(np.float32)
        return normal

    def _change(self, mel: LogMel, sign: int) -> None:
        exact = mel.astype(np.float64)
        self._frames += sign * len(mel)
        self._sum += sign * exact.sum(axis=0)
        self._squares += sign * (exact * exact).sum(axis=0)


def normalize(mel: LogMel) -> LogMel:
    """Normalise raw log-mel ``[frames, bins]`` by its own statistics."""
    statistics = Statistics(mel.shape[1])
    statistics.add(mel)
    return statistics.normalize(mel)


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
