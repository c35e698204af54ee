"""The finals of a session on their way, from the request to the event."""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import replace
from typing import Any

from parakeet_stt.engine.event_loop import settle
from parakeet_stt.engine.event_queue import EventQueue
from parakeet_stt.engine.events import Failed, Final, SegmentEnded
from parakeet_stt.engine.segment import Segment
from parakeet_stt.errors import ParakeetError
from parakeet_stt.transcript import Hypothesis, Transcript


class PendingFinal:
    """A final that is on its way.

    It is *requested* while the audio before its flush is being processed, *ended* once its segment
    has ended, and *made* once its outcome is known.

    Args:
        tag: Returned with its events.

    Attributes:
        tag: As the argument.
        future: Gets the transcript or the error.
        segment: The segment; None until it has ended, or if there was none.
    """

    def __init__(self, tag: Any = None) -> None:
        self.tag = tag
        self.future: asyncio.Future[Transcript] = asyncio.get_running_loop().create_future()
        self._segment: Segment | None = None
        self._number = 0
        self._outcome: Final | Failed | None = None

    @property
    def segment(self) -> Segment | None:
        return self._segment

    @property
    def outcome(self) -> Final | Failed | None:
        """The event; None until the final is made."""
        return self._outcome

    def end(self, segment: Segment | None, number: int) -> None:
        """Note that the segment has ended."""
        self._segment, self._number = segment, number

    def make(self, outcome: Final | Failed) -> None:
        """Note the outcome."""
        self._outcome = replace(outcome, tag=self.tag, segment=self._number)


class PendingFinals:
    """The finals that are on their way, in the order of their segments.

    Args:
        events: Receives their events, and the hypotheses between them.
    """

    def __init__(self, events: EventQueue) -> None:
        self._events = events
        self._requested: deque[PendingFinal] = deque()
        self._ended: deque[PendingFinal] = deque()
        self._segments = 0  # Number of segments that have ended.
        self._hypothesis: Hypothesis | None = None  # Of the open segment, behind pending finals.

    def __len__(self) -> int:
        return len(self._requested) + len(self._ended)

    @property
    def requested(self) -> tuple[PendingFinal, ...]:
        """Those whose segment has not ended yet."""
        return tuple(self._requested)

    @property
    def waiting(self) -> int:
        """Samples of their segments that inference has not processed yet."""
        return sum(final.segment.waiting for final in self._ended if final.segment is not None)

    def request(self, tag: Any) -> PendingFinal:
        """Add a final whose segment ends later."""
        final = PendingFinal(tag)
        self._requested.append(final)
        return final

    def end(self, final: PendingFinal, segment: Segment | None, start: float, end: float) -> None:
        """Note the end of a final's segment, and emit it.

        Args:
            final: The next of those requested, or a new one that nobody has requested.
            segment: Its segment; None if there was none.
            start: Start of the segment, in seconds.
            end: End of the segment, in seconds.
        """
        if self._requested and self._requested[0] is final:
            self._requested.popleft()
        self._segments += 1
        final.end(segment, self._segments)
        self._ended.append(final)
        self._hypothesis = None
        self._events.put(SegmentEnded(self._segments, start, end, final.tag))

    def make(self, final: PendingFinal, outcome: Final | Failed) -> None:
        """Note the outcome of a final. It is emitted after the finals of earlier segments: in a
        batch, or from another engine, a later one may be made first."""
        final.make(outcome)
        while self._ended and (event := self._ended[0].outcome) is not None:
            future = self._ended.popleft().future
            self._events.put(event)
            match event:
                case Final():
                    settle(future, event.transcript, None)
                case Failed():
                    settle(future, None, event.error)
        if not self._ended and self._hypothesis is not None:
            self._events.put(self._hypothesis)
            self._hypothesis = None

    def put_hypothesis(self, hypothesis: Hypothesis) -> None:
        """Emit a hypothesis of the open segment, after the finals of earlier segments."""
        if self._ended:
            self._hypothesis = hypothesis
        else:
            self._events.put(hypothesis)

    def drop_hypothesis(self) -> None:
        """Drop the hypothesis that waits: its segment was dropped."""
        self._hypothesis = None

    def fail(self, error: ParakeetError) -> None:
        """Emit an error in place of each final whose segment has ended."""
        for final in tuple(self._ended):
            if final.segment is not None:
                final.segment.drop()
            self.make(final, Failed(error))

    def close(self, error: ParakeetError) -> None:
        """Give up every final, without an event.

        Args:
            error: Set on the futures.
        """
        for final in (*self._ended, *self._requested):
            if final.segment is not None:
                final.segment.drop()
            settle(final.future, None, error)
        self._ended.clear()
        self._requested.clear()
        self._hypothesis = None
