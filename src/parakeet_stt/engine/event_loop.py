"""Pass results from other threads to an event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

from loguru import logger

T = TypeVar("T")


def call_soon(loop: asyncio.AbstractEventLoop, function: Callable[..., None], *args: Any) -> None:
    """Call a function on a loop from another thread, unless the loop is closed."""
    try:
        loop.call_soon_threadsafe(function, *args)
    except RuntimeError:
        # The loop was closed while jobs were running, so that nobody waits for the result.
        logger.debug("a result was dropped: its event loop is closed")


def wrap(source: Future[T]) -> asyncio.Future[T]:
    """Return a future of the running event loop that gets another thread's result.

    Any number of loops may wait for the same result. Cancelling one of the futures, or closing its
    loop, does not affect the others.
    """
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()

    def done(source: Future[T]) -> None:
        error = source.exception()
        call_soon(loop, settle, future, None if error else source.result(), error)

    source.add_done_callback(done)
    return future


def settle(future: asyncio.Future[T], value: T | None, error: BaseException | None) -> None:
    """Set the result or the exception of a future, unless it is done (cancelled) already."""
    if future.done():
        return
    if error is not None:
        future.set_exception(error)
        future.exception()  # Retrieved, so that asyncio does not report it if nobody awaits it.
    else:
        future.set_result(value)  # type: ignore[arg-type]
