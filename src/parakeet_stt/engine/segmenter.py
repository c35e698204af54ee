"""Cuts the audio of a session into segments."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial

from loguru import logger

from parakeet_stt.audio import SAMPLE_RATE, Samples
from parakeet_stt.engine.event_queue import EventQueue
from parakeet_stt.engine.events import (
    Discarded,
    Failed,
    Final,
    SpeechStarted,
    SpeechStopped,
    TimeReached,
)
from parakeet_stt.engine.input_queue import InputQueue
from parakeet_stt.engine.locator import LOCATING
from parakeet_stt.engine.options import SessionOptions
from parakeet_stt.engine.pending_finals import PendingFinal, PendingFinals
from parakeet_stt.engine.preroll import Preroll
from parakeet_stt.engine.runtime import Runtime
from parakeet_stt.engine.segment import Segment
from parakeet_stt.engine.vad import Change, Speech
from parakeet_stt.errors import ParakeetError
from parakeet_stt.transcript import Transcript


class Segmenter:
    """Starts and ends the segments of a session.

    Three things do: requests of the caller, which may come from a VAD that is behind the audio;
    the session's own endpointer; and, if the session has no pre-roll, the end of the segment
    before. Everything happens in the order in which audio and requests were received.

    Args:
        runtime: Transcribes the segments.
        options: The session's options.
        events: Receives events.
        finals: Receives the segments that end.
        on_progress: Called whenever less audio may be waiting than before.
    """

    def __init__(
        self,
        runtime: Runtime,
        options: SessionOptions,
        events: EventQueue,
        finals: PendingFinals,
        on_progress: Callable[[], None],
    ) -> None:
        self._events = events
        self._finals = finals
        self._on_progress = on_progress
        self._input = InputQueue(self._add_audio, self._speech_changed, self._endpointer_failed)
        self._preroll = Preroll()
        self._segment: Segment | None = None
        self._is_start_requested = False  # Since the last request that ends the segment.
        self._notify_at: float | None = None
        self._progressed_at = 0.0
        self.configure(runtime, options)

    @property
    def options(self) -> SessionOptions:
        """The options of the next segment."""
        return self._options

    @property
    def is_speaking(self) -> bool:
        """Whether a segment is open."""
        return self._segment is not None

    @property
    def position(self) -> int:
        """Samples that have been processed here, of those received."""
        return self._input.position

    @property
    def waiting(self) -> int:
        """Samples of the open segment that inference has not processed yet."""
        return 0 if self._segment is None else self._segment.waiting

    @property
    def progressed_at(self) -> float:
        """When audio was last processed here, by :func:`time.monotonic`; 0 before the first."""
        return self._progressed_at

    def configure(self, runtime: Runtime, options: SessionOptions) -> None:
        """Change the runtime and the options, from the next segment on."""
        self._runtime = runtime
        self._options = options
        locate = options.endpointing is None and options.preroll is not None
        self._preroll.configure(int((options.preroll or 0.0) * SAMPLE_RATE), locate)
        self._input.configure(LOCATING if locate else options.endpointing)

    def add(self, audio: Samples) -> None:
        """Receive audio."""
        self._input.put(audio)

    def start(self, lookback: float | None, judged: float) -> None:
        """Start a segment unless one is open; arguments as :meth:`Session.start_segment`."""
        samples = self._preroll.length if lookback is None else int(lookback * SAMPLE_RATE)
        if not self._preroll.locates:
            self._start_requested(samples, judged)
        elif not self._is_start_requested:
            self._is_start_requested = True
            # Audio that was received before must have been processed.
            self._input.put(lambda: self._start_requested(samples, judged))

    def end(self, final: PendingFinal, stop_seconds: float | None, judged: float) -> None:
        """End the segment; arguments as :meth:`Session.flush`."""
        self._is_start_requested = False
        self._input.put(lambda: self._end_requested(final, stop_seconds, judged))

    def discard(self) -> None:
        """Forget the audio since the last segment."""
        self._is_start_requested = False
        self._input.put(self._discard)

    def notify_at(self, at: float) -> None:
        """Emit a :class:`TimeReached` once audio up to a time has been processed."""
        self._notify_at = at
        self._check_time()

    def request_interim(self, enough: float) -> None:
        """Request an interim of the open segment, if there is one."""
        if self._segment is not None:
            self._segment.request_interim(enough)

    def fail(self, final: PendingFinal, error: ParakeetError) -> None:
        """End the segment of a requested final now, with an error in place of the final."""
        segment = self._close_segment()
        now = self.position / SAMPLE_RATE
        self._finals.end(final, None, segment.start if segment else now, now)
        self._finals.make(final, Failed(error))
        if segment is not None:
            segment.drop()

    def close(self) -> None:
        """Drop the open segment and all audio."""
        segment = self._close_segment()
        self._input.close()
        self._preroll.clear(self.position)
        if segment is not None:
            segment.drop()

    def _add_audio(self, audio: Samples) -> None:
        """Add audio to the segment, or keep it for the next one."""
        if self._segment is None and self._options.preroll is None and len(audio):
            self._open_segment(self.position - len(audio))
        self._check_time()
        self._progressed_at = time.monotonic()
        self._on_progress()
        if self._segment is None or self._preroll.locates:
            self._preroll.add(audio, self.position)
        if self._segment is not None:
            self._segment.add(audio)

    def _check_time(self) -> None:
        if self._notify_at is not None and self.position >= self._notify_at * SAMPLE_RATE:
            self._events.put(TimeReached(self._notify_at))
            self._notify_at = None

    def _speech_changed(self, change: Change) -> None:
        if self._preroll.locates:
            self._preroll.note(change)
        elif change.speech is Speech.STARTED:
            segment = self._segment or self._start(self._preroll.start_before(change.since))
            self._events.put(SpeechStarted(change.since / SAMPLE_RATE, segment.start))
        else:
            self._events.put(SpeechStopped(change.since / SAMPLE_RATE))
            self._end_if_long_enough()

    def _end_if_long_enough(self) -> None:
        endpointer, segment = self._input.endpointer, self._segment
        if endpointer is None or segment is None:
            return
        seconds = self.position / SAMPLE_RATE - segment.start
        if seconds >= endpointer.options.min_segment_seconds:
            self._end(PendingFinal())

    def _endpointer_failed(self, error: Exception) -> None:
        if not self._preroll.locates:
            self._events.put(Failed(error))
            return
        logger.warning(f"speech cannot be located, so that only the pre-roll counts: {error}")
        self._preroll.stop_locating()
        self._input.configure(None)

    def _start_requested(self, lookback: int, judged: float) -> None:
        if self._segment is not None:
            return
        start, speech = self._preroll.start_reported(
            self.position, lookback, int(judged * SAMPLE_RATE)
        )
        segment = self._start(start)
        if self._preroll.locates:
            at = self.position if speech is None else speech
            self._events.put(SpeechStarted(at / SAMPLE_RATE, segment.start))

    def _end_requested(
        self, final: PendingFinal, stop_seconds: float | None, judged: float
    ) -> None:
        endpointer = self._input.endpointer
        end = None
        if endpointer is None:
            pass
        elif not self._preroll.locates:
            self._stop_speech()
        elif stop_seconds is not None:
            stop = int(stop_seconds * SAMPLE_RATE)
            end = self._preroll.end_reported(endpointer, stop, int(judged * SAMPLE_RATE))
        self._end(final, end)

    def _stop_speech(self) -> None:
        """Restart the endpointer at a flush. Audio that it was not sure of is transcribed, as the
        caller asked for its text."""
        endpointer = self._input.endpointer
        assert endpointer is not None
        if endpointer.speaking:
            self._events.put(SpeechStopped(self.position / SAMPLE_RATE))
        elif self._segment is None and endpointer.suspect is not None:
            self._start(self._preroll.start_before(endpointer.suspect))
        endpointer.restart()

    def _discard(self) -> None:
        if self._input.endpointer is not None:
            self._input.endpointer.restart()
        segment = self._close_segment()
        if segment is not None:
            segment.drop()
        self._preroll.clear(self.position)
        self._events.put(Discarded())
        self._on_progress()

    def _start(self, start: int) -> Segment:
        """Open a segment that starts in the audio that was kept."""
        start, audio = self._preroll.take(start, self.position)
        segment = self._open_segment(start)
        segment.add(audio)
        return segment

    def _end(self, final: PendingFinal, at: int | None = None) -> None:
        """End the segment and have its final made; if there is none, the final is empty.

        Args:
            final: The final.
            at: Position at which the segment ends; the newest one if None. Audio from there on
                belongs to the next segment.
        """
        segment, end = self._close_segment(), self.position
        if segment is not None:
            if at is not None:
                audio = self._preroll.between(round(segment.start * SAMPLE_RATE), at)
                if audio is not None:
                    segment, end = segment.replace(audio), at
            self._preroll.end_segment(end)
        now = end / SAMPLE_RATE
        self._finals.end(final, segment, segment.start if segment else now, now)
        if segment is None:
            self._final_made(final, Final(Transcript((), now, now)))
        else:
            segment.end(partial(self._final_made, final))

    def _final_made(self, final: PendingFinal, outcome: Final | Failed) -> None:
        self._on_progress()
        self._finals.make(final, outcome)

    def _open_segment(self, start: int) -> Segment:
        self._segment = Segment(
            self._runtime,
            self._options,
            start / SAMPLE_RATE,
            self,
            self._finals.put_hypothesis,
            self._on_progress,
        )
        return self._segment

    def _close_segment(self) -> Segment | None:
        segment, self._segment = self._segment, None
        self._finals.drop_hypothesis()
        return segment
