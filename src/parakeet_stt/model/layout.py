"""Layouts of a model's folder: which files it is loaded from, and what runs it.

Two layouts are supported: parakeet-mlx's (``model.safetensors``) and onnx-asr's
(``encoder-model.onnx``, or ``model.onnx`` for CTC). A folder may have both, with one
``config.json``.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from parakeet_stt.errors import ConfigurationError, ModelFormatError, ModelNotFoundError
from parakeet_stt.model.config import ModelConfig, from_nemo, from_onnx_asr
from parakeet_stt.model.integrity import missing_file
from parakeet_stt.settings import Backend

Executor = Literal["mlx", "onnx"]
"""What runs a model's encoder: MLX or ONNX Runtime."""

_CONFIG = "config.json"
_MLX_WEIGHTS = "model.safetensors"
_ONNX_ENCODER = "encoder-model.onnx"
_ONNX_DECODER = "decoder_joint-model.onnx"
_ONNX_CTC = "model.onnx"
_ONNX_VOCABULARY = "vocab.txt"


@dataclass(frozen=True)
class ModelFiles:
    """A model's folder and its configuration.

    Attributes:
        source: The name, folder or id that the caller gave.
        folder: The folder with the files.
        executor: What runs the encoder.
        raw: The parsed ``config.json``.
        config: The part of the configuration that this package uses.
    """

    source: str
    folder: Path
    executor: Executor
    raw: dict[str, Any]
    config: ModelConfig

    @property
    def weights(self) -> Path | None:
        """parakeet-mlx's weights; None if the folder does not have them."""
        path = self.folder / _MLX_WEIGHTS
        return path if path.is_file() else None

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
        has_gpu: Whether MLX has a GPU, which decides ``auto`` if both layouts are there.
        location: The folder or repository, for error messages.

    Raises:
        ModelNotFoundError: There is no model in either layout.
        ConfigurationError: There is no model in the layout of ``backend``.
    """
    names = set(names)
    mlx = _MLX_WEIGHTS in names
    onnx = _ONNX_ENCODER in names or _ONNX_CTC in names
    if not mlx and not onnx:
        raise ModelNotFoundError(
            f"{location} holds no model: expected {_MLX_WEIGHTS} (parakeet-mlx's layout) or "
            f"{_ONNX_ENCODER} (onnx-asr's layout) beside {_CONFIG}"
        )
    if (backend == "mlx" and not mlx) or (backend == "onnx" and not onnx):
        raise ConfigurationError(
            f"{location} has no {backend} encoder, only "
            f"{_MLX_WEIGHTS if mlx else 'an ONNX export'}. Use backend 'auto'."
        )
    if backend == "auto":
        return "mlx" if mlx and (has_gpu or not onnx) else "onnx"
    return backend


def files_to_load(names: Iterable[str], executor: Executor) -> list[str]:
    """Names of the files that a model is loaded from.

    External data of ONNX graphs is not included:
    :func:`~parakeet_stt.model.integrity.missing_file` reads its names from the graphs.
    """
    names = set(names)
    files = [_CONFIG]
    if _MLX_WEIGHTS in names:  # Also for an ONNX encoder: the decoder uses them.
        files.append(_MLX_WEIGHTS)
    elif _ONNX_ENCODER in names:
        files += [_ONNX_VOCABULARY, _ONNX_DECODER]
    else:
        files.append(_ONNX_VOCABULARY)
    if executor == "onnx":
        files.append(_ONNX_ENCODER if _ONNX_ENCODER in names else _ONNX_CTC)
    return files


def read_folder(source: str, folder: Path, backend: Backend, has_gpu: bool) -> ModelFiles:
    """Read the configuration of a model's folder and choose what runs it.

    Args:
        source: The name, folder or id that the caller gave.
        folder: The folder.
        backend: As in :func:`choose_executor`.
        has_gpu: As in :func:`choose_executor`.

    Raises:
        ModelNotFoundError: The folder holds no model, or lacks one of its files.
        ModelFormatError: The configuration is damaged, or this version cannot run it.
        ConfigurationError: There is no model in the layout of ``backend``.
    """
    raw = _read_config(folder / _CONFIG)
    names = {path.name for path in folder.iterdir()}
    executor = choose_executor(names, backend, has_gpu, str(folder))
    missing = missing_file(folder, files_to_load(names, executor))
    # A file that is there but truncated gets a more precise error when it is loaded.
    if missing is not None and not (folder / missing).is_file():
        raise ModelNotFoundError(f"{folder} lacks {missing}, which the model is loaded from")
    if _MLX_WEIGHTS in names:
        config = from_nemo(raw, folder / _CONFIG)
    else:
        config = from_onnx_asr(raw, folder / _ONNX_VOCABULARY, folder / _CONFIG)
    return ModelFiles(source, folder, executor, raw, config)


def _read_config(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise ModelNotFoundError(f"{path.parent} holds no model: config.json is missing")
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, UnicodeDecodeError) as error:
        raise ModelFormatError(f"{path} is not JSON: {error}") from error
    if not isinstance(config, dict):
        raise ModelFormatError(f"{path} holds a {type(config).__name__}, expected an object")
    return config
