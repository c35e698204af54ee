"""The encoder on MLX: parakeet-mlx's modules on Metal, CUDA or a CPU.

Everything here runs on the inference thread and holds ``MLX_GLOBAL_LOCK`` for one step at a time.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import mlx.core as mx
import numpy as np
from parakeet_mlx.conformer import Conformer, ConformerArgs

from parakeet_stt.errors import ConfigurationError, ModelFormatError
from parakeet_stt.model import blas, device
from parakeet_stt.model.encoder import EncoderFrames, LocalAttention, encoder_frames, stack
from parakeet_stt.model.frontend import LogMel
from parakeet_stt.model.mlx.conformer import FastConformer

_CACHE_LIMIT = 512 << 20
"""Bytes of freed buffers that MLX may keep; without a limit it grows to nearly all memory."""

_PREFIX = "encoder."

_SMALL_WIDTH = 256
"""Products of up to this width take less time than waking up other threads for them does."""

_DEFAULTS = {"pos_emb_max_len": 5000}
"""NeMo's own for keys that parakeet-mlx does not let a configuration leave out."""

_process: int | None = None  # The one that uses MLX: this one or, after a fork, its parent.


def claim_mlx() -> None:
    """Make sure that MLX can run in this process; called on the inference thread.

    Raises:
        ConfigurationError: The process was forked from one that had used MLX.
    """
    global _process
    if _process is None:
        _process = os.getpid()
        # While the inference thread is still there: MLX's own threads end with its streams.
        device.run_last(mx.clear_streams)
    elif _process != os.getpid():
        raise ConfigurationError(
            "this process was forked from one that had already used MLX, which does not work in "
            "both. Start it with multiprocessing's 'spawn' or 'forkserver', use MLX only after the "
            "fork, or set backend='onnx'."
        )


class MLXEncoder:
    """A FastConformer encoder in MLX.

    Args:
        config: The parsed ``config.json`` of a parakeet-mlx folder.
        weights: Its ``model.safetensors``.
        precision: Arithmetic of the activations.

    Raises:
        ModelFormatError: The weights do not match the configuration.
    """

    name = "mlx"
    has_local_attention = True

    def __init__(
        self, config: dict[str, Any], weights: Path, precision: Literal["bf16", "fp32"]
    ) -> None:
        self.precision: str = precision
        self.device = device_name()
        self._dtype = mx.bfloat16 if precision == "bf16" else mx.float32
        if not has_gpu():
            small = config["encoder"]["d_model"] <= _SMALL_WIDTH
            blas.use_threads(mlx=1 if small else os.cpu_count() or 1)
        self._encoder = device.run(self._load, config, weights)

    def encode(
        self, windows: Sequence[LogMel], attention: LocalAttention | None
    ) -> list[EncoderFrames]:
        """Encode a batch of windows; see :class:`~parakeet_stt.model.encoder.Encoder`."""
        return device.run(self._encode, windows, attention)

    def _load(self, config: dict[str, Any], weights: Path) -> FastConformer:
        with device.MLX_GLOBAL_LOCK, device.native_calls:
            claim_mlx()
            mx.set_cache_limit(0)  # Each layer's buffers are freed before the next one is read.
            try:
                return FastConformer(_read_encoder(config, weights), self._dtype)
            finally:
                mx.set_cache_limit(_CACHE_LIMIT)

    def _encode(
        self, windows: Sequence[LogMel], attention: LocalAttention | None
    ) -> list[EncoderFrames]:
        with device.MLX_GLOBAL_LOCK, device.native_calls:
            claim_mlx()
            lengths = [len(window) for window in windows]
            frames = self._encoder(mx.array(stack(windows)), lengths, attention)
            found = np.array(frames.astype(mx.float32))
        return [f[: encoder_frames(n)] for f, n in zip(found, lengths, strict=True)]


def _read_encoder(config: dict[str, Any], weights: Path) -> Conformer:
    """parakeet-mlx's encoder; its weights are read from the file when they are evaluated."""
    names = [field.name for field in dataclasses.fields(ConformerArgs)]
    given = {**_DEFAULTS, **config["encoder"]}
    try:
        encoder = Conformer(ConformerArgs(**{n: given[n] for n in names if n in given}))
    except (TypeError, ValueError, ArithmeticError) as error:
        raise ModelFormatError(
            f"{weights.parent / 'config.json'}: no encoder can be made of its key encoder: {error}"
        ) from error
    arrays: dict[str, mx.array] = mx.load(str(weights))  # type: ignore[assignment]
    try:
        encoder.load_weights(
            [
                (name.removeprefix(_PREFIX), array)
                for name, array in arrays.items()
                if name.startswith(_PREFIX)
            ]
        )
    except ValueError as error:
        raise ModelFormatError(
            f"{weights} does not match the configuration beside it: {error}"
        ) from error
    return encoder


def has_gpu() -> bool:
    """Whether MLX has a GPU to run on: Metal or CUDA."""
    return mx.default_device().type == mx.gpu and mx.is_available(mx.gpu)


def use_cpu() -> None:
    """Have MLX compute on the CPU, whatever else there is."""
    mx.set_default_device(mx.cpu)


def device_name() -> str:
    """The device that MLX runs on, for people."""
    if not has_gpu():
        return "CPU"
    return "Metal GPU" if mx.metal.is_available() else "CUDA GPU"
