"""Loading a model: from a source and settings to a :class:`~parakeet_stt.model.model.Model`."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np
from loguru import logger

from parakeet_stt.errors import ConfigurationError, ModelFormatError, ParakeetError
from parakeet_stt.model import blas, hub
from parakeet_stt.model.decoder import (
    Decoder,
    GreedyCTC,
    GreedyTransducer,
    NumpyNetwork,
)
from parakeet_stt.model.device import on_fork, run_interruptibly
from parakeet_stt.model.encoder import Encoder, encoder_frames
from parakeet_stt.model.executors import choose_precision, load_encoder, missing_mlx, mlx_has_gpu
from parakeet_stt.model.layout import ModelFiles
from parakeet_stt.model.memory import trim_heap
from parakeet_stt.model.model import Model
from parakeet_stt.settings import Backend, Device, Precision, RunPrecision, load_settings

_loaded: dict[tuple[Any, ...], Model] = {}
_loading = threading.Lock()


def load_model(
    source: str | Path | None = None,
    *,
    precision: Precision | None = None,
    backend: Backend | None = None,
    device: Device | None = None,
    cache_dir: Path | None = None,
) -> Model:
    """Load a model. The same arguments return the same shared model.

    An argument that is not given is read from its environment variable (``PARAKEET_MODEL`` and so
    on), and otherwise has the setting's default.

    Args:
        source: ``tiny``, a known name, a folder, a ``.nemo`` file, or a Hugging Face id, which may
            end in ``@revision``.
        precision: ``bf16`` (MLX only), ``fp32``, ``int8`` (checkpoints on ONNX Runtime only), or
            ``auto`` (the default): bf16 for MLX on a GPU, otherwise fp32.
        backend: ``mlx``, ``onnx`` or ``auto`` (the default).
        device: ``gpu``, ``cpu`` or ``auto`` (the default). MLX has one device per process.
        cache_dir: Folder for downloads; Hugging Face's own cache by default.

    Raises:
        ModelNotFoundError: There is no such model, folder or repository, or a file is missing.
        ModelUnavailableError: Not cached, and there is no network, no access or no disk space.
        ModelFormatError: This version cannot run the model, or its files are damaged.
        ConfigurationError: A setting cannot be used with this model or on this machine.
    """
    settings = load_settings(
        model=None if source is None else str(source),
        precision=precision,
        backend=backend,
        device=device,
        cache_dir=cache_dir,
    )
    # MLX is not even imported for the ONNX executor.
    missing = missing_mlx() if settings.backend != "onnx" else None
    if missing and settings.backend == "mlx":
        raise ConfigurationError(f"backend='mlx': {missing}")
    chosen_backend: Backend = "onnx" if missing else settings.backend
    gpu = chosen_backend != "onnx" and mlx_has_gpu(settings.device)
    try:
        # Without the lock: one model's download must not delay other models.
        files = hub.find_model(
            settings.model,
            chosen_backend,
            gpu,
            settings.cache_dir,
            needs_checkpoint=settings.precision == "int8",
        )
    except ConfigurationError as error:
        raise ConfigurationError(f"{error} ({missing})" if missing else str(error)) from error
    with _loading:
        if settings.device == "gpu" and files.executor == "mlx" and not gpu:
            raise ConfigurationError(
                "PARAKEET_DEVICE='gpu': MLX has no GPU here; on NVIDIA it needs the extra `cuda`"
            )
        chosen = choose_precision(settings.precision, files, gpu)
        key = (files.folder, files.executor, chosen, settings.device)
        if key not in _loaded:
            _loaded[key] = run_interruptibly(_load, files, chosen, settings.device)
            trim_heap()
            logger.info(f"loaded {_loaded[key]!r}")
        return _loaded[key]


def _reset_lock() -> None:
    """Replace the lock in a forked child: another thread of the parent may have held it."""
    global _loading
    _loading = threading.Lock()


on_fork(_reset_lock)


def _load(files: ModelFiles, precision: RunPrecision, device: Device) -> Model:
    blas.use_threads(numpy=1)  # The decoder's products take less time than waking up a thread.
    encoder = load_encoder(files, precision, device)
    try:
        decoder = _decoder(files)
    except KeyError as error:
        raise ModelFormatError(f"{files.folder}: the weights lack {error}") from error
    _check_runs(files, encoder, decoder)
    return Model(files, encoder, decoder)


def _decoder(files: ModelFiles) -> Decoder[Any]:
    """Make the decoder: in numpy for a checkpoint, otherwise from the export's graph.

    Raises:
        KeyError: A tensor is missing.
        ModelFormatError: The output layer has another size than the configuration.
    """
    config, checkpoint = files.config, files.checkpoint
    if checkpoint is None:
        if config.kind == "ctc":
            return GreedyCTC(config, None)
        from parakeet_stt.model.onnx.export import OnnxNetwork

        graph = OnnxNetwork(files.onnx_decoder, config.blank, len(config.durations))
        return GreedyTransducer(config, graph)
    tensors = checkpoint.tensors
    layer = "decoder.decoder_layers.0" if config.kind == "ctc" else "joint.joint_net.2"
    bias = tensors[f"{layer}.bias"]
    expected = config.blank + 1 + len(config.durations)
    if len(bias) != expected:
        raise ModelFormatError(
            f"{files.folder}: the weights have {len(bias)} outputs, expected {expected} from the "
            f"configuration's vocabulary and durations"
        )
    if config.kind == "ctc":
        weight = tensors[f"{layer}.weight"]  # [outputs, width, 1]
        return GreedyCTC(config, (weight[:, :, 0], bias))
    return GreedyTransducer(config, NumpyNetwork(tensors, config.activation))


_TRIAL_FRAMES = (17, 9)  # Mel frames: lengths that differ, and are no multiples of 8.


def _check_runs(files: ModelFiles, encoder: Encoder, decoder: Decoder[Any]) -> None:
    """Run two short windows of silence, so that a model that cannot run fails during loading.

    Raises:
        ModelFormatError: It fails, or its output does not have the expected shape.
    """
    features = files.config.features
    windows = [np.zeros((frames, features), np.float32) for frames in _TRIAL_FRAMES]
    try:
        for window, frames in zip(windows, encoder.encode(windows, None), strict=True):
            if len(frames) != encoder_frames(len(window)):
                raise ModelFormatError(
                    f"{files.folder}: the encoder returns {len(frames)} frames for {len(window)} "
                    f"mel frames, expected {encoder_frames(len(window))}"
                )
            outputs = files.config.blank + 1
            is_ctc_graph = files.config.kind == "ctc" and files.checkpoint is None
            if is_ctc_graph and frames.shape[1] != outputs:
                raise ModelFormatError(
                    f"{files.onnx_encoder} has {frames.shape[1]} outputs, expected {outputs} from "
                    f"the vocabulary beside it"
                )
            decoder.decode(frames, decoder.initial())
    except ParakeetError:
        raise
    except Exception as error:  # The executors have no common base class for their errors.
        raise ModelFormatError(
            f"{files.folder}: the model cannot be run, its files do not belong together or are of "
            f"a kind that this version does not support: {error}"
        ) from error
