"""parakeet-mlx's own streaming context behind our interface, for whoever wants to compare.

``PARAKEET_STREAMING=upstream``. What is known to be wrong with it is in :data:`KNOWN_DEFECTS` and,
measured, in docs/benchmarks.md. Everything here runs on the inference thread.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
from loguru import logger
from parakeet_mlx import AlignedToken, BaseParakeet, from_pretrained

from parakeet_stt.audio import Samples
from parakeet_stt.errors import ConfigurationError
from parakeet_stt.model import device
from parakeet_stt.model.checkpoint import is_transformers, read_json
from parakeet_stt.model.encoder import Encoder
from parakeet_stt.model.mlx.encoder import claim_mlx
from parakeet_stt.model.stream import EncoderJob, Stream, StreamOptions
from parakeet_stt.transcript import Hypothesis, Token, Transcript

KNOWN_DEFECTS = (
    "it normalises every piece by itself, makes 11 mel frames of 100 ms, takes its convolutions' "
    "history from the future, has no flush (the last word is cut), times that do not add up, no "
    "confidences that discriminate, and encodes up to 20 s again for every piece; at 100 ms it "
    "gets nearly every word wrong"
)

_LEAST_SAMPLES = 1280
"""Less than an encoder frame it cannot take."""


class UpstreamStream(Stream):
    """One segment of speech, heard by parakeet-mlx's ``transcribe_stream``.

    Its final is its last draft. Every piece of audio is encoded as it comes, so that the sizes of
    the pieces decide what is heard.

    Args:
        folder: The model's folder, in parakeet-mlx's layout.
        encoder: The model's encoder, of which only the precision matters here.
        options: How to listen; boosting is not known to it.
        language: What finals say about their language.
        start: Seconds at which the segment begins.

    Raises:
        ConfigurationError: The model does not run on MLX, or an option is asked for that
            parakeet-mlx does not have.
    """

    def __init__(
        self,
        folder: Path,
        encoder: Encoder,
        options: StreamOptions,
        language: str | None,
        start: float,
    ) -> None:
        if encoder.name != "mlx":
            raise ConfigurationError(
                "streaming=upstream is parakeet-mlx's own context, which needs backend=mlx; this "
                "model runs its encoder in ONNX Runtime"
            )
        if options.boost:
            raise ConfigurationError("streaming=upstream cannot boost phrases; use windowed")
        if folder.is_file() or is_transformers(read_json(folder / "config.json")):
            raise ConfigurationError(
                f"streaming=upstream needs a folder in parakeet-mlx's layout; {folder} has another"
            )
        _warn()
        super().__init__(encoder, start)
        self._language = language
        self._pending: list[Samples] = []
        self._context: Any = device.run(self._open, folder, options)

    def __exit__(self, *details: Any) -> None:
        if not self._closed:
            device.run(self._context.__exit__, None, None, None)
        super().__exit__(*details)

    def _open(self, folder: Path, options: StreamOptions) -> Any:
        with device.MLX_GLOBAL_LOCK, device.native_calls:
            claim_mlx()
            model = _load(folder, self._encoder.precision)
            # Its local attention is a Metal kernel.
            local = options.attention != "full" and mx.metal.is_available()
            context = model.transcribe_stream(
                tuple(options.context_size), keep_original_attention=not local
            )
            return context.__enter__()

    def _feed(self, audio: Samples) -> EncoderJob[None]:
        self._pending.append(audio)
        yield from ()

    def _hypothesize(self) -> EncoderJob[Hypothesis]:
        if sum(map(len, self._pending)) >= _LEAST_SAMPLES:
            device.run(self._add_pending)
        committed = self._tokens(self._context.finalized_tokens)
        tentative = self._tokens(self._context.draft_tokens)
        return Hypothesis(committed, tentative, self._start + self.seconds)
        yield

    def _finish(self) -> EncoderJob[Transcript]:
        missing = _LEAST_SAMPLES - sum(map(len, self._pending))
        self._pending.append(np.zeros(max(0, missing), np.float32))
        hypothesis = yield from self._hypothesize()
        device.run(self._context.__exit__, None, None, None)
        tokens = (*hypothesis.committed_tokens, *hypothesis.tentative_tokens)
        return Transcript(tokens, self._start, hypothesis.end, self._language)

    def _add_pending(self) -> None:
        audio, self._pending = np.concatenate(self._pending), []
        with device.MLX_GLOBAL_LOCK, device.native_calls:
            claim_mlx()
            self._context.add_audio(mx.array(audio))

    def _tokens(self, tokens: list[AlignedToken]) -> tuple[Token, ...]:
        return tuple(
            Token(t.id, t.text, self._start + t.start, self._start + t.end, t.confidence)
            for t in tokens
        )


@cache
def _load(folder: Path, precision: str) -> BaseParakeet:
    """A model of its own: its contexts swap the attention of the model that they share."""
    dtype = mx.bfloat16 if precision == "bf16" else mx.float32
    return from_pretrained(str(folder), dtype=dtype)


@cache
def _warn() -> None:
    logger.warning(f"streaming=upstream is parakeet-mlx's own context: {KNOWN_DEFECTS}")
