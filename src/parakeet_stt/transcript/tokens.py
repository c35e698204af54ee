"""Tokens, and the text that they stand for.

A token's piece is SentencePiece's: ``▁`` stands for the space before a word, and pieces in angle
brackets are control tokens (``<unk>``, ``<|en|>``) or bytes of characters that are not in the
vocabulary (``<0xC3>``).
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache

WORD_MARK = "\u2581"
"""SentencePiece's mark for the space before a word."""

# `joined` may put a mark before a byte.
_SPECIAL = re.compile(f"({WORD_MARK}?)<(?:0x([0-9A-Fa-f]{{2}})|[^<>\\s]+)>")

_Utf8Decoder = codecs.getincrementaldecoder("utf-8")


@dataclass(frozen=True, slots=True)
class Token:
    """One piece of the model's vocabulary with its time and confidence.

    Attributes:
        id: Its index in the vocabulary.
        piece: Its text in the vocabulary, with ``▁`` for a space.
        start: Start in the audio, seconds.
        end: End in the audio, seconds.
        confidence: 0 (all tokens equally probable) to 1 (certain).
        logprob: Natural logarithm of its probability among all tokens and blank; None if the
            decoder does not compute it.
    """

    id: int
    piece: str
    start: float
    end: float
    confidence: float
    logprob: float | None = None


def spelled(tokens: Iterable[Token]) -> Iterator[tuple[str, tuple[Token, ...]]]:
    """Yield the text of tokens in parts, each with the tokens that it consists of.

    This is the only conversion of tokens to text. A token is one part, with a space for
    :data:`WORD_MARK`. Control tokens have no text and are left out. Byte tokens are joined to
    characters; invalid bytes become U+FFFD.
    """
    decoder = _Utf8Decoder("replace")
    lead, pending = "", list[Token]()  # Of an incomplete character: its space, its tokens.
    for token in tokens:
        text, byte = _spelling(token.piece)
        if text and pending:
            yield lead + decoder.decode(b"", final=True), tuple(pending)
            lead, pending = "", []
        if text and not byte:
            yield text, (token,)
        if not byte:
            continue
        lead += text
        pending.append(token)
        if text := decoder.decode(byte):
            used = len(pending) - len(decoder.getstate()[0])
            yield lead + text, tuple(pending[:used])
            lead, pending = "", pending[used:]
    if pending:
        yield lead + decoder.decode(b"", final=True), tuple(pending)


def spaced_text(tokens: Iterable[Token]) -> str:
    """Text of tokens, with the spaces around it."""
    return "".join(text for text, _ in spelled(tokens))


def text_of(tokens: Iterable[Token]) -> str:
    """Text of tokens, without spaces around it."""
    return spaced_text(tokens).strip()


def has_words(tokens: Iterable[Token]) -> bool:
    """Whether the text of tokens contains a letter or a digit, and not only punctuation."""
    return any(any(map(str.isalnum, text)) for text, _ in spelled(tokens))


def has_text(token: Token) -> bool:
    """Whether a token has any text: a control token has none, a byte does."""
    return any(_spelling(token.piece))


def is_text(piece: str) -> bool:
    """Whether a piece of a vocabulary is text by itself: not a control token, not a byte."""
    text, byte = _spelling(piece)
    return bool(text) and not byte


def without_incomplete_character(tokens: tuple[Token, ...]) -> tuple[Token, ...]:
    """The tokens up to a last character that further byte tokens may complete."""
    last = list[tuple[int, bytes]]()  # The last bytes in reverse: a character has up to four.
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
    incomplete = len(decoder.getstate()[0])
    return tokens[: last[incomplete - 1][0]] if incomplete else tokens


@lru_cache(maxsize=65536)
def _spelling(piece: str) -> tuple[str, bytes]:
    """The text of a piece and its byte, if it is one; neither for a control token."""
    special = _SPECIAL.fullmatch(piece)
    if special is None:
        return piece.replace(WORD_MARK, " "), b""
    mark, byte = special.groups()
    return (" " if mark else "", bytes.fromhex(byte)) if byte else ("", b"")
