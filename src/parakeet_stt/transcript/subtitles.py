"""Subtitles: sentences cut into cues, as SubRip and WebVTT."""

from __future__ import annotations

from collections.abc import Iterable

from parakeet_stt.transcript.words import Sentence, Word

# Two lines of 42 characters for seven seconds, the usual limits of broadcasters.
_CUE_CHARACTERS = 84
_CUE_SECONDS = 7.0


def cues_of(sentences: Iterable[Sentence]) -> tuple[Sentence, ...]:
    """Cut sentences that are too long for a subtitle; a model without punctuation emits such."""
    cues: list[list[Word]] = []
    for sentence in sentences:
        cues.append([])
        for word in sentence.words:
            cue = cues[-1]
            length = sum(len(w.text) + 1 for w in cue) + len(word.text)
            if cue and (length > _CUE_CHARACTERS or word.end - cue[0].start > _CUE_SECONDS):
                cues.append([])
            cues[-1].append(word)
    return tuple(Sentence(tuple(words)) for words in cues)


def srt(cues: Iterable[Sentence]) -> str:
    """Format cues as SubRip."""
    return "\n".join(
        f"{number}\n{_clock(cue.start, ',')} --> {_clock(cue.end, ',')}\n{cue.text}\n"
        for number, cue in enumerate(cues, start=1)
    )


def vtt(cues: Iterable[Sentence]) -> str:
    """Format cues as WebVTT."""
    formatted = (
        f"{_clock(cue.start, '.')} --> {_clock(cue.end, '.')}\n{cue.text}\n" for cue in cues
    )
    return "\n".join(("WEBVTT\n", *formatted))


def _clock(seconds: float, point: str) -> str:
    """``hh:mm:ss`` with milliseconds after ``point``."""
    milliseconds = round(seconds * 1000)
    minutes, milliseconds = divmod(milliseconds, 60_000)
    hours, minutes = divmod(minutes, 60)
    whole, milliseconds = divmod(milliseconds, 1000)
    return f"{hours:02}:{minutes:02}:{whole:02}{point}{milliseconds:03}"
