"""Every ``PARAKEET_*`` variable of the engine and of its adapters but the server.

An adapter reads its defaults here and nowhere else. ``scripts/settings_tables.py`` writes the
tables of docs/configuration.md and docs/server.md, and ``.env.example``; the tests compare them.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar, overload

from loguru import logger
from pydantic import Field, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from parakeet_stt.errors import ConfigurationError

Backend = Literal["auto", "mlx", "onnx"]
Precision = Literal["auto", "bf16", "fp32"]
Device = Literal["auto", "gpu", "cpu"]
Attention = Literal["local", "full"]
Streaming = Literal["windowed", "upstream"]
ContextSize = tuple[int, int]

DEFAULT_MODEL = "mlx-community/parakeet-tdt-0.6b-v2"

DEFAULT_BOOST = 3.0
"""Weight of a boosted phrase; what it does is measured in docs/benchmarks.md."""

MOST_BOOST = 10.0
"""Largest weight of a phrase."""

PARAKEET_TTFS_P99 = 0.35
"""Seconds from the end of speech to the final, at the 99th percentile, with a VAD that stops after
0.2 s: 0.24 was measured with the bundled model on two CPU cores (docs/benchmarks.md), and a tenth
is added for larger models."""

SERVER_VARIABLES = frozenset(
    f"PARAKEET_{name}"
    for name in (
        "HOST PORT WS_PORT EARS_PORT TCP_PORT STATUS_PORT WYOMING_PORT TCP_HOST API_KEYS "
        "EARS_LISTENER_TOKENS ALLOWED_ORIGINS TLS_CERT TLS_KEY MAX_SESSIONS MAX_REQUESTS "
        "MAX_UPLOAD_MB MAX_FILE_SECONDS REQUEST_SECONDS MAX_MESSAGE_KB MAX_SESSION_SECONDS "
        "IDLE_SECONDS MAX_BACKLOG_SECONDS MAX_UNREAD_KB STALL_SECONDS MAX_UNSENT DRAIN_SECONDS "
        "SAMPLE_RATE VAD_THRESHOLD VAD_STOP_MS BATCH_SIZE BATCH_WINDOW_MS"
    ).split()
)
"""Variables of the server alone. They stand here by name, because what reads the environment for a
bot or a file must tell them from misspelt ones, and cannot import the server."""

COMPOSE_VARIABLES = frozenset({"PARAKEET_PUBLISH", "PARAKEET_PUBLISH_WYOMING"})
"""Variables that compose.yaml reads; a ``.env`` file passes them on into the container."""

# What Kubernetes and Docker links set for a service with the name "parakeet" or "parakeet-stt".
_SERVICE_LINK = re.compile(r"_SERVICE_(HOST|PORT)(_\w+)?$|_PORT_\d+_(TCP|UDP)(_\w+)?$|_ENV_\w+$")

S = TypeVar("S", bound="ParakeetSettings")


class ParakeetSettings(BaseSettings):
    """Settings from the environment; every field is the variable ``PARAKEET_<FIELD>``."""

    model_config = SettingsConfigDict(env_prefix="PARAKEET_", extra="ignore", env_ignore_empty=True)

    model: str = Field(
        DEFAULT_MODEL,
        min_length=1,
        description="The model: `tiny` (bundled), a known name, a Hugging Face id (also "
        "`owner/name@revision`) or a folder.",
    )
    backend: Backend = Field(
        "auto",
        description="What runs the encoder: `mlx`, `onnx`, or `auto`: MLX where it has a GPU, "
        "otherwise ONNX Runtime where the model has an ONNX encoder, otherwise MLX on the CPU. If "
        "MLX cannot be imported, ONNX Runtime.",
    )
    precision: Precision = Field(
        "auto",
        description="Arithmetic of the MLX encoder: `bf16`, `fp32`, or `auto`: bf16 on a GPU, "
        "fp32 on a CPU. The ONNX encoder computes as it was exported.",
    )
    device: Device = Field(
        "auto",
        description="Where the encoder runs: `gpu` (also `cuda`, `mps`; an error where there is "
        "none), `cpu`, or `auto`: a GPU where MLX or ONNX Runtime has one.",
    )
    context_size: Annotated[ContextSize, NoDecode] = Field(
        (256, 256),
        description="Left and right context in encoder frames of 80 ms, `left,right`: how much "
        "history is kept in the window, and how old text has to be before it is committed. One "
        "number counts for both sides; each is at least 1.",
    )
    attention_mode: Attention = Field(
        "local",
        description="Attention of the MLX encoder: `local` sees `context_size` frames to either "
        "side, `full` the whole window. The ONNX encoder knows `full` only.",
    )
    streaming: Streaming = Field(
        "windowed",
        description="The streaming context: `windowed` (ours), or `upstream`: parakeet-mlx's own, "
        "for comparison, on the MLX encoder only.",
    )
    boost: Annotated[dict[str, float], NoDecode] = Field(
        {},
        description="Phrases to expect, such as names: `Ada Lovelace, Kubernetes:5`, separated by "
        f"commas, each with its weight (above 0, up to {MOST_BOOST:g}) where {DEFAULT_BOOST:g} is "
        "not enough or too much.",
    )
    chunk_ms: int = Field(
        100,
        ge=20,
        le=2000,
        description="Shortest time between interims, in milliseconds of audio (50 to 200 "
        "recommended); under load they come less often.",
    )
    emit_partial: bool = Field(True, description="Whether interims are sent.")
    min_confidence: float = Field(
        0.1,
        ge=0,
        le=1,
        description="The Pipecat service drops finals of lower confidence (0 to 1); 0 keeps "
        "everything. The server tells confidences and drops nothing.",
    )
    ttfs_p99: float = Field(
        PARAKEET_TTFS_P99,
        gt=0,
        le=60,
        description="Seconds from the end of speech to the final, at the 99th percentile, which "
        "the Pipecat service announces to turn strategies. `parakeet-stt bench pipecat` prints "
        "the value for your machine.",
    )
    preroll_ms: int = Field(
        600,
        ge=500,
        le=5000,
        description="Audio kept from before the VAD says that speech began, in milliseconds: the "
        "VAD is late by its own start time, and the first word must not be.",
    )
    blas: str = Field(
        "auto",
        description="BLAS for MLX on Linux CPUs: `auto` (the first of OpenBLAS, BLIS and MKL that "
        "is there), `off`, or a library's path. Read once, when the package is imported.",
    )
    cache_dir: Path | None = Field(
        None,
        description="Folder for downloaded models; by default Hugging Face's own cache.",
    )

    @field_validator("model", "cache_dir", mode="before")
    @classmethod
    def _expand_home(cls, value: Any) -> Any:
        return os.path.expanduser(value) if isinstance(value, str | Path) else value

    @field_validator("context_size", mode="before")
    @classmethod
    def _split_pair(cls, value: Any) -> Any:
        sides = value
        if isinstance(value, str):
            sides = tuple(part.strip() for part in value.split(","))
        elif isinstance(value, int):
            sides = (value,)
        if not isinstance(sides, tuple | list) or len(sides) not in (1, 2):
            raise ValueError(
                "expected left and right context in encoder frames of 80 ms, such as 256,256, or "
                "one number for both"
            )
        return (*sides, *sides)[:2]

    @field_validator("context_size")
    @classmethod
    def _check_context(cls, value: ContextSize) -> ContextSize:
        if min(value) < 1:
            raise ValueError("both sides must be at least 1 encoder frame (80 ms)")
        return value

    @field_validator("boost", mode="before")
    @classmethod
    def _parse_phrases(cls, value: Any) -> Any:
        return parse_boost(value) if isinstance(value, str) else value

    @field_validator("boost")
    @classmethod
    def _check_boost(cls, value: dict[str, float]) -> dict[str, float]:
        check_boost(value)
        return value

    @field_validator("backend", "precision", "device", "attention_mode", "streaming", mode="before")
    @classmethod
    def _lower_case(cls, value: Any) -> Any:
        return value.strip().lower() if isinstance(value, str) else value

    @field_validator("device", mode="before")
    @classmethod
    def _name_gpu(cls, value: Any) -> Any:
        is_gpu = isinstance(value, str) and value.strip().lower() in ("cuda", "mps")
        return "gpu" if is_gpu else value

    @model_validator(mode="after")
    def _check_combinations(self) -> Self:
        """Refuse contradictory settings now, not when somebody first speaks."""
        if self.streaming == "upstream" and self.backend == "onnx":
            raise ValueError(
                "PARAKEET_STREAMING='upstream' with PARAKEET_BACKEND='onnx': parakeet-mlx's "
                "context needs backend 'mlx'; with 'onnx' use streaming 'windowed'"
            )
        if self.streaming == "upstream" and self.boost:
            raise ValueError(
                f"PARAKEET_STREAMING='upstream' with PARAKEET_BOOST={self.boost!r}: parakeet-mlx's "
                f"context cannot boost phrases; use streaming 'windowed'"
            )
        return self


def parse_boost(text: str) -> dict[str, float]:
    """Phrases as ``PARAKEET_BOOST`` has them, such as ``Ada Lovelace, Kubernetes:5``.

    Raises:
        ValueError: A weight that is no number.
    """
    phrases: dict[str, float] = {}
    for entry in filter(None, (part.strip() for part in text.split(","))):
        phrase, colon, weight = entry.rpartition(":")
        try:
            phrases[phrase.strip() if colon else entry] = float(weight) if colon else DEFAULT_BOOST
        except ValueError:
            raise ValueError(
                f"{entry!r}: expected a phrase, or a phrase, a colon and its weight"
            ) from None
    return phrases


def check_boost(phrases: Mapping[str, float]) -> None:
    """Check phrases to boost and their weights.

    Raises:
        ValueError: A phrase without text, or a weight that is out of range.
    """
    if not isinstance(phrases, Mapping):
        raise ValueError("expected phrases and their weights")
    for phrase, weight in phrases.items():
        named = isinstance(phrase, str) and phrase.strip()
        if not named or not isinstance(weight, int | float) or not 0 < weight <= MOST_BOOST:
            raise ValueError(
                f"{phrase!r} with weight {weight!r}: expected some text, and a weight above 0 and "
                f"up to {MOST_BOOST:g}"
            )


@overload
def load_settings(**overrides: Any) -> ParakeetSettings: ...


@overload
def load_settings(kind: type[S], /, **overrides: Any) -> S: ...


def load_settings(
    kind: type[ParakeetSettings] = ParakeetSettings, /, **overrides: Any
) -> ParakeetSettings:
    """Read the environment.

    A ``PARAKEET_*`` variable that nothing reads is logged as a warning, once.

    Args:
        kind: Which settings.
        **overrides: By field name; they win over the environment, ``None`` meaning not given.

    Raises:
        ConfigurationError: A value cannot be used; the message names the variable, what it was
            and what is expected.
    """
    _warn_of_unknown_variables()
    given = {name: value for name, value in overrides.items() if value is not None}
    try:
        return kind(**given)
    except ValidationError as error:
        raise ConfigurationError(
            "; ".join(
                f"{variable_name(str(item['loc'][0]))}={item['input']!r}: "
                f"{item['msg'].removeprefix('Value error, ')}"
                if item["loc"]
                else item["msg"].removeprefix("Value error, ")
                for item in error.errors()
            )
        ) from error


def variable_name(field: str) -> str:
    """Name of the environment variable of a field of :class:`ParakeetSettings`."""
    return f"PARAKEET_{field.upper()}"


def warn_of_local_attention(settings: ParakeetSettings, encoder: str) -> None:
    """Warn, once, if ``attention_mode=local`` was asked for and the encoder has full attention.

    Args:
        settings: The settings; local attention that is only the default is no reason to warn.
        encoder: Name of the encoder that was loaded, ``mlx`` or ``onnx``.
    """
    asked = "attention_mode" in settings.model_fields_set and settings.attention_mode == "local"
    if asked and encoder == "onnx":
        _warn_once(
            "PARAKEET_ATTENTION_MODE='local' has no effect: the ONNX encoder attends to the whole "
            "window (full attention)"
        )


def unknown_variables() -> dict[str, str]:
    """Find variables that look like ours and are not. Empty ones count as not set.

    Returns:
        For each name, what to do about it.
    """
    known = {variable_name(name) for name in ParakeetSettings.model_fields}
    known |= SERVER_VARIABLES | COMPOSE_VARIABLES
    suffixes = [variable.removeprefix("PARAKEET_") for variable in sorted(known)]
    unknown: dict[str, str] = {}
    for name, value in os.environ.items():
        prefix, _, suffix = name.upper().partition("_")
        if prefix != "PARAKEET" or not value or name.upper() in known:
            continue
        if _SERVICE_LINK.search(name.upper()):
            continue
        nearest = difflib.get_close_matches(suffix, suffixes, 1)
        unknown[name] = (
            f"did you mean PARAKEET_{nearest[0]}?" if nearest else "see docs/configuration.md"
        )
    return unknown


def _warn_of_unknown_variables() -> None:
    """Warn of unknown variables, once for each."""
    for name, advice in unknown_variables().items():
        _warn_once(f"{name} is set, but there is no such setting, so it is ignored: {advice}")


_warned: set[str] = set()


def _warn_once(message: str) -> None:
    if message not in _warned:
        _warned.add(message)
        logger.warning(message)
