"""Word errors of transcripts, in lower case and without punctuation."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean
from typing import Any

import jiwer

from parakeet_stt.bench.recordings import normalised

Figures = dict[str, Any]


def word_error_rate(references: Sequence[str], texts: Sequence[str]) -> float:
    """Word errors of all texts by words of all references; of at least one."""
    return float(jiwer.wer(list(map(normalised, references)), list(map(normalised, texts))))


def tail_word_recall(references: Sequence[str], texts: Sequence[str]) -> float:
    """Share of the references, of at least one, whose last word was transcribed in its place."""
    found = jiwer.process_words(list(map(normalised, references)), list(map(normalised, texts)))
    return fmean(
        any(c.type == "equal" and c.ref_end_idx == len(words) for c in chunks)
        for words, chunks in zip(found.references, found.alignments, strict=True)
    )
