"""Starting and flushing the segments of a session, and whose voice is in them."""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass
from typing import Any

from parakeet_stt.engine.engine import Engine
from parakeet_stt.engine.events import Failed, Final
from parakeet_stt.engine.session import MAX_BACKLOG_SECONDS, Session

STALL_SECONDS = 1.0
"""Seconds by which the next frame of audio may be late in the midst of speech before the segment
is flushed."""


@dataclass(frozen=True)
class SegmentSettings:
    """Settings that a segment keeps from its start to its final, which may come late.

    Attributes:
        min_confidence: A final of lower confidence is dropped.
        language: Language of the frames; None for the model's.
        engine: The engine whose model transcribes the segment.
    """

    min_confidence: float
    language: str | None
    engine: Engine


@dataclass(frozen=True)
class Flush:
    """The tag of a flush.

    Attributes:
        settings: Those of the segment that it ended.
        reason: Why the segment ended, if the service asked for it with a reason.
    """

    settings: SegmentSettings
    reason: Any = None


class SegmentControl:
    """Starts and flushes the segments of a session as the VAD and the pipeline ask for it.

    If audio stays away in the midst of speech, the segment is flushed too.

    Args:
        session: The session. It must be open, except in :meth:`abort`.
        settings: Settings of its next segments.
    """

    def __init__(self, session: Session, settings: SegmentSettings) -> None:
        self.session = session
        self._next = settings
        self._started: SegmentSettings | None = None  # Settings of the open segment.
        self._stall: asyncio.TimerHandle | None = None

    @property
    def is_open(self) -> bool:
        """Whether the session is open."""
        return self.session.is_open

    @property
    def settings(self) -> SegmentSettings:
        """Settings of the open segment, or of the next one if none is open."""
        return self._started or self._next

    def settings_of(self, event: Final | Failed) -> SegmentSettings:
        """Settings of the segment that an event ends."""
        # The session's own flush, when it finishes, has no tag.
        return event.tag.settings if isinstance(event.tag, Flush) else self.settings

    def configure(self, settings: SegmentSettings) -> None:
        """Change the settings from the next segment on."""
        self._next = settings

    def start(self, lookback: float | None = None, judged: float = 0.0) -> None:
        """Start a segment unless one is open.

        Args:
            lookback: Seconds of audio before now that belong to the segment. Default: the
                session's pre-roll.
            judged: Seconds of audio, since the session opened, that the VAD has judged before.
        """
        self.session.start_segment(lookback, judged)
        self._started = self.settings

    def flush(
        self, reason: Any = None, stop_seconds: float | None = None, judged: float = 0.0
    ) -> None:
        """End the segment; its final comes as an event. Without a segment, the final is empty.

        Args:
            reason: Passed on to the event, whose tag is a :class:`Flush`.
            stop_seconds: Seconds of silence after which the VAD reports the end of speech; None
                (default) if it was not the VAD that asked for the flush.
            judged: Seconds of audio, since the session opened, that the VAD has judged before.
        """
        self._cancel_stall()
        tag, self._started = Flush(self.settings, reason), None
        self.session.flush(tag, stop_seconds=stop_seconds, judged=judged)

    def discard(self, reason: Any = None) -> None:
        """End the segment, and use none of the audio received so far for another."""
        self.flush(reason)
        self.session.discard()

    def expect_audio(self, seconds: float) -> None:
        """Flush if no audio comes for the length of a frame and :data:`STALL_SECONDS`.

        Args:
            seconds: Length of a frame.
        """
        self._cancel_stall()
        loop = asyncio.get_running_loop()
        self._stall = loop.call_later(seconds + STALL_SECONDS, self._flush_stalled)

    def abort(self) -> None:
        """Close the session without a final."""
        self._cancel_stall()
        self.session.abort()

    def _flush_stalled(self) -> None:
        if self.is_open:
            self.flush()

    def _cancel_stall(self) -> None:
        if self._stall is not None:
            self._stall.cancel()
            self._stall = None


class Speakers:
    """Whose audio came when, in seconds since the session opened."""

    def __init__(self) -> None:
        self._changes: deque[tuple[float, str]] = deque()

    def note(self, now: float, user_id: str) -> None:
        """Note whose audio comes from now on."""
        if not self._changes or self._changes[-1][1] != user_id:
            self._changes.append((now, user_id))
        while len(self._changes) > 1 and self._changes[1][0] < now - MAX_BACKLOG_SECONDS:
            self._changes.popleft()

    def at(self, time: float) -> str:
        """Return whose audio there is at a time; empty if no audio has come yet."""
        user_ids = [user_id for since, user_id in self._changes if since <= time]
        return user_ids[-1] if user_ids else ""
