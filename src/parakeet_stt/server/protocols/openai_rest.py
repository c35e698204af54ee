"""OpenAI's REST: ``/v1/audio/transcriptions``, also without ``/v1``, and ``/v1/models``."""

from __future__ import annotations

import json
import zlib
from collections.abc import AsyncGenerator, AsyncIterator, Iterable
from statistics import fmean
from typing import Annotated, Any, Literal

import pydantic
from fastapi import APIRouter, File, Form, HTTPException, Request, Response, UploadFile
from loguru import logger
from pydantic import BaseModel, Field
from starlette.responses import JSONResponse, PlainTextResponse, StreamingResponse

from parakeet_stt.engine.vad import Endpointing
from parakeet_stt.errors import ConfigurationError, ParakeetError
from parakeet_stt.server.auth import openai_error, status_of
from parakeet_stt.server.conversation import parse
from parakeet_stt.server.health import TheServer
from parakeet_stt.server.state import Server
from parakeet_stt.server.uploads import (
    MIN_SEGMENT_SECONDS,
    FileRoute,
    failures,
    save_upload,
    transcripts,
)
from parakeet_stt.settings import DEFAULT_BOOST
from parakeet_stt.transcript import Token, Transcript, joined, spelled


class Problem(BaseModel):
    """What is wrong."""

    message: str
    type: str
    param: str | None
    code: str | None


class Failure(BaseModel):
    """An error, as OpenAI's clients expect it."""

    error: Problem


class Usage(BaseModel):
    """How much audio it was."""

    type: Literal["duration"] = "duration"
    seconds: float


class Logprob(BaseModel):
    """A token and the natural logarithm of its probability, as the model gave it."""

    token: str
    bytes: list[int]
    logprob: float | None


class Transcription(BaseModel):
    """``response_format=json``."""

    text: str
    logprobs: list[Logprob] | None = Field(None, description="Where `include[]` asks for them.")
    usage: Usage


class TimedWord(BaseModel):
    """A word and when it was said, in seconds of the file."""

    word: str
    start: float
    end: float


class TimedSegment(BaseModel):
    """A sentence, in the shape that Whisper gave it."""

    id: int
    seek: int = Field(description="Where the piece begins that was heard at once, in 10 ms.")
    start: float
    end: float
    text: str
    tokens: list[int]
    temperature: float = Field(description="0: decoding is greedy.")
    avg_logprob: float | None = Field(
        description="Mean of the tokens' log-probabilities, as the model gave them."
    )
    compression_ratio: float = Field(description="Bytes of the text by those of its zlib form.")
    no_speech_prob: None = Field(description="Parakeet models do not tell.")


class VerboseTranscription(BaseModel):
    """``response_format=verbose_json``."""

    task: Literal["transcribe"] = "transcribe"
    language: str | None = Field(
        description="Such as `english`; as the client or the text says where the model does not."
    )
    duration: float
    text: str
    segments: list[TimedSegment] | None = None
    words: list[TimedWord] | None = None
    usage: Usage


class ServerVad(BaseModel):
    """``chunking_strategy`` with values of its own."""

    type: Literal["server_vad"]
    threshold: float | None = None
    silence_duration_ms: int | None = None
    prefix_padding_ms: int | None = None


_SERVER_VAD = pydantic.TypeAdapter(ServerVad)

Format = Literal["json", "text", "srt", "verbose_json", "vtt", "diarized_json"]
Granularity = Literal["word", "segment"]
Phrase = Annotated[str, Field(max_length=200)]

_RESPONSES: dict[int | str, dict[str, Any]] = {
    **failures(Failure),
    # Errors of fields are 400 here; without this FastAPI would promise its own 422.
    "4XX": {"model": Failure, "description": "Another error of the request."},
}

_TEXT: dict[str, Any] = {"schema": {"type": "string"}}
_EVENTS_EXAMPLE = (
    'data: {"type": "transcript.text.delta", "delta": "Good morning."}\n\n'
    'data: {"type": "transcript.text.done", "text": "Good morning."}\n\n'
)
_RESPONSES[200] = {
    "description": "The transcript, in the format that was asked for.",
    "content": {
        "text/plain": _TEXT,
        "application/x-subrip": _TEXT,
        "text/vtt": _TEXT,
        "text/event-stream": {"example": _EVENTS_EXAMPLE},
    },
}

router = APIRouter(tags=["OpenAI"], route_class=FileRoute)
models = APIRouter(tags=["OpenAI"])


