"""The current text of a segment that is still being spoken."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from parakeet_stt.transcript.tokens import Token, spaced_text, without_incomplete_character
from parakeet_stt.transcript.words import Word, words_of


@dataclass(frozen=True)
class Hypothesis:
    """The current text of an open segment.

    Attributes:
        committed_tokens: Tokens that no later hypothesis of the segment changes.
        tentative_tokens: Tokens that may still change.
        end: End of the audio that it covers, seconds.
    """

    committed_tokens: tuple[Token, ...] = ()
    tentative_tokens: tuple[Token, ...] = ()
    end: float = 0.0

    def followed_by(
        self, committed: tuple[Token, ...], tentative: tuple[Token, ...], end: float
    ) -> Hypothesis:
        """The next hypothesis of the segment.

        The text of the tokens that are already committed is reused, not computed again.

        Args:
            committed: Tokens that are committed in addition to this hypothesis's.
            tentative: The new tentative tokens.
            end: End of the audio that it covers, seconds.
        """
        tokens = self.committed_tokens + committed if committed else self.committed_tokens
        following = Hypothesis(tokens, tentative, end)
        added = without_incomplete_character((*self._incomplete, *committed))
        following.__dict__["_committed_text"] = self._committed_text + spaced_text(added)
        return following

    @cached_property
    def _committed_text(self) -> str:
        return spaced_text(without_incomplete_character(self.committed_tokens))

    @property
    def _incomplete(self) -> tuple[Token, ...]:
        """The committed byte tokens of a character whose other bytes are not committed yet."""
        return self.committed_tokens[len(without_incomplete_character(self.committed_tokens)) :]

    @property
    def text(self) -> str:
        """The whole text of the segment so far, without spaces around it."""
        rest = without_incomplete_character((*self._incomplete, *self.tentative_tokens))
        return (self._committed_text + spaced_text(rest)).strip()

    @property
    def committed(self) -> str:
        """The part of the text that no longer changes."""
        return self._committed_text.strip()

    @property
    def tentative(self) -> str:
        """The part of the text that may change: :attr:`text` without :attr:`committed`."""
        return self.text[len(self.committed) :].lstrip()

    @property
    def words(self) -> tuple[Word, ...]:
        """The words so far, with their times and confidences."""
        tokens = (*self.committed_tokens, *self.tentative_tokens)
        return words_of(without_incomplete_character(tokens))
