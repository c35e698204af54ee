"""The encoder on MLX: parakeet-mlx's modules on Metal, CUDA or a CPU.

Everything here runs on the inference thread and holds ``MLX_GLOBAL_LOCK`` for one step at a time.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any, Literal

import mlx.core as mx
import numpy as np
from parakeet_mlx.conformer import Conformer, ConformerArgs

from parakeet_stt.errors import ConfigurationError, ModelFormatError
from parakeet_stt.model import blas, device
from parakeet_stt.model.checkpoint import Checkpoint
from parakeet_stt.model.config import ENCODER_HOP
from parakeet_stt.model.encoder import (
    EncoderFrames,
    Floats,
    LocalAttention,
    encoder_frames,
    stack,
)
from parakeet_stt.model.frontend import LogMel
from parakeet_stt.model.memory import trim_heap
from parakeet_stt.model.mlx.conformer import FastConformer

_CACHE_LIMIT = 512 << 20
"""Bytes of freed buffers that MLX may keep; without a limit it grows to nearly all memory."""

_PREFIX = "encoder."

_SMALL_WIDTH = 256
"""Products of up to this width take less time than waking up other threads for them does."""

_FOLDED = ("linear_pos.weight", "pos_bias_u", "pos_bias_v")
"""Two-dimensional tensors that are multiplied in float32 before they are rounded."""

_IGNORED = ("conv.batch_norm.num_batches_tracked",)
"""Tensors that inference does not need."""

_MAX_POSITIONS = 5000
"""NeMo's default; the table grows if a window is longer."""

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
        checkpoint: The model; its encoder's tensors are read here, one layer at a time.
        precision: Arithmetic of the activations.

    Raises:
        ModelFormatError: The weights do not match the configuration.
    """

    name = "mlx"
    has_local_attention = True

    def __init__(self, checkpoint: Checkpoint, precision: Literal["bf16", "fp32"]) -> None:
        self.precision: str = precision
        self.device = device_name()
        self._dtype = mx.bfloat16 if precision == "bf16" else mx.float32
        if not has_gpu():
            width = len(checkpoint.tensors[f"{_PREFIX}pre_encode.out.weight"])
            small = width <= _SMALL_WIDTH
            blas.use_threads(mlx=1 if small else os.cpu_count() or 1)
        self._encoder = device.run(self._load, checkpoint)

    def encode(
        self, windows: Sequence[LogMel], attention: LocalAttention | None
    ) -> list[EncoderFrames]:
        """Encode a batch of windows; see :class:`~parakeet_stt.model.encoder.Encoder`."""
        return device.run(self._encode, windows, attention)

    def _load(self, checkpoint: Checkpoint) -> FastConformer:
        with device.MLX_GLOBAL_LOCK, device.native_calls:
            claim_mlx()
            mx.set_cache_limit(0)  # Each layer's buffers are freed before the next one is read.
            try:
                tensors = checkpoint.tensors.below(_PREFIX)

                def load(module: Any, prefix: str) -> None:
                    arrays = []
                    for name in tensors.below(prefix):
                        if name not in _IGNORED:
                            arrays.append((name, self._array(name, tensors[prefix + name])))
                            trim_heap()
                    module.load_weights(arrays)

                return FastConformer(_conformer(checkpoint), load, self._dtype)
            except ValueError as error:
                raise ModelFormatError(
                    f"{checkpoint.path}: the weights do not match the configuration: {error}"
                ) from error
            finally:
                mx.set_cache_limit(_CACHE_LIMIT)

    def _array(self, name: str, tensor: Floats) -> mx.array:
        """Convert a tensor; the input channels of convolutions move to the last axis.

        Linear weights that nothing is folded into get the encoder's type at once, so that a layer
        is never in memory as float32 as a whole.
        """
        if tensor.ndim >= 3:
            tensor = np.moveaxis(tensor, 1, -1)
        array = mx.array(tensor)
        if tensor.ndim == 2 and not name.endswith(_FOLDED):
            array = array.astype(self._dtype)
            mx.eval(array)
        return array

    def _encode(
        self, windows: Sequence[LogMel], attention: LocalAttention | None
    ) -> list[EncoderFrames]:
        with device.MLX_GLOBAL_LOCK, device.native_calls:
            claim_mlx()
            lengths = [len(window) for window in windows]
            frames = self._encoder(mx.array(stack(windows)), lengths, attention)
            found = np.array(frames.astype(mx.float32))
        return [f[: encoder_frames(n)] for f, n in zip(found, lengths, strict=True)]


def _conformer(checkpoint: Checkpoint) -> Conformer:
    """parakeet-mlx's encoder with the checkpoint's sizes, without its weights."""
    tensors = checkpoint.tensors.below(_PREFIX)
    try:
        width = len(tensors["pre_encode.out.weight"])
        return Conformer(
            ConformerArgs(
                feat_in=checkpoint.config.features,
                n_layers=checkpoint.encoder.layers,
                d_model=width,
                n_heads=checkpoint.encoder.heads,
                ff_expansion_factor=len(tensors["layers.0.feed_forward1.linear1.weight"]) // width,
                subsampling_factor=ENCODER_HOP,
                self_attention_model="rel_pos",
                subsampling="dw_striding",
                conv_kernel_size=tensors["layers.0.conv.depthwise_conv.weight"].shape[-1],
                subsampling_conv_channels=len(tensors["pre_encode.conv.0.weight"]),
                pos_emb_max_len=_MAX_POSITIONS,
                use_bias="layers.0.self_attn.linear_q.bias" in tensors,
                xscaling=checkpoint.encoder.scale_input,
            )
        )
    except KeyError as error:
        raise ModelFormatError(f"{checkpoint.path}: the weights lack {error}") from error
    except (TypeError, ValueError, ArithmeticError) as error:
        raise ModelFormatError(
            f"{checkpoint.path}: no encoder can be made of its configuration: {error}"
        ) from error


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
