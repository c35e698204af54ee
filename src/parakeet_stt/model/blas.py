"""A fast BLAS for MLX on Linux CPUs.

The mlx-cpu wheel ships the reference BLAS. Its library calls ``cblas_sgemm`` by plain name, so a
library that offers this name and sits in the process's global symbol scope first is used instead
(30 to 60 times faster: docs/benchmarks.md). It has to be there before ``mlx.core`` is imported, so
the package's ``__init__`` calls :func:`prepare`. Knows nothing of models.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import glob
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from threadpoolctl import ThreadpoolController

from parakeet_stt.errors import ConfigurationError

VARIABLE = "PARAKEET_BLAS"
INSTALL_HINT = (
    "install OpenBLAS (Debian, Ubuntu: apt-get install libopenblas0; Fedora: dnf install openblas; "
    "or pip install mkl), which makes MLX's matrix products 30 to 60 times faster"
)

# In order of preference, by the names that the dynamic loader knows them by; MKL's single
# dynamic library exports the plain CBLAS names and also comes as a wheel.
_CANDIDATES = ("libopenblas.so.0", "libblis.so.4", "libblis.so.3", "libmkl_rt.so.2", "libmkl_rt.so")

Status = Literal["loaded", "not needed", "off", "too late", "missing"]


@dataclass(frozen=True)
class Blas:
    """Which library serves MLX's matrix products in this process.

    Attributes:
        status: ``loaded``; ``not needed`` (not Linux, or a GPU build of MLX); ``off`` by the
            setting; ``too late`` (mlx was imported first); ``missing`` (none was found).
        library: Path of the loaded library, if one was.
    """

    status: Status
    library: str | None = None

    def __str__(self) -> str:
        match self.status:
            case "loaded":
                return f"{self.library}"
            case "not needed":
                return "the platform's own"
            case "off":
                return f"the one in the mlx wheel ({VARIABLE}=off)"
            case "too late":
                return "the one in the mlx wheel; import parakeet_stt before mlx to use a fast one"
            case _:
                return f"the one in the mlx wheel; {INSTALL_HINT}"


_prepared: Blas | None = None


def prepare() -> Blas:
    """Load a fast BLAS, once per process; later calls return what the first one found.

    Reads ``PARAKEET_BLAS``: ``auto`` (the default), ``off``, or a library's path or name. A library
    that cannot be used is logged as a warning, and ``auto`` is used instead.
    """
    global _prepared
    if _prepared is None:
        _prepared = _prepare(os.environ.get(VARIABLE, "auto").strip() or "auto")
    return _prepared


def _prepare(choice: str) -> Blas:
    if choice.lower() == "off":
        return Blas("off")
    if not sys.platform.startswith("linux") or _has_cuda_build():
        return Blas("not needed")
    if "mlx.core" in sys.modules:
        return Blas("too late")
    if choice.lower() != "auto":
        try:
            return Blas("loaded", _load(os.path.expanduser(choice)))
        except ConfigurationError as error:
            # This runs when the package is imported, which must not fail.
            from loguru import logger

            logger.warning(f"{error} Until then {VARIABLE}=auto is used.")
    for candidate in (*_CANDIDATES, *_wheel_libraries()):
        try:
            return Blas("loaded", _load(candidate))
        except ConfigurationError:
            continue  # Not on this machine: the next one may be.
    return Blas("missing")


def use_threads(mlx: int | None = None, numpy: int | None = None) -> None:
    """Say how many threads a BLAS may use, where it is OpenBLAS: MLX's, numpy's, or both.

    OpenBLAS wakes its threads for small products too, and they keep their cores busy for a while
    after each. What ``OPENBLAS_NUM_THREADS`` says stays; other libraries choose well by themselves.
    """
    if "OPENBLAS_NUM_THREADS" in os.environ:
        return
    for library in ThreadpoolController().select(internal_api="openblas").lib_controllers:
        serves_mlx = os.path.realpath(library.filepath) == prepare().library
        count = mlx if serves_mlx else numpy
        if count is not None:
            library.set_num_threads(count)


def _has_cuda_build() -> bool:
    """Whether the CUDA build of MLX is installed and a GPU's driver is there to run it."""
    driver = ctypes.util.find_library("cuda") is not None or os.path.exists("/proc/driver/nvidia")
    return driver and any(
        (Path(folder) / "mlx_cuda.libs").exists() or glob.glob(f"{folder}/mlx_cuda*")
        for folder in sys.path
    )


def _wheel_libraries() -> list[str]:
    """MKL as installed by its wheel, which puts it in the environment's lib folder."""
    return sorted(glob.glob(f"{sys.prefix}/lib/libmkl_rt.so*"))


def _load(name: str) -> str:
    try:
        library = ctypes.CDLL(name, mode=ctypes.RTLD_GLOBAL)
    except OSError as error:
        raise ConfigurationError(
            f"{VARIABLE}={name}: the library cannot be loaded ({error}). "
            f"Use auto, off, or the path of a library that offers cblas_sgemm."
        ) from error
    if not hasattr(library, "cblas_sgemm"):
        raise ConfigurationError(
            f"{VARIABLE}={name}: the library has no cblas_sgemm, which is what MLX calls. "
            f"Use OpenBLAS, BLIS or MKL."
        )
    return _file_of(library.cblas_sgemm) or name


class _SymbolInfo(ctypes.Structure):
    """``Dl_info`` of dladdr(3)."""

    _fields_ = (
        ("file", ctypes.c_char_p),
        ("base", ctypes.c_void_p),
        ("symbol", ctypes.c_char_p),
        ("address", ctypes.c_void_p),
    )


def _file_of(function: object) -> str | None:
    """Path of the shared object in which a loaded function lies (dladdr)."""
    info = _SymbolInfo()
    address = ctypes.cast(function, ctypes.c_void_p)  # type: ignore[arg-type]
    found = ctypes.CDLL(None).dladdr(address, ctypes.byref(info))
    return os.path.realpath(info.file.decode()) if found and info.file else None
