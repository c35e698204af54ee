"""What runs next on the inference thread, and the way back from it to an event loop.

Steps of many sessions wait here by priority. A step is a work of a stream
(:mod:`parakeet_stt.model.stream`); the windows of steps of the same kind and model are encoded as
one batch where that is faster. Knows nothing of sessions.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, TypeVar

from loguru import logger

from parakeet_stt.model import device
from parakeet_stt.model.encoder import EncoderFrames
from parakeet_stt.model.model import MAX_BATCH, Model
from parakeet_stt.model.stream import EncoderJob, Window

T = TypeVar("T")

RESERVE = 0.2
"""Share of the inference thread's time that interims leave to finals."""

LONGEST_BATCH_SECONDS = 0.04
"""How long a batch of interims may take: a final that comes meanwhile waits for it."""

_LEAST_FILLED = 0.75  # In a batch, a window is at least so much of the longest one's length.
_NEWEST = 0.1  # Weight of the newest batch in the average cost of an interim.


class Priority(IntEnum):
    """What goes first."""

    FINAL = 0
    INTERIM = 1
    LOW = 2
    """What belongs to recordings: people who speak now go first."""
    SPECULATION = 3


@dataclass(frozen=True)
class Job:
    """Something to be done on the inference thread.

    Attributes:
        priority: What kind of thing it is.
        model: Whose encoder encodes its windows.
        start: Begins the work, on the inference thread; None where nothing is left to do.
        done: Called on the inference thread with the result, or None and an error; must not raise.
        max_batch: Maximum number of windows in a batch that contains one of this job.
    """

    priority: Priority
    model: Model
    start: Callable[[], EncoderJob[Any] | None]
    done: Callable[[Any, Exception | None], None]
    max_batch: int = MAX_BATCH

    @property
    def largest_batch(self) -> int:
        """How many steps like this one are run side by side: as many as pay, and no more than
        :attr:`max_batch`."""
        return min(self.max_batch, self.model.batch)


_Running = tuple[Job, EncoderJob[Any], Window]
"""A step under way, and the window that it waits for."""


class Scheduler:
    """Runs steps by priority, one batch at a time, on the inference thread.

    For every step that is added the thread is asked to run once, and takes the most urgent then.
    So a final overtakes the interims that wait, and other users of the thread get their turn.
    """

    def __init__(self) -> None:
        self._order = itertools.count()
        self._interim_seconds = 0.0
        self.start_anew()

    def start_anew(self) -> None:
        """Have no steps and no speakers, as in a forked child: they are the parent's."""
        self._heap: list[tuple[int, int, Job]] = []
        self._lock = threading.Lock()
        self.progressed_at = 0.0  # By time.monotonic(): when something last came of a step.
        self.speakers = 0  # Segments that are open and want interims; kept by the sessions.

    def add(self, *steps: Job) -> None:
        """Queue steps; several of them are not begun before the last of them is there."""
        with self._lock:
            for step in steps:
                heapq.heappush(self._heap, (step.priority, next(self._order), step))
        for _ in steps:
            device.submit(self._run_next)

    def count_speakers(self, change: int) -> None:
        """Count segments that are open and want interims, in sessions of any event loop."""
        with self._lock:
            self.speakers += change

    @property
    def cadence(self) -> float:
        """Seconds between a session's interims at which the thread keeps its reserve."""
        return self.speakers * self._interim_seconds / (1 - RESERVE)

    def _run_next(self) -> None:
        batch = self._take_batch()
        if not batch:
            return  # It went along with an earlier batch.
        begun = time.perf_counter()
        _run(batch, self._note_progress)
        if batch[0].priority is Priority.INTERIM:
            seconds = (time.perf_counter() - begun) / len(batch)
            known = self._interim_seconds or seconds
            self._interim_seconds = (1 - _NEWEST) * known + _NEWEST * seconds

    def _note_progress(self) -> None:
        self.progressed_at = time.monotonic()

    def _take_batch(self) -> list[Job]:
        """The most urgent step, and those that can be encoded together with it."""
        with self._lock:
            if not self._heap:
                return []
            first = heapq.heappop(self._heap)[2]
            batch, others = [first], []
            largest = self._largest_batch(first)
            while self._heap and len(batch) < largest:
                entry = heapq.heappop(self._heap)
                step = entry[2]
                fits = step.priority is first.priority and step.model is first.model
                if fits and len(batch) < step.max_batch:
                    batch.append(step)
                    largest = min(largest, step.max_batch)
                else:
                    others.append(entry)
            for entry in others:
                heapq.heappush(self._heap, entry)
        return batch

    def _largest_batch(self, first: Job) -> int:
        if first.priority is not Priority.INTERIM or not self._interim_seconds:
            return first.largest_batch
        affordable = int(LONGEST_BATCH_SECONDS / self._interim_seconds)
        return max(1, min(first.largest_batch, affordable))


