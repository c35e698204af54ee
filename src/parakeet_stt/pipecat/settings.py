"""Settings of the Pipecat service, checked as those of the environment are."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any

from pipecat.services.settings import STTSettings
from pipecat.services.stt_service import STTService
from pipecat.transcriptions.language import Language
from pipecat.utils.types import NOT_GIVEN, NotGiven, is_given

from parakeet_stt.engine.engine import Engine
from parakeet_stt.errors import ConfigurationError
from parakeet_stt.settings import ContextSize, ParakeetSettings, load_settings

MODEL_FIELDS = ("model", "backend", "precision", "device")
"""Settings that select the engine."""

FIELDS = (
    *MODEL_FIELDS,
    "context_size",
    "attention_mode",
    "streaming",
    "boost",
    "chunk_ms",
    "emit_partial",
    "min_confidence",
    "preroll_ms",
)
"""Settings that have an environment variable."""

_ALL_FIELDS = (*FIELDS, "language")


@dataclass
class ParakeetSTTSettings(STTSettings):
    """Settings that are given at construction and can be changed at run time.

    The default of each is the environment variable of the same name (``PARAKEET_MODEL`` and so on);
    docs/configuration.md has their table.

    Parameters:
        backend: ``auto`` (default), ``mlx`` or ``onnx``.
        precision: ``auto`` (default), ``bf16`` or ``fp32``.
        device: ``auto`` (default), ``gpu`` or ``cpu``.
        context_size: Left and right context in encoder frames of 80 ms. Default: (256, 256).
        attention_mode: ``auto`` (default), ``local`` or ``full``.
        streaming: ``windowed`` (default) or ``upstream``.
        boost: Phrases to expect with their weights, or the text of ``PARAKEET_BOOST``. Default:
            none.
        chunk_ms: Minimum time between interims in milliseconds of audio. Default: 100.
        emit_partial: Whether to send interims. Default: True.
        min_confidence: Finals of lower confidence are dropped. Default: 0.1.
        preroll_ms: Milliseconds of audio before the VAD's start of speech that belong to the
            segment. Default: 600.
    """

    backend: str | NotGiven = field(default_factory=lambda: NOT_GIVEN)
    precision: str | NotGiven = field(default_factory=lambda: NOT_GIVEN)
    device: str | NotGiven = field(default_factory=lambda: NOT_GIVEN)
    context_size: ContextSize | str | NotGiven = field(default_factory=lambda: NOT_GIVEN)
    attention_mode: str | NotGiven = field(default_factory=lambda: NOT_GIVEN)
    streaming: str | NotGiven = field(default_factory=lambda: NOT_GIVEN)
    boost: dict[str, float] | str | NotGiven = field(default_factory=lambda: NOT_GIVEN)
    chunk_ms: int | NotGiven = field(default_factory=lambda: NOT_GIVEN)
    emit_partial: bool | NotGiven = field(default_factory=lambda: NOT_GIVEN)
    min_confidence: float | NotGiven = field(default_factory=lambda: NOT_GIVEN)
    preroll_ms: int | NotGiven = field(default_factory=lambda: NOT_GIVEN)


def validated(settings: ParakeetSTTSettings) -> ParakeetSettings:
    """Check complete settings as those of the environment are checked.

    Raises:
        ConfigurationError: A value cannot be used.
    """
    if settings.extra:
        raise ConfigurationError(
            f"no such setting: {', '.join(settings.extra)}; expected {', '.join(_ALL_FIELDS)}"
        )
    return load_settings(**{name: getattr(settings, name) for name in FIELDS})


def as_language(code: Any) -> Language | None:
    """Return the language of a BCP 47 code in any case; None stays None.

    Raises:
        ConfigurationError: Pipecat has no such language.
    """
    if code is None:
        return None
    for language in Language:
        if language.lower() == str(code).lower():
            return language
    raise ConfigurationError(
        f"language={code!r}: expected a BCP 47 code such as 'en' or 'de-DE', or None for the "
        f"model's own language"
    )


def check_arguments(
    service: type[STTService], engine: Any, settings: Any, keywords: Collection[str]
) -> None:
    """Check a service's arguments: Pipecat accepts any keyword and ignores unknown ones.

    Args:
        service: The service's class.
        engine: Its argument ``engine``.
        settings: Its argument ``settings``.
        keywords: Names of its other arguments.

    Raises:
        ConfigurationError: An unknown keyword, a value of the wrong type, or settings that
            contradict the engine.
    """
    known = {
        name
        for base in service.__mro__
        if "__init__" in vars(base)
        for name in inspect.signature(vars(base)["__init__"]).parameters
    }
    for name in keywords:
        if name in known:
            continue
        nearest = difflib.get_close_matches(name, (*_ALL_FIELDS, *known), 1)
        if nearest and nearest[0] not in _ALL_FIELDS:
            advice = f"did you mean {nearest[0]!r}?"
        else:
            example = nearest[0] if nearest else "model"
            advice = f"settings are passed as settings={service.__name__}.Settings({example}=...)"
        raise ConfigurationError(f"{service.__name__} has no argument {name!r}: {advice}")
    if engine is not None and not isinstance(engine, Engine):
        raise ConfigurationError(f"engine={engine!r}: expected a parakeet_stt.Engine")
    if settings is not None and not isinstance(settings, ParakeetSTTSettings):
        raise ConfigurationError(f"settings={settings!r}: expected {service.__name__}.Settings")
    if engine is None or settings is None:
        return
    for name in MODEL_FIELDS:
        value = getattr(settings, name)
        if is_given(value) and not (name == "model" and value == engine.source):
            raise ConfigurationError(
                f"Settings({name}={value!r}) has no effect with engine=..., which has its model "
                f"already: give {name} to the Engine instead"
            )
