"""Recordings with their reference texts: those of the package, or a folder of the user's."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from parakeet_stt.audio import SAMPLE_RATE, Samples, read_audio
from parakeet_stt.errors import AudioError, ConfigurationError

PACKAGED = Path(__file__).parents[1] / "data" / "recordings"
"""Ten short sentences by synthetic voices (espeak-ng, flite), 26 s in total."""

_QUIET_DB = -30.0  # Relative to the loudest 10 ms; anything quieter is not speech.


@dataclass(frozen=True)
class Recording:
    """A recording with its reference text.

    Attributes:
        path: The file.
        text: The reference text.
        start: Start of speech, seconds.
        end: End of speech, seconds.
        set: Name of the group in which it is reported.
    """

    path: Path
    text: str
    start: float
    end: float
    set: str

    def samples(self) -> Samples:
        """Read the audio: ``float32 [samples]``, mono, 16 kHz."""
        return read_audio(self.path)


def read_recordings(folder: Path | None = None, limit: int | None = None) -> list[Recording]:
    """Read a folder's ``utterances.jsonl``: one JSON object per line and recording.

    ``file`` and ``text`` are required. ``start`` and ``end`` of speech, in seconds, default to
    what the audio's energy shows; ``set`` defaults to the folder's name.

    Args:
        folder: The folder; None for the recordings of the package.
        limit: Maximum number of recordings of each set.

    Raises:
        ConfigurationError: There is no such file, or a line of it is not as described.
        AudioError: A recording without ``start`` or ``end`` cannot be read, or is silent.
    """
    folder = folder or PACKAGED
    index = folder / "utterances.jsonl"
    if not index.is_file():
        raise ConfigurationError(
            f"{folder} holds no utterances.jsonl; expected one line for each recording, such as "
            f'{{"file": "one.wav", "text": "What is said."}}'
        )
    recordings: list[Recording] = []
    counts: dict[str, int] = {}
    for number, line in enumerate(index.read_text(encoding="utf-8").splitlines(), 1):
        try:
            row = json.loads(line)
            path, text = folder / row["file"], str(row["text"])
        except (ValueError, LookupError, TypeError) as error:
            raise ConfigurationError(
                f'{index}, line {number}: expected an object with "file" and "text"'
            ) from error
        name = str(row.get("set", folder.name))
        counts[name] = counts.get(name, 0) + 1
        if limit is not None and counts[name] > limit:
            continue
        if "start" in row and "end" in row:
            start, end = float(row["start"]), float(row["end"])
        else:
            start, end = speech_bounds(read_audio(path))
        recordings.append(Recording(path, text, start, end, name))
    if not recordings:
        raise ConfigurationError(f"{index} lists no recordings")
    return recordings


def speech_bounds(samples: Samples) -> tuple[float, float]:
    """Start and end of speech in seconds, by the energy of every 10 ms.

    Raises:
        AudioError: All of it is silent.
    """
    frame = SAMPLE_RATE // 100
    frames = np.pad(samples, (0, -len(samples) % frame)).reshape(-1, frame)
    loudness = np.sqrt(np.mean(frames**2, axis=1))
    loud = np.flatnonzero(loudness > loudness.max(initial=0) * 10 ** (_QUIET_DB / 20))
    if not loud.size:
        raise AudioError(f"expected speech, got {len(samples) / SAMPLE_RATE:.1f} s of silence")
    return float(loud[0] / 100), min(float(loud[-1] + 1) / 100, len(samples) / SAMPLE_RATE)


def normalised(text: str) -> str:
    """Lower case without punctuation, for counting word errors."""
    return " ".join(re.sub(r"[^\w' ]", " ", text.lower()).split())