@router.post(
    "/v1/audio/transcriptions",
    summary="Transcribe a file",
    response_model=Transcription | VerboseTranscription,
    responses=_RESPONSES,
)
@router.post(
    "/audio/transcriptions",
    summary="Transcribe a file (as with /v1)",
    response_model=Transcription | VerboseTranscription,
    responses=_RESPONSES,
)
async def create_transcription(
    request: Request,
    server: TheServer,
    file: Annotated[UploadFile, File(description="Audio or video of any common format.")],
    model: Annotated[
        str | None, Form(description="Any name is accepted: one model is served.")
    ] = None,
    language: Annotated[
        str | None,
        Form(description="Such as `en`. An error where the model does not know it."),
    ] = None,
    prompt: Annotated[
        str | None, Form(description="Accepted without effect: the model takes no prompt.")
    ] = None,
    temperature: Annotated[
        float | None,
        Form(ge=0, le=1, description="Accepted without effect: decoding is greedy."),
    ] = None,
    response_format: Annotated[Format, Form(description="`diarized_json` cannot be had.")] = "json",
    stream: Annotated[
        bool, Form(description="Server-sent events: a delta for each segment that is final.")
    ] = False,
    chunking_strategy: Annotated[
        str | None,
        Form(description="`auto`, or a JSON object of type `server_vad`. Short files are whole."),
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
        list[Phrase] | None, Form(alias="keywords[]", description="Phrases to expect.")
    ] = None,
    more_keywords: Annotated[list[Phrase] | None, Form(alias="keywords")] = None,
) -> Response:
    """OpenAI's transcription; fields that are not known are passed over."""
    timed = {*(granularities or ()), *(more_granularities or ())}
    logprobs = bool(include or more_include)
    _check(response_format, stream, bool(timed), logprobs)
    spoken = _language(server, language)
    phrases = [*(keywords or ()), *(more_keywords or ())]
    segments = transcripts(
        request,
        await save_upload(request, file),
        endpointing=_endpointing(server, chunking_strategy, await request.form()),
        boost={phrase: DEFAULT_BOOST for phrase in phrases if phrase.strip()},
    )
    if stream:
        return await _streamed(segments, logprobs)
    found = [transcript async for transcript in segments]
    whole = joined(found)
    match response_format:
        case "text":
            return PlainTextResponse(whole.text + "\n")
        case "srt":
            return Response(whole.to_srt(), media_type="application/x-subrip; charset=utf-8")
        case "vtt":
            return Response(whole.to_vtt(), media_type="text/vtt")
        case "verbose_json":
            return _json(_verbose(found, whole, timed or {"segment"}, spoken))
    usage = Usage(seconds=round(whole.end, 3), type="duration")
    if logprobs:
        return _json(Transcription(text=whole.text, usage=usage, logprobs=_logprobs(whole.tokens)))
    return _json(Transcription(text=whole.text, usage=usage))


class ModelCard(BaseModel):
    """A model that can be asked for."""

    id: str
    object: Literal["model"] = "model"
    created: int = Field(description="When the server was started, seconds since 1970.")
    owned_by: str = "parakeet_stt"


class ModelList(BaseModel):
    """The models that can be asked for."""

    object: Literal["list"] = "list"
    data: list[ModelCard]


@models.get("/v1/models", summary="The model that is served")
async def list_models(server: TheServer) -> ModelList:
    """One model, under its own name; transcription accepts every other name as well."""
    return ModelList(data=[_card(server)])


@models.get(
    "/v1/models/{model:path}",
    summary="One model",
    responses={
        404: {"model": Failure, "description": "Another model than the one served."},
        "4XX": {"model": Failure, "description": "Another error of the request."},
    },
)
async def retrieve_model(server: TheServer, model: str) -> ModelCard:
    """The model that is served, by its name."""
    if model != server.model_name:
        raise HTTPException(404, f"the model {model!r} is not served: {server.model_name!r} is")
    return _card(server)


def _card(server: Server) -> ModelCard:
    return ModelCard(id=server.model_name, created=server.created)


def _check(response_format: Format, stream: bool, timed: bool, logprobs: bool) -> None:
    """Refuse what would be left out without a word."""
    wrong = None
    if response_format == "diarized_json":
        wrong = "response_format: diarized_json needs speakers, which this model cannot tell apart"
    elif timed and response_format != "verbose_json":
        wrong = "timestamp_granularities: needs response_format verbose_json"
    elif stream and response_format not in ("json", "text"):
        wrong = f"stream: cannot be had with response_format {response_format}"
    elif logprobs and response_format != "json" and not stream:
        wrong = "include: logprobs need response_format json"
    if wrong:
        raise ConfigurationError(wrong)


def _language(server: Server, language: str | None) -> str | None:
    """The code of the language that the client says it is, if any.

    Raises:
        ConfigurationError: The model does not know it.
    """
    if not language or language.lower() == "auto":
        return None
    code = language.lower().replace("_", "-").partition("-")[0]
    code = next((c for c, name in _LANGUAGES.items() if name == code), code)
    known = server.model.language
    if known is not None and code != known:
        raise ConfigurationError(
            f"language: {language!r}, but {server.model_name} knows {known!r} only"
        )
    return code


