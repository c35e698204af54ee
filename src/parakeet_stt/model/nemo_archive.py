"""NeMo's ``.nemo`` archives, read without PyTorch and without running code from them.

A ``.nemo`` file is a tar archive, compressed or not, of ``model_config.yaml``,
``model_weights.ckpt`` and the tokenizer. The weights are what ``torch.save`` writes: a zip archive
with a pickle that describes the tensors and one file for the bytes of each storage. Of the pickle
only descriptions of tensors are accepted; any other name in it is refused before it is looked up.
"""

from __future__ import annotations

import pickle
import shutil
import tarfile
import tempfile
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import ml_dtypes
import numpy as np
import yaml

from parakeet_stt.errors import ModelFormatError
from parakeet_stt.model.encoder import Floats

_CONFIG = "model_config.yaml"
_WEIGHTS = "model_weights.ckpt"

_TAR_MAGIC, _TAR_MAGIC_OFFSET = b"ustar", 257  # Of an archive that is not compressed.

_STORAGES: dict[str, Any] = {
    "FloatStorage": np.float32,
    "HalfStorage": np.float16,
    "BFloat16Storage": ml_dtypes.bfloat16,
    "DoubleStorage": np.float64,
    "LongStorage": np.int64,
    "IntStorage": np.int32,
}
"""Storage classes of PyTorch and the element types that they hold."""


class NemoArchive:
    """An open archive.

    Args:
        path: The ``.nemo`` file.

    Raises:
        ModelFormatError: The file is damaged or no such archive, or the pickle in it holds
            anything but tensors.

    Attributes:
        config: The parsed ``model_config.yaml``.
        tensors: For each tensor's name, a function that reads it as float32.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            self._tar = tarfile.open(path)  # noqa: SIM115 (tensors are read from it later)
            config = yaml.safe_load(self._member(_CONFIG))
            self._zip = zipfile.ZipFile(_seekable(self._member(_WEIGHTS), path))
            pickled, self._folder = self._description()
            tensors = _TensorUnpickler(pickled, path).load()
        except ModelFormatError:
            raise
        except (
            OSError,
            tarfile.TarError,
            zipfile.BadZipFile,
            pickle.UnpicklingError,
            yaml.YAMLError,
            EOFError,
            LookupError,
            TypeError,
            ValueError,
            AttributeError,
        ) as error:  # What reading a damaged pickle may raise is not documented.
            raise ModelFormatError(f"{path} cannot be read as a .nemo archive: {error}") from error
        if not isinstance(config, dict):
            raise ModelFormatError(f"{path}: {_CONFIG} holds no mapping")
        self.config: dict[str, Any] = config
        self.tensors = self._readers(tensors)

    def _member(self, name: str) -> IO[bytes]:
        """Open a file of the tar archive, whose names may start with ``./``."""
        for member in self._tar.getmembers():
            if member.name.removeprefix("./") == name:
                opened = self._tar.extractfile(member)
                if opened is not None:
                    return opened
        raise ModelFormatError(f"{self._path} lacks {name}")

    def _description(self) -> tuple[IO[bytes], str]:
        """The pickle, and the name of the folder in which it lies."""
        for name in self._zip.namelist():
            folder, _, file = name.rpartition("/")
            if file == "data.pkl":
                return self._zip.open(name), folder
        raise ModelFormatError(f"{self._path}: {_WEIGHTS} lacks data.pkl")

    def _readers(self, tensors: Any) -> dict[str, Callable[[], Floats]]:
        if not isinstance(tensors, dict):
            raise ModelFormatError(f"{self._path}: {_WEIGHTS} holds no tensors by name")
        readers: dict[str, Callable[[], Floats]] = {}
        for name, tensor in tensors.items():
            if not isinstance(name, str) or not isinstance(tensor, _Tensor):
                raise ModelFormatError(
                    f"{self._path}: {_WEIGHTS} holds {name!r}, which is no tensor"
                )
            readers[name] = self._reader(tensor)
        return readers

    def _reader(self, tensor: _Tensor) -> Callable[[], Floats]:
        def read() -> Floats:
            data = self._zip.read(f"{self._folder}/data/{tensor.storage.key}")
            array = np.frombuffer(data, tensor.storage.dtype)[tensor.offset :]
            last = sum(
                (size - 1) * step for size, step in zip(tensor.shape, tensor.strides, strict=True)
            )
            if min((tensor.offset, *tensor.strides, *tensor.shape)) < 0 or last >= len(array):
                raise ValueError(f"its shape {tensor.shape} does not fit its data")
            strides = [step * array.itemsize for step in tensor.strides]
            view = np.lib.stride_tricks.as_strided(array, tensor.shape, strides, writeable=False)
            return view.astype(np.float32)

        return read


def _seekable(weights: IO[bytes], archive: Path) -> IO[bytes]:
    """A file in which every tensor can be reached at once.

    In a compressed archive, each step back would decompress everything before it again.
    """
    with archive.open("rb") as file:
        file.seek(_TAR_MAGIC_OFFSET)
        if file.read(len(_TAR_MAGIC)) == _TAR_MAGIC:
            return weights
    copy = tempfile.TemporaryFile()  # noqa: SIM115 (tensors are read from it later)
    shutil.copyfileobj(weights, copy, 1 << 20)
    return copy


@dataclass(frozen=True)
class _Storage:
    dtype: Any
    key: str


@dataclass(frozen=True)
class _Tensor:
    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


def _rebuild_tensor(
    storage: _Storage, offset: int, shape: tuple[int, ...], strides: tuple[int, ...], *_: Any
) -> _Tensor:
    return _Tensor(storage, int(offset), tuple(shape), tuple(strides))


class _TensorUnpickler(pickle.Unpickler):
    """Reads descriptions of tensors and refuses everything else."""

    def __init__(self, file: IO[bytes], path: Path) -> None:
        super().__init__(file)
        self._path = path

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _rebuild_tensor
        if module == "torch" and name in _STORAGES:
            return _STORAGES[name]
        raise ModelFormatError(
            f"{self._path}: {_WEIGHTS} holds {module}.{name}, expected tensors only; it is not run"
        )

    def persistent_load(self, identifier: Any) -> _Storage:
        kind, dtype, key, *_ = identifier
        if kind != "storage":
            raise ModelFormatError(f"{self._path}: {_WEIGHTS} holds a {kind}, expected storages")
        return _Storage(dtype, str(key))
