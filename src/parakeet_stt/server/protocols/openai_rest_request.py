"""The form of OpenAI's ``/v1/audio/transcriptions``, validated."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import pydantic
from fastapi import File, Form, Request, UploadFile
from pydantic import BaseModel, Field

from parakeet_stt.engine.vad import Endpointing
from parakeet_stt.errors import ConfigurationError
from parakeet_stt.server.health import ServerDependency
from parakeet_stt.server.messages import parse
from parakeet_stt.server.protocols.openai_languages import CODES
from parakeet_stt.server.state import Server
from parakeet_stt.server.uploads import MIN_SEGMENT_SECONDS
from parakeet_stt.settings import DEFAULT_BOOST

ResponseFormat = Literal["json", "text", "srt", "verbose_json", "vtt", "diarized_json"]
Granularity = Literal["word", "segment"]
Phrase = Annotated[str, Field(max_length=200)]


class ServerVad(BaseModel):
    """A ``chunking_strategy`` of type ``server_vad``."""

    type: Literal["server_vad"]
    threshold: float | None = None
    silence_duration_ms: int | None = None
    prefix_padding_ms: int | None = None


_SERVER_VAD = pydantic.TypeAdapter(ServerVad)


@dataclass(frozen=True)
class TranscriptionRequest:
    """A validated request for a transcription.

    Attributes:
        file: The uploaded file.
        response_format: The format of the response.
        stream: Whether the client wants server-sent events.
        granularities: The times that the client wants.
        logprobs: Whether the client wants log-probabilities of tokens.
        language: Code of the language that the client declares, if any.
        endpointing: Which silences cut a long file.
        boost: Phrases to boost, with their weights.
    """

    file: UploadFile
    response_format: ResponseFormat
    stream: bool
    granularities: frozenset[Granularity]
    logprobs: bool
    language: str | None
    endpointing: Endpointing
    boost: Mapping[str, float]


async def transcription_request(
    request: Request,
    server: ServerDependency,
    file: Annotated[UploadFile, File(description="Audio or video of any common format.")],
    model: Annotated[
        str | None, Form(description="Any name is accepted: the server has one model.")
    ] = None,
    language: Annotated[
        str | None,
        Form(description="Such as `en`. An error if the model does not transcribe it."),
    ] = None,
    prompt: Annotated[
        str | None, Form(description="Accepted without effect: the model takes no prompt.")
    ] = None,
    temperature: Annotated[
        float | None,
        Form(ge=0, le=1, description="Accepted without effect: decoding is greedy."),
    ] = None,
    response_format: Annotated[
        ResponseFormat, Form(description="`diarized_json` is not supported.")
    ] = "json",
    stream: Annotated[
        bool, Form(description="Server-sent events: a delta for each segment's final.")
    ] = False,
    chunking_strategy: Annotated[
        str | None,
        Form(
            description="How a file of more than 30 seconds is cut: `auto`, or a JSON object of "
            "type `server_vad`."
        ),
    ] = None,
    granularities: Annotated[
        list[Granularity] | None, Form(alias="timestamp_granularities[]")
    ] = None,
    more_granularities: Annotated[
        list[Granularity] | None, Form(alias="timestamp_granularities")
    ] = None,
    include: Annotated[list[Literal["logprobs"]] | None, Form(alias="include[]")] = None,
    more_include: Annotated[list[Literal["logprobs"]] | None, Form(alias="include")] = None,
    keywords: Annotated[
        list[Phrase] | None, Form(alias="keywords[]", description="Phrases to boost.")
    ] = None,
    more_keywords: Annotated[list[Phrase] | None, Form(alias="keywords")] = None,
) -> TranscriptionRequest:
    """Validate the form; unknown fields are ignored.

    Raises:
        ConfigurationError: A combination of fields, or the language, is not supported.
        BadMessageError: The chunking strategy is invalid.
    """
    phrases = [*(keywords or ()), *(more_keywords or ())]
    found = TranscriptionRequest(
        file=file,
        response_format=response_format,
        stream=stream,
        granularities=frozenset((*(granularities or ()), *(more_granularities or ()))),
        logprobs=bool(include or more_include),
        language=_language_code(server, language),
        endpointing=_endpointing(server, chunking_strategy, await request.form()),
        boost={phrase: DEFAULT_BOOST for phrase in phrases if phrase.strip()},
    )
    _check(found)
    return found


def _check(request: TranscriptionRequest) -> None:
    """Refuse requests for something that the response would lack.

    Raises:
        ConfigurationError: The combination of fields is not supported.
    """
    response_format, message = request.response_format, None
    if response_format == "diarized_json":
        message = "response_format: diarized_json is not supported: the model has no speakers"
    elif request.granularities and response_format != "verbose_json":
        message = "timestamp_granularities: needs response_format verbose_json"
    elif request.stream and response_format not in ("json", "text"):
        message = f"stream: not supported with response_format {response_format}"
    elif request.logprobs and response_format != "json" and not request.stream:
        message = "include: logprobs need response_format json"
    if message:
        raise ConfigurationError(message)


def _language_code(server: Server, language: str | None) -> str | None:
    """Return the code of a language given as a code or a name; None for none or ``auto``.

    Raises:
        ConfigurationError: The model does not transcribe the language.
    """
    if not language or language.lower() == "auto":
        return None
    code = language.lower().replace("_", "-").partition("-")[0]
    code = CODES.get(code, code)
    known = server.model.language
    if known is not None and code != known:
        raise ConfigurationError(
            f"language: {language!r}, but {server.model_name} transcribes {known!r} only"
        )
    return code


def _endpointing(server: Server, strategy: str | None, form: Mapping[str, Any]) -> Endpointing:
    """Return the silences that cut a long file.

    Args:
        server: Its settings are the defaults.
        strategy: The field ``chunking_strategy``.
        form: All fields of the form.

    Raises:
        BadMessageError: The strategy is unknown.
        ConfigurationError: A value is out of range.
    """
    # OpenAI's libraries send the members of an object as fields of their own.
    prefix = "chunking_strategy["
    nested = {k[len(prefix) : -1]: v for k, v in form.items() if k.startswith(prefix)}
    if nested:
        strategy = json.dumps({k: v for k, v in nested.items() if isinstance(v, str)})
    if strategy is None or strategy == "auto":
        return server.endpointing(min_segment_seconds=MIN_SEGMENT_SECONDS)
    vad = parse(_SERVER_VAD, strategy)
    stop = None if vad.silence_duration_ms is None else vad.silence_duration_ms / 1000
    return server.endpointing(vad.threshold, stop, MIN_SEGMENT_SECONDS)
