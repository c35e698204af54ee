"""The encoder on MLX: parakeet-mlx's modules on Metal, CUDA or a CPU.

Everything here runs on the inference thread and holds ``MLX_GLOBAL_LOCK`` for one step at a time.
"""

from __future__ import annotations

import atexit
from pathlib import Path
from typing import Any, Literal

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx.utils import tree_map
from parakeet_mlx.conformer import Conformer
from parakeet_mlx.utils import from_config

from parakeet_stt.errors import ModelFormatError
from parakeet_stt.model import device
from parakeet_stt.model.attention import band_mask
from parakeet_stt.model.encoder import EncoderFrames, LocalAttention, encoder_frames
from parakeet_stt.model.frontend import LogMel

_CACHE_LIMIT = 512 << 20
"""Bytes of freed buffers that MLX may keep; without a limit it grows to nearly all memory."""

_PREFIX = "encoder."

# While the inference thread is still there to do it: MLX's own threads end with its streams.
atexit.register(device.run, mx.clear_streams)


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

    def __init__(
        self, config: dict[str, Any], weights: Path, precision: Literal["bf16", "fp32"]
    ) -> None:
        self.precision: str = precision
        self.device = device_name()
        self._dtype = mx.bfloat16 if precision == "bf16" else mx.float32
        self._encoder = device.run(self._load, config, weights)

    def encode(self, mel: LogMel, attention: LocalAttention | None) -> EncoderFrames:
        """Encode one window; see :class:`~parakeet_stt.model.encoder.Encoder`."""
        return device.run(self._encode, mel, attention)

    def _load(self, config: dict[str, Any], weights: Path) -> Conformer:
        with device.MLX_GLOBAL_LOCK:
            mx.set_cache_limit(_CACHE_LIMIT)
            encoder = from_config(config).encoder
            arrays: dict[str, mx.array] = mx.load(str(weights))  # type: ignore[assignment]
            try:
                encoder.load_weights(
                    [
                        (name.removeprefix(_PREFIX), array.astype(mx.float32))
                        for name, array in arrays.items()
                        if name.startswith(_PREFIX)
                    ]
                )
            except ValueError as error:
                raise ModelFormatError(
                    f"{weights} does not match the configuration beside it: {error}"
                ) from error
            # From the float32 statistics, before anything is rounded.
            norms = [_Affine(layer.conv.batch_norm) for layer in encoder.layers]
            encoder.update(tree_map(lambda array: array.astype(self._dtype), encoder.parameters()))
            for layer, norm in zip(encoder.layers, norms, strict=True):
                layer.conv.batch_norm = norm
            # Lazily built arrays belong to the thread that made them: make them here.
            mx.eval(encoder.parameters())
            return encoder

    def _encode(self, mel: LogMel, attention: LocalAttention | None) -> EncoderFrames:
        with device.MLX_GLOBAL_LOCK:
            encoder = self._encoder
            lengths = mx.array([len(mel)])
            x, _ = encoder.pre_encode(mx.array(mel[None]).astype(self._dtype), lengths)
            x, positions = encoder.pos_enc(x)
            frames = encoder_frames(len(mel))
            mask = band_mask(frames, encoder.args.n_heads, attention) if attention else None
            for layer in encoder.layers:
                x = layer(x, pos_emb=positions, mask=mask)
            return np.array(x[0].astype(mx.float32))


class _Affine(nn.Module):  # type: ignore[name-defined,misc]
    """Batch normalisation for inference as one product and sum, in float32 whatever comes in."""

    def __init__(self, norm: Any) -> None:
        super().__init__()
        self._scale = norm.weight * mx.rsqrt(norm.running_var + norm.eps)
        self._shift = norm.bias - norm.running_mean * self._scale
        mx.eval(self._scale, self._shift)

    def __call__(self, x: mx.array) -> mx.array:
        y: mx.array = x.astype(mx.float32) * self._scale + self._shift
        return y.astype(x.dtype)


def has_gpu() -> bool:
    """Whether MLX has a GPU to run on: Metal or CUDA."""
    return mx.default_device().type == mx.gpu and mx.is_available(mx.gpu)


def device_name() -> str:
    """The device that MLX runs on, for people."""
    if not has_gpu():
        return "CPU"
    return "Metal GPU" if mx.metal.is_available() else "CUDA GPU"
