"""The process's one inference thread.

Since 0.31.2 MLX's streams belong to the thread that made them, so everything that touches a model
happens on one thread: loading, warm-up, encoding. :func:`run` hands it a function and waits;
:func:`submit` does not wait. Knows nothing of what is run.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

T = TypeVar("T")

MLX_GLOBAL_LOCK = threading.RLock()
"""Held for each step of inference in MLX, never across an await.

Whoever runs other MLX models in the same process takes it around each of their steps too.
"""

_thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="parakeet-inference")
_local = threading.local()


def submit(function: Callable[..., T], *arguments: Any) -> Future[T]:
    """Queue ``function(*arguments)`` for the inference thread and return at once."""
    return _thread.submit(_marked, function, *arguments)


def run(function: Callable[..., T], *arguments: Any) -> T:
    """Run ``function(*arguments)`` on the inference thread and return what it returns.

    Called on that thread, it runs at once.
    """
    if getattr(_local, "inside", False):
        return function(*arguments)
    return submit(function, *arguments).result()


def _marked(function: Callable[..., T], *arguments: Any) -> T:
    _local.inside = True
    return function(*arguments)
