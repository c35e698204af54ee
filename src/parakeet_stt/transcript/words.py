"""Words and sentences, grouped from tokens."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from statistics import fmean

from parakeet_stt.transcript.tokens import Token, spelled

_SENTENCE_END = (".", "?", "!", "。", "？", "！")  # noqa: RUF001


@dataclass(frozen=True)
class Word:
    """A word with the punctuation that follows it.

    Attributes:
        text: The word, without spaces around it.
        start: Start in the audio, seconds.
        end: End in the audio, seconds.
        confidence: Minimum of its tokens' confidences (NeMo's aggregation ``min``), 0 to 1.
        tokens: Its tokens.
    """

    text: str
    start: float
    end: float
    confidence: float
    tokens: tuple[Token, ...] = field(default=(), repr=False, compare=False)


@dataclass(frozen=True)
class Sentence:
    """One sentence: words up to a full stop, question mark or exclamation mark.

    Attributes:
        words: Its words, at least one.
    """

    words: tuple[Word, ...]

    @property
    def text(self) -> str:
        """The words, separated by spaces."""
        return " ".join(word.text for word in self.words)

    @property
    def start(self) -> float:
        """Start of the first word, seconds."""
        return self.words[0].start

    @property
    def end(self) -> float:
        """End of the last word, seconds."""
        return self.words[-1].end

    @property
    def confidence(self) -> float:
        """Mean confidence of the words, 0 to 1."""
        return fmean(word.confidence for word in self.words)

    @property
    def tokens(self) -> tuple[Token, ...]:
        """The tokens of all words."""
        return tuple(token for word in self.words for token in word.tokens)


def words_of(tokens: Iterable[Token]) -> tuple[Word, ...]:
    """Group tokens into words: a text that begins with a space begins a word."""
    groups: list[list[tuple[str, tuple[Token, ...]]]] = []
    for text, source in spelled(tokens):
        if not groups or text.startswith(" "):
            groups.append([])
        groups[-1].append((text, source))
    words = (_word("".join(t for t, _ in g), [token for _, s in g for token in s]) for g in groups)
    return tuple(word for word in words if word.text)


def _word(text: str, tokens: list[Token]) -> Word:
    return Word(
        text=text.strip(),
        start=tokens[0].start,
        end=max(token.end for token in tokens),
        confidence=min(token.confidence for token in tokens),
        tokens=tuple(tokens),
    )


def sentences_of(words: Iterable[Word]) -> tuple[Sentence, ...]:
    """Group words into sentences."""
    sentences: list[list[Word]] = [[]]
    for word in words:
        sentences[-1].append(word)
        if word.text.endswith(_SENTENCE_END):
            sentences.append([])
    return tuple(Sentence(tuple(words)) for words in sentences if words)
