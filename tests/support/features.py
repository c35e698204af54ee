"""Log-mel of whole recordings, for tests of the frontend, the encoders and the decoders."""

from __future__ import annotations

import numpy as np

from parakeet_stt.audio import Samples
from parakeet_stt.model.frontend import SILENCE, LogMel, LogMelStream, standardize


def log_mel(samples: Samples, bins: int) -> LogMel:
    """Raw log-mel ``[samples // 160, bins]`` of ``float32 [samples]``, pushed at once."""
    stream = LogMelStream(bins)
    return np.concatenate((stream.push(samples), stream.finish()))


def normalize(mel: LogMel) -> LogMel:
    """Raw log-mel ``[frames, bins]`` normalised by its own statistics."""
    relative = mel.astype(np.float64) - SILENCE
    return standardize(mel, len(mel), relative.sum(axis=0), (relative**2).sum(axis=0))
