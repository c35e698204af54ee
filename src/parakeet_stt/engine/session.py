"""One speaker's audio in, hypotheses and finals out, without blocking the event loop."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from enum import Enum
from types import TracebackType
from typing import Any, Protocol

import numpy as np

from parakeet_stt.audio import SAMPLE_RATE, as_samples
from parakeet_stt.engine.event_queue import EventQueue
from parakeet_stt.engine.events import Event
from parakeet_stt.engine.options import SessionOptions
from parakeet_stt.engine.pending_finals import PendingFinals
from parakeet_stt.engine.runtime import Runtime
from parakeet_stt.engine.scheduler import scheduler
from parakeet_stt.engine.segmenter import Segmenter
from parakeet_stt.errors import BacklogError, ParakeetError, SessionClosedError
from parakeet_stt.transcript import Transcript

MAX_BACKLOG_SECONDS = 300.0
"""Audio that may wait for inference in one session before :meth:`Session.send` refuses more."""


class SessionState(Enum):
    """The states of a session."""

    IDLE = "idle"
    """No segment is open. Audio is kept as pre-roll, or opens a segment if there is no pre-roll."""
    SPEAKING = "speaking"
    """A segment is open."""
    FINISHING = "finishing"
    """:meth:`Session.finish` waits for the last finals. Audio and requests are refused."""
    CLOSED = "closed"
    """Finished or aborted. Audio and requests are refused."""


class SessionOwner(Protocol):
    """What a session needs of its engine."""

    @property
    def runtime(self) -> Runtime:
        """Transcribes the session's segments."""

    def adopt(self, session: Session) -> None:
        """Add a session to those that are open."""

    def release(self, session: Session) -> None:
        """Remove a session from those that are open."""


