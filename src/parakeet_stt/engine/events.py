"""The events of a session: hypotheses, finals, and the starts and ends of speech.

Times are seconds of audio since the session opened.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from parakeet_stt.transcript import Hypothesis, Transcript


@dataclass(frozen=True)
class SpeechStarted:
    """Speech has started, and with it a segment.

    Attributes:
        at: Seconds of audio since the session opened.
        start: Seconds at which its segment starts, with the pre-roll.
    """

    at: float
    start: float


@dataclass(frozen=True)
class SpeechStopped:
    """Speech has stopped. Its final follows unless the segment is too short.

    Attributes:
        at: Seconds of audio since the session opened.
    """

    at: float


@dataclass(frozen=True)
class SegmentEnded:
    """A flush or the endpointer has ended a segment.

    The :class:`Final` or :class:`Failed` with the same number follows later. Hypotheses before this
    event belong to the segment, hypotheses after it to the next one.

    Attributes:
        segment: Its number, from 1; a flush without a segment also has one.
        start: Seconds at which it starts.
        end: Seconds at which it ends.
        tag: As that of a :class:`Final`.
    """

    segment: int
    start: float
    end: float
    tag: Any = None


@dataclass(frozen=True)
class Discarded:
    """The audio has been discarded, as :meth:`Session.discard` asked."""


@dataclass(frozen=True)
class Final:
    """The final of a segment.

    Attributes:
        transcript: What was said; its text is empty if nothing was.
        speculated: Whether it was ready before the flush.
        tag: The tag given to :meth:`Session.flush`; None if the endpointer ended the segment.
        latency: Seconds of wall-clock time from the flush to the final.
        segment: As that of its :class:`SegmentEnded`.
    """

    transcript: Transcript
    speculated: bool = False
    tag: Any = None
    latency: float = field(default=0.0, compare=False)
    segment: int = field(default=0, compare=False)


@dataclass(frozen=True)
class Failed:
    """A segment has no final because inference failed.

    Attributes:
        error: What went wrong; the session goes on with the next segment.
        tag: As that of a :class:`Final`.
        segment: As that of its :class:`SegmentEnded`; 0 if the endpointer failed.
    """

    error: BaseException
    tag: Any = None
    segment: int = field(default=0, compare=False)


@dataclass(frozen=True)
class TimeReached:
    """The audio has reached the time given to :meth:`Session.notify_at`.

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
