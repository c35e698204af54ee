"""The recordings of ``tests/data``, and speech made of them."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from parakeet_stt.audio import Samples, read_audio

ROOT = Path(__file__).parents[2]
DATA = ROOT / "tests" / "data"
GOLDEN = ROOT / "tests" / "golden"


@dataclass(frozen=True)
class Recording:
    """A recording with its reference text.

    Attributes:
        path: The file.
        set: ``known``, ``unknown`` or ``several``.
        voice: The speaker.
        text: The reference text.
        start: Start of speech, seconds.
        end: End of speech, seconds.
        words: Each word's ``text``, ``start`` and ``end``, if the synthesiser reports them.
    """

    path: Path
    set: str
    voice: str
    text: str
    start: float
    end: float
    words: list[dict[str, Any]] | None

    def samples(self) -> Samples:
        """Read the audio: ``float32 [samples]``, mono, 16 kHz."""
        return read_audio(self.path)


def read_recordings(folder: Path = DATA, limit: int | None = None) -> list[Recording]:
    """Read a folder's index, with at most ``limit`` recordings of each set."""
    recordings: list[Recording] = []
    counts: dict[str, int] = {}
    for line in (folder / "utterances.jsonl").read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        counts[row["set"]] = counts.get(row["set"], 0) + 1
        if limit is None or counts[row["set"]] <= limit:
            recordings.append(Recording(path=folder / row.pop("file"), **row))
    return recordings


RECORDINGS = read_recordings()
"""What utterances.jsonl lists. No audio is read before a test asks for samples."""

MISHEARD = {"013", "017", "018", "027", "029", "036", "038"}
CLEAR = [r for r in RECORDINGS if r.set == "known" and r.path.stem not in MISHEARD]
"""Recordings that the bundled model transcribes without an error, so that a wrong final is the
fault of what is tested. They are shorter than 4 s."""


def normalised(text: str) -> str:
    """Lower case without punctuation, for counting word errors."""
    return " ".join(re.sub(r"[^\w' ]", " ", text.lower()).split())


def read_turns(path: Path) -> tuple[list[str], Samples]:
    """The turns that a sample's ``.json`` file lists, and its audio."""
    turns = json.loads(path.read_text(encoding="utf-8"))["turns"]
    return [turn["text"] for turn in turns], read_audio(path.with_suffix(".flac"))


def spoken(count: int) -> tuple[np.ndarray, list[tuple[float, str]]]:
    """Recordings with pauses of 0.75 s between them: samples, and where each one begins."""
    pieces, places, length = [], [], 0
    for recording in [r for r in RECORDINGS if r.set == "known"][:count]:
        places.append((length / 16_000, recording.text))
        pieces += [recording.samples(), np.zeros(12_000, np.float32)]
        length += len(pieces[-1]) + len(pieces[-2])
    return np.concatenate(pieces), places
