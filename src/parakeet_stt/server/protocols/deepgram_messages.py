"""What Deepgram's clients may ask for and send, and what they are told, live and for files.

Shapes only: nothing here knows of sessions or connections.
"""

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
from parakeet_stt.server.conversation import parse
from parakeet_stt.server.state import Server
from parakeet_stt.settings import DEFAULT_BOOST, MOST_BOOST
from parakeet_stt.transcript import Word

_MARKS = '.,?!;:…¿¡«»„“”"()[]'  # Around words, which Deepgram's are without.
_LISTS = ("keyterm", "keywords", "redact")


def _endpointing(value: object) -> bool | int:
    """``true``, ``false`` or milliseconds, as a URL has them."""
    text = str(value).lower()
    if text in ("true", "false"):
        return text == "true"
    if text.isdecimal() and len(text) < 6:
        return int(text)
    raise ValueError("expected true, false, or milliseconds")


class Options(BaseModel):
    """What the URL may ask for; whatever else it says changes nothing."""

    language: str | None = None
    keyterm: list[str] = []
    keywords: list[str] = []
    redact: list[str] = []
    callback: str | None = None


class LiveOptions(Options):
    """What a WebSocket's URL may ask for besides."""

    encoding: Literal["linear16", "linear32", "mulaw", "alaw"] | None = None
    sample_rate: int | None = Field(None, ge=4_000, le=384_000)
    channels: int = Field(1, ge=1, le=16)
    interim_results: bool = False
    endpointing: Annotated[bool | int, PlainValidator(_endpointing)] = True
    utterance_end_ms: int | None = Field(None, ge=100, le=60_000)
    vad_events: bool = False


_LIVE = pydantic.TypeAdapter(LiveOptions)


class KeepAlive(BaseModel):
    """Keeps a connection that sends no audio from being closed."""

    type: Literal["KeepAlive"]


class Finalize(BaseModel):
    """End the segment now; answered with a final, empty where nothing was said."""

    type: Literal["Finalize"]


class CloseStream(BaseModel):
    """End the stream: the rest of the finals, Metadata, and the connection is closed."""

    type: Literal["CloseStream"]


class Configure(BaseModel):
    """Other phrases to expect from the next segment on."""

    type: Literal["Configure"]
    keyterms: list[str] | None = None


Message = Annotated[KeepAlive | Finalize | CloseStream | Configure, Field(discriminator="type")]

MESSAGE: pydantic.TypeAdapter[Message] = pydantic.TypeAdapter(Message)
"""What a client may send."""


class Summary:
    """What is told of a stream or a file beside its words.

    Attributes:
        request_id: Its number.

    Args:
        server: Who hears it.
    """

    def __init__(self, server: Server) -> None:
        self.request_id = str(uuid.uuid4())
        name = server.model_name
        self._uuid = str(uuid.uuid5(uuid.NAMESPACE_URL, name))
        self._model = {"name": name, "version": __version__, "arch": "parakeet"}
        self._created = datetime.now(UTC).isoformat(timespec="milliseconds")

    @property
    def source(self) -> dict[str, Any]:
        """Where a result comes from."""
        return {
            "request_id": self.request_id,
            "model_info": self._model,
            "model_uuid": self._uuid,
        }

    def content(self, sha256: str, duration: float, channels: int) -> dict[str, Any]:
        """All of it, at the end."""
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
    """What a WebSocket's URL asks for.

    Raises:
        ParakeetError: Something that cannot be; the message says where and what.
    """
    asked: dict[str, Any] = {
        name: query.getlist(name) if name in _LISTS else value for name, value in query.items()
    }
    options = parse(_LIVE, json.dumps(asked))
    if options.encoding is None and options.sample_rate is None:
        raise ConfigurationError(
            "live audio is raw here: encoding (linear16, linear32, mulaw or alaw) and "
            "sample_rate are needed; audio in containers is taken as a file, by POST"
        )
    return options


def check_options(options: Options, server: Server) -> None:
    """Refuse what cannot be had and must not be passed over.

    Raises:
        ConfigurationError: There is some of it; the message says what.
    """
    if options.callback:
        raise ConfigurationError("callback: results go to whoever asks for them, nowhere else")
    if any(what.lower() != "false" for what in options.redact):
        raise ConfigurationError("redact: nothing can be left out of results here")
    known, asked = server.model.language, (options.language or "").lower()
    if known and asked and asked != "multi" and asked.partition("-")[0] != known:
        raise ConfigurationError(f"language: {options.language} was asked for, {known} can be had")


def boost_of(options: Options) -> dict[str, float]:
    """The phrases that are to be expected, and their weights.

    Raises:
        ConfigurationError: A keyword with a weight that cannot be.
    """
    boost = {term.strip(): DEFAULT_BOOST for term in options.keyterm if term.strip()}
    for keyword in filter(str.strip, options.keywords):
        term, colon, intensifier = keyword.rpartition(":")
        try:
            factor = float(intensifier) if colon else 1.0
        except ValueError:
            term, colon, factor = keyword, "", 1.0
        if not factor > 0:
            raise ConfigurationError(f"keywords: {keyword!r}: words cannot be made less likely")
        boost[(term if colon else keyword).strip()] = min(factor * DEFAULT_BOOST, MOST_BOOST)
    return boost


def alternative(words: Sequence[Word], text: str, language: str | None) -> dict[str, Any]:
    """What was said, as Deepgram has it."""
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