class Session:
    """One speaker's audio in, hypotheses and finals out. Made by :meth:`Engine.open`.

    Iterate over the session to receive its events. A hypothesis that nobody has taken yet is
    replaced by a newer one, a final never is. A segment's hypotheses come after the final of the
    segment before, and before its own. Finals come in the order of their segments: one for each
    flush (empty if nothing was said), and one for each segment that the endpointer ended. A
    :class:`SegmentEnded` comes before each.

    All methods belong to the event loop that opened the session.
    """

    def __init__(self, owner: SessionOwner, options: SessionOptions) -> None:
        self._owner = owner
        self._received = 0
        self._final_state: SessionState | None = None  # FINISHING or CLOSED, once it is either.
        self._progress = asyncio.Event()
        self._events = EventQueue()
        self._finals = PendingFinals(self._events)
        self._segmenter = Segmenter(
            owner.runtime, options, self._events, self._finals, self._progress.set
        )
        owner.adopt(self)

    @property
    def state(self) -> SessionState:
        """The state of the session."""
        if self._final_state is not None:
            return self._final_state
        return SessionState.SPEAKING if self._segmenter.is_speaking else SessionState.IDLE

    @property
    def is_open(self) -> bool:
        """Whether audio and requests are accepted: the session is neither finishing nor closed."""
        return self._final_state is None

    @property
    def options(self) -> SessionOptions:
        """The options of the next segment."""
        return self._segmenter.options

    @property
    def seconds(self) -> float:
        """Seconds of audio received since the session was opened."""
        return self._received / SAMPLE_RATE

    @property
    def backlog(self) -> float:
        """Seconds of audio that wait for inference."""
        not_segmented = self._received - self._segmenter.position
        waiting = not_segmented + self._finals.waiting + self._segmenter.waiting
        return waiting / SAMPLE_RATE

    @property
    def progressed_at(self) -> float:
        """When the encoder last completed a batch, of any session, or the endpointer last processed
        audio of this one, by :func:`time.monotonic`; 0 before the first time."""
        return max(self._segmenter.progressed_at, scheduler.progressed_at)

    @property
    def finals_due(self) -> int:
        """Number of finals that are still to come, including that of the open segment."""
        return len(self._finals) + self._segmenter.is_speaking

    @property
    def pending_events(self) -> int:
        """Number of events that nobody has taken yet."""
        return len(self._events)

    def configure(self, options: SessionOptions, engine: SessionOwner | None = None) -> None:
        """Change the options and, if given, the engine. They apply from the next segment on.

        Args:
            options: The new options. ``endpointing`` applies at once, also to the open segment.
            engine: Another :class:`Engine`, with another model; the present one by default.
        """
        if engine is not None and engine is not self._owner:
            self._owner.release(self)
            self._owner = engine
            if self.state is not SessionState.CLOSED:
                engine.adopt(self)
        self._segmenter.configure(self._owner.runtime, options)

    def send(self, samples: Any) -> None:
        """Send audio. Never blocks.

        Args:
            samples: ``float32 [samples]``, mono, 16 kHz.

        Raises:
            SessionClosedError: The session is finishing or closed.
            AudioError: Samples of another shape or kind.
            BacklogError: Too much audio waits for inference. The audio that was sent before is
                kept, and the session accepts more once inference has caught up.
        """
        self._check_open()
        audio = np.array(as_samples(samples))  # A copy: the caller may reuse the array.
        if not len(audio):
            return
        if self.backlog + len(audio) / SAMPLE_RATE > MAX_BACKLOG_SECONDS:
            raise BacklogError(
                f"{len(audio) / SAMPLE_RATE:.1f} s of audio were sent while {self.backlog:.1f} s "
                f"wait for inference already; at most {MAX_BACKLOG_SECONDS:.0f} s are kept. The "
                f"machine is too slow for this many sessions or this model, or audio is sent "
                f"faster than it is spoken: send less at once, and the rest when Session.backlog "
                f"has fallen."
            )
        self._received += len(audio)
        self._segmenter.add(audio)

    async def wait_for_backlog(self, below: float) -> None:
        """Wait until at most ``below`` seconds of audio wait for inference.

        Also returns if the session is closed.

        Args:
            below: Seconds of audio. The model must have been loaded, or nothing will change.
        """
        while self.backlog > below and self.state is not SessionState.CLOSED:
            # No more audio may come before this returns, so that no interval of it completes.
            self._segmenter.request_interim(below)
            self._progress.clear()
            await self._progress.wait()

    def start_segment(self, lookback: float | None = None, judged: float = 0.0) -> None:
        """Start a segment for the speech that a VAD reports; if one is open, nothing happens.

        The VAD may be behind the newest audio: the segment starts with the earliest speech that
        belongs to no segment and that the VAD may not have judged before, and the pre-roll before
        it. Audio that belongs to an earlier segment, or was discarded, is never used again.

        Args:
            lookback: Seconds of audio before now that belong to the segment in any case; the
                session's pre-roll by default.
            judged: Seconds of audio, since the session opened, that the VAD is known to have judged
                before: to the VAD, speech in it that belongs to no segment was no speech.

        Raises:
            SessionClosedError: The session is finishing or closed.
        """
        self._check_open()
        self._segmenter.start(lookback, judged)

    def flush(
        self, tag: Any = None, stop_seconds: float | None = None, judged: float = 0.0
    ) -> asyncio.Future[Transcript]:
        """End the segment now and keep the session. Audio sent later belongs to the next segment.

        The final is also an event, so that the future need not be awaited. Cancelling whoever
        awaits it does not cancel the final.

        Args:
            tag: Returned with the events of this flush.
            stop_seconds: Seconds of silence after which the VAD that requests the flush reports the
                end of speech; None if no VAD requests it. If the VAD is behind the newest audio and
                the next utterance has started, the segment ends before it.
            judged: Seconds of audio, since the session opened, that the VAD is known to have judged
                before: to the VAD, speech in it that belongs to no segment was no speech.

        Returns:
            A future of the final of all audio sent before; the final is empty if no segment was
            open. The future fails with a ParakeetError if the model cannot be loaded or inference
            fails, and with a SessionClosedError if the session is aborted before.

        Raises:
            SessionClosedError: The session is finishing or closed.
        """
        self._check_open()
        final = self._finals.request(tag)
        self._segmenter.end(final, stop_seconds, judged)
        return final.future

    def discard(self) -> None:
        """Forget the audio sent since the last flush: the open segment gets no final.

        Segments that ended before get theirs. A :class:`Discarded` event confirms it.

        Raises:
            SessionClosedError: The session is finishing or closed.
        """
        self._check_open()
        self._segmenter.discard()

    def notify_at(self, at: float) -> None:
        """Emit a :class:`TimeReached` event once audio up to a time has been processed.

        Args:
            at: Seconds of audio since the session opened; replaces an earlier time.
        """
        self._segmenter.notify_at(at)

    async def finish(self) -> Transcript:
        """Flush, wait for every pending final, then close; return the last final.

        Raises:
            SessionClosedError: The session is finishing or closed, or is aborted meanwhile.
            ParakeetError: The model cannot be loaded, or inference failed.
        """
        last = self.flush()
        self._final_state = SessionState.FINISHING
        try:
            await asyncio.wait([last])  # Finals come in order: the others have been made as well.
            return last.result()
        finally:
            self._close()

    def abort(self) -> None:
        """Close at once, without finals. May be called in any state."""
        self._close()

    def fail(self, error: ParakeetError) -> None:
        """Close at once, with a Failed event in place of each final that was requested.

        Args:
            error: Why there are no finals.
        """
        self._finals.fail(error)
        for final in self._finals.requested:
            self._segmenter.fail(final, error)
        self._close()

    def __aiter__(self) -> AsyncIterator[Event]:
        return self._events.__aiter__()

    async def __aenter__(self) -> Session:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.abort()

    def _close(self) -> None:
        if self.state is SessionState.CLOSED:
            return
        self._final_state = SessionState.CLOSED
        self._segmenter.close()
        self._finals.close(SessionClosedError("the session was closed before its final"))
        self._owner.release(self)
        self._progress.set()
        self._events.close()

    def _check_open(self) -> None:
        if not self.is_open:
            raise SessionClosedError(
                f"the session is {self.state.value}; open another with engine.open()"
            )
