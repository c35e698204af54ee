"""Memory that has been freed but that the allocator still keeps."""

from __future__ import annotations

import ctypes
import sys


def trim_heap() -> None:
    """Return freed memory to the system.

    glibc keeps it otherwise, after loading a model as much as the model takes. Other C libraries
    return it by themselves.
    """
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(ctypes.c_size_t(0))
