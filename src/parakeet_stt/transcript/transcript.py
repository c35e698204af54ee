"""The final text of a segment or a file."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Any

from parakeet_stt.transcript import subtitles
from parakeet_stt.transcript.tokens import WORD_MARK, Token, has_text, text_of
from parakeet_stt.transcript.words import Sentence, Word, sentences_of, words_of


@dataclass(frozen=True)
class Transcript:
    """The final of a segment of speech, or of a whole file.

    Attributes:
        tokens: The tokens, in order.
        start: Start of the transcribed audio, seconds.
        end: End of the transcribed audio, seconds.
        language: BCP 47 code of its language; None if it is not known.
    """

    tokens: tuple[Token, ...]
    start: float = 0.0
    end: float = 0.0
    language: str | None = None

    @property
    def text(self) -> str:
        """The text, without spaces around it; empty if there is no speech."""
        return text_of(self.tokens)

    @property
    def words(self) -> tuple[Word, ...]:
        """The words with their times and confidences."""
        return words_of(self.tokens)

    @property
    def sentences(self) -> tuple[Sentence, ...]:
        """The sentences; the text of a model without punctuation is one sentence."""
        return sentences_of(self.words)

    @property
    def cues(self) -> tuple[Sentence, ...]:
        """The sentences, cut to subtitles of up to 84 characters and 7 s."""
        return subtitles.cues_of(self.sentences)

    @property
    def confidence(self) -> float:
        """Mean confidence of the words, 0 to 1; 0 if there are none."""
        words = self.words
        return fmean(word.confidence for word in words) if words else 0.0

    def to_dict(self) -> dict[str, Any]:
        """The transcript as plain values for JSON, with times in seconds."""
        return {
            "text": self.text,
            "language": self.language,
            "confidence": round(self.confidence, 4),
            "start": round(self.start, 3),
            "end": round(self.end, 3),
            "segments": [
                {**_span(s), "words": [_span(w) for w in s.words]} for s in self.sentences
            ],
        }

    def to_json(self) -> str:
        """:meth:`to_dict` as indented JSON."""
        return json.dumps(self.to_dict(), ensure_ascii=False, indent=2)

    def to_srt(self) -> str:
        """The :attr:`cues` as SubRip subtitles."""
        return subtitles.srt(self.cues)

    def to_vtt(self) -> str:
        """The :attr:`cues` as WebVTT subtitles."""
        return subtitles.vtt(self.cues)


def _span(item: Word | Sentence) -> dict[str, Any]:
    return {
        "text": item.text,
        "start": round(item.start, 3),
        "end": round(item.end, 3),
        "confidence": round(item.confidence, 4),
    }


def joined(transcripts: Sequence[Transcript]) -> Transcript:
    """Join consecutive transcripts, such as the segments of a file.

    The texts are separated by spaces. The language is that of all transcripts with text, or None
    if they differ.
    """
    if not transcripts:
        return Transcript(())
    tokens: list[Token] = []
    for transcript in transcripts:
        own = list(transcript.tokens)
        first = next((i for i, token in enumerate(own) if has_text(token)), None)
        if first is not None and not own[first].piece.startswith((WORD_MARK, " ")):
            own[first] = replace(own[first], piece=WORD_MARK + own[first].piece)
        tokens += own
    languages = {t.language for t in transcripts if t.tokens and t.language}
    return Transcript(
        tuple(tokens),
        transcripts[0].start,
        transcripts[-1].end,
        languages.pop() if len(languages) == 1 else None,
    )
