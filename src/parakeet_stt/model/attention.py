"""Relative-position attention limited to a band, in portable MLX operations.

A frame at distance outside ``[-left, right]`` is masked in parakeet-mlx's own full attention:
the same numbers as NeMo's ``rel_pos_local_attn`` where that is right (symmetric windows), right
for asymmetric ones too, and no Metal kernel.
"""

from __future__ import annotations

import mlx.core as mx

from parakeet_stt.model.encoder import LocalAttention


def band_mask(frames: int, heads: int, band: LocalAttention) -> mx.array | None:
    """Which pairs of frames are hidden from each other.

    Args:
        frames: Encoder frames in the window.
        heads: Attention heads, to each of which the mask is repeated.
        band: How far a frame sees.

    Returns:
        bool ``[heads, query, key]``, true where the key is outside the band; None where nothing is,
        so that the mask costs nothing in windows that the band covers.
    """
    if frames - 1 <= min(band.left, band.right):
        return None
    position = mx.arange(frames)
    distance = position[None, :] - position[:, None]
    outside = (distance < -band.left) | (distance > band.right)
    return mx.broadcast_to(outside, (heads, frames, frames))
