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
RunPrecision = Literal["bf16", "fp32", "int8"]
Precision = Literal["auto", "bf16", "fp32", "int8"]
Device = Literal["auto", "gpu", "cpu"]
Attention = Literal["auto", "local", "full"]
Streaming = Literal["windowed", "upstream"]
ContextSize = tuple[int, int]

DEFAULT_MODEL = "mlx-community/parakeet-tdt-0.6b-v2"

DEFAULT_BOOST = 3.0
"""Default weight of a boosted phrase. docs/benchmarks.md has measurements of its effect."""

MOST_BOOST = 10.0
"""Maximum weight of a phrase."""

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
"""Variables that only the server reads. They are listed here because the check for misspelt names
needs them, and this module cannot import the server."""

COMPOSE_VARIABLES = frozenset({"PARAKEET_PUBLISH", "PARAKEET_PUBLISH_WYOMING"})
"""Variables that only compose.yaml reads. A ``.env`` file passes them on to the container."""

# Variables that Kubernetes and Docker links set for a service named "parakeet" or "parakeet-stt".
_SERVICE_LINK = re.compile(r"_SERVICE_(HOST|PORT)(_\w+)?$|_PORT_\d+_(TCP|UDP)(_\w+)?$|_ENV_\w+$")

S = TypeVar("S", bound="ParakeetSettings")


class ParakeetSettings(BaseSettings):
    """Settings from the environment. Each field is read from the variable ``PARAKEET_<FIELD>``."""

    model_config = SettingsConfigDict(env_prefix="PARAKEET_", extra="ignore", env_ignore_empty=True)

    model: str = Field(
        DEFAULT_MODEL,
        min_length=1,
        description="Model: `tiny` (bundled), a known name, a Hugging Face id (optionally "
        "`owner/name@revision`) or a folder.",
    )
    backend: Backend = Field(
        "auto",
        description="Backend of the encoder. `auto` selects MLX if it has a GPU and the model is "
        "a checkpoint, otherwise ONNX Runtime.",
    )
    precision: Precision = Field(
        "auto",
        description="Precision of the encoder. `auto` is bf16 for MLX on a GPU and fp32 otherwise. "
        "`bf16` is for MLX; `int8` is for checkpoints on ONNX Runtime, with a third of the CPU "
        "time of fp32. ONNX exports have their own.",
    )
    device: Device = Field(
        "auto",
        description="Device of the encoder. `gpu` (also `cuda`, `mps`) is an error if there is "
        "none; `auto` uses a GPU if MLX or ONNX Runtime has one.",
    )
    context_size: Annotated[ContextSize, NoDecode] = Field(
        (256, 256),
        description="Left and right context in encoder frames of 80 ms, `left,right`: the history "
        "that stays in the window, and the age at which text is committed. One number sets both "
        "sides; the minimum is 1.",
    )
    attention_mode: Attention = Field(
        "auto",
        description="Attention of the encoder: `local` covers `context_size` frames on either "
        "side, `full` the whole window, `auto` is `local` if the encoder supports it. ONNX exports "
        "support `full` only.",
    )
    streaming: Streaming = Field(
        "windowed",
        description="Streaming method: `windowed` (our own) or `upstream` (parakeet-mlx's, for "
        "comparison; MLX encoder only, without phrases).",
    )
    boost: Annotated[dict[str, float], NoDecode] = Field(
        {},
        description="Phrases to expect, such as names, separated by commas: `Ada Lovelace, "
        f"Kubernetes:5`. A weight after a colon is above 0 and up to {MOST_BOOST:g}; the default "
        f"is {DEFAULT_BOOST:g}.",
    )
    chunk_ms: int = Field(
        100,
        ge=20,
        le=2000,
        description="Minimum time between interims, in milliseconds of audio (50 to 200 is "
        "recommended). Under load, interims come less often.",
    )
    emit_partial: bool = Field(True, description="Whether to send interims.")
    min_confidence: float = Field(
        0.1,
        ge=0,
        le=1,
        description="The Pipecat service drops finals of lower confidence; 0 keeps all of them. "
        "The server reports confidences and drops nothing.",
    )
    ttfs_p99: float = Field(
        PARAKEET_TTFS_P99,
        gt=0,
        le=60,
        description="Seconds from the end of speech to the final, at the 99th percentile. The "
        "Pipecat service announces them to turn strategies. `parakeet-stt bench pipecat` measures "
        "them on your machine.",
    )
    preroll_ms: int = Field(
        600,
        ge=500,
        le=5000,
        description="Milliseconds of audio before the VAD's start of speech that belong to the "
        "segment. A VAD reports speech after its own start time; the pre-roll keeps the first "
        "word.",
    )
    blas: str = Field(
        "auto",
        description="BLAS library of MLX on Linux CPUs: `auto` (the first of OpenBLAS, BLIS and "
        "MKL that is installed), `off`, or the path of a library. Read once, at import.",
    )
    cache_dir: Path | None = Field(
        None,
        description="Folder for downloaded models. Default: Hugging Face's cache.",
    )

    @field_validator("model", "cache_dir", mode="before")
    @classmethod
    def _expand_home(cls, value: Any) -> Any:
        return os.path.expanduser(value) if isinstance(value, str | Path) else value

    @field_validator("context_size", mode="before")
    @classmethod
    def _split_pair(cls, value: Any) -> Any:
        sides = str(value).split(",") if isinstance(value, str | int) else value
        try:
            numbers = [int(side) if isinstance(side, str) else side for side in sides]
        except (TypeError, ValueError):
            numbers = []
        if len(numbers) not in (1, 2):
            raise ValueError(
                "expected left and right context in encoder frames of 80 ms, such as 256,256, or "
                "one number for both"
            )
        return (numbers[0], numbers[-1])

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
        """Refuse contradictory settings when they are loaded, not at the first speech."""
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
    """Parse phrases in the format of ``PARAKEET_BOOST``, such as ``Ada Lovelace, Kubernetes:5``.

    Raises:
        ValueError: A weight is not a number.
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
        ValueError: A phrase has no text, or a weight is out of range.
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
        kind: Class of the settings. Default: :class:`ParakeetSettings`.
        **overrides: Values by field name. They take precedence over the environment, unless they
            are None.

    Raises:
        ConfigurationError: A value cannot be used. The message names the variable, its value and
            what is expected.
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
    """Return the name of the environment variable of a field of :class:`ParakeetSettings`."""
    return f"PARAKEET_{field.upper()}"


def unknown_variables() -> dict[str, str]:
    """Find variables with our prefix that nothing reads. An empty variable counts as not set.

    Returns:
        Advice for each name.
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
    """Warn of each unknown variable, once."""
    for name, advice in unknown_variables().items():
        if name not in _warned:
            _warned.add(name)
            logger.warning(
                f"{name} is set, but there is no such setting, so it is ignored: {advice}"
            )


_warned: set[str] = set()
