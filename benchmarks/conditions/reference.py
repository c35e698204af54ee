"""Transcripts to compare with: the model on all of the audio, with nothing left out."""

from __future__ import annotations

import numpy as np

from parakeet_stt import Model
from parakeet_stt.audio import Samples
from parakeet_stt.model.frontend import log_mel, normalize
from parakeet_stt.transcript import Token, text_of

from .recordings import silence


def untrimmed(model: Model, samples: Samples) -> str:
    """The text of up to 30 s of audio, as NeMo would have it: one window, its own statistics.

    0.32 s of silence behind the end release the last word, as they do in a final.
    """
    mel = normalize(log_mel(np.concatenate((samples, silence(0.32))), model.config.features))
    (frames,) = model.encoder.encode([mel], None)
    emissions, _ = model._decoder.decode(frames, model._decoder.initial())
    vocabulary = model.config.vocabulary
    return text_of([Token(e.token, vocabulary[e.token], 0.0, 0.0, 0.0) for e in emissions])
