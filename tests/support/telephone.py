"""Telephone audio: ITU-T G.711's codes, written out from its definition."""

from __future__ import annotations

import numpy as np

from parakeet_stt.audio import Samples


def _mulaw() -> Samples:
    codes = ~np.arange(256) & 255
    sign, exponent, mantissa = codes & 0x80, codes >> 4 & 7, codes & 15
    magnitude = ((mantissa << 3) + 132 << exponent) - 132
    return (np.where(sign, -magnitude, magnitude) / 32768).astype(np.float32)


def _alaw() -> Samples:
    codes = np.arange(256) ^ 0x55
    sign, exponent, mantissa = codes & 0x80, codes >> 4 & 7, codes & 15
    steep = (mantissa << 4) + 0x108 << np.maximum(exponent - 1, 0)
    magnitude = np.where(exponent == 0, (mantissa << 4) + 8, steep)
    return (np.where(sign, magnitude, -magnitude) / 32768).astype(np.float32)


MULAW, ALAW = _mulaw(), _alaw()
"""The amplitude of each code, ``float32 [256]``."""


def compand(samples: Samples, table: Samples) -> bytes:
    """Encode each sample as the code with the nearest amplitude."""
    order = np.argsort(table)
    steps = table[order]
    place = np.clip(np.searchsorted(steps, samples), 1, len(steps) - 1)
    nearer = place - (samples - steps[place - 1] < steps[place] - samples)
    return bytes(order[nearer].astype(np.uint8))
