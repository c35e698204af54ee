"""A model's configuration and tensors under one naming scheme, whatever their layout on disk.

Three layouts are read: folders of parakeet-mlx, folders of Hugging Face Transformers (NVIDIA's own
repositories) and NeMo's ``.nemo`` archives. Names are NeMo's and shapes PyTorch's, except for the
LSTM, whose tensors are parakeet-mlx's: ``….lstm.0.Wx``, ``Wh`` and ``bias``, the sum of PyTorch's
two biases. Tensors are read when they are asked for, one at a time.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_dtypes  # noqa: F401 (teaches numpy bfloat16, which safetensors asks it for)
import numpy as np
import safetensors

from parakeet_stt.errors import ModelFormatError
from parakeet_stt.model.config import (
    EncoderConfig,
    ModelConfig,
    from_nemo,
    from_transformers,
    nemo_encoder,
)
from parakeet_stt.model.encoder import Floats
from parakeet_stt.model.nemo_archive import NemoArchive

WEIGHTS = "model.safetensors"
SHARDS = "model.safetensors.index.json"
"""Transformers' index of weights that are split over several files."""


@dataclass(frozen=True)
class Checkpoint:
    """A model as it was published, ready to be run by one of the executors.

    Attributes:
        path: The folder or archive.
        config: Configuration of frontend and decoder.
        encoder: Configuration of the encoder.
        tensors: float32 arrays by name, read on access.
    """

    path: Path
    config: ModelConfig
    encoder: EncoderConfig
    tensors: Tensors


class Tensors(Mapping[str, Floats]):
    """Tensors by NeMo's names; access reads and converts one.

    Args:
        sources: For each name, the function that reads it.
        where: The file, for messages.
    """

    def __init__(self, sources: Mapping[str, Callable[[], Floats]], where: Path) -> None:
        self._sources = sources
        self._where = where

    def __getitem__(self, name: str) -> Floats:
        if name not in self._sources:
            raise KeyError(name)
        try:
            return np.ascontiguousarray(self._sources[name](), np.float32)
        except (safetensors.SafetensorError, OSError, ValueError) as error:
            raise ModelFormatError(
                f"{self._where}: the tensor {name} cannot be read: {error}. Delete the file, so "
                f"that it is downloaded again."
            ) from error

    def __iter__(self) -> Iterator[str]:
        return iter(self._sources)

    def __len__(self) -> int:
        return len(self._sources)

    def below(self, prefix: str) -> Tensors:
        """The tensors whose names start with a prefix, without the prefix."""
        return Tensors(
            {
                name.removeprefix(prefix): read
                for name, read in self._sources.items()
                if name.startswith(prefix)
            },
            self._where,
        )


def read_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint's configuration; its tensors are read later.

    Args:
        path: A folder in parakeet-mlx's or Transformers' layout, or a ``.nemo`` archive.

    Raises:
        ModelFormatError: The files are damaged, or not a model that this version can run.
    """
    if path.is_file():
        archive = NemoArchive(path)
        config, encoder = from_nemo(archive.config, path), nemo_encoder(archive.config, path)
        tensors = Tensors(_from_torch(archive.tensors, path), path)
    else:
        where = path / "config.json"
        raw, readers = read_json(where), _safetensors(path)
        if is_transformers(raw):
            config, encoder = from_transformers(raw, read_json(path / "tokenizer.json"), where)
            readers = _from_torch({_nemo_name(n): read for n, read in readers.items()}, path)
        else:
            config, encoder = from_nemo(raw, where), nemo_encoder(raw, where)
            readers = {name: _from_mlx(read) for name, read in readers.items()}
        tensors = Tensors(readers, path / WEIGHTS)
    layers = {name.split(".")[2] for name in tensors if name.startswith("encoder.layers.")}
    if len(layers) != encoder.layers:
        raise ModelFormatError(
            f"{path}: the weights have {len(layers)} encoder layers, the configuration has "
            f"{encoder.layers}"
        )
    return Checkpoint(path, config, encoder, tensors)


def is_transformers(config: Mapping[str, Any]) -> bool:
    """Whether a parsed ``config.json`` is one of Transformers."""
    return "encoder_config" in config and "model_type" in config


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object from a file.

    Raises:
        ModelFormatError: The file is missing or holds something else.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ModelFormatError(f"{path} is missing") from error
    except ValueError as error:
        raise ModelFormatError(f"{path} is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise ModelFormatError(f"{path} holds a {type(value).__name__}, expected an object")
    return value


# Layouts. Each gives a function for each tensor that reads it.

_Reader = Callable[[], Floats]


def _safetensors(folder: Path) -> dict[str, _Reader]:
    """Readers of a folder's tensors, of all shards."""
    index = folder / SHARDS
    if index.is_file():
        shards = read_json(index).get("weight_map")
        if not isinstance(shards, dict) or not all(isinstance(n, str) for n in shards.values()):
            raise ModelFormatError(f"{index}: weight_map is no mapping of tensors to files")
        if any(Path(name).name != name for name in shards.values()):
            raise ModelFormatError(f"{index} names a file outside its folder")
        files = [folder / name for name in sorted(set(shards.values()))]
    else:
        files = [folder / WEIGHTS]
    readers: dict[str, _Reader] = {}
    for file in files:
        try:
            with safetensors.safe_open(file, framework="numpy") as opened:
                names = opened.keys()
        except (safetensors.SafetensorError, OSError) as error:
            raise ModelFormatError(
                f"{file} cannot be read: {error}. Delete it, so that it is downloaded again."
            ) from error
        readers |= {name: _reader(file, name) for name in names}
    return readers


