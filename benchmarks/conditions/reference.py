"""Transcripts to compare: of all of the audio, with nothing left out, and of random chunks."""

from __future__ import annotations

import numpy as np

from parakeet_stt import Model, Transcript
from parakeet_stt.audio import Samples
from parakeet_stt.model.frontend import LogMelStream
from parakeet_stt.transcript import Token, text_of


def untrimmed(model: Model, samples: Samples) -> str:
    """The text of up to 30 s of audio, as NeMo would have it: one window, its own statistics.

    0.32 s of silence behind the end release the last word, as they do in a final.
    """
    frontend = LogMelStream(model.config.features)
    raw = np.concatenate((frontend.push(samples), frontend.finish()))
    silence = np.full((32, raw.shape[1]), np.log(2.0**-24), np.float32)
    deviation = raw.std(axis=0, ddof=1, dtype=np.float64) + 1e-5
    mel = (np.concatenate((raw, silence)) - raw.mean(axis=0, dtype=np.float64)) / deviation
    mel = mel.astype(np.float32)
    (frames,) = model.encoder.encode([mel], None)
    emissions, _ = model._decoder.decode(frames, model._decoder.initial())
    vocabulary = model.config.vocabulary
    return text_of([Token(e.token, vocabulary[e.token], 0.0, 0.0, 0.0) for e in emissions])


def streamed(model: Model, samples: Samples, random: np.random.Generator) -> Transcript:
    """The final of a stream that is fed in random chunks of 1 to 160,000 samples."""
    with model.transcribe_stream() as stream:
        place = 0
        while place < len(samples):
            size = int(np.exp(random.uniform(0, np.log(160_000))))
            stream.feed(samples[place : place + size])
            if random.random() < 0.1:
                stream.hypothesis()
            place += size
        return stream.finish()
