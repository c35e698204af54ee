"""Recognised text: tokens, words, sentences, hypotheses and transcripts, and their formats.

Times are seconds of audio since the start of the session, stream or file.
"""

from parakeet_stt.transcript.hypothesis import Hypothesis
from parakeet_stt.transcript.tokens import (
    WORD_MARK,
    Token,
    has_words,
    is_text,
    spelled,
    text_of,
)
from parakeet_stt.transcript.transcript import Transcript, joined
from parakeet_stt.transcript.words import Sentence, Word, words_of

__all__ = [
    "WORD_MARK",
    "Hypothesis",
    "Sentence",
    "Token",
    "Transcript",
    "Word",
    "has_words",
    "is_text",
    "joined",
    "spelled",
    "text_of",
    "words_of",
]
