"""The recordings of ``tests/data``, and speech made of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from parakeet_stt.bench.recordings import read_recordings

ROOT = Path(__file__).parents[2]
GOLDEN = ROOT / "tests" / "golden"
RECORDINGS = read_recordings(ROOT / "tests" / "data")
"""What utterances.jsonl lists. No audio is read before a test asks for samples."""

MISHEARD = {"013", "017", "018", "027", "029", "036", "038"}
CLEAR = [r for r in RECORDINGS if r.set == "known" and r.path.stem not in MISHEARD]
"""Recordings that the bundled model transcribes without an error, so that a wrong final is the
fault of what is tested. They are shorter than 4 s."""


def spoken(count: int) -> tuple[np.ndarray, list[tuple[float, str]]]:
    """Recordings with pauses of 0.75 s between them: samples, and where each one begins."""
    pieces, places, length = [], [], 0
    for recording in [r for r in RECORDINGS if r.set == "known"][:count]:
        places.append((length / 16_000, recording.text))
        pieces += [recording.samples(), np.zeros(12_000, np.float32)]
        length += len(pieces[-1]) + len(pieces[-2])
    return np.concatenate(pieces), places
