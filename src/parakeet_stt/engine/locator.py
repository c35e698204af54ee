"""Finds the speech in the audio of a session if a VAD elsewhere starts and ends its segments.

Such a VAD reports speech by frames that carry no position in the audio, and it may be seconds
behind the newest audio: while the model loads, when the event loop was blocked, when audio comes in
bursts, on a busy machine. The session's own endpointer finds the positions.
"""

from __future__ import annotations

import itertools
from collections import deque
from dataclasses import dataclass

from parakeet_stt.audio import SAMPLE_RATE
from parakeet_stt.engine.vad import WINDOW, Change, Endpointing, Speech

VAD_START_SECONDS = 0.2
"""Seconds of speech that Pipecat's VAD needs by default to report a start. The pre-roll includes
them."""

LOCATING = Endpointing(threshold=0.5, start_seconds=0.1, stop_seconds=0.16)
"""Finds what Pipecat's VAD finds with its defaults (0.7, 0.2 s, 0.2 s), and somewhat more."""

_MIN_UTTERANCE = int(LOCATING.start_seconds * SAMPLE_RATE)
_MAX_AGE = 60 * SAMPLE_RATE  # Older utterances that the VAD ignored are forgotten.


@dataclass
class _Utterance:
    """Speech between two pauses.

    Attributes:
        start: Sample at which it starts.
        end: Sample at which it ends; None while it goes on.
    """

    start: int
    end: int | None = None


class Locator:
    """The utterances of a session's audio that no segment has taken.

    Positions are samples since the session opened.
    """

    def __init__(self) -> None:
        self._utterances: deque[_Utterance] = deque()

    def note(self, change: Change) -> None:
        """Note that an utterance has started or ended."""
        if change.speech is Speech.STARTED:
            self.take(change.since - _MAX_AGE)
            self._utterances.append(_Utterance(change.since))
        elif self._utterances:
            self._utterances[-1].end = change.since

    def take(self, until: int) -> None:
        """Forget the utterances that ended before a position."""
        while self._utterances and (end := self._utterances[0].end) is not None and end <= until:
            self._utterances.popleft()

    def clear(self) -> None:
        """Forget every utterance."""
        self._utterances.clear()

    def first(self, since: int, delay: int, judged: int) -> int | None:
        """Start of the earliest utterance that the VAD may be reporting now; None if none is known.

        Args:
            since: Position from which on audio belongs to no segment.
            delay: Samples of an utterance after which the VAD reports it.
            judged: Position up to which the VAD had judged everything before.
        """
        for utterance in self._utterances:
            start = max(utterance.start, since)
            too_short = utterance.end is not None and utterance.end - start < _MIN_UTTERANCE
            if start + delay >= judged and not too_short:
                return start
        return None

    def end_of_first(self, stop: int, judged: int, starting: int | None) -> int | None:
        """Where a segment ends whose end the VAD reports now; None if it ends with the audio.

        An up-to-date VAD reports an end in silence. If a later utterance goes on at the end of the
        audio, the report is about the first pause between two utterances that is long enough.

        Args:
            stop: Samples of silence after which the VAD reports the end of an utterance.
            judged: Position up to which the VAD had judged everything before.
            starting: Sample at which an utterance may have started that is not known yet.
        """
        utterances = list(self._utterances)
        if starting is not None:
            utterances.append(_Utterance(starting))
        if not utterances or utterances[-1].end is not None:
            return None
        for one, other in itertools.pairwise(utterances):
            assert one.end is not None
            is_long = other.start - one.end > stop - WINDOW
            if is_long and one.end + stop >= judged:
                return min(one.end + stop, other.start)
        return None
