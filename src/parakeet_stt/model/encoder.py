"""What an encoder is: normalised log-mel in, encoder frames out, both numpy arrays.

The only part of a model that runs on a device. Everything else is written once, on top of this.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from parakeet_stt.model.frontend import LogMel

MAX_WINDOW = 3200
"""Maximum number of mel frames that are encoded at once: 32 s."""

Floats = npt.NDArray[np.float32]
"""float32, of any shape."""

EncoderFrames = Floats
"""float32 [frames, width]; a frame is 80 ms."""


@dataclass(frozen=True)
class LocalAttention:
    """Attention that is limited to a band around each frame.

    Attributes:
        left: Encoder frames that a frame sees before itself.
        right: Encoder frames that it sees after itself.
    """

    left: int
    right: int


class Encoder(Protocol):
    """One device's way to run a FastConformer encoder."""

    name: str
    """``mlx`` or ``onnx``."""

    device: str
    """Where it runs, for people."""

    precision: str
    """Arithmetic of the activations."""

    has_local_attention: bool
    """Whether it supports local attention; otherwise every window has full attention."""

    def encode(
        self, windows: Sequence[LogMel], attention: LocalAttention | None
    ) -> list[EncoderFrames]:
        """Encode windows of any lengths as one batch, each as if it were alone.

        Args:
            windows: Normalised log-mel ``[frames, bins]`` each, at least one frame.
            attention: The band, or None where every frame sees its whole window.

        Returns:
            ``[ceil(frames / 8), width]`` for each window.
        """
        ...


def encoder_frames(mel_frames: int) -> int:
    """How many encoder frames a window of mel frames gives: three halvings, rounded up."""
    return -(-mel_frames // 8)


def stack(windows: Sequence[LogMel]) -> LogMel:
    """Windows as one array ``[windows, longest, bins]``, zeros behind the shorter ones."""
    longest = max(len(window) for window in windows)
    batch = np.zeros((len(windows), longest, windows[0].shape[1]), np.float32)
    for row, window in zip(batch, windows, strict=True):
        row[: len(window)] = window
    return batch
