"""Deprecated: import ``Player`` from ``parakeet_stt.pipecat.player`` instead."""

import warnings

from parakeet_stt.pipecat.player import FRAME_SECONDS, Player

__all__ = ["FRAME_SECONDS", "Player"]

warnings.warn(
    "parakeet_stt.player is deprecated and will be removed in 0.3: import "
    "Player from parakeet_stt.pipecat.player",
    DeprecationWarning,
    stacklevel=2,
)
