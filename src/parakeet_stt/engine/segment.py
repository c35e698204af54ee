"""One segment of a session: its audio, its stream, and its jobs on the inference thread.

A segment belongs to the event loop of its session. Jobs take its audio on the inference thread,
and only they use its stream.
"""

from __future__ import annotations

import asyncio
import math
import threading
import time
from collections.abc import Callable
from enum import Enum
from typing import Any

import numpy as np
from loguru import logger

from parakeet_stt.audio import SAMPLE_RATE, Samples
from parakeet_stt.engine.event_loop import call_soon
from parakeet_stt.engine.events import Failed, Final
from parakeet_stt.engine.options import SessionOptions
from parakeet_stt.engine.runtime import OpenSegment, Runtime, open_segments
from parakeet_stt.engine.scheduler import Job, Priority, scheduler
from parakeet_stt.model.model import Model
from parakeet_stt.model.stream import EncoderJob, Stream
from parakeet_stt.transcript import Hypothesis, Transcript

_FEED_SECONDS = 2.0  # Without interims, the stream is fed in pieces of this length.


class SegmentState(Enum):
    """The states of a segment."""

    OPEN = "open"
    """Audio is added, and interims are made."""
    ENDED = "ended"
    """The final is being made."""
    DROPPED = "dropped"
    """Nobody needs its text."""


