"""Phrase boosting: phrases that a caller expects are preferred where the model is in doubt.

Shallow fusion over a trie, in greedy decoding: a token that begins or continues a phrase gets a
bonus, which grows with how much of the phrase is there, so that a beginning that leads nowhere has
cost little. The trie is one of letters, and a piece of the vocabulary walks several of them: a
phrase is met however the model spells it. As in NeMo's GPU-PB (Andrusenko et al., "TurboBias",
2025), only the choice among tokens is boosted: whether there is a token, and how long it lasts, the
model decides. Knows vocabularies and logits; knows nothing of frames or predictors.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np
import numpy.typing as npt
from loguru import logger

from parakeet_stt.model.encoder import Floats
from parakeet_stt.transcript import is_text

_WORD = "\u2581"
"""Begins the pieces that begin a word."""


@dataclass(eq=False)
class _Letter:
    """A node of a trie of letters.

    Attributes:
        following: The nodes one letter further on.
        bonus: In a trie of phrases: what a piece gains that ends here.
        pieces: In a trie of a vocabulary: the tokens that end here.
        steps: In a trie of phrases: what each token leads to, once it was asked for.
    """

    following: dict[str, _Letter] = field(default_factory=dict)
    bonus: float = 0.0
    pieces: list[int] = field(default_factory=list)
    steps: _Steps | None = None

    def add(self, text: str) -> list[_Letter]:
        """The nodes of a text's letters, made where they are not there yet."""
        nodes, node = [], self
        for letter in text:
            node = node.following.setdefault(letter, _Letter())
            nodes.append(node)
        return nodes


@dataclass(frozen=True)
class _Steps:
    """What leads on from a node of the trie of phrases.

    Attributes:
        places: The node that each token leads to.
        tokens: Those tokens, int64 [tokens].
        bonuses: What each gains, float32 [tokens].
    """

    places: dict[int, _Letter]
    tokens: npt.NDArray[np.int64]
    bonuses: Floats


class Phrases:
    """Phrases to prefer in decoding with one vocabulary; shared by any number of streams.

    Upper and lower case count as the same, so that the model's spelling of a phrase is kept.

    Args:
        vocabulary: Pieces by id, in SentencePiece's manner: a word begins with U+2581.
        weights: Phrases, and the bonus of a whole phrase, which is added to logits.
    """

    def __init__(self, vocabulary: tuple[str, ...], weights: Mapping[str, float]) -> None:
        self._pieces = _trie_of(vocabulary)
        self._letters = set("".join(map(_folded, filter(is_text, vocabulary))))
        self._start = _Letter()
        for phrase, weight in weights.items():
            self._add(phrase, weight)

    @property
    def start(self) -> Place:
        """Where nothing has been said yet."""
        return Place(self, (self._start,))

    def _add(self, phrase: str, weight: float) -> None:
        text = "".join(_WORD + word for word in _folded(phrase).split())
        unknown = set(text) - self._letters
        if unknown:
            logger.warning(
                f"{phrase!r} is not boosted: the model does not write {''.join(sorted(unknown))!r}"
            )
            return
        for letters, node in enumerate(self._start.add(text)):
            node.bonus = max(node.bonus, weight * letters / (len(text) - 1))

    def steps(self, node: _Letter) -> _Steps:
        """What leads on from a node."""
        if node.steps is None:
            places: dict[int, _Letter] = {}
            ways = [(self._pieces, node)]
            while ways:
                piece, phrase = ways.pop()
                places.update(dict.fromkeys(piece.pieces, phrase))
                ways += [
                    (piece.following[letter], further)
                    for letter, further in phrase.following.items()
                    if letter in piece.following
                ]
            bonuses = np.array([place.bonus for place in places.values()], np.float32)
            node.steps = _Steps(places, np.array(list(places), np.int64), bonuses)
        return node.steps


@dataclass(frozen=True)
class Place:
    """How far the tokens have come in phrases: an immutable value.

    Attributes:
        phrases: The phrases.
        nodes: Where in their trie: at its start, as a phrase can begin at any word, and wherever
            the last tokens have led.
    """

    phrases: Phrases
    nodes: tuple[_Letter, ...]

    def choose(self, logits: Floats) -> tuple[int, Place]:
        """The best token with what phrases add to it, and the place behind it.

        Args:
            logits: Of the tokens without blank, float32 [tokens].
        """
        steps = [self.phrases.steps(node) for node in self.nodes]
        token = int(logits.argmax())
        best = logits[token]
        for step in steps:
            if len(step.tokens):
                scores = logits[step.tokens] + step.bonuses
                first = int(scores.argmax())
                if scores[first] > best:
                    token, best = int(step.tokens[first]), scores[first]
        reached = [step.places[token] for step in steps if token in step.places]
        nodes = (self.nodes[0], *(node for node in reached if node.following))
        return token, Place(self.phrases, nodes)


@lru_cache(maxsize=8)
def phrases_of(vocabulary: tuple[str, ...], weights: frozenset[tuple[str, float]]) -> Phrases:
    """Phrases, made once for all the streams that want the same."""
    return Phrases(vocabulary, dict(weights))


@lru_cache(maxsize=4)
def _trie_of(vocabulary: tuple[str, ...]) -> _Letter:
    start = _Letter()
    for token, piece in enumerate(vocabulary):
        if is_text(piece):
            start.add(_folded(piece))[-1].pieces.append(token)
    return start


def _folded(text: str) -> str:
    return unicodedata.normalize("NFKC", text).casefold()
