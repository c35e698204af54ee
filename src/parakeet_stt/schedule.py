"""Steps of inference by priority, and the way back from the inference thread to an event loop."""

from __future__ import annotations

import asyncio
import heapq
import itertools
import threading
from collections.abc import Callable
from enum import IntEnum
from typing import Any, TypeVar

from loguru import logger

from parakeet_stt.model import device

T = TypeVar("T")


class Priority(IntEnum):
    """What goes first."""

    FINAL = 0
    INTERIM = 1


class Steps:
    """Steps of inference by priority, run one at a time on the inference thread.

    For every step that is added the thread is asked to run one, and takes the most urgent then.
    So a final overtakes the interims that wait, and other users of the thread get their turn.
    """

    def __init__(self) -> None:
        self._heap: list[tuple[int, int, Callable[[], None]]] = []
        self._order = itertools.count()
        self._lock = threading.Lock()

    def add(self, priority: Priority, step: Callable[[], None]) -> None:
        """Queue a step; it must not raise."""
        with self._lock:
            heapq.heappush(self._heap, (priority, next(self._order), step))
        device.submit(self._run_next)

    def _run_next(self) -> None:
        with self._lock:
            _, _, step = heapq.heappop(self._heap)
        step()


steps = Steps()
"""The process's steps."""


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
