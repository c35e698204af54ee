"""What was said: tokens, words, segments, and the formats they are written in.

Times are seconds of audio since the session, stream or file began. Knows nothing of how the
tokens were found.
"""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from statistics import fmean
from typing import Any

WORD_MARK = "\u2581"
"""SentencePiece's mark for the space before a word."""

# SentencePiece writes bytes of characters that are not in the vocabulary, and symbols that are no
# text, in angle brackets. `joined` may put a mark before a byte.
_SPECIAL = re.compile(f"({WORD_MARK}?)<(?:0x([0-9A-Fa-f]{{2}})|[^<>\\s]+)>")

_Utf8Decoder = codecs.getincrementaldecoder("utf-8")

# Two lines of 42 characters for seven seconds, as broadcasters have it.
_CUE_CHARACTERS = 84
_CUE_SECONDS = 7.0

_SENTENCE_END = (".", "?", "!", "。", "？", "！")  # noqa: RUF001


@dataclass(frozen=True, slots=True)
class Token:
    """One piece of the model's vocabulary, where it was heard.

    Attributes:
        id: Its number in the vocabulary.
        piece: Its text as the vocabulary has it, ``▁`` standing for a space.
        start: Seconds.
        end: Seconds.
        confidence: 0 (a guess) to 1 (certain).
        logprob: Natural logarithm of the probability that the model gave it, among all tokens and
            blank; None where that is not known.
    """

    id: int
    piece: str
    start: float
    end: float
    confidence: float
    logprob: float | None = None


@dataclass(frozen=True)
class Word:
    """A word with the punctuation that follows it.

    Attributes:
        text: The word, without spaces around it.
        start: Seconds.
        end: Seconds.
        confidence: That of its least certain token, as NeMo's aggregation ``min``.
        tokens: What it is made of.
    """

    text: str
    start: float
    end: float
    confidence: float
    tokens: tuple[Token, ...] = field(default=(), repr=False, compare=False)


@dataclass(frozen=True)
class Sentence:
    """One sentence: words up to a full stop, question or exclamation mark."""

    words: tuple[Word, ...]

    @property
    def text(self) -> str:
        """The words, separated by spaces."""
        return " ".join(word.text for word in self.words)

    @property
    def start(self) -> float:
        """Seconds."""
        return self.words[0].start

    @property
    def end(self) -> float:
        """Seconds."""
        return self.words[-1].end

    @property
    def confidence(self) -> float:
        """Mean confidence of the words."""
        return fmean(word.confidence for word in self.words)

    @property
    def tokens(self) -> tuple[Token, ...]:
        """What the words are made of."""
        return tuple(token for word in self.words for token in word.tokens)


@dataclass(frozen=True)
class Transcript:
    """The final of a segment of speech, or of a whole file.

    Attributes:
        tokens: In the order in which they were heard.
        start: Where the audio that was transcribed begins, seconds.
        end: Where it ends, seconds.
        language: BCP 47 code where it is known.
    """

    tokens: tuple[Token, ...]
    start: float = 0.0
    end: float = 0.0
    language: str | None = None

    @property
    def text(self) -> str:
        """The text, without spaces around it; empty when nothing was said."""
        return text_of(self.tokens)

    @property
    def words(self) -> tuple[Word, ...]:
        """The words with their times and confidences."""
        return words_of(self.tokens)

    @property
    def sentences(self) -> tuple[Sentence, ...]:
        """The sentences."""
        sentences: list[list[Word]] = [[]]
        for word in self.words:
            sentences[-1].append(word)
            if word.text.endswith(_SENTENCE_END):
                sentences.append([])
        return tuple(Sentence(tuple(words)) for words in sentences if words)

    @property
    def cues(self) -> tuple[Sentence, ...]:
        """The sentences as subtitles: long ones, and models without punctuation, in pieces."""
        cues: list[list[Word]] = []
        for sentence in self.sentences:
            cues.append([])
            for word in sentence.words:
                cue = cues[-1]
                length = sum(len(w.text) + 1 for w in cue) + len(word.text)
                if cue and (length > _CUE_CHARACTERS or word.end - cue[0].start > _CUE_SECONDS):
                    cues.append([])
                cues[-1].append(word)
        return tuple(Sentence(tuple(words)) for words in cues)

    @property
    def confidence(self) -> float:
        """Mean confidence of the words, 0 to 1; 0 when nothing was said."""
        words = self.words
        return fmean(word.confidence for word in words) if words else 0.0

    def shifted(self, seconds: float) -> Transcript:
        """The same transcript, with all of its times later by ``seconds``."""
        return replace(
            self,
            tokens=_shifted(self.tokens, seconds),
            start=self.start + seconds,
            end=self.end + seconds,
        )

    def to_dict(self) -> dict[str, Any]:
        """The transcript as plain values, times in seconds, for JSON."""
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
        """SubRip subtitles."""
        return "\n".join(
            f"{number}\n{_clock(cue.start, ',')} --> {_clock(cue.end, ',')}\n{cue.text}\n"
            for number, cue in enumerate(self.cues, start=1)
        )

    def to_vtt(self) -> str:
        """WebVTT subtitles."""
        cues = (
            f"{_clock(cue.start, '.')} --> {_clock(cue.end, '.')}\n{cue.text}\n"
            for cue in self.cues
        )
        return "\n".join(("WEBVTT\n", *cues))


