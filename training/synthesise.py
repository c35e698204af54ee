"""Speech for training: sentences read by flite's and espeak-ng's voices, as one array on disk.

    python -m training.synthesise --out DATA --clips 40000

writes ``DATA/clips.i16`` (16 kHz, 16 bit, clip after clip, trimmed to speech) and
``DATA/clips.jsonl`` (offset, length, text, voice of each).
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
import soxr

from training.sentences import Sentences, is_held_out, spoken

RATE = 16_000

FLITE = ("kal", "kal16", "awb", "slt")
FLITE_UNKNOWN = ("rms",)
ESPEAK_BASES = ("en-us", "en-gb", "en-gb-scotland", "en-gb-x-rp", "en-029", "en-gb-x-gbclan",
                "en-gb-x-gbcwmd", "en-us-nyc")  # fmt: skip
ESPEAK_VARIANTS = ("", "m1", "m2", "m3", "m4", "m5", "m7", "f1", "f2", "f3", "f4", "Andy", "Annie",
                   "Alex", "steph", "Gene", "linda", "Michael", "quincy", "rob", "belinda",
                   "Mike", "john", "max", "zac")  # fmt: skip
ESPEAK_UNKNOWN = ("en-us+f5", "en-gb+m6", "en-us+Denis")


@dataclass(frozen=True)
class Voice:
    """A synthesiser's voice and how it is to speak.

    Attributes:
        program: ``flite`` or ``espeak-ng``.
        name: As the program knows it.
        speed: 1 is the voice's own.
        pitch: 1 is the voice's own.
    """

    program: str
    name: str
    speed: float = 1.0
    pitch: float = 1.0


def known_voice(choose: random.Random) -> Voice:
    """A voice to train on: half flite's, half espeak-ng's, at varied speed and pitch."""
    speed, pitch = choose.uniform(0.85, 1.2), choose.uniform(0.8, 1.25)
    if choose.random() < 0.5:
        return Voice("flite", choose.choice(FLITE), speed, pitch)
    variant = choose.choice(ESPEAK_VARIANTS)
    base = choose.choice(ESPEAK_BASES if choose.random() < 0.5 else ESPEAK_BASES[:2])
    return Voice("espeak-ng", f"{base}+{variant}" if variant else base, speed, pitch)


def unknown_voice(choose: random.Random) -> Voice:
    """A voice that is never trained on."""
    names = [("flite", n) for n in FLITE_UNKNOWN] + [("espeak-ng", n) for n in ESPEAK_UNKNOWN]
    return Voice(*choose.choice(names), choose.uniform(0.95, 1.1))


def say(text: str, voice: Voice) -> np.ndarray:
    """Synthesise a sentence: int16 [samples] at 16 kHz, cut to where sound is."""
    text = spoken(text)
    if voice.program == "flite":
        # flite's own mean pitch differs from voice to voice; only diphone voices take a target.
        mean = {"kal": 105, "kal16": 105}.get(voice.name)
        command = ["flite", "-voice", voice.name, "--setf", f"duration_stretch={1 / voice.speed}"]
        if mean:
            command += ["--setf", f"int_f0_target_mean={mean * voice.pitch:.0f}"]
        command += ["-t", text, "-o", "/dev/stdout"]
    else:
        command = ["espeak-ng", "-v", voice.name, "-s", f"{165 * voice.speed:.0f}"]
        command += ["-p", f"{np.clip(50 * voice.pitch, 0, 99):.0f}", "--stdout", text]
    data = subprocess.run(command, capture_output=True, check=True).stdout
    samples, rate = read_wav(data)
    if rate != RATE:
        samples = soxr.resample(samples, rate, RATE)
    start, end = speech_bounds(samples)
    return np.clip(samples[start:end] * 32767, -32768, 32767).astype(np.int16)


def read_wav(data: bytes) -> tuple[np.ndarray, int]:
    """Samples and rate of a WAV stream whose header may not know its length."""
    rate = int.from_bytes(data[24:28], "little")
    body = data[data.index(b"data") + 8 :]
    samples = np.frombuffer(body[: len(body) // 2 * 2], "<i2").astype(np.float32) / 32768
    return samples, rate


def speech_bounds(samples: np.ndarray) -> tuple[int, int]:
    """First and last sample of sound: 10 ms blocks within 45 dB of the loudest."""
    blocks = samples[: len(samples) // 160 * 160].reshape(-1, 160)
    level = np.sqrt((blocks**2).mean(axis=1) + 1e-12)
    loud = np.flatnonzero(level > level.max() * 10 ** (-45 / 20))
    return int(loud[0]) * 160, int(loud[-1] + 1) * 160


def _work(job: tuple[int, int]) -> list[tuple[str, str, bytes]]:
    """One worker's share of clips."""
    seed, count = job
    sentences, choose = Sentences(seed), random.Random(seed)
    clips: list[tuple[str, str, bytes]] = []
    while len(clips) < count:
        text = sentences()
        if is_held_out(text):
            continue
        voice = known_voice(choose)
        clip = say(text, voice)
        # Long sentences do not fit the training windows.
        if RATE // 4 <= len(clip) <= 7 * RATE:
            clips.append((text, voice.name, clip.tobytes()))
    return clips


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--clips", type=int, default=40_000)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    share = 250
    jobs = [(arguments.seed * 1_000_000 + i, share) for i in range(arguments.clips // share)]
    offset = 0
    with (
        open(arguments.out / "clips.i16", "wb") as audio,
        open(arguments.out / "clips.jsonl", "w") as index,
        ProcessPoolExecutor(2) as pool,
    ):
        for done, clips in enumerate(pool.map(_work, jobs), start=1):
            for text, voice, data in clips:
                length = len(data) // 2
                row = {"offset": offset, "length": length, "text": text, "voice": voice}
                index.write(json.dumps(row) + "\n")
                audio.write(data)
                offset += length
            print(f"{done * share} clips, {offset / RATE / 3600:.1f} h", flush=True)


def write_flac(path: Path, samples: np.ndarray) -> None:
    """Write int16 samples at 16 kHz."""
    soundfile.write(path, samples, RATE, subtype="PCM_16")


if __name__ == "__main__":
    main()
