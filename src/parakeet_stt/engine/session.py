"""One speaker's audio in, hypotheses and finals out, without ever blocking the event loop.

A session is opened by :class:`~parakeet_stt.engine.engine.Engine`.
It knows neither protocols nor Pipecat.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import deque
from collections.abc import AsyncIterator
from dataclasses import replace
from enum import Enum
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np
from loguru import logger

from parakeet_stt.audio import SAMPLE_RATE, Samples, as_samples
from parakeet_stt.engine.events import (
    Discarded,
    Event,
    Failed,
    Final,
    SegmentEnded,
    SpeechStarted,
    SpeechStopped,
    TimeReached,
)
from parakeet_stt.engine.history import History
from parakeet_stt.engine.input_queue import Intake
from parakeet_stt.engine.locator import LOCATING, VAD_START_SECONDS, Locator
from parakeet_stt.engine.options import SessionOptions
from parakeet_stt.engine.scheduler import Job, Priority, call_soon, scheduler, settle
from parakeet_stt.engine.segment import Segment
from parakeet_stt.engine.vad import Change, Speech
from parakeet_stt.errors import BacklogError, ParakeetError, SessionClosedError
from parakeet_stt.model.model import Model
from parakeet_stt.model.stream import EncoderJob
from parakeet_stt.transcript import Hypothesis, Transcript

if TYPE_CHECKING:
    from parakeet_stt.engine.engine import Engine

MAX_BACKLOG_SECONDS = 300.0
"""Audio that may wait for inference in one session before :meth:`Session.send` refuses more."""

HISTORY_SECONDS = 30.0
"""Audio from before a segment that a session can reach back to."""

_HEARING_SECONDS = 2.0  # Without interims, audio is heard in pieces of this length.

_OPENING_SECONDS = 2.0
"""Where speech begins so early, the first segment begins with the session, whatever the pre-roll: a
recording that is sent from its beginning then says what ``transcribe()`` says of it."""


class SessionState(Enum):
    """Where a session is in its life."""

    IDLE = "idle"
    """Open, and no segment is: audio is kept as pre-roll (or opens one, without pre-roll)."""
    SPEAKING = "speaking"
    """A segment is open."""
    CLOSED = "closed"
    """Finished or aborted; nothing more is accepted."""


class Session:
    """One speaker's audio in, hypotheses and finals out. Made by :meth:`Engine.open`.

    Events come from iterating over the session; a hypothesis that nobody has taken yet is replaced
    by a newer one, a final never is. A segment's hypotheses come before its final and after the
    final before it. Finals come in the order of their segments: one for each flush, empty where
    nothing was said, and one for each segment that the endpointer ended; a :class:`SegmentEnded`
    comes before each. All methods belong to the event loop that opened the session.
    """

    def __init__(self, engine: Engine, options: SessionOptions) -> None:
        self._engine = engine
        self._loop = asyncio.get_running_loop()
        self._state = SessionState.IDLE
        self._segment: Segment | None = None
        self._intake = Intake(self._take, self._change, self._endpointer_failed)
        self._locator: Locator | None = None  # Where segments are started and flushed by a VAD.
        # Flushes that wait in the intake, with their tags.
        self._asked: dict[asyncio.Future[Transcript], Any] = {}
        # Finals on their way, in order; without a segment, those that are empty.
        self._finals: dict[asyncio.Future[Transcript], Segment | None] = {}
        self._ended: dict[asyncio.Future[Transcript], SegmentEnded] = {}
        self._segments = 0  # How many have been ended.
        self._ready: dict[asyncio.Future[Transcript], Final | Failed] = {}  # Before their turn.
        self._early: Hypothesis | None = None  # Of the open segment, while an earlier final is due.
        self._history = History(int(HISTORY_SECONDS * SAMPLE_RATE))
        self._taken = 0  # Sample up to which audio belongs to segments, or was discarded.
        self._received = 0
        self._begun = False  # Whether a segment will be open once all requests have been met.
        self._notify_at: float | None = None
        self._events: deque[Event | None] = deque()
        self._has_events = asyncio.Event()
        self._progress = asyncio.Event()
        self._judged_at = 0.0
        self.configure(options)

    @property
    def state(self) -> SessionState:
        """Where the session is in its life."""
        return self._state

    @property
    def seconds(self) -> float:
        """Seconds of audio received since the session was opened."""
        return self._received / SAMPLE_RATE

    @property
    def backlog(self) -> float:
        """Seconds of audio that wait for inference."""
        segments = [segment for segment in (*self._finals.values(), self._segment) if segment]
        unjudged = self._received - self._heard
        return (unjudged + sum(segment.waiting for segment in segments)) / SAMPLE_RATE

    @property
    def _heard(self) -> int:
        """Of the samples received, those that came out of the intake."""
        return self._intake.position

    @property
    def progressed_at(self) -> float:
        """When the encoder last completed a batch, of any session, or the endpointer last processed
        audio of this one, by :func:`time.monotonic`; 0 before the first time."""
        return max(self._judged_at, scheduler.progressed_at)

    @property
    def due(self) -> int:
        """Finals that are still to come, with that of the open segment."""
        return len(self._finals) + len(self._asked) + (self._segment is not None)

    @property
    def pending_events(self) -> int:
        """Events that nobody has taken yet."""
        return len(self._events)

    def configure(self, options: SessionOptions, engine: Engine | None = None) -> None:
        """Change the options and, if given, the engine. They apply from the next segment on.

        Args:
            options: The new options. ``endpointing`` applies at once, also to the open segment.
            engine: Another engine, with another model; the present one by default.
        """
        if engine is not None and engine is not self._engine:
            self._engine._sessions.discard(self)
            self._engine = engine
            engine._sessions.add(self)
        self._options = options
        self._preroll = None if options.preroll is None else int(options.preroll * SAMPLE_RATE)
        if options.endpointing is None and options.preroll is not None:
            self._locator = self._locator or Locator()
            self._intake.listen(LOCATING)
        else:
            self._locator = None
            self._intake.listen(options.endpointing)

    def send(self, samples: Any) -> None:
        """Take more audio. Never blocks.

        Args:
            samples: ``float32 [samples]``, mono, 16 kHz.

        Raises:
            SessionClosedError: The session is closed.
            AudioError: Samples of another shape or kind.
            BacklogError: Too much audio waits already; what was sent before is kept, and the
                session goes on once inference has caught up.
        """
        self._check_open()
        audio = np.array(as_samples(samples))  # Whoever sends may use the array again.
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
        self._intake.put(audio)

    async def wait_for_backlog(self, seconds: float) -> None:
        """Wait until at most so much audio waits for inference, or the session is closed.

        Args:
            seconds: Of audio. The model must have been loaded, or nothing will change.
        """
        while self.backlog > seconds and self._state is not SessionState.CLOSED:
            if self._segment is not None:
                # No more audio may come before this returns: it cannot wait for an interval of it.
                self._queue_interim(self._segment, seconds)
            self._progress.clear()
            await self._progress.wait()

    def start_segment(self, lookback: float | None = None, judged: float = 0.0) -> None:
        """Open a segment for the speech that a VAD reports; nothing happens where one is open.

        The VAD may be behind the newest audio: the segment begins with the earliest speech that
        belongs to no segment and that the VAD may not have judged before, and the pre-roll before
        it. What belonged to an earlier segment, or was discarded, is never taken again.

        Args:
            lookback: Seconds of audio before now that belong to the segment in any case; the
                session's pre-roll by default.
            judged: Seconds of audio, since the session opened, that the VAD is known to have judged
                before: speech in it that belongs to no segment was no speech to the VAD.

        Raises:
            SessionClosedError: The session is closed.
        """
        self._check_open()
        samples = (self._preroll or 0) if lookback is None else int(lookback * SAMPLE_RATE)
        if self._locator is None:
            self._begin_by_request(samples, judged)
        elif not self._begun:  # What was received before must have been looked at.
            self._begun = True
            self._intake.put(lambda: self._begin_by_request(samples, judged))

    def flush(
        self, tag: Any = None, stop_seconds: float | None = None, judged: float = 0.0
    ) -> asyncio.Future[Transcript]:
        """End the segment now and keep the session; audio sent from here on is the next one's.

        The final is also an event, so that the future need not be awaited; cancelling whoever
        awaits it loses nothing.

        Args:
            tag: Whatever tells this flush's final from others; the event has it.
            stop_seconds: Seconds of silence after which the VAD that asks reports the end of
                speech; None if it is not a VAD that asks. If the VAD is behind the newest audio and
                the next utterance has started, the segment ends before it.
            judged: Seconds of audio, since the session opened, that the VAD is known to have judged
                before: speech in it that belongs to no segment was no speech to the VAD.

        Returns:
            A future of the final of everything sent before, empty where no segment was open. It
            fails with a ParakeetError where the model cannot be loaded or inference fails, and
            with a SessionClosedError where the session is aborted before.

        Raises:
            SessionClosedError: The session is closed.
        """
        self._check_open()
        self._begun = False
        result: asyncio.Future[Transcript] = self._loop.create_future()
        self._asked[result] = tag
        self._intake.put(lambda: self._end_by_request(result, tag, stop_seconds, judged))
        return result

    def discard(self) -> None:
        """Forget the audio sent since the last flush: the segment that is open gets no final.

        Segments that were ended before get theirs. An event tells that it has been done.

        Raises:
            SessionClosedError: The session is closed.
        """
        self._check_open()
        self._begun = False
        self._intake.put(self._drop)

    def notify_at(self, at: float) -> None:
        """Have a :class:`TimeReached` event once audio up to a time has been judged.

        Args:
            at: Seconds of audio since the session opened; takes the place of an earlier reminder.
        """
        self._notify_at = at
        self._check_time()

    async def finish(self) -> Transcript:
        """Flush, wait for every final that is on its way, then close.

        Raises:
            SessionClosedError: The session is closed, or is aborted meanwhile.
            ParakeetError: There is no final: the model cannot be loaded, or inference failed.
        """
        last = self.flush()
        try:
            await asyncio.wait([last])  # They come in order: the others are there as well.
            return last.result()
        finally:
            self._close()

    def abort(self) -> None:
        """Close at once, without a final. May be called in any state."""
        self._close()

    def fail(self, error: ParakeetError) -> None:
        """Close at once, with a Failed event instead of each final that was asked for.

        Args:
            error: Why they cannot be made.
        """
        for result in list(self._finals):
            self._final_ready(result, Failed(error))
        for result, tag in list(self._asked.items()):
            if self._segment is None:
                self._open_segment(self._heard / SAMPLE_RATE)
            self._end(result, tag)
            self._final_ready(result, Failed(error))
        self._close()

    async def __aiter__(self) -> AsyncIterator[Event]:
        while True:
            while not self._events:
                self._has_events.clear()
                await self._has_events.wait()
            event = self._events.popleft()
            if event is None:
                self._events.append(None)  # For whoever else iterates.
                return
            yield event

    async def __aenter__(self) -> Session:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.abort()

    def _change(self, change: Change) -> None:
        """Let a segment begin or end with speech."""
        if self._locator is not None:
            self._locator.note(change)
            return
        at = change.since / SAMPLE_RATE
        if change.speech is Speech.STARTED:
            segment = self._segment
            if segment is None:
                segment = self._begin(self._start_of_segment(change.since))
            self._emit(SpeechStarted(at, segment.start))
            return
        self._emit(SpeechStopped(at))
        endpointer, segment = self._intake.endpointer, self._segment
        assert endpointer is not None
        if segment is None:
            return
        if self._heard / SAMPLE_RATE - segment.start >= endpointer.options.min_segment_seconds:
            self._end(self._loop.create_future(), None)

    def _start_of_segment(self, since: int) -> int:
        """Sample at which a segment begins whose speech does at ``since``."""
        if since <= _OPENING_SECONDS * SAMPLE_RATE:
            return 0
        return since - (self._preroll or 0)

    def _begin_by_request(self, lookback: int, judged: float) -> None:
        if self._segment is not None:
            return
        start = self._heard - lookback
        if self._locator is None:
            self._begin(start)
            return
        # The pre-roll counts back from where a VAD that is up to date reports speech.
        lead = (self._preroll or 0) - int(VAD_START_SECONDS * SAMPLE_RATE)
        speech = self._locator.first(self._taken, lookback - lead, int(judged * SAMPLE_RATE))
        if speech is not None:
            start = min(start, speech - lead)
        segment = self._begin(start)
        self._locator.take(round(segment.start * SAMPLE_RATE))  # Was no speech to the VAD.
        at = self._heard if speech is None else speech
        self._emit(SpeechStarted(at / SAMPLE_RATE, segment.start))

    def _end_by_request(
        self,
        result: asyncio.Future[Transcript],
        tag: Any,
        stop_seconds: float | None,
        judged: float,
    ) -> None:
        """Flush. If a VAD elsewhere starts segments, find out where its stop belongs; if the
        session's endpointer does, what it was not sure of was asked for, so it is transcribed."""
        del self._asked[result]
        endpointer = self._intake.endpointer
        end = None
        if self._locator is not None:
            if stop_seconds is not None and endpointer is not None:
                stop = int(stop_seconds * SAMPLE_RATE)
                end = self._locator.end_of_first(
                    stop, int(judged * SAMPLE_RATE), endpointer.starting
                )
        elif endpointer is not None:
            if endpointer.speaking:
                self._emit(SpeechStopped(self._heard / SAMPLE_RATE))
            elif self._segment is None and endpointer.suspect is not None:
                self._begin(self._start_of_segment(endpointer.suspect))
            endpointer.restart()
        self._end(result, tag, end)

    def _endpointer_failed(self, error: Exception) -> None:
        if self._locator is None:
            self._emit(Failed(error))
            return
        logger.warning(f"speech cannot be located, so that the pre-roll alone counts: {error}")
        self._locator.clear()
        self._intake.listen(None)

    def _drop(self) -> None:
        """Forget what was heard since the last segment."""
        if self._intake.endpointer is not None:
            self._intake.endpointer.restart()
        dropped = self._end_segment()
        if dropped is not None:
            dropped.engine.final_batcher.review()
        self._taken = self._heard
        if self._locator is not None:
            self._locator.clear()
        self._history.clear(self._heard)
        self._emit(Discarded())
        self._progress.set()

    def _take(self, audio: Samples) -> None:
        """Add audio to the segment, or to what came before the next one."""
        if self._segment is None and self._preroll is None and len(audio):
            self._open_segment((self._heard - len(audio)) / SAMPLE_RATE)
        self._check_time()
        self._judged_at = time.monotonic()
        self._progress.set()
        if self._segment is None or self._locator is not None:
            self._history.add(audio, self._heard)
        if self._segment is not None:
            self._segment.add(audio)
            self._queue_interim(self._segment)

    def _check_time(self) -> None:
        if self._notify_at is not None and self._heard >= self._notify_at * SAMPLE_RATE:
            self._emit(TimeReached(self._notify_at))
            self._notify_at = None

    def _begin(self, start: int) -> Segment:
        """Open a segment that begins with a sample of what came before."""
        start = min(max(start, self._taken, self._history.start), self._heard)
        segment = self._open_segment(start / SAMPLE_RATE)
        segment.add(self._history.between(start, self._heard))
        if self._locator is None:
            self._history.clear(self._heard)
        self._queue_interim(segment)
        return segment

    def _end(self, result: asyncio.Future[Transcript], tag: Any, at: int | None = None) -> None:
        """End the segment and have its final made; without one, the final is empty.

        Args:
            result: Future of the final.
            tag: As that of the event.
            at: Sample at which it ends, if not with the newest one that was heard; the audio from
                there on is the next one's.
        """
        segment = self._end_segment()
        end = self._heard
        if segment is not None:
            start = round(segment.start * SAMPLE_RATE)
            if at is not None and self._history.start <= start < at:
                segment, end = segment.again(self._history.between(start, at)), at
            self._taken = end
            if self._locator is not None:
                self._locator.take(end)
        now = end / SAMPLE_RATE
        self._segments += 1
        ended = SegmentEnded(self._segments, segment.start if segment else now, now, tag)
        self._finals[result] = segment
        self._ended[result] = ended
        self._emit(ended)
        if segment is None:
            self._final_ready(result, Final(Transcript((), now, now)))
        elif segment.engine.model is not None:
            self._queue_final(segment, result)
        else:
            starting = asyncio.ensure_future(segment.engine.start())
            starting.add_done_callback(lambda done: self._engine_started(done, segment, result))

    def _open_segment(self, start: float) -> Segment:
        options = self._options
        self._segment = Segment(
            self._engine, options.stream, start, options.interval, options.low_priority
        )
        self._state = SessionState.SPEAKING
        scheduler.count_speakers(self._segment.interval is not None)
        return self._segment

    def _end_segment(self) -> Segment | None:
        segment, self._segment = self._segment, None
        self._early = None
        if segment is not None:
            self._state = SessionState.IDLE
            scheduler.count_speakers(-(segment.interval is not None))
        return segment

    def _queue_interim(self, segment: Segment, enough: float = math.inf) -> None:
        """Queue an interim if enough audio is new, unless one is queued: that one will be about
        the newest audio when its turn comes.

        Args:
            segment: The open segment.
            enough: Seconds of new audio that are enough, also where the session's interval or the
                load of the inference thread ask for more.
        """
        model = segment.engine.model
        if segment.queued or model is None:
            return
        interval = min(max(segment.interval or _HEARING_SECONDS, scheduler.cadence), enough)
        if segment.waiting < interval * SAMPLE_RATE:
            return
        segment.queued = True
        work = segment.hear if segment.interval is None else segment.interim

        def done(heard: Any, error: Exception | None) -> None:
            call_soon(self._loop, self._interim_ready, segment, heard, error, segment.paused)

        # A segment that was flushed meanwhile needs no interim.
        start = lambda: work() if self._segment is segment else None  # noqa: E731
        priority = Priority.LOW if segment.low_priority else Priority.INTERIM
        scheduler.add(Job(priority, model, start, done, segment.engine.batch_size))

    def _interim_ready(
        self, segment: Segment, heard: Any, error: Exception | None, paused: bool
    ) -> None:
        segment.queued = False
        self._progress.set()
        if error is not None:
            # What was heard is kept, and the next audio tries again; it may be waiting already.
            if not segment.failing:
                logger.warning(f"interims of a segment fail: {error}")
            segment.failing = True
            if self._segment is segment:
                self._queue_interim(segment)
            return
        segment.failing = False
        if self._segment is not segment:
            return
        if isinstance(heard, Hypothesis):
            if self._finals:
                self._early = heard
            else:
                self._emit(heard)
        if paused:
            self._queue_speculation(segment)
        self._queue_interim(segment)

    def _queue_speculation(self, segment: Segment) -> None:
        """Have the final made while the caller is still waiting for the pause to become an end."""
        if segment.speculating:
            return
        engine, model = segment.engine, segment.engine.model
        assert model is not None
        segment.speculating = True

        def done(_: None, error: Exception | None) -> None:
            if error is not None:
                logger.debug(f"a final was not ready early: {error}")

        def start() -> EncoderJob[None] | None:
            segment.speculating = False
            wanted = self._segment is segment and segment.paused
            return segment.speculation() if wanted else None

        scheduler.add(Job(Priority.SPECULATION, model, start, done, engine.batch_size))

    def _engine_started(
        self, started: asyncio.Future[Model], segment: Segment, result: asyncio.Future[Transcript]
    ) -> None:
        error = asyncio.CancelledError() if started.cancelled() else started.exception()
        if error is None:
            self._queue_final(segment, result)
        else:
            self._final_ready(result, Failed(error))

    def _queue_final(self, segment: Segment, result: asyncio.Future[Transcript]) -> None:
        engine, model = segment.engine, segment.engine.model
        assert model is not None
        flushed = time.perf_counter()

        def done(transcript: Transcript | None, error: Exception | None) -> None:
            if transcript is not None:
                latency = time.perf_counter() - flushed
                outcome: Final | Failed = Final(transcript, segment.speculated, latency=latency)
            else:
                assert error is not None
                outcome = Failed(error)
            call_soon(self._loop, self._final_ready, result, outcome)

        # Of a session that was aborted meanwhile, nobody wants it.
        start = lambda: segment.final() if result in self._finals else None  # noqa: E731
        priority = Priority.LOW if segment.low_priority else Priority.FINAL
        job = Job(priority, model, start, done, engine.batch_size)
        if segment.ready:
            scheduler.add(job)  # Nothing is left to be encoded.
            engine.final_batcher.review()
        else:
            engine.final_batcher.add(self, job)

    def _final_ready(self, result: asyncio.Future[Transcript], outcome: Final | Failed) -> None:
        if result not in self._finals:
            return  # Aborted meanwhile.
        ended = self._ended.pop(result)
        self._ready[result] = replace(outcome, tag=ended.tag, segment=ended.segment)
        self._progress.set()
        # Of several in a batch, and of several engines, a later one may be done first.
        while self._finals and (first := next(iter(self._finals))) in self._ready:
            del self._finals[first]
            event = self._ready.pop(first)
            self._emit(event)
            match event:
                case Final():
                    settle(first, event.transcript, None)
                case Failed():
                    settle(first, None, event.error)
        if not self._finals and self._early is not None:
            self._emit(self._early)
            self._early = None

    def _emit(self, event: Event) -> None:
        if isinstance(event, Hypothesis) and self._events:
            newest = self._events[-1]
            if isinstance(newest, Hypothesis):
                self._events.pop()
        self._events.append(event)
        self._has_events.set()

    def _close(self) -> None:
        if self._state is SessionState.CLOSED:
            return
        unfinished = self._end_segment()
        self._state = SessionState.CLOSED
        for result in (*self._finals, *self._asked):
            settle(result, None, SessionClosedError("the session was closed before its final"))
        self._finals.clear()
        self._ended.clear()
        self._ready.clear()
        self._asked.clear()
        self._intake.close()
        self._progress.set()
        self._history.clear(self._heard)
        self._engine._sessions.discard(self)
        if unfinished is not None:
            unfinished.engine.final_batcher.review()  # For those who waited for its final.
        self._events.append(None)
        self._has_events.set()

    def _check_open(self) -> None:
        if self._state is SessionState.CLOSED:
            raise SessionClosedError("the session is closed; open another with engine.open()")
