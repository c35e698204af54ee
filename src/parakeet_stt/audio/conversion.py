"""Conversion of audio of any sample rate and number of channels to mono at 16 kHz."""

from __future__ import annotations

from typing import Any

import numpy as np
import soxr

from parakeet_stt.audio.downmix import Downmix
from parakeet_stt.audio.samples import SAMPLE_RATE, Samples
from parakeet_stt.errors import AudioError

MIN_RATE, MAX_RATE = 4_000, 384_000
"""Accepted sample rates, Hz."""

MAX_CHANNELS = 16
"""Maximum number of channels."""


def check_format(rate: int, channels: int) -> None:
    """Check a sample rate in Hz and a number of channels.

    Raises:
        AudioError: A rate outside 4 to 384 kHz, or not 1 to 16 channels.
    """
    if not isinstance(rate, int | np.integer) or not MIN_RATE <= rate <= MAX_RATE:
        raise AudioError(f"sample rate {rate} Hz: expected {MIN_RATE} to {MAX_RATE} Hz")
    if not 1 <= channels <= MAX_CHANNELS:
        raise AudioError(f"{channels} channels: expected 1 to {MAX_CHANNELS}")


class Converter:
    """Streaming conversion to mono at 16 kHz.

    Args:
        rate: Sample rate of the input, Hz.
        channels: Number of channels of the input; see
            :class:`~parakeet_stt.audio.downmix.Downmix`.

    Raises:
        AudioError: A rate outside 4 to 384 kHz, or not 1 to 16 channels.
    """

    def __init__(self, rate: int, channels: int) -> None:
        check_format(rate, channels)
        self.rate = rate
        self.channels = channels
        self._mix = Downmix(channels, rate)
        self._resample = Resampler(rate)

    def __call__(self, frames: Samples) -> Samples:
        """Convert the next chunk.

        Args:
            frames: ``float32 [frames, channels]`` or interleaved ``[frames * channels]``, of any
                length.

        Returns:
            The samples that are complete, ``float32 [samples]``.
        """
        return self._resample(self._mix(frames.reshape(-1, self.channels)))

    def flush(self) -> Samples:
        """Return the remaining samples, ``float32 [samples]``, and reset the converter."""
        return np.concatenate([self._resample(self._mix.flush()), self._resample.flush()])


class Resampler:
    """Streaming resampler to 16 kHz (soxr, high quality).

    Args:
        rate: Sample rate of the input, Hz.

    Raises:
        AudioError: A rate outside 4 to 384 kHz.
    """

    def __init__(self, rate: int) -> None:
        check_format(rate, 1)
        self.rate = rate
        self._stream = self._open()

    def __call__(self, samples: Samples) -> Samples:
        """Resample the next chunk, ``float32 [samples]``; returns the samples that are complete."""
        return samples if self._stream is None else self._stream.resample_chunk(samples)

    def flush(self) -> Samples:
        """Return the remaining samples, ``float32 [samples]``, and reset the resampler."""
        if self._stream is None:
            return np.zeros(0, np.float32)
        rest: Samples = self._stream.resample_chunk(np.zeros(0, np.float32), last=True)
        self._stream = self._open()
        return rest

    def _open(self) -> Any:
        if self.rate == SAMPLE_RATE:
            return None
        return soxr.ResampleStream(self.rate, SAMPLE_RATE, 1, dtype="float32")
