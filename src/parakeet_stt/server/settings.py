"""What the server can be told beyond the engine's settings; docs/server.md has the table."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, field_validator, model_validator
from pydantic.fields import FieldInfo
from pydantic_settings import NoDecode

from parakeet_stt.errors import ConfigurationError
from parakeet_stt.settings import ParakeetSettings, load_settings, variable_name

Port = Annotated[int, Field(ge=0, le=65535)]

ALIASES = {
    "MODEL_PRECISION": "precision",
    "DEVICE": "device",
    "BATCH_SIZE": "batch_size",
    "BATCH_WINDOW_MS": "batch_window_ms",
    "TARGET_SR": "sample_rate",
    "TARGET_SAMPLE_RATE": "sample_rate",
    "MAX_AUDIO_DURATION": "max_file_seconds",
    "VAD_THRESHOLD": "vad_threshold",
    "PROCESSING_TIMEOUT": "request_seconds",
}
"""Variables of the systems that this server takes the place of, and what they are called here."""


class ServerSettings(ParakeetSettings):
    """Settings of ``parakeet-stt serve``: every field is the variable ``PARAKEET_<FIELD>``."""

    host: str = Field("127.0.0.1", description="Address to listen on; `0.0.0.0` is every one.")
    port: Port = Field(8000, description="Port of HTTP and WebSocket; 0 takes one that is free.")
    ws_port: Port | None = Field(
        None, description="Another port, at whose root is what `/v1/stream` is (as system 004)."
    )
    ears_port: Port | None = Field(None, description="Another port, at whose root eaRS is.")
    tcp_port: Port | None = Field(None, description="Port of `/v1/stream` as lines of JSON on TCP.")
    status_port: Port | None = Field(
        None, description="Port that tells the number of sessions, one line of JSON."
    )
    wyoming_port: Port | None = Field(None, description="Port of Wyoming (Home Assistant: 10300).")
    tcp_host: str | None = Field(
        None,
        description="Address of the status and Wyoming ports, which know no keys: by default as "
        "`PARAKEET_HOST`, or `127.0.0.1` where keys are set.",
    )
    api_keys: Annotated[tuple[str, ...], NoDecode] = Field(
        (),
        repr=False,
        description="Keys that clients must show, separated by commas; none lets everybody in.",
    )
    ears_listener_tokens: Annotated[tuple[str, ...], NoDecode] = Field(
        (),
        repr=False,
        description="Tokens with which clients of eaRS may listen to each other's streams, "
        "separated by commas; none, and nobody may.",
    )
    allowed_origins: Annotated[tuple[str, ...], NoDecode] = Field(
        (),
        description="Web pages that may use the server (CORS, WebSocket origins), separated by "
        "commas, such as `https://app.example`; `*` is every one.",
    )
    tls_cert: Path | None = Field(None, description="Certificate for HTTPS, WSS and TCP (PEM).")
    tls_key: Path | None = Field(None, description="Its private key (PEM).")

    max_sessions: int = Field(64, ge=1, description="Streaming clients at a time.")
    max_requests: int = Field(16, ge=1, description="Files transcribed at a time.")
    max_upload_mb: float = Field(512, gt=0, description="Largest request, MiB.")
    max_file_seconds: float = Field(4 * 3600, gt=0, description="Longest file, seconds of audio.")
    request_seconds: float = Field(3600, gt=0, description="Longest time that a file may take.")
    max_message_kb: int = Field(4096, ge=16, description="Largest streaming message, KiB.")
    max_session_seconds: float = Field(
        4 * 3600, gt=0, description="Longest streaming session; at its end the final is sent."
    )
    idle_seconds: float = Field(
        60, gt=0, description="A streaming client that sends nothing for so long is closed."
    )
    max_backlog_seconds: float = Field(
        30,
        gt=0,
        le=120,
        description="Seconds of a session's audio that may wait for inference; the messages "
        "behind it wait unprocessed.",
    )
    max_unread_kb: int = Field(
        16_384,
        ge=64,
        description="Received messages of a client that may wait unprocessed, KiB; beyond it, its "
        "connection is not read.",
    )
    stall_seconds: float = Field(
        120,
        gt=0,
        description="Time without any progress of inference after which a client that waits for "
        "it gets an error instead of its finals.",
    )
    max_unsent: int = Field(
        256, ge=8, description="Messages that may wait for a slow client before it is closed."
    )
    drain_seconds: float = Field(
        15, gt=0, description="At SIGTERM, time for open sessions and requests to get their finals."
    )

    sample_rate: int = Field(
        16_000,
        ge=4_000,
        le=384_000,
        description="Rate of raw audio where neither the protocol nor the client says it, Hz.",
    )
    vad_threshold: float = Field(
        0.5, gt=0, lt=1, description="Probability from which the server's VAD takes it for speech."
    )
    vad_stop_ms: int = Field(
        500,
        ge=50,
        le=10_000,
        description="Silence that ends a segment where the client says nothing else, milliseconds.",
    )
    batch_size: int = Field(8, ge=1, le=64, description="Most windows that are encoded at once.")
    batch_window_ms: float = Field(
        0,
        ge=0,
        le=1000,
        description="How long a final waits for those of other clients to be encoded with it, "
        "milliseconds; a lone one never waits.",
    )

    @field_validator("api_keys", "ears_listener_tokens", "allowed_origins", mode="before")
    @classmethod
    def _split(cls, value: Any) -> Any:
        if isinstance(value, str):
            return tuple(filter(None, (part.strip() for part in value.split(","))))
        return value

    @field_validator("api_keys", "ears_listener_tokens")
    @classmethod
    def _check_keys(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if not all(key.isascii() and key.isprintable() for key in value):
            raise ValueError("keys are written in printable ASCII characters")
        return value

    @model_validator(mode="after")
    def _check_tls(self) -> ServerSettings:
        if (self.tls_cert is None) != (self.tls_key is None):
            raise ValueError("TLS needs both a certificate and its key")
        for file in (self.tls_cert, self.tls_key):
            if file is not None and not file.is_file():
                raise ValueError(f"no such file: {file}")
        return self

    def shown(self) -> dict[str, Any]:
        """The settings that may be shown to anybody: without keys, and without what are paths.

        The model may be a folder, too: :attr:`Server.model_name` is what it is shown as.
        """
        hidden = {"blas", "api_keys", "ears_listener_tokens", "tls_cert", "tls_key", "cache_dir"}
        values = self.model_dump(mode="json", exclude=hidden)
        return {
            **values,
            "api_keys": len(self.api_keys),
            "ears_listener_tokens": len(self.ears_listener_tokens),
            "tls": self.tls_cert is not None,
        }


def load_server_settings(
    environ: Mapping[str, str] = os.environ, **overrides: Any
) -> ServerSettings:
    """Read the environment, with the other systems' names for variables that are not set.

    Args:
        environ: Where the other names are looked up.
        **overrides: By field name; they win over the environment, ``None`` meaning not given.

    Raises:
        ConfigurationError: A value cannot be used; the message names the variable.
    """
    given = {name: value for name, value in overrides.items() if value is not None}
    aliased: dict[str, str] = {}
    for alias, name in ALIASES.items():
        if environ.get(alias) and variable_name(name) not in environ and name not in given:
            given[name] = _OTHER_VALUES.get((name, environ[alias].lower()), environ[alias])
            aliased[name] = alias
    try:
        return load_settings(ServerSettings, **given)
    except ConfigurationError as error:
        message = str(error)
        for name, alias in aliased.items():
            message = message.replace(f"{variable_name(name)}=", f"{alias}=")
        raise ConfigurationError(message) from error


_OTHER_VALUES = {
    ("precision", "fp16"): "bf16",  # Half precision, as this engine has it.
}


def own_fields() -> dict[str, FieldInfo]:
    """The fields that the engine's settings do not have."""
    known = ParakeetSettings.model_fields
    return {name: f for name, f in ServerSettings.model_fields.items() if name not in known}
