"""What relative-position attention needs beside products, in portable MLX operations.

A band of attention is a mask on full attention: the same numbers as NeMo's ``rel_pos_local_attn``
where that is right (symmetric windows), right for asymmetric ones too, and no Metal kernel.
"""

from __future__ import annotations

import mlx.core as mx

from parakeet_stt.model.encoder import LocalAttention


def shift_positions(scores: mx.array) -> mx.array:
    """Turn scores by distance into scores by key.

    Args:
        scores: ``[windows, heads, frames, 2 * frames - 1]``, the last axis running from the most
            distant key before the query to the most distant behind it.

    Returns:
        ``[windows, heads, query, key]``.
    """
    windows, heads, frames, distances = scores.shape
    # Each row begins one distance earlier than the row above: a view, no copy.
    strides = (heads * frames * distances, frames * distances, distances - 1, 1)
    return mx.as_strided(scores, (windows, heads, frames, frames), strides, frames - 1)


def hidden_keys(
    frames: int, band: LocalAttention | None, behind: mx.array | None
) -> mx.array | None:
    """Which frames are hidden from each other.

    Args:
        frames: Encoder frames in the longest window.
        band: How far a frame sees; None where it sees everything.
        behind: bool ``[windows, frames]``, true behind each window's end; None without padding.

    Returns:
        bool, broadcastable to ``[windows, heads, query, key]``, true where the key is hidden; None
        where nothing is, so that the mask costs nothing in windows that the band covers.
    """
    hidden = None if behind is None else behind[:, None, None, :]
    if band is None or frames - 1 <= min(band.left, band.right):
        return hidden
    position = mx.arange(frames)
    distance = position[None, :] - position[:, None]
    outside = (distance < -band.left) | (distance > band.right)
    return outside[None, None] if hidden is None else hidden | outside