@dataclass(frozen=True)
class Hypothesis:
    """What is believed of a segment while it is being spoken.

    Attributes:
        committed_tokens: Never taken back by a later hypothesis of the segment.
        tentative_tokens: May still change.
        end: How far the audio reaches that this is about, seconds.
    """

    committed_tokens: tuple[Token, ...] = ()
    tentative_tokens: tuple[Token, ...] = ()
    end: float = 0.0

    def followed_by(
        self, committed: tuple[Token, ...], tentative: tuple[Token, ...], end: float
    ) -> Hypothesis:
        """The hypothesis that commits more than this one, whose text is not put together again."""
        tokens = self.committed_tokens + committed if committed else self.committed_tokens
        following = Hypothesis(tokens, tentative, end)
        following.__dict__["_said"] = self._said + _spaced(_complete((*self._open, *committed)))
        return following

    @cached_property
    def _said(self) -> str:
        return _spaced(_complete(self.committed_tokens))

    @property
    def _open(self) -> tuple[Token, ...]:
        """The committed tokens of a character whose other bytes are not committed yet."""
        return self.committed_tokens[len(_complete(self.committed_tokens)) :]

    @property
    def text(self) -> str:
        """The whole text of the segment so far."""
        return (self._said + _spaced(_complete((*self._open, *self.tentative_tokens)))).strip()

    @property
    def committed(self) -> str:
        """The part of the text that will not change any more."""
        return self._said.strip()

    @property
    def tentative(self) -> str:
        """The part of the text that may change: :attr:`text` without :attr:`committed`."""
        return self.text[len(self.committed) :].lstrip()

    @property
    def words(self) -> tuple[Word, ...]:
        """The words so far, with their times and confidences."""
        return words_of(_complete((*self.committed_tokens, *self.tentative_tokens)))


def joined(transcripts: Sequence[Transcript]) -> Transcript:
    """One transcript of those that follow each other, such as the segments of a file.

    Its text is theirs, separated by spaces; its language is theirs where they agree.
    """
    if not transcripts:
        return Transcript(())
    tokens: list[Token] = []
    for transcript in transcripts:
        found = list(transcript.tokens)
        index = next((i for i, token in enumerate(found) if any(_spelling(token.piece))), None)
        if index is not None and not found[index].piece.startswith((WORD_MARK, " ")):
            found[index] = replace(found[index], piece=WORD_MARK + found[index].piece)
        tokens += found
    languages = {t.language for t in transcripts if t.tokens and t.language}
    return Transcript(
        tuple(tokens),
        transcripts[0].start,
        transcripts[-1].end,
        languages.pop() if len(languages) == 1 else None,
    )


def text_of(tokens: Iterable[Token]) -> str:
    """Text of a run of tokens, without spaces around it."""
    return _spaced(tokens).strip()


def has_words(tokens: Iterable[Token]) -> bool:
    """Whether there is a letter or a digit in the text of tokens, and not just punctuation."""
    return any(any(map(str.isalnum, text)) for text, _ in spelled(tokens))


