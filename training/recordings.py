"""Make the held-out recordings (``tests/data``) and the samples.

    python -m training.recordings --tests tests/data --samples samples

Sentences that :func:`~training.sentences.is_held_out` keeps from training; known voices, voices
that were never trained on, and recordings of several sentences. Seeded.
"""

from __future__ import annotations

import argparse
import json
import random
from pathlib import Path
from typing import Any

import numpy as np

from training.data import noise
from training.espeak import say_with_words
from training.sentences import Sentences, is_held_out
from training.synthesise import (
    RATE,
    Voice,
    known_voice,
    say,
    speech_bounds,
    unknown_voice,
    write_flac,
)

SINGLE, SEVERAL = 40, 12

SAMPLES: dict[str, tuple[Voice, list[tuple[str, float]]]] = {
    # Turns and the seconds of silence before each.
    "conversation": (
        Voice("flite", "slt"),
        [
            ("Hello, this is Hannah Parker from Boston.", 0.6),
            ("Turn on the lamp in the kitchen, please.", 2.4),
            ("What is the weather like in Seattle today?", 2.4),
            ("Remind me to call Oliver at nine thirty in the morning.", 2.4),
            ("Move the interview from Monday to Friday.", 2.4),
            ("Thank you very much for your help.", 2.4),
        ],
    ),
    "dictation": (
        Voice("espeak-ng", "en-gb", 0.95),
        [
            ("Write a message to my colleague.", 0.5),
            ("The meeting is on Wednesday, October ninth.", 0.7),
            ("Please send the contract to Victor Hughes.", 0.6),
            ("I have a question about my insurance and my payment.", 0.8),
            ("See you on Monday.", 0.6),
        ],
    ),
    "spelling": (
        Voice("flite", "awb"),
        [
            ("My name is Nadia, N A D I A.", 0.5),
            ("My phone number is four zero seven, nine two five.", 1.0),
            ("My birthday is on March eleventh.", 1.0),
            ("That will be thirty five dollars and sixty cents.", 1.0),
        ],
    ),
}


def held_out(sentences: Sentences) -> str:
    """The next sentence that is never trained on."""
    while True:
        text = sentences()
        if is_held_out(text):
            return text


def speak(text: str, voice: Voice) -> tuple[np.ndarray, list[dict[str, Any]] | None]:
    """float32 [samples] cut to speech, and its words where the synthesiser tells them."""
    if voice.program == "flite":
        return say(text, voice).astype(np.float32) / 32768, None
    samples, starts = say_with_words(text, voice)
    first, last = speech_bounds(samples)
    words = text.split()
    if len(starts) != len(words):
        return samples[first:last], None  # It says a letter or number as several words.
    starts = [max(0.0, s - first / RATE) for s in starts]
    ends = [*starts[1:], (last - first) / RATE]
    return samples[first:last], [
        {"text": w, "start": round(s, 3), "end": round(e, 3)}
        for w, s, e in zip(words, starts, ends, strict=True)
    ]


def record(turns: list[tuple[str, float, Voice]], choose: random.Random, level: float) -> Any:
    """Speak turns after their pauses: int16 [samples], then each turn's text, times and words."""
    pieces, told, place = [], [], 0
    for text, pause, voice in turns:
        samples, words = speak(text, voice)
        pieces += [np.zeros(int(pause * RATE), np.float32), samples * level]
        start = place + int(pause * RATE)
        place = start + len(samples)
        for word in words or []:
            word["start"] = round(word["start"] + start / RATE, 3)
            word["end"] = round(word["end"] + start / RATE, 3)
        told.append({"text": text, "start": start / RATE, "end": place / RATE, "words": words})
    pieces.append(np.zeros(int(choose.uniform(0.3, 0.6) * RATE), np.float32))
    audio = np.concatenate(pieces)
    if choose.random() < 0.25:
        loud = np.sqrt((audio**2).mean())
        random_state = np.random.default_rng(choose.randrange(1 << 30))
        audio += noise(random_state, len(audio)) * loud * 10 ** (-choose.uniform(25, 35) / 20)
    return (np.clip(audio, -1, 1) * 32767).astype(np.int16), told


def make_tests(out: Path) -> None:
    """Write the held-out recordings and their index."""
    rows = []
    for kind, count in (("known", SINGLE), ("unknown", SINGLE), ("several", SEVERAL)):
        choose = random.Random(f"{kind} 2026")
        sentences = Sentences(choose.randrange(1 << 30), salad=0.05)
        (out / kind).mkdir(parents=True, exist_ok=True)
        for number in range(count):
            draw = unknown_voice if kind == "unknown" else known_voice
            voice = draw(choose)
            many = 1
            if kind == "several":
                voice = unknown_voice(choose) if number % 3 == 2 else voice
                many = 2 + number % 4
            if (kind, number) == ("several", SEVERAL - 1):
                many, voice = 16, Voice("flite", "slt", 1.1)  # Longer than a window.
            turns = [(held_out(sentences), choose.uniform(0.25, 0.6), voice)]
            pauses = (0.12, 0.2) if many == 16 else (0.25, 1.4)
            turns += [
                (held_out(sentences), choose.uniform(*pauses), voice) for _ in range(many - 1)
            ]
            audio, told = record(turns, choose, 10 ** (choose.uniform(-14, 0) / 20))
            file = f"{kind}/{number:03}.flac"
            write_flac(out / file, audio)
            spoken_words = [word for turn in told for word in turn["words"] or []]
            complete = all(turn["words"] for turn in told)
            rows.append(
                {
                    "file": file,
                    "set": kind,
                    "voice": f"{voice.program} {voice.name}",
                    "text": " ".join(turn["text"] for turn in told),
                    "start": round(told[0]["start"], 3),
                    "end": round(told[-1]["end"], 3),
                    "words": spoken_words if complete else None,
                }
            )
    lines = [json.dumps(row, ensure_ascii=False) for row in rows]
    (out / "utterances.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")


def make_samples(out: Path) -> None:
    """Write the samples and what is said in them."""
    out.mkdir(parents=True, exist_ok=True)
    for name, (voice, turns) in SAMPLES.items():
        choose = random.Random(name)
        audio, told = record([(text, pause, voice) for text, pause in turns], choose, 0.9)
        write_flac(out / f"{name}.flac", audio)
        sayings = [
            {"text": t["text"], "start": round(t["start"], 3), "end": round(t["end"], 3)}
            for t in told
        ]
        text = json.dumps({"turns": sayings}, indent=1)
        (out / f"{name}.json").write_text(text + "\n", encoding="utf-8")


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tests", type=Path, required=True)
    parser.add_argument("--samples", type=Path, required=True)
    arguments = parser.parse_args()
    make_tests(arguments.tests)
    make_samples(arguments.samples)


if __name__ == "__main__":
    main()
