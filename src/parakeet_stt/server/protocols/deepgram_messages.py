"""Deepgram's query parameters and messages, live and for files."""

from __future__ import annotations

import json
import uuid
from collections.abc import Sequence
from datetime import UTC, datetime
from statistics import fmean
from typing import Annotated, Any, Literal

import pydantic
from pydantic import BaseModel, Field, PlainValidator
from starlette.datastructures import QueryParams

from parakeet_stt import __version__
from parakeet_stt.errors import ConfigurationError
from parakeet_stt.server.messages import parse
from parakeet_stt.settings import DEFAULT_BOOST, MOST_BOOST
from parakeet_stt.transcript import Word

_MARKS = '.,?!;:…¿¡«»„“”"()[]'  # Punctuation that Deepgram's `word` lacks.
_LISTS = ("keyterm", "keywords", "redact")


def _endpointing(value: object) -> bool | int:
    """Parse ``true``, ``false`` or milliseconds."""
    text = str(value).lower()
    if text in ("true", "false"):
        return text == "true"
    if text.isdecimal() and len(text) < 6:
        return int(text)
    raise ValueError("expected true, false, or milliseconds")


class Options(BaseModel):
    """Query parameters of live streams and files; others are ignored."""

    language: str | None = None
    keyterm: list[str] = []
    keywords: list[str] = []
    redact: list[str] = []
    callback: str | None = None


class LiveOptions(Options):
    """Query parameters of live streams."""

    encoding: Literal["linear16", "linear32", "mulaw", "alaw"] | None = None
    sample_rate: int | None = Field(None, ge=4_000, le=384_000)
    channels: int = Field(1, ge=1, le=16)
    interim_results: bool = False
    endpointing: Annotated[bool | int, PlainValidator(_endpointing)] = True
    utterance_end_ms: int | None = Field(None, ge=100, le=60_000)
    vad_events: bool = False


_LIVE = pydantic.TypeAdapter(LiveOptions)


class KeepAlive(BaseModel):
    """Keep a connection open that sends no audio."""

    type: Literal["KeepAlive"]


class Finalize(BaseModel):
    """End the segment now; answered with a final, which may be empty."""

    type: Literal["Finalize"]


class CloseStream(BaseModel):
    """End the stream: the remaining finals and Metadata are sent, then the connection is closed."""

    type: Literal["CloseStream"]


class Configure(BaseModel):
    """Replace the boosted phrases from the next segment on."""

    type: Literal["Configure"]
    keyterms: list[str] | None = None


ClientMessage = Annotated[
    KeepAlive | Finalize | CloseStream | Configure, Field(discriminator="type")
]

MESSAGE: pydantic.TypeAdapter[ClientMessage] = pydantic.TypeAdapter(ClientMessage)
"""The text messages of a client."""


class Metadata:
    """The metadata of a stream or a file.

    Args:
        model_name: The name of the model that transcribes it.

    Attributes:
        request_id: Identifies the request.
    """

    def __init__(self, model_name: str) -> None:
        self.request_id = str(uuid.uuid4())
        self._uuid = str(uuid.uuid5(uuid.NAMESPACE_URL, model_name))
        self._model = {"name": model_name, "version": __version__, "arch": "parakeet"}
        self._created = datetime.now(UTC).isoformat(timespec="milliseconds")

    @property
    def source(self) -> dict[str, Any]:
        """The metadata of a single result."""
        return {
            "request_id": self.request_id,
            "model_info": self._model,
            "model_uuid": self._uuid,
        }

    def complete(self, sha256: str, duration: float, channels: int) -> dict[str, Any]:
        """Return the metadata of the whole stream or file.

        Args:
            sha256: Hexadecimal digest of the audio as received.
            duration: Seconds of audio.
            channels: Number of channels.
        """
        return {
            "transaction_key": "deprecated",
            "request_id": self.request_id,
            "sha256": sha256,
            "created": self._created.replace("+00:00", "Z"),
            "duration": round(duration, 4),
            "channels": channels,
            "models": [self._uuid],
            "model_info": {self._uuid: self._model},
        }


def live_options(query: QueryParams) -> LiveOptions:
    """Parse the query parameters of a live stream.

    Raises:
        BadMessageError: A parameter is invalid; the message names it.
        ConfigurationError: The audio would be in a container.
    """
    given: dict[str, Any] = {
        name: query.getlist(name) if name in _LISTS else value for name, value in query.items()
    }
    options = parse(_LIVE, json.dumps(given))
    if options.encoding is None and options.sample_rate is None:
        raise ConfigurationError(
            "encoding (linear16, linear32, mulaw or alaw) or sample_rate is needed: live audio "
            "must be raw; send audio in containers as a file, by POST"
        )
    return options


def check_options(options: Options, language: str | None) -> None:
    """Refuse parameters that are not supported and must not be ignored silently.

    Args:
        options: The parameters.
        language: The language of the model, if it has only one.

    Raises:
        ConfigurationError: A parameter is not supported; the message names it.
    """
    if options.callback:
        raise ConfigurationError("callback: not supported; results are sent to the client only")
    if any(value.lower() != "false" for value in options.redact):
        raise ConfigurationError("redact: not supported; results are never redacted")
    requested = (options.language or "").lower()
    matches = requested in ("", "multi") or requested.partition("-")[0] == language
    if language and not matches:
        raise ConfigurationError(
            f"language: {options.language} was requested, the model transcribes {language} only"
        )


def boost_of(options: Options) -> dict[str, float]:
    """Return the phrases to boost and their weights.

    Raises:
        ConfigurationError: The weight of a keyword is not positive.
    """
    boost = {term.strip(): DEFAULT_BOOST for term in options.keyterm if term.strip()}
    for keyword in filter(str.strip, options.keywords):
        term, colon, intensifier = keyword.rpartition(":")
        try:
            factor = float(intensifier) if colon else 1.0
        except ValueError:
            term, colon, factor = keyword, "", 1.0
        if not factor > 0:
            raise ConfigurationError(f"keywords: {keyword!r}: expected a weight over 0")
        boost[(term if colon else keyword).strip()] = min(factor * DEFAULT_BOOST, MOST_BOOST)
    return boost


def alternative(words: Sequence[Word], text: str, language: str | None) -> dict[str, Any]:
    """Return a transcript as one of Deepgram's ``alternatives``."""
    content: dict[str, Any] = {
        "transcript": text,
        "confidence": round(fmean(word.confidence for word in words), 4) if words else 0.0,
        "words": [
            {
                "word": word.text.lower().strip(_MARKS) or word.text,
                "start": round(word.start, 3),
                "end": round(word.end, 3),
                "confidence": round(word.confidence, 4),
                "punctuated_word": word.text,
            }
            for word in words
        ],
    }
    if language is not None:
        content["languages"] = [language]
    return content
