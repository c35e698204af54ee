"""ONNX Runtime's sessions, as the rest of the package uses them.

What is here is about processes, threads and types; what the graphs compute is their users' matter.
"""

from __future__ import annotations

import ctypes
import os
import tempfile
import weakref
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from loguru import logger

from parakeet_stt.errors import ConfigurationError, ModelFormatError
from parakeet_stt.model import device
from parakeet_stt.settings import Device

_CPU = "CPUExecutionProvider"
_PROVIDERS = ("CUDAExecutionProvider", _CPU)
_MAX_THREADS = 8
_SMALL_BYTES = 32 << 20  # A network of up to this size is done before other threads have woken up.

_TYPES = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(double)": np.float64,
    "tensor(int32)": np.int32,
    "tensor(int64)": np.int64,
}


class OnnxSession:
    """A graph that is open in ONNX Runtime.

    Inputs are converted to the types that the graph declares, and floating-point outputs to
    float32. A forked child opens the graph again: the threads of the parent's session, and the
    locks that they may have held, do not exist there.

    Args:
        path: The graph's file, or what the graph was built from, for messages.
        inputs: Names that its inputs must include.
        device: ``auto``, ``gpu`` or ``cpu``.
        write: Writes the graph to a folder and returns its file, each time that the graph is
            opened; if None, ``path`` is the file.
        size: Bytes of the network's weights, which decide the number of threads; those of the file
            by default.

    Raises:
        ModelFormatError: ONNX Runtime cannot load the file, or the graph's inputs are others.
        ConfigurationError: There is no GPU for ONNX Runtime.

    Attributes:
        path: The graph's file, or what it was built from.
        inputs: The graph's inputs by name, each with its type and shape.
        outputs: The graph's outputs, in order.
        device: Where it runs, for people.
    """

    def __init__(
        self,
        path: Path,
        inputs: set[str],
        device: Device = "cpu",
        write: Callable[[Path], Path] | None = None,
        size: int | None = None,
    ) -> None:
        self.path = path
        self._write = write
        if size is None:
            size = sum(file.stat().st_size for file in path.parent.glob(f"{path.name}*"))
        self._size = size
        self._providers = _choose_providers(device)
        session = self._open()
        self.inputs = {item.name: item for item in session.get_inputs()}
        self.outputs = session.get_outputs()
        missing = inputs - self.inputs.keys()
        if missing:
            raise ModelFormatError(
                f"{path} is not an export that this version can run: it has no input "
                f"{', '.join(sorted(missing))}"
            )
        for item in self.inputs.values():
            if item.type not in _TYPES:
                raise ModelFormatError(
                    f"{path} is not an export that this version can run: its input {item.name} is "
                    f"of type {item.type}, expected one of {', '.join(_TYPES)}"
                )
        provider = session.get_providers()[0].removesuffix("ExecutionProvider")
        threads = session.get_session_options().intra_op_num_threads
        self.device = f"{provider} ({threads} thread{'s' if threads > 1 else ''})"
        _sessions.add(self)

    def run(self, outputs: Sequence[str], feeds: Mapping[str, Any]) -> list[Any]:
        """Run the graph.

        Args:
            outputs: Names of the outputs to return.
            feeds: An array for each input, by name.
        """
        session = self._session or self._open()
        typed = {
            name: np.asarray(array, _TYPES[self.inputs[name].type]) for name, array in feeds.items()
        }
        with device.native_calls:
            found = session.run(outputs, typed)
        return [a.astype(np.float32, copy=False) if a.dtype.kind == "f" else a for a in found]

    def _open(self) -> Any:
        logger.debug(f"opening {self.path} in ONNX Runtime")
        if self._write is None:
            self._session = self._read(self.path)
        else:
            # Windows cannot delete weights that stay mapped because they were not packed.
            with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
                self._session = self._read(self._write(Path(folder)))
        return self._session

    def _read(self, file: Path) -> Any:
        options = _options(self._size)
        try:
            with device.native_calls:
                return onnxruntime.InferenceSession(str(file), options, providers=self._providers)
        except Exception as error:  # ONNX Runtime has no common base class for its errors.
            raise ModelFormatError(
                f"{self.path} cannot be loaded by ONNX Runtime: {error}"
            ) from error

    def _leave_to_parent(self) -> None:
        """Forget the parent's session without closing it, which would wait for its threads."""
        if self._session is not None:
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(self._session))
            self._session = None


def _options(size: int) -> Any:
    """Options for a network.

    Args:
        size: Bytes of its weights.
    """
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    threads = 1 if size <= _SMALL_BYTES else min(os.cpu_count() or 1, _MAX_THREADS)
    options.intra_op_num_threads = threads
    # Idle threads that spin would take the cores that the rest of the pipeline needs.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return options


def _choose_providers(device: Device) -> list[str]:
    if device == "cpu":
        return [_CPU]
    available = onnxruntime.get_available_providers()
    providers = [provider for provider in _PROVIDERS if provider in available]
    if device == "gpu" and providers[0] == _CPU:
        raise ConfigurationError(
            f"PARAKEET_DEVICE='gpu': ONNX Runtime has no GPU here, it offers {', '.join(available)}"
        )
    return providers


_sessions: weakref.WeakSet[OnnxSession] = weakref.WeakSet()


def _leave_to_parent() -> None:
    for session in list(_sessions):
        session._leave_to_parent()


device.on_fork(_leave_to_parent)
