"""OpenAI's REST API: ``/v1/audio/transcriptions``, also without ``/v1``, and ``/v1/models``."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, HTTPException, Request, Response
from loguru import logger
from pydantic import BaseModel, Field
from starlette.responses import StreamingResponse

from parakeet_stt.errors import ParakeetError
from parakeet_stt.server.health import ServerDependency
from parakeet_stt.server.protocols.openai_rest_formats import (
    ErrorResponse,
    Transcription,
    VerboseTranscription,
    delta_event,
    done_event,
    error_event,
    format_transcript,
)
from parakeet_stt.server.protocols.openai_rest_request import (
    TranscriptionRequest,
    transcription_request,
)
from parakeet_stt.server.responses import describe, openai_error, openai_type
from parakeet_stt.server.state import Server
from parakeet_stt.server.uploads import FileRoute, failures, save_upload, transcripts
from parakeet_stt.transcript import Token, Transcript

_RESPONSES: dict[int | str, dict[str, Any]] = {
    **failures(ErrorResponse),
    # Invalid fields are 400 here; without this, FastAPI would document its own 422.
    "4XX": {"model": ErrorResponse, "description": "Any other error of the request."},
}

_TEXT: dict[str, Any] = {"schema": {"type": "string"}}
_EVENTS_EXAMPLE = (
    'data: {"type": "transcript.text.delta", "delta": "Good morning."}\n\n'
    'data: {"type": "transcript.text.done", "text": "Good morning."}\n\n'
)
_RESPONSES[200] = {
    "description": "The transcript, in the requested format.",
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
    request: Request, form: Annotated[TranscriptionRequest, Depends(transcription_request)]
) -> Response:
    """OpenAI's transcription; unknown fields are ignored."""
    segments = transcripts(
        request,
        await save_upload(request, form.file),
        endpointing=form.endpointing,
        boost=form.boost,
    )
    if form.stream:
        return await _stream(request, segments, form.logprobs)
    return format_transcript(form, [transcript async for transcript in segments])


async def _stream(
    request: Request, segments: AsyncGenerator[Transcript, None], logprobs: bool
) -> Response:
    """Send server-sent events. An error before the first one sets the HTTP status."""
    first = await anext(segments)
    return StreamingResponse(
        _events(request.url.path, first, segments, logprobs),
        media_type="text/event-stream",
        headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no"},
    )


async def _events(
    path: str, first: Transcript, others: AsyncIterator[Transcript], logprobs: bool
) -> AsyncIterator[str]:
    text, tokens = "", list[Token]()
    segment: Transcript | None = first
    try:
        while segment is not None:
            if segment.text:
                delta = f" {segment.text}" if text else segment.text
                text += delta
                tokens += segment.tokens
                yield delta_event(delta, segment.tokens if logprobs else None)
            segment = await anext(others, None)
    except Exception as error:  # The status has been sent: the error becomes an event.
        status, message = describe(path, error)
        if not isinstance(error, ParakeetError | HTTPException):
            logger.opt(exception=error).error(f"a file was not transcribed: {error!r}")
        yield error_event(openai_error(openai_type(status), message))
    else:
        yield done_event(text, tokens if logprobs else None)


class ModelCard(BaseModel):
    """A model that is served."""

    id: str
    object: Literal["model"] = "model"
    created: int = Field(description="When the server was started, in seconds since 1970.")
    owned_by: str = "parakeet_stt"


class ModelList(BaseModel):
    """The models that are served."""

    object: Literal["list"] = "list"
    data: list[ModelCard]


@models.get("/v1/models", summary="List the model")
async def list_models(server: ServerDependency) -> ModelList:
    """The one model that is served. Transcription accepts any other name, too."""
    return ModelList(data=[_card(server)])


@models.get(
    "/v1/models/{model:path}",
    summary="Describe the model",
    responses={
        404: {"model": ErrorResponse, "description": "This model is not served."},
        "4XX": {"model": ErrorResponse, "description": "Any other error of the request."},
    },
)
async def retrieve_model(server: ServerDependency, model: str) -> ModelCard:
    """The model that is served, by its name."""
    if model != server.model_name:
        raise HTTPException(404, f"the model {model!r} is not served: {server.model_name!r} is")
    return _card(server)


def _card(server: Server) -> ModelCard:
    return ModelCard(id=server.model_name, created=server.created)
