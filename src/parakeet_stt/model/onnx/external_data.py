"""The files in which an ONNX graph keeps its large tensors.

Protobuf limits a message to 2 GB, so a large graph stores its weights in files beside it. This
module reads their names and sizes from the graph itself, without the onnx package and without
loading any tensor.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from pathlib import Path

from parakeet_stt.errors import ModelFormatError

# Field numbers in onnx.proto of the messages on the way to a tensor's external data.
_FIELDS: dict[str, dict[int, str]] = {
    "model": {7: "graph"},
    "graph": {1: "node", 5: "tensor"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph"},
}
_EXTERNAL_DATA = 13  # Of a tensor: pairs of a key (field 1) and a value (field 2).

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


def external_data(graph: Path) -> dict[str, int]:
    """Return the files that an ONNX graph refers to, and the minimum size of each in bytes.

    Args:
        graph: An ``.onnx`` file.

    Raises:
        ModelFormatError: The file is not an ONNX graph, or it is truncated.
    """
    files: dict[str, int] = {}
    try:
        with graph.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            for entries in _external_tensors(data, 0, len(data), "model"):
                end = int(entries.get("offset", 0)) + int(entries.get("length", 0))
                name = entries["location"]
                files[name] = max(files.get(name, 0), end)
    except (ValueError, IndexError, KeyError) as error:
        raise ModelFormatError(
            f"{graph} cannot be loaded by ONNX Runtime: it is not an ONNX graph, or it is truncated"
        ) from error
    return files


def _external_tensors(
    data: mmap.mmap, start: int, end: int, message: str
) -> Iterator[dict[str, str]]:
    """Yield the external data entries of every tensor inside a message."""
    if message == "tensor":
        pairs = (
            {key: data[a:b].decode() for key, a, b in _fields(data, first, last)}
            for number, first, last in _fields(data, start, end)
            if number == _EXTERNAL_DATA
        )
        entries = {pair[1]: pair[2] for pair in pairs}
        if entries:
            yield entries
        return
    for number, first, last in _fields(data, start, end):
        if number in _FIELDS[message]:
            yield from _external_tensors(data, first, last, _FIELDS[message][number])


def _fields(data: mmap.mmap, start: int, end: int) -> Iterator[tuple[int, int, int]]:
    """Yield the number of each length-delimited field of a message, and where it starts and ends.

    Raises:
        ValueError: The message is damaged.
        IndexError: It ends early.
    """
    while start < end:
        tag, start = _varint(data, start)
        kind = tag & 7
        if kind == _BYTES:
            length, start = _varint(data, start)
            if start + length > end:
                raise ValueError("a field is longer than its message")
            yield tag >> 3, start, start + length
            start += length
        elif kind == _VARINT:
            _, start = _varint(data, start)
        elif kind in (_FIXED64, _FIXED32):
            start += 8 if kind == _FIXED64 else 4
        else:
            raise ValueError(f"unknown wire type {kind}")


def _varint(data: mmap.mmap, start: int) -> tuple[int, int]:
    """Return the variable-length number at a position, and the position after it."""
    value = shift = 0
    while True:
        byte = data[start]
        start += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, start
        shift += 7