class Segment:
    """A segment of a session.

    Args:
        runtime: The runtime that transcribes it.
        options: The session's options when it starts.
        start: Its start, in seconds of audio since the session opened.
        speaker: Identifies the session.
        on_hypothesis: Called with the hypothesis of each interim.
        on_progress: Called whenever inference has processed audio, or has failed to.

    Attributes:
        start: As the argument.
    """

    def __init__(
        self,
        runtime: Runtime,
        options: SessionOptions,
        start: float,
        speaker: object,
        on_hypothesis: Callable[[Hypothesis], None],
        on_progress: Callable[[], None],
    ) -> None:
        self.start = start
        self._runtime = runtime
        self._options = options
        self._speaker = speaker
        self._on_hypothesis = on_hypothesis
        self._on_progress = on_progress
        self._loop = asyncio.get_running_loop()
        self._state = SegmentState.OPEN
        self._is_interim_queued = False
        self._is_speculation_queued = False
        self._interims_fail = False
        self._loading: asyncio.Future[Model] | None = None  # The final waits for it.
        self._lock = threading.Lock()  # Guards the audio.
        self._pieces: list[Samples] = []
        self._waiting = 0
        # Written on the inference thread.
        self._stream: Stream | None = None
        self._is_ready = False  # Whether nothing was left to encode for the final.
        self._entry = OpenSegment(runtime, speaker, options.interval is not None)
        open_segments.add(self._entry)

    @property
    def waiting(self) -> int:
        """Samples that inference has not processed yet, including those that it is processing."""
        return self._waiting

    def add(self, samples: Samples) -> None:
        """Add audio."""
        self._append(samples)
        self.request_interim()

    def replace(self, samples: Samples) -> Segment:
        """Drop this segment and return another with the same start and options.

        Args:
            samples: The audio of the other segment.
        """
        other = Segment(
            self._runtime,
            self._options,
            self.start,
            self._speaker,
            self._on_hypothesis,
            self._on_progress,
        )
        other._append(samples)
        self.drop()
        return other

    def request_interim(self, enough: float = math.inf) -> None:
        """Queue an interim if enough audio is new, unless one is queued: that one will include the
        newest audio when it runs.

        Args:
            enough: Seconds of new audio that are enough even if the interval of interims or the
                load of the inference thread requires more.
        """
        model = self._runtime.model
        if self._is_interim_queued or model is None:
            return
        cadence = scheduler.cadence(open_segments.wanting_interims)
        interval = min(max(self._options.interval or _FEED_SECONDS, cadence), enough)
        if self._waiting < interval * SAMPLE_RATE:
            return
        self._is_interim_queued = True
        priority = Priority.LOW if self._options.low_priority else Priority.INTERIM
        self._queue(priority, model, self._start_interim, self._interim_done)

    def end(self, on_final: Callable[[Final | Failed], None]) -> None:
        """End the segment and make its final, once the model is loaded.

        Args:
            on_final: Called with the outcome, unless the segment is dropped before.
        """
        self._close(SegmentState.ENDED)
        if self._runtime.model is not None:
            self._queue_final(self._runtime.model, on_final)
            return
        self._loading = asyncio.ensure_future(self._runtime.start())
        self._loading.add_done_callback(lambda loading: self._model_loaded(loading, on_final))

    def drop(self) -> None:
        """Stop making text of the segment."""
        was_open = self._state is SegmentState.OPEN
        self._close(SegmentState.DROPPED)
        if was_open:
            self._runtime.final_batcher.review()  # Finals that waited for its final.

    def _close(self, state: SegmentState) -> None:
        self._state = state
        open_segments.discard(self._entry)

    def _append(self, samples: Samples) -> None:
        with self._lock:
            self._pieces.append(samples)
            self._waiting += len(samples)

    def _interim_ready(self, result: Any, error: Exception | None, paused: bool) -> None:
        self._is_interim_queued = False
        self._on_progress()
        is_open = self._state is SegmentState.OPEN
        if error is not None:
            # The stream keeps the audio, and the next interim includes it.
            if not self._interims_fail:
                logger.warning(f"interims of a segment fail: {error}")
            self._interims_fail = True
            if is_open:
                self.request_interim()
            return
        self._interims_fail = False
        if not is_open:
            return
        if isinstance(result, Hypothesis):
            self._on_hypothesis(result)
        if paused:
            self._queue_speculation()
        self.request_interim()

    def _queue_speculation(self) -> None:
        """Have the final made before the pause has become an end."""
        model = self._runtime.model
        if self._is_speculation_queued or model is None:
            return
        self._is_speculation_queued = True
        self._queue(Priority.SPECULATION, model, self._start_speculation, _speculation_done)

    def _model_loaded(
        self, loading: asyncio.Future[Model], on_final: Callable[[Final | Failed], None]
    ) -> None:
        error = asyncio.CancelledError() if loading.cancelled() else loading.exception()
        if error is None:
            self._queue_final(loading.result(), on_final)
        else:
            on_final(Failed(error))

    def _queue_final(self, model: Model, on_final: Callable[[Final | Failed], None]) -> None:
        ended = time.perf_counter()

        def done(transcript: Transcript | None, error: Exception | None) -> None:
            outcome: Final | Failed
            if transcript is None:
                assert error is not None
                outcome = Failed(error)
            else:
                latency = time.perf_counter() - ended
                speculated = self._stream is not None and self._stream.speculated
                outcome = Final(transcript, speculated, latency=latency)
            call_soon(self._loop, on_final, outcome)

        priority = Priority.LOW if self._options.low_priority else Priority.FINAL
        job = Job(priority, model, self._start_final, done, self._runtime.batch_size)
        if self._is_ready:
            scheduler.add(job)
            self._runtime.final_batcher.review()
        else:
            self._runtime.final_batcher.add(self._speaker, job)

    def _queue(
        self,
        priority: Priority,
        model: Model,
        start: Callable[[], EncoderJob[Any] | None],
        done: Callable[[Any, Exception | None], None],
    ) -> None:
        scheduler.add(Job(priority, model, start, done, self._runtime.batch_size))

    # The methods below run on the inference thread.

    def _start_interim(self) -> EncoderJob[Any] | None:
        if self._state is not SegmentState.OPEN:
            return None
        return self._feed_job() if self._options.interval is None else self._interim_job()

    def _interim_done(self, result: Any, error: Exception | None) -> None:
        paused = self._stream is not None and self._stream.paused
        call_soon(self._loop, self._interim_ready, result, error, paused)

    def _start_speculation(self) -> EncoderJob[None] | None:
        self._is_speculation_queued = False
        stream = self._stream
        if self._state is not SegmentState.OPEN or stream is None or not stream.paused:
            return None
        return self._speculation_job(stream)

    def _start_final(self) -> EncoderJob[Transcript] | None:
        return None if self._state is SegmentState.DROPPED else self._final_job()

    def _feed_job(self) -> EncoderJob[Stream]:
        """Feed the stream everything that waits."""
        with self._lock:
            pieces, self._pieces = self._pieces, []
        if self._stream is None:
            assert self._runtime.model is not None
            self._stream = self._runtime.model.open_stream(self._options.stream, self.start)
        if pieces:
            samples = np.concatenate(pieces)
            try:
                yield from self._stream.feed_job(samples)
            finally:  # If it fails, the stream has the audio all the same.
                with self._lock:
                    self._waiting -= len(samples)
            self._is_ready = self._stream.speculated
        return self._stream

    def _interim_job(self) -> EncoderJob[Hypothesis]:
        """Feed the stream and return its hypothesis."""
        stream = yield from self._feed_job()
        return (yield from stream.hypothesis_job())

    def _speculation_job(self, stream: Stream) -> EncoderJob[None]:
        """Make the final of what the stream has, in case no more speech follows."""
        yield from stream.speculate_job()
        self._is_ready = stream.speculated

    def _final_job(self) -> EncoderJob[Transcript]:
        """Feed the stream and make the final."""
        stream = yield from self._feed_job()
        return (yield from stream.finish_job())


def _speculation_done(_: None, error: Exception | None) -> None:
    if error is not None:
        logger.debug(f"a speculative final failed: {error}")
