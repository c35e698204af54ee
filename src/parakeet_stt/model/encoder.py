"""What an encoder is: normalised log-mel in, encoder frames out, both numpy arrays.

The only part of a model that runs on a device. Everything else is written once, on top of this.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from parakeet_stt.model.frontend import LogMel

EncoderFrames = npt.NDArray[np.float32]
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

    def encode(self, mel: LogMel, attention: LocalAttention | None) -> EncoderFrames:
        """Encode one window.

        Args:
            mel: Normalised log-mel ``[frames, bins]``, at least one frame.
            attention: The band, or None where every frame sees the whole window.

        Returns:
            ``[ceil(frames / 8), width]``.
        """
        ...


def encoder_frames(mel_frames: int) -> int:
    """How many encoder frames a window of mel frames gives: three halvings, rounded up."""
    return -(-mel_frames // 8)
