"""What sessions and segments run on: a model that is loaded once, and the register of segments."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass

from parakeet_stt.engine.event_loop import wrap
from parakeet_stt.engine.final_batcher import FinalBatcher
from parakeet_stt.engine.scheduler import scheduler
from parakeet_stt.model import device
from parakeet_stt.model.model import Model


class Runtime:
    """A model that is loaded once and shared, and the limits of its batches.

    Args:
        load: Loads the model; called on a thread of its own.
        batch_size: Maximum number of windows that are encoded together.
        batch_window: Maximum delay, in seconds, for batching a final with finals of other sessions.

    Attributes:
        batch_size: As the argument.
        final_batcher: Delays finals by up to ``batch_window``.
    """

    def __init__(self, load: Callable[[], Model], batch_size: int, batch_window: float) -> None:
        self.batch_size = batch_size
        self._load = load
        self._batch_window = batch_window
        self._model: Model | None = None
        self.reset()

    def reset(self) -> None:
        """Forget a load in progress and delayed finals: in a forked child they are the parent's."""
        self._lock = threading.Lock()
        self._loading: Future[Model] | None = None
        self.final_batcher = FinalBatcher(
            scheduler, self._batch_window, lambda: open_segments.speakers(self)
        )

    @property
    def model(self) -> Model | None:
        """The model; None until it is loaded."""
        return self._model

    async def start(self) -> Model:
        """Load the model and warm it up, off the event loop; later calls wait for the first.

        Any event loop may call it, also while another one waits or after one has ended. Downloads
        run on a thread of their own, so that they do not delay other engines; what uses the device
        runs on the inference thread.

        Raises:
            ParakeetError: The model cannot be loaded; the next call tries again.
        """
        if self._model is not None:
            return self._model
        with self._lock:
            if self._loading is None or self._loading.done():
                self._loading = self._start_loading()
            loading = self._loading
        return await wrap(loading)

    def _start_loading(self) -> Future[Model]:
        loading: Future[Model] = Future()

        def load() -> None:
            try:
                model = self._load()
                device.run(model.warm_up, self.batch_size)
            except Exception as error:
                loading.set_exception(error)
            else:
                self._model = model
                loading.set_result(model)

        # A daemon, so that a program can end during a download.
        threading.Thread(target=load, name="parakeet-load", daemon=True).start()
        return loading


@dataclass(frozen=True, eq=False)
class OpenSegment:
    """A segment in the register.

    Attributes:
        runtime: The runtime that transcribes it.
        speaker: Identifies the session: a session has one segment open at a time.
        wants_interims: Whether interims are made of it.
    """

    runtime: Runtime
    speaker: object
    wants_interims: bool


class OpenSegments:
    """The segments that are open now, in sessions of any engine and any event loop."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Forget every segment: in a forked child they are the parent's."""
        self._lock = threading.Lock()
        self._segments: set[OpenSegment] = set()

    def add(self, segment: OpenSegment) -> None:
        """Register a segment that has been opened."""
        with self._lock:
            self._segments.add(segment)

    def discard(self, segment: OpenSegment) -> None:
        """Remove a segment that has ended; nothing happens if it is not registered."""
        with self._lock:
            self._segments.discard(segment)

    @property
    def wanting_interims(self) -> int:
        """Number of open segments that want interims; they share the inference thread."""
        with self._lock:
            return sum(segment.wants_interims for segment in self._segments)

    def speakers(self, runtime: Runtime) -> list[object]:
        """The speakers who have a segment open in a runtime."""
        with self._lock:
            return [s.speaker for s in self._segments if s.runtime is runtime]


open_segments = OpenSegments()
"""The process's register, as there is one inference thread in a process."""

device.on_fork(open_segments.reset)
