"""``POST /transcribe``, as the FastAPI services around Parakeet have it (systems 001 and 002)."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, File, Form, Request, Response, UploadFile
from pydantic import BaseModel, Field
from starlette.responses import JSONResponse

from parakeet_stt.server.health import TheServer
from parakeet_stt.server.uploads import (
    MIN_SEGMENT_SECONDS,
    FileRoute,
    failures,
    save_upload,
    transcribe,
)
from parakeet_stt.transcript import Sentence, Token, Transcript, Word, spelled


class Timed(BaseModel):
    """A piece of the text and when it was said, in seconds of the file."""

    text: str
    start: float
    end: float
    confidence: float


class Timestamps(BaseModel):
    """When what was said."""

    words: list[Timed]
    segments: list[Timed] = Field(description="Sentences.")
    chars: list[Timed] = Field(
        description="Characters, spaces aside. The model times its tokens, of one or a few "
        "characters; within a token they share its time evenly."
    )


class Result(BaseModel):
    """What was said."""

    text: str
    confidence: float = Field(description="Mean confidence of the words, 0 to 1.")
    timestamps: Timestamps | None = Field(None, description="Where they were asked for.")


class Failure(BaseModel):
    """An error."""

    detail: str


_RESPONSES = {
    **failures(Failure),
    422: {"model": Failure, "description": "A field that is missing or cannot be used."},
}

router = APIRouter(tags=["systems 001 and 002"], route_class=FileRoute)


@router.post(
    "/transcribe",
    summary="Transcribe a file",
    response_model=Result,
    responses=_RESPONSES,
)
async def transcribe_upload(
    request: Request,
    server: TheServer,
    file: Annotated[UploadFile, File(description="Audio or video of any common format.")],
    include_timestamps: Annotated[
        bool, Form(description="Times of words, segments and characters.")
    ] = False,
    should_chunk: Annotated[
        bool,
        Form(description="Cut a file of more than half a minute at silences."),
    ] = True,
) -> Response:
    """The text of a file."""
    transcript = await transcribe(
        request,
        await save_upload(request, file),
        endpointing=server.endpointing(min_segment_seconds=MIN_SEGMENT_SECONDS)
        if should_chunk
        else None,
    )
    result = Result(text=transcript.text, confidence=round(transcript.confidence, 4))
    if include_timestamps:
        result.timestamps = _timestamps(transcript)
    return JSONResponse(result.model_dump(mode="json", exclude_unset=True))


def _timestamps(transcript: Transcript) -> Timestamps:
    return Timestamps(
        words=[_timed(word) for word in transcript.words],
        segments=[_timed(segment) for segment in transcript.sentences],
        chars=[char for part in spelled(transcript.tokens) for char in _chars(*part)],
    )


def _timed(part: Word | Sentence) -> Timed:
    return Timed(
        text=part.text,
        start=round(part.start, 3),
        end=round(part.end, 3),
        confidence=round(part.confidence, 4),
    )


def _chars(text: str, tokens: tuple[Token, ...]) -> list[Timed]:
    """The characters of the text of some tokens, each with an even share of their time."""
    text, start, end = text.strip(), tokens[0].start, tokens[-1].end
    share = (end - start) / max(1, len(text))
    return [
        Timed(
            text=char,
            start=round(start + index * share, 3),
            end=round(start + (index + 1) * share, 3),
            confidence=round(min(token.confidence for token in tokens), 4),
        )
        for index, char in enumerate(text)
    ]
