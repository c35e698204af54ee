"""The inference thread of the process, and its handling of exit and fork.

Since 0.31.2 MLX's streams belong to the thread that made them, so everything that touches MLX
happens on one thread: loading, warm-up, encoding. :func:`run` hands it a function and waits;
:func:`submit` does not wait. The thread starts on first use, and again in a
forked child.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future, wait
from typing import Any, TypeVar

T = TypeVar("T")

MLX_GLOBAL_LOCK = threading.RLock()
"""Held for each step of inference in MLX, never across an await.

Code that runs other MLX models in the same process must hold it for each of their steps too.
"""

_LAST_CALL_SECONDS = 30.0
_SIGNAL_SECONDS = 0.2  # On Windows, a wait without a limit does not notice Ctrl-C.


class _Ending(BaseException):
    """Unwinds the inference thread's job when the process ends."""


class NativeCalls:
    """The calls into native libraries that release the GIL, each made in a ``with`` block.

    A thread that returns from such a call after the interpreter has gone aborts the process
    (``terminate called without an active exception``, exit code 134). The process's end therefore
    waits for the calls that run, and stops every thread that would begin another one. A fork waits
    for them too: a lock that another thread holds inside a library stays locked in the child.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._running = 0
        self._held = False
        self._ended_by: int | None = None

    def __enter__(self) -> None:
        with self._changed:
            self._changed.wait_for(lambda: not self._held)
            if self._ended_by in (None, threading.get_ident()):
                self._running += 1
                return
        if _thread.is_current:
            raise _Ending
        threading.Event().wait()

    def __exit__(self, *_: object) -> None:
        with self._changed:
            self._running -= 1
            self._changed.notify_all()

    @property
    def running(self) -> bool:
        """Whether a thread is in such a call."""
        return self._running > 0

    @property
    def ended(self) -> bool:
        """Whether other threads are prevented from starting calls."""
        return self._ended_by is not None

    def end(self) -> None:
        """Prevent other threads from starting calls."""
        with self._changed:
            self._ended_by = threading.get_ident()

    def hold(self, seconds: float) -> None:
        """Block new calls until :meth:`release`, and wait for running calls."""
        with self._changed:
            self._held = True
        self.wait(seconds)

    def release(self) -> None:
        """Allow new calls again."""
        with self._changed:
            self._held = False
            self._changed.notify_all()

    def wait(self, seconds: float) -> None:
        """Wait until no call is running, for at most ``seconds``."""
        with self._changed:
            self._changed.wait_for(lambda: not self._running, seconds)


native_calls = NativeCalls()
"""The process's calls into native libraries."""


class _InferenceThread:
    """A thread that starts with its first job."""

    def __init__(self) -> None:
        self._jobs: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._starting = threading.Lock()
        self._thread: threading.Thread | None = None
        self._last: list[Callable[[], None]] = []
        self._ended = threading.Event()

    @property
    def is_current(self) -> bool:
        return threading.current_thread() is self._thread

    def put(self, job: Callable[[], None]) -> None:
        with self._starting:
            if self._thread is None:
                # A daemon, and not an executor's thread: those are joined before exit handlers
                # run, and MLX's threads crash the process when the thread that made their streams
                # ends before them.
                self._thread = threading.Thread(
                    target=self._work, name="parakeet-inference", daemon=True
                )
                self._thread.start()
        self._jobs.put(job)

    def run_last(self, function: Callable[[], None]) -> None:
        self._last.append(function)

    def end(self, seconds: float) -> None:
        """Drop queued jobs and wait until the running job has been unwound."""
        if self._thread is None:
            return
        with contextlib.suppress(queue.Empty):
            while True:
                self._jobs.get_nowait()
        self._jobs.put(_raise_ending)
        self._ended.wait(seconds)

    def _work(self) -> None:
        with contextlib.suppress(_Ending):
            while True:
                self._jobs.get()()
        for function in self._last:
            function()
        self._ended.set()
        threading.Event().wait()


def _raise_ending() -> None:
    raise _Ending


_thread = _InferenceThread()


def submit(function: Callable[..., T], *arguments: Any) -> Future[T]:
    """Queue ``function(*arguments)`` for the inference thread and return at once.

    Raises:
        RuntimeError: The interpreter is shutting down.
    """
    future: Future[T] = Future()

    def job() -> None:
        if not future.set_running_or_notify_cancel():
            return  # The caller has cancelled it.
        try:
            result = function(*arguments)
        except _Ending:
            raise
        except BaseException as error:
            future.set_exception(error)
        else:
            future.set_result(result)

    with native_calls:  # At the end of the process, only the thread that ends it goes on.
        if native_calls.ended:
            raise RuntimeError("the interpreter is shutting down: no inference is possible")
        _thread.put(job)
    return future


def run(function: Callable[..., T], *arguments: Any) -> T:
    """Run ``function(*arguments)`` on the inference thread and return what it returns.

    Called on that thread, it runs at once.
    """
    if _thread.is_current:
        return function(*arguments)
    return submit(function, *arguments).result()


def run_interruptibly(function: Callable[..., T], *arguments: Any) -> T:
    """Run ``function(*arguments)`` on a thread of its own and return what it returns.

    Ctrl-C ends the wait at once, which it does not if the main thread is inside a library.
    """
    future: Future[T] = Future()

    def work() -> None:
        try:
            future.set_result(function(*arguments))
        except BaseException as error:
            future.set_exception(error)

    # A daemon, so that a program can end meanwhile.
    threading.Thread(target=work, name="parakeet-work", daemon=True).start()
    while not wait([future], timeout=_SIGNAL_SECONDS).done:
        pass
    return future.result()


def run_last(function: Callable[[], None]) -> None:
    """Register a function to run on the inference thread when the process ends.

    It must not use :data:`native_calls`.
    """
    _thread.run_last(function)


def on_fork(function: Callable[[], None]) -> None:
    """Call a function in every forked child, where only the forking thread exists."""
    if hasattr(os, "register_at_fork"):  # Not on Windows, which does not fork.
        os.register_at_fork(after_in_child=function)


def _end() -> None:
    native_calls.end()
    _thread.end(_LAST_CALL_SECONDS)
    native_calls.wait(_LAST_CALL_SECONDS)


def _hold() -> None:
    native_calls.hold(_LAST_CALL_SECONDS)


def _release() -> None:
    native_calls.release()


def _start_anew() -> None:
    """Reset the state of the parent's threads, which do not exist in the child."""
    global native_calls, _thread
    MLX_GLOBAL_LOCK._at_fork_reinit()  # type: ignore[attr-defined]
    native_calls, _thread = NativeCalls(), _InferenceThread()


atexit.register(_end)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_hold, after_in_parent=_release)
on_fork(_start_anew)
