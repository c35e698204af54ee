"""The FastConformer encoder's arithmetic in MLX, over the modules and weights of parakeet-mlx.

Rekesh et al., "Fast Conformer with Linearly Scalable Attention for Efficient Speech Recognition",
2023; relative positions after Dai et al., "Transformer-XL", 2019. Beyond parakeet-mlx's own forward
pass: windows of different lengths in one batch, which never see each other's padding, attention
limited to a band, and fewer operations (queries, keys and values are one product, batch
normalisation is part of the convolution, positions are projected once and not for every window).
Operations that Metal, CUDA and CPU all have. Checked against NeMo in tests/test_encoder.py.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_map
from parakeet_mlx.conformer import Conformer, ConformerBlock

from parakeet_stt.model.encoder import LocalAttention, encoder_frames
from parakeet_stt.model.memory import trim_heap
from parakeet_stt.model.mlx.attention import hidden_keys, shift_positions

_HIDDEN = -1e9
"""Score of a key that must not be seen: finite, since a row of padding may see none at all."""

_POSITION_STEP = 128  # Positions are projected for so many frames, and again for as many more.


class FastConformer:
    """The encoder, for inference.

    Args:
        encoder: parakeet-mlx's encoder without its weights. Its layers are taken from it one by
            one, so that each is read from the file, converted and freed before the next one.
        load: Loads the weights of one of its modules whose names start with a prefix.
        dtype: Arithmetic of the activations.
    """

    def __init__(
        self, encoder: Conformer, load: Callable[[Any, str], None], dtype: mx.Dtype
    ) -> None:
        self._dtype = dtype
        self._positions = encoder.pos_enc
        self._layers: list[_Layer] = []
        for index in range(len(encoder.layers)):
            block = encoder.layers.pop(0)
            load(block, f"layers.{index}.")
            layer = _Layer(block, dtype)
            # Lazily built arrays belong to the thread that made them: make them here.
            mx.eval(layer.arrays)
            self._layers.append(layer)
            trim_heap()
        self._subsampling = encoder.pre_encode
        load(self._subsampling, "pre_encode.")
        self._subsampling.update(
            tree_map(lambda array: array.astype(dtype), self._subsampling.parameters())
        )
        self._known_frames = 0  # For so many frames the layers know their positions.
        mx.eval(self._subsampling.parameters())

    def __call__(
        self, mel: mx.array, lengths: Sequence[int], attention: LocalAttention | None
    ) -> mx.array:
        """Encode a batch of windows.

        Args:
            mel: Normalised log-mel ``[windows, frames, bins]``, zeros behind each window's end.
            lengths: Mel frames in each window.
            attention: The band, or None where every frame sees its whole window.

        Returns:
            ``[windows, ceil(frames / 8), width]``; what lies behind a window's end means nothing.
        """
        windows, frames = mel.shape[0], encoder_frames(mel.shape[1])
        ends = [encoder_frames(length) for length in lengths]
        padded = min(ends) < frames
        behind = mx.arange(frames)[None, :] >= mx.array(ends)[:, None] if padded else None
        hidden = hidden_keys(frames, attention, behind)
        if frames > self._known_frames:
            self._project_positions(frames)
        x = self._subsample(mel.astype(self._dtype), lengths)
        x = x.reshape(windows * frames, -1)
        if self._positions.scale != 1:
            x = x * self._positions.scale
        for layer in self._layers:
            x = layer(x, windows, hidden, behind)
        return x.reshape(windows, frames, -1)

    def _subsample(self, mel: mx.array, lengths: Sequence[int]) -> mx.array:
        """Three strided convolutions, each of which sees zeros behind a window's end."""
        x, ends = mel[..., None], list(lengths)
        for module in self._subsampling.conv:
            if isinstance(module, nn.Conv2d) and module.stride != (1, 1):
                if min(ends) < x.shape[1]:
                    behind = mx.arange(x.shape[1])[None, :] >= mx.array(ends)[:, None]
                    x = mx.where(behind[:, :, None, None], 0, x)
                ends = [-(-end // 2) for end in ends]
            x = module(x)
        # To [windows, frames, channels * bins], as the checkpoint's last layer expects it.
        x = x.swapaxes(2, 3)
        out: mx.array = self._subsampling.out(x.reshape(*x.shape[:2], -1))
        return out

    def _project_positions(self, frames: int) -> None:
        """Let every layer know the positions of windows of up to so many frames."""
        frames = -(-frames // _POSITION_STEP) * _POSITION_STEP
        _, table = self._positions(mx.zeros((1, frames, 1)))
        for layer in self._layers:
            layer.project_positions(table[0].astype(self._dtype))
        self._known_frames = frames


class _Layer:
    """One FastConformer block, on ``[windows * frames, width]``."""

    def __init__(self, layer: ConformerBlock, dtype: mx.Dtype) -> None:
        attention, convolution = layer.self_attn, layer.conv
        self._heads, self._scale = attention.n_head, attention.scale
        self._first = _FeedForward(layer.norm_feed_forward1, layer.feed_forward1, dtype)
        self._norm_attention = _Norm(layer.norm_self_att, dtype)
        self._inputs = _Linear(
            [attention.linear_q, attention.linear_k, attention.linear_v], dtype=dtype
        )
        self._position = _Linear([attention.linear_pos], self._scale, dtype)
        self._bias_u = attention.pos_bias_u[:, None, :].astype(dtype)
        self._bias_v = attention.pos_bias_v[:, None, :].astype(dtype)
        self._attended = _Linear([attention.linear_out], dtype=dtype)
        self._norm_convolution = _Norm(layer.norm_conv, dtype)
        self._gated = _Linear([convolution.pointwise_conv1], dtype=dtype)
        # Batch normalisation, folded in float32 before anything is rounded.
        norm, depthwise = convolution.batch_norm, convolution.depthwise_conv
        gain = _exact(norm.weight) * mx.rsqrt(_exact(norm.running_var) + norm.eps)
        offset = _exact(norm.bias) - _exact(norm.running_mean) * gain
        if "bias" in depthwise:
            offset = offset + _exact(depthwise.bias) * gain
        self._kernel = (depthwise.weight * gain[:, None, None]).astype(dtype)
        self._offset = offset.astype(dtype)
        self._convolved = _Linear([convolution.pointwise_conv2], dtype=dtype)
        self._second = _FeedForward(layer.norm_feed_forward2, layer.feed_forward2, dtype)
        self._norm_out = _Norm(layer.norm_out, dtype)
        self._projected = mx.zeros((self._heads, 1, 1), dtype)

    @property
    def arrays(self) -> list[Any]:
        """Everything that has to be computed before another thread may use the layer."""
        parts = [value for value in vars(self).values() if hasattr(value, "arrays")]
        own = [value for value in vars(self).values() if isinstance(value, mx.array)]
        return own + [part.arrays for part in parts]

    def project_positions(self, table: mx.array) -> None:
        """Keep what the attention makes of positions ``[2 * frames - 1, width]``."""
        projected = self._position(table)
        self._projected = projected.reshape(len(table), self._heads, -1).swapaxes(0, 1)
        self._projected = mx.contiguous(self._projected)
        mx.eval(self._projected)

    def __call__(
        self, x: mx.array, windows: int, hidden: mx.array | None, behind: mx.array | None
    ) -> mx.array:
        x = self._first(x)
        x = self._attend(x, windows, hidden)
        x = self._convolve(x, windows, behind)
        return self._norm_out(self._second(x))

    def _attend(self, x: mx.array, windows: int, hidden: mx.array | None) -> mx.array:
        width = x.shape[-1]
        inputs = self._inputs(self._norm_attention(x))
        inputs = inputs.reshape(windows, -1, 3 * self._heads, width // self._heads)
        query, key, value = mx.split(inputs.swapaxes(1, 2), 3, axis=1)
        frames, middle = query.shape[2], self._projected.shape[1] // 2
        positions = self._projected[:, middle - frames + 1 : middle + frames]
        scores = shift_positions((query + self._bias_v) @ positions.swapaxes(1, 2))
        if hidden is not None:
            scores = mx.where(hidden, _HIDDEN, scores)
        found = mx.fast.scaled_dot_product_attention(
            query + self._bias_u, key, value, scale=self._scale, mask=scores
        )
        return self._attended(found.swapaxes(1, 2).reshape(-1, width), add_to=x)

    def _convolve(self, x: mx.array, windows: int, behind: mx.array | None) -> mx.array:
        value, gate = mx.split(self._gated(self._norm_convolution(x)), 2, axis=-1)
        gated = (value * mx.sigmoid(gate)).reshape(windows, -1, x.shape[-1])
        if behind is not None:
            gated = mx.where(behind[:, :, None], 0, gated)
        size, width = self._kernel.shape[1], x.shape[-1]
        mixed = mx.conv1d(gated, self._kernel, padding=size // 2, groups=width) + self._offset
        return self._convolved(nn.silu(mixed).reshape(-1, width), add_to=x)


class _FeedForward:
    """Half of a macaron pair, with its residual."""

    def __init__(self, norm: nn.LayerNorm, module: Any, dtype: mx.Dtype) -> None:
        self._norm = _Norm(norm, dtype)
        self._wide = _Linear([module.linear1], dtype=dtype)
        self._narrow = _Linear([module.linear2], 0.5, dtype)

    @property
    def arrays(self) -> list[Any]:
        return [self._norm.arrays, self._wide.arrays, self._narrow.arrays]

    def __call__(self, x: mx.array) -> mx.array:
        return self._narrow(nn.silu(self._wide(self._norm(x))), add_to=x)


class _Norm:
    """Layer normalisation."""

    def __init__(self, norm: nn.LayerNorm, dtype: mx.Dtype) -> None:
        self._weight, self._bias = norm.weight.astype(dtype), norm.bias.astype(dtype)
        self._eps = norm.eps

    @property
    def arrays(self) -> list[mx.array]:
        return [self._weight, self._bias]

    def __call__(self, x: mx.array) -> mx.array:
        return mx.fast.layer_norm(x, self._weight, self._bias, self._eps)


class _Linear:
    """One product for one or several linear layers (or convolutions of size one) side by side."""

    def __init__(self, modules: list[Any], scale: float = 1, dtype: mx.Dtype = mx.float32) -> None:
        weights = [module.weight.reshape(module.weight.shape[0], -1) for module in modules]
        self._weight = _scaled(weights, scale, dtype).T
        self._bias = None
        if "bias" in modules[0]:
            self._bias = _scaled([module.bias for module in modules], scale, dtype)

    @property
    def arrays(self) -> list[mx.array]:
        return [self._weight] if self._bias is None else [self._weight, self._bias]

    def __call__(self, x: mx.array, add_to: mx.array | None = None) -> mx.array:
        if add_to is None:
            return x @ self._weight if self._bias is None else mx.addmm(self._bias, x, self._weight)
        if self._bias is not None:
            add_to = add_to + self._bias
        return mx.addmm(add_to, x, self._weight)


def _exact(array: mx.array) -> mx.array:
    return array.astype(mx.float32)


def _scaled(parts: list[mx.array], scale: float, dtype: mx.Dtype) -> mx.array:
    """Weights side by side, multiplied in float32 before they are rounded."""
    whole = mx.concatenate(parts)
    return whole.astype(dtype) if scale == 1 else (_exact(whole) * scale).astype(dtype)
