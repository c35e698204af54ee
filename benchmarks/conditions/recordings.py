"""Recordings as users have them: clicks, soft voices, long silence, telephone audio.

Each function takes the held-out recordings and a random generator and gives cases: samples, what
is said in them, and a label for the table row that they belong to.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import soxr

from parakeet_stt.audio import SAMPLE_RATE, Samples
from tests.support.recordings import Recording


@dataclass(frozen=True)
class Case:
    """A recording under a condition.

    Attributes:
        condition: The table row that it belongs to.
        samples: float32 [samples], mono, 16 kHz.
        text: What is said.
    """

    condition: str
    samples: Samples
    text: str


def clicks(recordings: Sequence[Recording], random: np.random.Generator) -> Iterator[Case]:
    """A click or pop of 0.1 to 0.9 peak and 2 to 20 ms before speech at -10 to -40 dB."""
    for recording in recordings:
        for decibels in (-10, -20, -30, -40):
            click = _click(random.uniform(0.1, 0.9), random.uniform(0.002, 0.02), random)
            gap = silence(random.uniform(0.05, 0.4))
            speech = gain(recording.samples(), decibels)
            samples = np.concatenate((silence(0.1), click, gap, speech))
            yield Case(f"click before speech at {decibels} dB", samples, recording.text)


def softer_speaker(recordings: Sequence[Recording], random: np.random.Generator) -> Iterator[Case]:
    """A sentence, and another one by a second speaker who is 12 to 32 dB softer."""
    for first, second in zip(recordings, [*recordings[1:], recordings[0]], strict=True):
        for decibels in (-12, -22, -32):
            pause = silence(random.uniform(0.1, 0.5))
            samples = np.concatenate((first.samples(), pause, gain(second.samples(), decibels)))
            yield Case(f"second speaker at {decibels} dB", samples, f"{first.text} {second.text}")


def fading(recordings: Sequence[Recording], random: np.random.Generator) -> Iterator[Case]:
    """A voice that fades evenly to -30 dB."""
    for recording in recordings:
        samples = recording.samples()
        begin, end = int(recording.start * SAMPLE_RATE), int(recording.end * SAMPLE_RATE)
        ramp = np.interp(np.arange(len(samples)), (begin, end), (0, -30))
        faded = (samples * 10 ** (ramp / 20)).astype(np.float32)
        noise = random.normal(0, 10 ** (-70 / 20), len(samples)).astype(np.float32)
        yield Case("fade to -30 dB", faded + noise, recording.text)


def offset(recordings: Sequence[Recording], random: np.random.Generator) -> Iterator[Case]:
    """Speech at -40 dB on a constant offset of 0.02."""
    for recording in recordings:
        soft = gain(recording.samples(), -40) + np.float32(0.02)
        yield Case("speech at -40 dB, DC 0.02", soft, recording.text)


def long_silence(
    recordings: Sequence[Recording],
    random: np.random.Generator,
    seconds: Sequence[float] = (0, 5, 15, 30, 60, 120),
) -> Iterator[Case]:
    """Digital silence or noise at -60 dB before, between and behind sentences.

    The cases of 0 seconds are the sentences alone.
    """
    for first, second in zip(recordings[::2], recordings[1::2], strict=False):
        for name, level in (("silence", 0.0), ("noise at -60 dB", 1e-3)):
            # A room's noise does not stop when somebody speaks.
            one, two = (_noisy(r.samples(), level, random) for r in (first, second))
            for length in seconds:
                gap = _noisy(silence(length), level, random)
                for place, pieces, text in (
                    ("before", (gap, one), first.text),
                    ("between", (one, gap, two), f"{first.text} {second.text}"),
                    ("behind", (one, gap), first.text),
                ):
                    condition = f"{length:g} s of {name} {place}"
                    yield Case(condition, np.concatenate(pieces), text)


def joined(
    recordings: Sequence[Recording],
    random: np.random.Generator,
    seconds: tuple[float, float] = (30, 180),
) -> Iterator[Samples]:
    """Every recording and the same as telephone audio (4 kHz wide), joined to 30 to 180 s."""
    for narrow in (False, True):
        pieces: list[Samples] = []
        wanted = random.uniform(*seconds)
        for index in random.permutation(len(recordings)):
            samples = recordings[index].samples()
            pieces.append(telephone(samples) if narrow else samples)
            if sum(map(len, pieces)) >= wanted * SAMPLE_RATE:
                yield np.concatenate(pieces)
                pieces, wanted = [], random.uniform(*seconds)
        if pieces:
            yield np.concatenate(pieces)


def silence(seconds: float) -> Samples:
    """Digital silence."""
    return np.zeros(int(seconds * SAMPLE_RATE), np.float32)


def gain(samples: Samples, decibels: float) -> Samples:
    """The samples, louder or softer."""
    return (samples * 10 ** (decibels / 20)).astype(np.float32)


def telephone(samples: Samples) -> Samples:
    """The samples as 8 kHz audio, resampled to 16 kHz: nothing above 4 kHz."""
    narrow = soxr.resample(samples, SAMPLE_RATE, 8_000)
    wide: Samples = soxr.resample(narrow, 8_000, SAMPLE_RATE).astype(np.float32)
    return wide


def _noisy(samples: Samples, level: float, random: np.random.Generator) -> Samples:
    return samples + random.normal(0, level, len(samples)).astype(np.float32)


def _click(peak: float, seconds: float, random: np.random.Generator) -> Samples:
    """A pop: alternating samples that die away."""
    count = int(seconds * SAMPLE_RATE)
    signs = np.where(np.arange(count) % 2, -1.0, 1.0)
    return (peak * signs * np.exp(-3 * np.arange(count) / count)).astype(np.float32)
