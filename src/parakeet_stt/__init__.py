"""Speech-to-text for voice agents with NVIDIA's Parakeet models, on the user's own machine.

Names are imported when they are first used, so that neither Pipecat nor MLX loads before that.
"""

from __future__ import annotations

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

from parakeet_stt.model import blas

if TYPE_CHECKING:
    __version__: str

    from parakeet_stt.engine.engine import Engine
    from parakeet_stt.engine.events import Final
    from parakeet_stt.engine.options import SessionOptions
    from parakeet_stt.engine.session import Session
    from parakeet_stt.engine.vad import Endpointing
    from parakeet_stt.errors import ParakeetError
    from parakeet_stt.model.device import MLX_GLOBAL_LOCK
    from parakeet_stt.model.loading import load_model
    from parakeet_stt.model.model import Model
    from parakeet_stt.model.stream import Stream, StreamOptions
    from parakeet_stt.pipecat.service import ParakeetMLXSTTService, ParakeetSTTService
    from parakeet_stt.transcript import Hypothesis, Sentence, Token, Transcript, Word

# Before anybody imports mlx: afterwards it is too late.
blas.prepare()

# ONNX Runtime has telemetry since 1.31; speech stays on its machine, and so does that it is heard.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

_HOMES = {
    "Endpointing": "engine.vad",
    "Engine": "engine.engine",
    "Final": "engine.events",
    "Hypothesis": "transcript",
    "MLX_GLOBAL_LOCK": "model.device",
    "Model": "model.model",
    "ParakeetError": "errors",
    "ParakeetMLXSTTService": "pipecat.service",
    "ParakeetSTTService": "pipecat.service",
    "Sentence": "transcript",
    "Session": "engine.session",
    "SessionOptions": "engine.options",
    "Stream": "model.stream",
    "StreamOptions": "model.stream",
    "Token": "transcript",
    "Transcript": "transcript",
    "Word": "transcript",
    "load_model": "model.loading",
}

__all__ = [
    "MLX_GLOBAL_LOCK",
    "Endpointing",
    "Engine",
    "Final",
    "Hypothesis",
    "Model",
    "ParakeetError",
    "ParakeetMLXSTTService",
    "ParakeetSTTService",
    "Sentence",
    "Session",
    "SessionOptions",
    "Stream",
    "StreamOptions",
    "Token",
    "Transcript",
    "Word",
    "load_model",
]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version  # It takes as long as the rest of this module.

        return globals().setdefault(name, version("pipecat-parakeet-stt"))
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, "__version__"})
