"""One segment of a session on its way through inference: audio that waits, and its stream.

Audio is added on the event loop and taken on the inference thread, which alone touches the stream.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import numpy as np

from parakeet_stt.audio import Samples
from parakeet_stt.model.stream import EncoderJob, Stream, StreamOptions
from parakeet_stt.transcript import Hypothesis, Transcript

if TYPE_CHECKING:
    from parakeet_stt.engine.engine import Engine


class Segment:
    """A segment of a session.

    Attributes:
        engine: Whose model hears it.
        start: Seconds at which it begins.
        waiting: Samples that inference has not processed yet, those that it is processing included.
        interval: Shortest time between its interims, in seconds of audio; None for none.
        low_priority: Whether it belongs to a recording.
        queued: Whether a step that will hear them waits for its turn.
        speculating: Whether a step that will speculate waits for its turn.
        failing: Whether the last interim failed.
        ready: Whether its final was ready when inference last heard of it.

    Args:
        engine: Whose model hears it.
        options: How to listen.
        start: Seconds at which it begins.
        interval: As the attribute.
        low_priority: As the attribute.
    """

    def __init__(
        self,
        engine: Engine,
        options: StreamOptions,
        start: float,
        interval: float | None,
        low_priority: bool,
    ) -> None:
        self.engine = engine
        self.start = start
        self.waiting = 0
        self.interval = interval
        self.low_priority = low_priority
        self.queued = False
        self.speculating = False
        self.failing = False
        self.ready = False
        self._options = options
        self._stream: Stream | None = None
        self._pieces: list[Samples] = []
        self._lock = threading.Lock()

    def add(self, samples: Samples) -> None:
        """Take more audio; on the event loop."""
        with self._lock:
            self._pieces.append(samples)
            self.waiting += len(samples)

    def again(self, samples: Samples) -> Segment:
        """Another segment with the same options and start, and with other audio."""
        other = Segment(self.engine, self._options, self.start, self.interval, self.low_priority)
        other.add(samples)
        return other

    # What follows belongs to the inference thread.

    @property
    def paused(self) -> bool:
        """Whether the speaker seems to have paused, and no final is ready."""
        return self._stream is not None and self._stream.paused

    @property
    def speculated(self) -> bool:
        """Whether the final was ready before it was asked for."""
        return self._stream is not None and self._stream.speculated

    def hear(self) -> EncoderJob[Stream]:
        """Hear everything that waits."""
        with self._lock:
            pieces, self._pieces = self._pieces, []
        if self._stream is None:
            assert self.engine.model is not None
            self._stream = self.engine.model.open_stream(self._options, self.start)
        if pieces:
            samples = np.concatenate(pieces)
            try:
                yield from self._stream.feed_job(samples)
            finally:  # If it fails, the stream has them all the same.
                with self._lock:
                    self.waiting -= len(samples)
            self.ready = self._stream.speculated
        return self._stream

    def interim(self) -> EncoderJob[Hypothesis]:
        """Hear everything that waits and say what is believed."""
        stream = yield from self.hear()
        return (yield from stream.hypothesis_job())

    def speculation(self) -> EncoderJob[None]:
        """Make the final of what was heard, in case nothing more is said."""
        assert self._stream is not None
        yield from self._stream.speculate_job()
        self.ready = self._stream.speculated

    def final(self) -> EncoderJob[Transcript]:
        """Hear everything that waits and make the final."""
        stream = yield from self.hear()
        return (yield from stream.finish_job())
