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
from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, TypeVar

from loguru import logger

from parakeet_stt.model import device
from parakeet_stt.model.encoder import EncoderFrames
from parakeet_stt.model.parakeet import Model
from parakeet_stt.model.stream import Window, Work

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
    SPECULATION = 2


@dataclass(frozen=True)
class Step:
    """Something to be done on the inference thread.

    Attributes:
        priority: What kind of thing it is.
        model: Whose encoder encodes its windows.
        start: Begins the work, on the inference thread; None where nothing is left to do.
        done: Called on the inference thread with the result, or None and an error; must not raise.
    """

    priority: Priority
    model: Model
    start: Callable[[], Work[Any] | None]
    done: Callable[[Any, Exception | None], None]


_Running = tuple[Step, Work[Any], Window]
"""A step under way, and the window that it waits for."""


class Scheduler:
    """Runs steps by priority, one batch at a time, on the inference thread.

    For every step that is added the thread is asked to run once, and takes the most urgent then.
    So a final overtakes the interims that wait, and other users of the thread get their turn.
    """

    def __init__(self) -> None:
        self._heap: list[tuple[int, int, Step]] = []
        self._order = itertools.count()
        self._lock = threading.Lock()
        self._interim_seconds = 0.0
        self.speakers = 0  # Segments that are open and want interims; kept by the sessions.

    def add(self, step: Step) -> None:
        """Queue a step."""
        with self._lock:
            heapq.heappush(self._heap, (step.priority, next(self._order), step))
        device.submit(self._run_next)

    @property
    def cadence(self) -> float:
        """Seconds between a session's interims at which the thread keeps its reserve."""
        return self.speakers * self._interim_seconds / (1 - RESERVE)

    def _run_next(self) -> None:
        batch = self._take_batch()
        if not batch:
            return  # It went along with an earlier batch.
        begun = time.perf_counter()
        _run(batch)
        if batch[0].priority is Priority.INTERIM:
            seconds = (time.perf_counter() - begun) / len(batch)
            known = self._interim_seconds or seconds
            self._interim_seconds = (1 - _NEWEST) * known + _NEWEST * seconds

    def _take_batch(self) -> list[Step]:
        """The most urgent step, and those that can be encoded together with it."""
        with self._lock:
            if not self._heap:
                return []
            first = heapq.heappop(self._heap)[2]
            batch, others = [first], []
            while self._heap and len(batch) < self._largest_batch(first):
                entry = heapq.heappop(self._heap)
                fits = entry[2].priority is first.priority and entry[2].model is first.model
                if fits:
                    batch.append(entry[2])
                else:
                    others.append(entry)
            for entry in others:
                heapq.heappush(self._heap, entry)
        return batch

    def _largest_batch(self, first: Step) -> int:
        if first.priority is not Priority.INTERIM or not self._interim_seconds:
            return first.model.batch
        affordable = int(LONGEST_BATCH_SECONDS / self._interim_seconds)
        return max(1, min(first.model.batch, affordable))


def _run(batch: list[Step]) -> None:
    """Run steps side by side to their ends; what goes wrong in one stays in that one."""
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
        for (step, work, _), frames in zip(together, _encode(together), strict=True):
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
    step: Step,
    work: Work[Any],
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


def call_soon(loop: asyncio.AbstractEventLoop, function: Callable[..., None], *args: Any) -> None:
    """Call a function on a loop from another thread, unless the loop is gone."""
    try:
        loop.call_soon_threadsafe(function, *args)
    except RuntimeError:
        # The loop was closed with steps under way; nobody is left to tell.
        logger.debug("a result was dropped: its event loop is closed")


def settle(future: asyncio.Future[T], value: T | None, error: BaseException | None) -> None:
    """Give a future its result, unless whoever waited for it has gone."""
    if future.done():
        return
    if error is not None:
        future.set_exception(error)
        future.exception()  # Read, so that it is not reported as lost when nobody awaits it.
    else:
        future.set_result(value)  # type: ignore[arg-type]
