"""Windows of audio for training: clips placed at random in silence or noise, augmented.

A window holds one or several clips with pauses between them, so that what is learned does not stop
after the first sentence; its length varies from batch to batch, so that normalisation is met
with little and with much silence.
"""

from __future__ import annotations

import json
from bisect import bisect_right
from dataclasses import dataclass
from pathlib import Path

import numpy as np

RATE = 16_000
SECONDS_PER_BATCH = 120
TAIL = 5120
"""Samples of digital silence that inference puts behind the end (0.32 s)."""


@dataclass
class Batch:
    """One step's input.

    Attributes:
        audio: float32 [batch, samples].
        tail: Whether the last 0.32 s are the padding that inference appends, which the
            normalisation statistics leave out.
        texts: What is said, per item; empty for noise.
        spans: (start, end, text) of each clip in samples, per item.
    """

    audio: np.ndarray
    tail: bool
    texts: list[str]
    spans: list[list[tuple[int, int, str]]]


class Clips:
    """The synthesised clips, memory-mapped."""

    def __init__(self, folder: Path) -> None:
        with open(folder / "clips.jsonl") as index:
            rows = [json.loads(line) for line in index]
        self.rows = sorted(rows, key=lambda row: row["length"])
        self.lengths = [row["length"] for row in self.rows]
        self._audio = np.memmap(folder / "clips.i16", dtype=np.int16, mode="r")

    def shorter_than(self, samples: int) -> int:
        """How many clips fit into so many samples; they are the first ones."""
        return bisect_right(self.lengths, samples)

    def audio(self, index: int) -> np.ndarray:
        """float32 [samples]."""
        row = self.rows[index]
        clip = self._audio[row["offset"] : row["offset"] + row["length"]]
        return clip.astype(np.float32) / 32768


class Batches:
    """An endless, seeded source of batches.

    Args:
        clips: The clips.
        seed: The same seed gives the same batches.
    """

    def __init__(self, clips: Clips, seed: int) -> None:
        self._clips = clips
        self._random = np.random.default_rng(seed)

    def __call__(self, short: bool = False, gentle: bool = False) -> Batch:
        """Make a batch.

        Args:
            short: Keep windows under five seconds (the first steps).
            gentle: Little noise and no filters but the telephone's (the last steps).
        """
        random = self._random
        kind = random.random()
        if short or kind < 0.3:
            seconds = random.uniform(2.2, 4.8)
        elif kind < 0.75:
            seconds = random.uniform(4.8, 8.0)
        else:
            seconds = random.uniform(8.0, 12.0)
        samples = int(seconds * RATE) // 1280 * 1280
        items = max(2, int(SECONDS_PER_BATCH / 2 / seconds))
        tail = random.random() < 0.5
        audio = np.zeros((items, samples), np.float32)
        spans = [self._fill(audio[i], TAIL if tail else 0) for i in range(items)]
        audio = self._distort(audio, gentle)
        if tail:
            audio[:, -TAIL:] = 0
        texts = [" ".join(text for _, _, text in item) for item in spans]
        return Batch(audio, tail, texts, spans)

    def _fill(self, window: np.ndarray, reserved: int) -> list[tuple[int, int, str]]:
        random, spans = self._random, []
        if random.random() < 0.05:
            return spans  # Nothing is said.
        room = len(window) - reserved
        position = int(random.uniform(0.05, 0.7) * RATE)
        gain = 10 ** (random.uniform(-22, 3) / 20)
        count = random.choice([1, 2, 3, 9], p=[0.3, 0.2, 0.2, 0.3])
        while len(spans) < count:
            # Slack, so that speed changes fit as well.
            fitting = self._clips.shorter_than(int((room - position - 1600) / 1.15))
            if fitting == 0:
                break
            # The longer half of what fits, often, so that windows are filled.
            low = fitting // 2 if random.random() < 0.5 and not spans else 0
            index = int(random.integers(low, fitting))
            clip = _resampled(self._clips.audio(index), random.uniform(0.9, 1.12))
            end = position + len(clip)
            window[position:end] = clip * (gain * 10 ** (random.uniform(-2, 2) / 20))
            spans.append((position, end, self._clips.rows[index]["text"]))
            position = end + int(random.uniform(0.12, 1.3) * RATE)
        # Whatever is free is put before the first clip, at random.
        free = room - (spans[-1][1] if spans else 0)
        shift = int(random.uniform(0, max(0, free - 1600)) * random.random())
        window[:] = np.concatenate((np.zeros(shift, np.float32), window[: len(window) - shift]))
        return [(start + shift, end + shift, text) for start, end, text in spans]

    def _distort(self, audio: np.ndarray, gentle: bool) -> np.ndarray:
        """Add noise, and take the band of a telephone from some."""
        random = self._random
        spectrum = np.fft.rfft(audio) if random.random() < (0.15 if gentle else 0.5) else None
        if spectrum is not None:
            frequencies = np.fft.rfftfreq(audio.shape[1], 1 / RATE)
            for item in spectrum:
                if random.random() < 0.3:
                    item[frequencies > random.uniform(3300, 4000)] = 0
                elif random.random() < 0.4 and not gentle:
                    # A tilt or a bump, as microphones and rooms have.
                    centre, height = random.uniform(100, 7000), random.uniform(-9, 9)
                    bump = np.exp(-(((frequencies - centre) / random.uniform(500, 3000)) ** 2))
                    item *= 10 ** (height * bump / 20)
            audio = np.fft.irfft(spectrum, audio.shape[1]).astype(np.float32)
        for item in audio:
            kind = random.random()
            level = np.sqrt((item**2).mean())
            if kind < 0.3:
                continue
            if kind < 0.6 or level == 0:
                item += noise(random, len(item)) * 10 ** (random.uniform(-90, -30) / 20)
            else:
                ratio = random.uniform(10 if gentle else 3, 35)
                item += noise(random, len(item)) * level * 10 ** (-ratio / 20)
        return np.clip(audio, -1, 1)


def noise(random: np.random.Generator, samples: int) -> np.ndarray:
    """White, pink, brown or hum: float32 [samples] of unit level, sometimes coming and going."""
    kind = random.random()
    white = random.standard_normal(samples).astype(np.float32)
    if kind < 0.4:
        sound = white
    elif kind < 0.85:
        spectrum = np.fft.rfft(white)
        slope = random.uniform(0.3, 1.1)
        spectrum[1:] /= np.arange(1, len(spectrum)) ** slope
        sound = np.fft.irfft(spectrum, samples)
    else:
        time = np.arange(samples) / RATE
        tone = random.uniform(45, 400)
        sound = sum(np.sin(2 * np.pi * tone * k * time) / k for k in range(1, 6)) + 0.1 * white
    if random.random() < 0.3:
        time = np.linspace(0, samples / RATE, samples)
        swing = random.uniform(0.2, 3) * time + random.random()
        sound = sound * (0.55 + 0.45 * np.sin(2 * np.pi * swing))
    return (sound / np.sqrt((sound**2).mean())).astype(np.float32)


def _resampled(clip: np.ndarray, speed: float) -> np.ndarray:
    """The clip faster and higher by ``speed``, by linear interpolation."""
    places = np.arange(0, len(clip) - 1, speed)
    return np.interp(places, np.arange(len(clip)), clip).astype(np.float32)