def spelled(tokens: Iterable[Token]) -> Iterator[tuple[str, tuple[Token, ...]]]:
    """Yield the text of tokens in parts, each with the tokens that it is made of.

    This is the only way from tokens to text. A token is one part, with a space for
    :data:`WORD_MARK`. Control tokens such as ``<unk>`` and ``<|en|>`` have no text and are left
    out. Byte tokens such as ``<0xC3>`` are joined to characters; invalid bytes become U+FFFD.
    """
    decoder = _Utf8Decoder("replace")
    lead, waiting = "", list[Token]()  # Of a character: the space before it, its tokens so far.
    for token in tokens:
        text, byte = _spelling(token.piece)
        if text and waiting:
            yield lead + decoder.decode(b"", final=True), tuple(waiting)
            lead, waiting = "", []
        if text and not byte:
            yield text, (token,)
        if not byte:
            continue
        lead += text
        waiting.append(token)
        if text := decoder.decode(byte):
            made = len(waiting) - len(decoder.getstate()[0])
            yield lead + text, tuple(waiting[:made])
            lead, waiting = "", waiting[made:]
    if waiting:
        yield lead + decoder.decode(b"", final=True), tuple(waiting)


def is_text(piece: str) -> bool:
    """Whether a piece of a vocabulary is text by itself: not a control token, not a byte."""
    text, byte = _spelling(piece)
    return bool(text) and not byte


@lru_cache(maxsize=65536)
def _spelling(piece: str) -> tuple[str, bytes]:
    """The text of a piece and its byte, if it is one; neither for a control token."""
    special = _SPECIAL.fullmatch(piece)
    if special is None:
        return piece.replace(WORD_MARK, " "), b""
    mark, byte = special.groups()
    return (" " if mark else "", bytes.fromhex(byte)) if byte else ("", b"")


def _complete(tokens: tuple[Token, ...]) -> tuple[Token, ...]:
    """The tokens without those of a last character that further bytes may complete."""
    last = list[tuple[int, bytes]]()  # The last bytes, newest first: a character has up to four.
    for index in range(len(tokens) - 1, -1, -1):
        text, byte = _spelling(tokens[index].piece)
        if byte and len(last) < 3:
            last.append((index, byte))
        if text or (byte and len(last) == 3):
            break
    if not last:
        return tokens
    decoder = _Utf8Decoder("replace")
    decoder.decode(b"".join(byte for _, byte in reversed(last)))
    missing = len(decoder.getstate()[0])
    return tokens[: last[missing - 1][0]] if missing else tokens


def _spaced(tokens: Iterable[Token]) -> str:
    return "".join(text for text, _ in spelled(tokens))


def words_of(tokens: Iterable[Token]) -> tuple[Word, ...]:
    """Group tokens into words: a text that begins with a space begins a word."""
    groups: list[list[tuple[str, tuple[Token, ...]]]] = []
    for text, made_of in spelled(tokens):
        if not groups or text.startswith(" "):
            groups.append([])
        groups[-1].append((text, made_of))
    words = (_word("".join(t for t, _ in g), [token for _, m in g for token in m]) for g in groups)
    return tuple(word for word in words if word.text)


def _word(text: str, tokens: list[Token]) -> Word:
    return Word(
        text=text.strip(),
        start=tokens[0].start,
        end=max(token.end for token in tokens),
        confidence=min(token.confidence for token in tokens),
        tokens=tuple(tokens),
    )


def _shifted(tokens: tuple[Token, ...], seconds: float) -> tuple[Token, ...]:
    return tuple(replace(t, start=t.start + seconds, end=t.end + seconds) for t in tokens)


def _span(item: Word | Sentence) -> dict[str, Any]:
    return {
        "text": item.text,
        "start": round(item.start, 3),
        "end": round(item.end, 3),
        "confidence": round(item.confidence, 4),
    }


def _clock(seconds: float, point: str) -> str:
    """``hh:mm:ss`` with milliseconds behind ``point``."""
    milliseconds = round(seconds * 1000)
    minutes, milliseconds = divmod(milliseconds, 60_000)
    hours, minutes = divmod(minutes, 60)
    whole, milliseconds = divmod(milliseconds, 1000)
    return f"{hours:02}:{minutes:02}:{whole:02}{point}{milliseconds:03}"
