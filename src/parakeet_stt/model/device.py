"""The process's one inference thread.

Since 0.31.2 MLX's streams belong to the thread that made them, so everything that touches a model
happens on one thread: loading, warm-up, encoding. :func:`run` hands it a function and waits;
:func:`submit` does not wait. Knows nothing of what is run.
"""

from __future__ import annotations

import atexit
import contextlib
import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

T = TypeVar("T")

MLX_GLOBAL_LOCK = threading.RLock()
"""Held for each step of inference in MLX, never across an await.

Whoever runs other MLX models in the same process takes it around each of their steps too.
"""

_jobs: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
_local = threading.local()


def _work() -> None:
    _local.inside = True
    while True:
        _jobs.get()()


# A daemon, and not an executor's thread: those are joined before exit handlers run, and MLX's
# threads crash the process when the thread that made their streams ends before them.
threading.Thread(target=_work, name="parakeet-inference", daemon=True).start()

_LAST_JOB_SECONDS = 10.0


def _come_to_rest() -> None:
    """Let the job that runs end, and start no other.

    A thread that comes back from a library's code when the interpreter has gone away ends the
    process with an abort (``terminate called without an active exception``).
    """
    resting = threading.Event()

    def rest() -> None:
        resting.set()
        threading.Event().wait()

    with contextlib.suppress(queue.Empty):
        while True:
            _jobs.get_nowait()
    _jobs.put(rest)
    resting.wait(_LAST_JOB_SECONDS)


atexit.register(_come_to_rest)


def submit(function: Callable[..., T], *arguments: Any) -> Future[T]:
    """Queue ``function(*arguments)`` for the inference thread and return at once."""
    future: Future[T] = Future()

    def job() -> None:
        try:
            result = function(*arguments)
        except BaseException as error:
            future.set_exception(error)
        else:
            future.set_result(result)

    _jobs.put(job)
    return future


def run(function: Callable[..., T], *arguments: Any) -> T:
    """Run ``function(*arguments)`` on the inference thread and return what it returns.

    Called on that thread, it runs at once.
    """
    if getattr(_local, "inside", False):
        return function(*arguments)
    return submit(function, *arguments).result()
