"""What a session tells, as it happens: hypotheses, finals, and where speech begins and ends.

Times are seconds of audio since the session opened.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from parakeet_stt.transcript import Hypothesis, Transcript


@dataclass(frozen=True)
class SpeechStarted:
    """Speech has started and a segment with it, as an event.

    Attributes:
        at: Seconds of audio since the session opened.
        start: Seconds at which its segment begins, with the pre-roll.
    """

    at: float
    start: float


@dataclass(frozen=True)
class SpeechStopped:
    """Speech that began has ended, as an event; unless the segment is too short, its final follows.

    Attributes:
        at: Seconds of audio since the session opened.
    """

    at: float


@dataclass(frozen=True)
class SegmentEnded:
    """A segment has been ended, by a flush or by the endpointer, as an event; the Final or Failed
    of the same number follows once it is made. Hypotheses before it are its own, those after it
    are the next one's.

    Attributes:
        segment: Its number, from 1; a flush without a segment has one as well.
        start: Seconds at which it begins.
        end: Seconds at which it ends.
        tag: As that of a :class:`Final`.
    """

    segment: int
    start: float
    end: float
    tag: Any = None


@dataclass(frozen=True)
class Discarded:
    """What :meth:`Session.discard` asked for has been done, as an event."""


@dataclass(frozen=True)
class Final:
    """A segment's final, as an event.

    Attributes:
        transcript: What was said; its text is empty when nothing was.
        speculated: Whether it was ready before it was asked for.
        tag: What :meth:`Session.flush` was given; None where the endpointer ended the segment.
        latency: Seconds from the flush until it was there, by the clock on the wall.
        segment: As that of its :class:`SegmentEnded`.
    """

    transcript: Transcript
    speculated: bool = False
    tag: Any = None
    latency: float = field(default=0.0, compare=False)
    segment: int = field(default=0, compare=False)


@dataclass(frozen=True)
class Failed:
    """A segment that got no final because inference failed, as an event.

    Attributes:
        error: What went wrong; the session goes on with the next segment.
        tag: As that of a :class:`Final`.
        segment: As that of its :class:`SegmentEnded`; 0 where it is the endpointer that failed.
    """

    error: BaseException
    tag: Any = None
    segment: int = field(default=0, compare=False)


@dataclass(frozen=True)
class TimeReached:
    """The time that :meth:`Session.remind` was given has gone by, as an event.

    Attributes:
        at: Seconds of audio since the session opened.
    """

    at: float


Event = (
    Hypothesis
    | SegmentEnded
    | Final
    | Failed
    | SpeechStarted
    | SpeechStopped
    | Discarded
    | TimeReached
)
