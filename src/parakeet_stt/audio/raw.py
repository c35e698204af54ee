"""Decoding of raw audio: PCM, floats and G.711, as streams carry them without a header."""

from __future__ import annotations

import numpy as np

from parakeet_stt.audio.conversion import Converter
from parakeet_stt.audio.samples import SAMPLE_RATE, Samples, to_floats
from parakeet_stt.errors import AudioError

_DTYPES = {"pcm16": "<i2", "f32": "<f4", "mulaw": "u1", "alaw": "u1"}


class AudioDecoder:
    """Streaming decoder of raw audio to ``float32 [samples]``, mono, 16 kHz.

    Args:
        encoding: ``pcm16`` or ``f32`` (little-endian), ``mulaw`` or ``alaw`` (G.711).
        rate: Sample rate, Hz; 16,000 by default.
        channels: Number of interleaved channels, 1 by default; they are mixed as
            :class:`~parakeet_stt.audio.conversion.Converter` does.

    Raises:
        AudioError: An unknown encoding, a rate outside 4 to 384 kHz, or not 1 to 16 channels.
    """

    def __init__(self, encoding: str = "pcm16", rate: int = SAMPLE_RATE, channels: int = 1) -> None:
        if encoding not in _DTYPES:
            raise AudioError(f"encoding {encoding!r}: expected one of {', '.join(_DTYPES)}")
        self._encoding = encoding
        self._convert = Converter(rate, channels)
        self._incomplete = b""

    @property
    def rate(self) -> int:
        """Sample rate of the input, Hz."""
        return self._convert.rate

    @property
    def channels(self) -> int:
        """Number of channels of the input."""
        return self._convert.channels

    def __call__(self, data: bytes) -> Samples:
        """Decode the next chunk, of any length; the bytes of an incomplete frame are kept.

        Raises:
            AudioError: Floats that are not finite, or far outside of -1 to 1.
        """
        data = self._incomplete + data
        frame = np.dtype(_DTYPES[self._encoding]).itemsize * self.channels
        complete = len(data) // frame * frame
        self._incomplete = data[complete:]
        raw = np.frombuffer(data[:complete], _DTYPES[self._encoding])
        match self._encoding:
            case "mulaw":
                samples = MULAW[raw]
            case "alaw":
                samples = ALAW[raw]
            case _:
                samples = to_floats(raw)
        return self._convert(samples)

    def flush(self) -> Samples:
        """Return the converter's remaining samples; the bytes of an incomplete frame are kept."""
        return self._convert.flush()


def _mulaw() -> Samples:
    """ITU-T G.711 mu-law: the sample of each code."""
    codes = ~np.arange(256, dtype=np.uint8)
    exponent, mantissa = (codes >> 4) & 7, codes & 15
    magnitude = (((mantissa.astype(np.int32) << 3) + 132) << exponent) - 132
    return (np.where(codes & 128, -magnitude, magnitude) / 32768).astype(np.float32)


def _alaw() -> Samples:
    """ITU-T G.711 A-law: the sample of each code."""
    codes = np.arange(256, dtype=np.uint8) ^ 0x55
    exponent, mantissa = ((codes >> 4) & 7).astype(np.int32), (codes & 15).astype(np.int32)
    linear = (mantissa << 4) + np.where(exponent > 0, 264, 8)
    magnitude = linear << np.maximum(exponent - 1, 0)
    return (np.where(codes & 128, magnitude, -magnitude) / 32768).astype(np.float32)


MULAW = _mulaw()
"""Sample of each mu-law code, float32 [256]."""

ALAW = _alaw()
"""Sample of each A-law code, float32 [256]."""