def _reader(file: Path, name: str) -> _Reader:
    def read() -> Floats:
        # Open for one tensor only: pages of a file that stays mapped count as memory in use.
        with safetensors.safe_open(file, framework="numpy") as opened:
            array: Floats = opened.get_tensor(name).astype(np.float32, copy=False)
        return array

    return read


def _from_mlx(read: _Reader) -> _Reader:
    """Move the input channels of a convolution from the last axis to the second one."""

    def converted() -> Floats:
        array = read()
        return np.moveaxis(array, -1, 1) if array.ndim >= 3 else array

    return converted


_NEMO_NAMES = (
    (r"^encoder\.subsampling\.layers\.", "encoder.pre_encode.conv."),
    (r"^encoder\.subsampling\.linear\.", "encoder.pre_encode.out."),
    (r"\.self_attn\.([qkv])_proj\.", r".self_attn.linear_\1."),
    (r"\.self_attn\.o_proj\.", ".self_attn.linear_out."),
    (r"\.self_attn\.relative_k_proj\.", ".self_attn.linear_pos."),
    (r"\.self_attn\.bias_([uv])$", r".self_attn.pos_bias_\1"),
    (r"\.conv\.norm\.", ".conv.batch_norm."),
    (r"^decoder\.embedding\.", "decoder.prediction.embed."),
    (r"^decoder\.lstm\.", "decoder.prediction.dec_rnn.lstm."),
    (r"^decoder\.decoder_projector\.", "joint.pred."),
    (r"^encoder_projector\.", "joint.enc."),
    (r"^joint\.head\.", "joint.joint_net.2."),
    (r"^ctc_head\.", "decoder.decoder_layers.0."),
)
"""Transformers' names and NeMo's, as patterns and replacements."""


def _nemo_name(name: str) -> str:
    for pattern, replacement in _NEMO_NAMES:
        name = re.sub(pattern, replacement, name)
    return name


_LSTM = re.compile(r"^(.*\.lstm\.)weight_ih_l(\d+)$")


def _from_torch(readers: Mapping[str, _Reader], where: Path) -> dict[str, _Reader]:
    """PyTorch's LSTM tensors under parakeet-mlx's names; the others as they are.

    Raises:
        ModelFormatError: An LSTM lacks a tensor.
    """
    converted = {name: read for name, read in readers.items() if ".lstm." not in name}
    for name in readers:
        found = _LSTM.match(name)
        if found is None:
            continue
        lstm, layer = found.groups()
        try:
            others = [
                readers[f"{lstm}{part}_l{layer}"] for part in ("weight_hh", "bias_ih", "bias_hh")
            ]
        except KeyError as error:
            raise ModelFormatError(f"{where}: the weights lack {error}") from error
        converted[f"{lstm}{layer}.Wx"] = readers[name]
        converted[f"{lstm}{layer}.Wh"] = others[0]
        converted[f"{lstm}{layer}.bias"] = _sum_of(*others[1:])
    return converted


def _sum_of(first: _Reader, second: _Reader) -> _Reader:
    return lambda: first() + second()
