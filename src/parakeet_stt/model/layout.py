"""Layouts of a model's folder: which files it is loaded from, and what runs it.

A *checkpoint* (see :mod:`parakeet_stt.model.checkpoint`) runs on both executors. An *export* in
onnx-asr's layout (``encoder-model.onnx``, or ``model.onnx`` for CTC) runs on ONNX Runtime. If a
folder has both, the checkpoint is used.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from parakeet_stt.errors import ConfigurationError, ModelNotFoundError
from parakeet_stt.model.checkpoint import (
    SHARDS,
    WEIGHTS,
    Checkpoint,
    read_checkpoint,
    read_json,
)
from parakeet_stt.model.config import ModelConfig, from_onnx_asr
from parakeet_stt.model.integrity import missing_file
from parakeet_stt.settings import Backend

Executor = Literal["mlx", "onnx"]
"""What runs a model's encoder: MLX or ONNX Runtime."""

_CONFIG = "config.json"
_NEMO = ".nemo"
_TOKENIZER = "tokenizer.json"
_ONNX_ENCODER = "encoder-model.onnx"
_ONNX_DECODER = "decoder_joint-model.onnx"
_ONNX_CTC = "model.onnx"
_ONNX_VOCABULARY = "vocab.txt"


@dataclass(frozen=True)
class ModelFiles:
    """A model's folder and its configuration.

    Attributes:
        source: The name, folder or id that the caller gave.
        folder: The folder with the files, or a ``.nemo`` archive.
        executor: What runs the encoder.
        config: The part of the configuration that this package uses.
        checkpoint: The checkpoint; None if the folder has only an export.
    """

    source: str
    folder: Path
    executor: Executor
    config: ModelConfig
    checkpoint: Checkpoint | None

    @property
    def onnx_encoder(self) -> Path:
        """The ONNX graph of the encoder; of a CTC model, the whole model."""
        return self.folder / (_ONNX_CTC if self.config.kind == "ctc" else _ONNX_ENCODER)

    @property
    def onnx_decoder(self) -> Path:
        """The ONNX graph of the prediction network and the joint."""
        return self.folder / _ONNX_DECODER


def choose_executor(
    names: Iterable[str], backend: Backend, has_gpu: bool, location: str
) -> Executor:
    """Choose what runs the encoder of a folder or repository.

    Args:
        names: Names of its files.
        backend: The setting: ``mlx``, ``onnx`` or ``auto``.
        has_gpu: Whether MLX has a GPU, which decides ``auto`` for a checkpoint.
        location: The folder or repository, for error messages.

    Raises:
        ModelNotFoundError: There is neither a checkpoint nor an export.
        ConfigurationError: There is only an export, and the backend is ``mlx``.
    """
    names = set(names)
    checkpoint = _has_checkpoint(names)
    if not checkpoint and not names & {_ONNX_ENCODER, _ONNX_CTC}:
        raise ModelNotFoundError(
            f"{location} holds no model: expected {WEIGHTS} (parakeet-mlx's and Transformers' "
            f"layout) or {_ONNX_ENCODER} (onnx-asr's layout) beside {_CONFIG}, or a {_NEMO} archive"
        )
    if backend == "mlx" and not checkpoint:
        raise ConfigurationError(
            f"{location} has no checkpoint that MLX could run, only an ONNX export. Use backend "
            f"'auto'."
        )
    if backend == "auto":
        return "mlx" if checkpoint and has_gpu else "onnx"
    return backend


def _has_checkpoint(names: set[str]) -> bool:
    return bool(names & {WEIGHTS, SHARDS}) or _archive(names) is not None


def _archive(names: set[str]) -> str | None:
    """The name of the only ``.nemo`` archive; None if there is none, or other weights."""
    archives = [name for name in names if name.endswith(_NEMO)]
    others = names & {WEIGHTS, SHARDS, _ONNX_ENCODER, _ONNX_CTC}
    return archives[0] if len(archives) == 1 and not others else None


def files_to_load(names: Iterable[str]) -> list[str]:
    """Names of the files that a model is loaded from.

    External data of ONNX graphs is not included:
    :func:`~parakeet_stt.model.integrity.missing_file` reads its names from the graphs.
    """
    names = set(names)
    archive = _archive(names)
    if archive is not None:
        return [archive]
    if SHARDS in names:
        shards = sorted(name for name in names if name.endswith(".safetensors"))
        return [_CONFIG, *names & {_TOKENIZER}, SHARDS, *shards]
    if WEIGHTS in names:
        return [_CONFIG, *names & {_TOKENIZER}, WEIGHTS]
    if _ONNX_ENCODER in names:
        return [_CONFIG, _ONNX_VOCABULARY, _ONNX_DECODER, _ONNX_ENCODER]
    return [_CONFIG, _ONNX_VOCABULARY, _ONNX_CTC]


def read_folder(source: str, folder: Path, backend: Backend, has_gpu: bool) -> ModelFiles:
    """Read the configuration of a model's folder and choose what runs it.

    Args:
        source: The name, folder or id that the caller gave.
        folder: The folder, or a ``.nemo`` archive.
        backend: The setting: ``mlx``, ``onnx`` or ``auto``.
        has_gpu: Whether MLX has a GPU, which decides ``auto`` for a checkpoint.

    Raises:
        ModelNotFoundError: The folder holds no model, or lacks one of its files.
        ModelFormatError: The configuration is damaged, or this version cannot run it.
        ConfigurationError: There is no model in the layout of ``backend``.
    """
    if folder.is_file():
        return _read_checkpoint(
            source, folder, choose_executor([folder.name], backend, has_gpu, source)
        )
    names = {path.name for path in folder.iterdir()}
    archive = _archive(names)
    if archive is not None:
        return read_folder(source, folder / archive, backend, has_gpu)
    if _CONFIG not in names:
        raise ModelNotFoundError(f"{folder} holds no model: {_CONFIG} is missing")
    raw = read_json(folder / _CONFIG)
    executor = choose_executor(names, backend, has_gpu, str(folder))
    missing = missing_file(folder, files_to_load(names))
    # A file that is there but truncated gets a more precise error when it is loaded.
    if missing is not None and not (folder / missing).is_file():
        raise ModelNotFoundError(f"{folder} lacks {missing}, which the model is loaded from")
    if _has_checkpoint(names):
        return _read_checkpoint(source, folder, executor)
    config = from_onnx_asr(raw, folder / _ONNX_VOCABULARY, folder / _CONFIG)
    return ModelFiles(source, folder, executor, config, None)


def _read_checkpoint(source: str, path: Path, executor: Executor) -> ModelFiles:
    checkpoint = read_checkpoint(path)
    return ModelFiles(source, path, executor, checkpoint.config, checkpoint)