class FinalBatcher:
    """Holds finals back a moment, so that those of several speakers are encoded together.

    They are let go, all of them, as soon as there are enough for a batch, or nobody is left who
    could bring another one, or one of them has waited long enough. Interims run meanwhile: nothing
    of this happens on the inference thread. Its methods may be called from any event loop.

    Args:
        scheduler: Where finals go.
        window: Seconds that one is held back at most; 0 holds nothing back.
        speaking: Those who may bring a final soon.
    """

    def __init__(
        self, scheduler: Scheduler, window: float, speaking: Callable[[], Iterable[object]]
    ) -> None:
        self._scheduler = scheduler
        self._window = window
        self._speaking = speaking
        self._held: list[tuple[object, Job]] = []
        self._lock = threading.Lock()

    def add(self, speaker: object, step: Job) -> None:
        """Take a speaker's final; called on an event loop."""
        if not self._window:
            self._scheduler.add(step)
            return
        with self._lock:
            self._held.append((speaker, step))
        if not self.review():
            loop = asyncio.get_running_loop()
            loop.call_later(self._window, self._has_waited, step)

    def review(self) -> bool:
        """Let what is held go, unless it is worth waiting for others; whether it went."""
        with self._lock:
            if not self._held:
                return True
            full = any(len(self._held) >= step.largest_batch for _, step in self._held)
            here = {id(speaker) for speaker, _ in self._held}
            if not full and any(id(speaker) not in here for speaker in self._speaking()):
                return False
            self._let_go()
        return True

    def _has_waited(self, step: Job) -> None:
        with self._lock:
            if any(held is step for _, held in self._held):
                self._let_go()

    def _let_go(self) -> None:
        held, self._held = self._held, []
        self._scheduler.add(*(step for _, step in held))


def _run(batch: list[Job], note_progress: Callable[[], None]) -> None:
    """Run steps side by side to their ends; what goes wrong in one stays in that one.

    Args:
        batch: The steps.
        note_progress: Called after every call of the encoder.
    """
    running: list[_Running] = []
    for step in batch:
        try:
            work = step.start()
        except Exception as error:
            step.done(None, error)
            continue
        if work is not None:
            _go_on(step, work, None, running)
    while running:
        together, running = _alike(running)
        encoded = _encode(together)
        note_progress()
        for (step, work, _), frames in zip(together, encoded, strict=True):
            if isinstance(frames, Exception):
                work.close()
                step.done(None, frames)
            else:
                _go_on(step, work, frames, running)


def _alike(running: list[_Running]) -> tuple[list[_Running], list[_Running]]:
    """Those whose windows are worth encoding together with the longest one's, and the others."""
    longest = max((window for _, _, window in running), key=lambda window: len(window.mel))
    together: list[_Running] = []
    others: list[_Running] = []
    for item in running:
        window = item[2]
        fits = window.attention == longest.attention and (
            len(window.mel) >= _LEAST_FILLED * len(longest.mel)
        )
        (together if fits else others).append(item)
    return together, others


def _go_on(
    step: Job,
    work: EncoderJob[Any],
    frames: EncoderFrames | None,
    running: list[_Running],
) -> None:
    """Send a work its frames; it asks for another window, ends, or fails."""
    try:
        window = next(work) if frames is None else work.send(frames)
    except StopIteration as end:
        step.done(end.value, None)
    except Exception as error:
        step.done(None, error)
    else:
        running.append((step, work, window))


def _encode(together: list[_Running]) -> list[EncoderFrames | Exception]:
    """Frames for each of the windows, or what went wrong with it."""
    encoder = together[0][0].model.encoder
    windows = [window for _, _, window in together]
    try:
        return list(encoder.encode([w.mel for w in windows], windows[0].attention))
    except Exception as error:
        if len(together) == 1:
            return [error]
    # One of them may be the cause: each by itself.
    return [_encode([item])[0] for item in together]


scheduler = Scheduler()
"""The process's scheduler."""

device.on_fork(scheduler.start_anew)


def call_soon(loop: asyncio.AbstractEventLoop, function: Callable[..., None], *args: Any) -> None:
    """Call a function on a loop from another thread, unless the loop is gone."""
    try:
        loop.call_soon_threadsafe(function, *args)
    except RuntimeError:
        # The loop was closed with steps under way; nobody is left to tell.
        logger.debug("a result was dropped: its event loop is closed")


def waiting_for(source: Future[T]) -> asyncio.Future[T]:
    """A future of the running event loop that gets another thread's result.

    Any number of loops may wait for the same result. Cancelling one of them, or closing its loop,
    changes nothing for the others.
    """
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()

    def done(source: Future[T]) -> None:
        error = source.exception()
        call_soon(loop, settle, future, None if error else source.result(), error)

    source.add_done_callback(done)
    return future


def settle(future: asyncio.Future[T], value: T | None, error: BaseException | None) -> None:
    """Give a future its result, unless whoever waited for it has gone."""
    if future.done():
        return
    if error is not None:
        future.set_exception(error)
        future.exception()  # Read, so that it is not reported as lost when nobody awaits it.
    else:
        future.set_result(value)  # type: ignore[arg-type]
