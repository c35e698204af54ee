"""The held-out recordings that come with the bundled model (``tests/data``)."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from parakeet_stt.audio import Samples, read_audio
from parakeet_stt.errors import ConfigurationError


@dataclass(frozen=True)
class Recording:
    """A recording and what is said in it.

    Attributes:
        path: The file.
        set: ``known``, ``unknown`` or ``several``.
        voice: Who speaks.
        text: What is said.
        start: Where speech begins, seconds.
        end: Where it ends, seconds.
        words: Each word's ``text``, ``start`` and ``end``, where the synthesiser tells them.
    """

    path: Path
    set: str
    voice: str
    text: str
    start: float
    end: float
    words: list[dict[str, Any]] | None

    def samples(self) -> Samples:
        """Its audio: ``float32 [samples]``, 16 kHz."""
        return read_audio(self.path)


def read_recordings(folder: Path, limit: int | None = None) -> list[Recording]:
    """Read a folder's ``utterances.jsonl``.

    Args:
        folder: The folder.
        limit: At most so many recordings of each set.

    Raises:
        ConfigurationError: There is no such file.
    """
    index = folder / "utterances.jsonl"
    if not index.is_file():
        raise ConfigurationError(
            f"{folder} holds no utterances.jsonl; run from a checkout, or give --data FOLDER"
        )
    recordings: list[Recording] = []
    counts: dict[str, int] = {}
    for line in index.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        counts[row["set"]] = counts.get(row["set"], 0) + 1
        if limit is None or counts[row["set"]] <= limit:
            recordings.append(
                Recording(
                    folder / row["file"],
                    row["set"],
                    row["voice"],
                    row["text"],
                    row["start"],
                    row["end"],
                    row["words"],
                )
            )
    return recordings


def normalised(text: str) -> str:
    """Lower case, without punctuation: what word errors are counted on."""
    return " ".join(re.sub(r"[^\w' ]", " ", text.lower()).split())


def read_turns(path: Path) -> tuple[list[str], Samples]:
    """A sample's turns, as its ``.json`` tells them, and its audio at 16 kHz."""
    turns = json.loads(path.read_text(encoding="utf-8"))["turns"]
    return [turn["text"] for turn in turns], read_audio(path.with_suffix(".flac"))