def _endpointing(server: Server, strategy: str | None, form: Any) -> Endpointing:
    """Which silences cut a long file.

    Raises:
        BadMessageError: A strategy that is not known.
        ConfigurationError: A value that cannot be used.
    """
    # OpenAI's libraries send an object's members as fields of their own.
    prefix = "chunking_strategy["
    nested = {k[len(prefix) : -1]: v for k, v in form.items() if k.startswith(prefix)}
    if nested:
        strategy = json.dumps({k: v for k, v in nested.items() if isinstance(v, str)})
    if strategy in (None, "auto"):
        return server.endpointing(min_segment_seconds=MIN_SEGMENT_SECONDS)
    assert strategy is not None
    vad = parse(_SERVER_VAD, strategy)
    stop = None if vad.silence_duration_ms is None else vad.silence_duration_ms / 1000
    return server.endpointing(vad.threshold, stop, MIN_SEGMENT_SECONDS)


def _verbose(
    found: list[Transcript], whole: Transcript, timed: set[Granularity], spoken: str | None
) -> VerboseTranscription:
    given: dict[str, Any] = {}
    if "segment" in timed:
        sentences = [(heard, sentence) for heard in found for sentence in heard.sentences]
        given["segments"] = [
            TimedSegment(
                id=number,
                seek=round(heard.start * 100),
                start=round(sentence.start, 3),
                end=round(sentence.end, 3),
                text=sentence.text,
                tokens=[token.id for token in sentence.tokens],
                temperature=0.0,
                avg_logprob=_mean_logprob(sentence.tokens),
                compression_ratio=_compression(sentence.text),
                no_speech_prob=None,
            )
            for number, (heard, sentence) in enumerate(sentences)
        ]
    if "word" in timed:
        given["words"] = [
            TimedWord(word=word.text, start=round(word.start, 3), end=round(word.end, 3))
            for word in whole.words
        ]
    language = spoken or whole.language
    seconds = round(whole.end, 3)
    return VerboseTranscription(
        task="transcribe",
        language=_LANGUAGES.get(language, language) if language else None,
        duration=seconds,
        text=whole.text,
        usage=Usage(type="duration", seconds=seconds),
        **given,
    )


def _mean_logprob(tokens: Iterable[Token]) -> float | None:
    known = [token.logprob for token in tokens if token.logprob is not None]
    return round(fmean(known), 4) if known else None


def _compression(text: str) -> float:
    """As Whisper has it: repetition compresses well."""
    data = text.encode()
    return round(len(data) / len(zlib.compress(data)), 4)


def _logprobs(tokens: Iterable[Token]) -> list[Logprob]:
    return [
        Logprob(token=text, bytes=list(text.encode()), logprob=_sum_of_logprobs(made_of))
        for text, made_of in spelled(tokens)
    ]


def _sum_of_logprobs(tokens: tuple[Token, ...]) -> float | None:
    known = [token.logprob for token in tokens if token.logprob is not None]
    return sum(known) if len(known) == len(tokens) else None


async def _streamed(segments: AsyncGenerator[Transcript, None], logprobs: bool) -> Response:
    """Server-sent events; what is wrong before the first is told by the status."""
    first = await anext(segments)
    return StreamingResponse(
        _events(first, segments, logprobs),
        media_type="text/event-stream",
        headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no"},
    )


async def _events(
    first: Transcript, others: AsyncIterator[Transcript], logprobs: bool
) -> AsyncIterator[str]:
    text, tokens = "", list[Token]()
    heard: Transcript | None = first
    try:
        while heard is not None:
            if heard.text:
                delta = f" {heard.text}" if text else heard.text
                text += delta
                tokens += heard.tokens
                yield _event("delta", delta=delta, **_with(heard.tokens, logprobs))
            heard = await anext(others, None)
    except Exception as error:
        status, message = status_of(error), str(error)
        if isinstance(error, HTTPException):
            message = str(error.detail)
        elif not isinstance(error, ParakeetError):
            logger.opt(exception=error).error(f"a file was not transcribed: {error!r}")
            message = "internal error"
        yield f"data: {json.dumps({'type': 'error', **openai_error(status, message)})}\n\n"
    else:
        yield _event("done", text=text, **_with(tokens, logprobs))


def _with(tokens: Iterable[Token], logprobs: bool) -> dict[str, Any]:
    return {"logprobs": [p.model_dump() for p in _logprobs(tokens)]} if logprobs else {}


def _event(kind: str, **content: Any) -> str:
    event = {"type": f"transcript.text.{kind}", **content}
    return f"data: {json.dumps(event, ensure_ascii=False)}\n\n"


def _json(content: BaseModel) -> Response:
    return JSONResponse(content.model_dump(mode="json", exclude_unset=True))


_LANGUAGES = {
    "bg": "bulgarian",
    "hr": "croatian",
    "cs": "czech",
    "da": "danish",
    "nl": "dutch",
    "en": "english",
    "et": "estonian",
    "fi": "finnish",
    "fr": "french",
    "de": "german",
    "el": "greek",
    "hu": "hungarian",
    "it": "italian",
    "lv": "latvian",
    "lt": "lithuanian",
    "mt": "maltese",
    "pl": "polish",
    "pt": "portuguese",
    "ro": "romanian",
    "ru": "russian",
    "sk": "slovak",
    "sl": "slovenian",
    "es": "spanish",
    "sv": "swedish",
    "uk": "ukrainian",
}
"""The names by which Whisper calls languages, of those that Parakeet models know."""
