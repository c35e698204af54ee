"""The server's settings beyond those of the engine; docs/server.md has the table."""

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
"""Environment variables of the servers that this one replaces, and the fields they set."""


class ServerSettings(ParakeetSettings):
    """Settings of ``parakeet-stt serve``: every field is the variable ``PARAKEET_<FIELD>``."""

    host: str = Field(
        "127.0.0.1", description="Address to listen on; `0.0.0.0` listens on every address."
    )
    port: Port = Field(8000, description="Port of HTTP and WebSocket; 0 chooses a free port.")
    ws_port: Port | None = Field(
        None, description="Port that serves `/v1/stream` at its root (as parakeet-streaming does)."
    )
    ears_port: Port | None = Field(None, description="Port that serves eaRS at its root.")
    tcp_port: Port | None = Field(None, description="Port of `/v1/stream` as lines of JSON on TCP.")
    status_port: Port | None = Field(
        None, description="Port that sends the number of open sessions as one line of JSON."
    )
    wyoming_port: Port | None = Field(None, description="Port of Wyoming (Home Assistant: 10300).")
    tcp_host: str | None = Field(
        None,
        description="Address of the status and Wyoming ports, which have no authentication. "
        "Default: `PARAKEET_HOST`, or `127.0.0.1` if API keys are set.",
    )
    api_keys: Annotated[tuple[str, ...], NoDecode] = Field(
        (),
        repr=False,
        description="API keys, separated by commas; clients must send one of them. Without keys, "
        "every client is accepted.",
    )
    ears_listener_tokens: Annotated[tuple[str, ...], NoDecode] = Field(
        (),
        repr=False,
        description="Tokens that allow eaRS clients to listen to other clients' streams, separated "
        "by commas. Without tokens, listening is disabled.",
    )
    allowed_origins: Annotated[tuple[str, ...], NoDecode] = Field(
        (),
        description="Origins of web pages that may use the server (CORS, WebSockets), separated by "
        "commas, such as `https://app.example`; `*` allows every origin.",
    )
    tls_cert: Path | None = Field(None, description="TLS certificate for HTTPS, WSS and TCP (PEM).")
    tls_key: Path | None = Field(None, description="Private key of the TLS certificate (PEM).")

    max_sessions: int = Field(64, ge=1, description="Maximum number of open streaming sessions.")
    max_requests: int = Field(
        16, ge=1, description="Maximum number of files transcribed at the same time."
    )
    max_upload_mb: float = Field(512, gt=0, description="Maximum size of a request, MiB.")
    max_file_seconds: float = Field(
        4 * 3600, gt=0, description="Maximum length of a file, seconds."
    )
    request_seconds: float = Field(
        3600, gt=0, description="Maximum time for uploading and transcribing a file, seconds."
    )
    max_message_kb: int = Field(
        4096, ge=16, description="Maximum size of a streaming message, KiB."
    )
    max_session_seconds: float = Field(
        4 * 3600,
        gt=0,
        description="Maximum length of a streaming session, seconds; at its end its finals are "
        "sent.",
    )
    idle_seconds: float = Field(
        60, gt=0, description="Seconds after which a streaming client that sends nothing is closed."
    )
    max_backlog_seconds: float = Field(
        30,
        gt=0,
        le=120,
        description="Maximum audio of a session that waits for inference, seconds; later messages "
        "wait unprocessed.",
    )
    max_unread_kb: int = Field(
        16_384,
        ge=64,
        description="Maximum size of a client's unprocessed messages, KiB; above it, the "
        "connection is not read.",
    )
    stall_seconds: float = Field(
        120,
        gt=0,
        description="Seconds without progress of inference after which waiting clients get an "
        "error instead of their finals.",
    )
    max_unsent: int = Field(
        256,
        ge=8,
        description="Maximum number of messages that wait for a slow client; above it, the "
        "connection is closed.",
    )
    drain_seconds: float = Field(
        15,
        gt=0,
        description="Maximum time that a shutdown waits for open sessions and requests, seconds.",
    )

    sample_rate: int = Field(
        16_000,
        ge=4_000,
        le=384_000,
        description="Sample rate of raw audio if neither the protocol nor the client defines "
        "it, Hz.",
    )
    vad_threshold: float = Field(
        0.5,
        gt=0,
        lt=1,
        description="Speech probability above which the server's VAD detects speech.",
    )
    vad_stop_ms: int = Field(
        500,
        ge=50,
        le=10_000,
        description="Silence that ends a segment unless the client chooses another value, "
        "milliseconds.",
    )
    batch_size: int = Field(8, ge=1, le=64, description="Maximum number of windows in a batch.")
    batch_window_ms: float = Field(
        0,
        ge=0,
        le=1000,
        description="Maximum delay for batching a final with finals of other clients, "
        "milliseconds; 0 never delays.",
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
            raise ValueError("keys must consist of printable ASCII characters")
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
        """Return the settings that every client may see: no keys and no paths.

        The model may be a path, too: show :attr:`Server.model_name` instead.
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
    """Read the environment, including :data:`ALIASES` for variables that are not set.

    Args:
        environ: The environment in which aliases are looked up.
        **overrides: Values by field name; they take precedence over the environment. None means
            not given.

    Raises:
        ConfigurationError: A value is invalid; the message names the variable.
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
    ("precision", "fp16"): "bf16",  # The half precision of this engine.
}


def own_fields() -> dict[str, FieldInfo]:
    """Return the fields that the engine's settings do not have."""
    known = ParakeetSettings.model_fields
    return {name: f for name, f in ServerSettings.model_fields.items() if name not in known}
