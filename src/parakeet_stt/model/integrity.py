"""Whether the files of a model are complete: present, of the right size, and readable.

The only module that checks files by their format; downloading and layouts use it.
"""

from __future__ import annotations

from pathlib import Path

import safetensors

from parakeet_stt.errors import ModelFormatError
from parakeet_stt.model.onnx.external_data import external_data

Sizes = dict[str, int | None]
"""Size in bytes of each file of a revision; None if the hub does not list it."""


def missing_file(folder: Path, files: list[str], sizes: Sizes | None = None) -> str | None:
    """Return the name of the first file that is missing or truncated; None if all are complete.

    Args:
        folder: The folder.
        files: Names of the required files. The external data of ONNX graphs is added.
        sizes: Size of each file. If None, files with weights are checked by their own headers.

    Raises:
        ModelFormatError: A graph of the right size cannot be read.
    """
    files = list(files)
    minimum: dict[str, int] = {}
    for name in files:
        path = folder / name
        if not has_size(path, sizes.get(name) if sizes else None):
            return name
        if sizes is None and not _has_valid_header(path, minimum.get(name, 0)):
            return name
        if path.suffix == ".onnx":
            minimum |= external_data(path)
            files += [other for other in minimum if other not in files]
    return None


def has_size(path: Path, size: int | None) -> bool:
    """Whether a file exists and has a size in bytes; any size if None."""
    return path.is_file() and size in (None, path.stat().st_size)


def _has_valid_header(path: Path, minimum: int) -> bool:
    """Whether a file has a minimum size in bytes and, if it holds weights, a valid header."""
    try:
        if path.suffix == ".onnx":
            external_data(path)
        elif path.suffix == ".safetensors":
            with safetensors.safe_open(path, framework="numpy"):
                pass
    except (safetensors.SafetensorError, ModelFormatError):
        return False
    return path.stat().st_size >= minimum
