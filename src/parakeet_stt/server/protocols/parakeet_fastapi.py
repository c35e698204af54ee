"""The protocols of the Parakeet FastAPI services.

These are parakeet-mlx-fastapi and parakeet-tdt-0.6b-v2-fastapi. ``POST /transcribe`` takes a file.
``/ws`` is a WebSocket on which the server detects segments: clients send 16-bit audio and receive
``{"status":"queued"}`` when speech has ended, then its text. docs/protocols.md describes every
message.
"""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

import pydantic
from fastapi import APIRouter, File, Form, Request, Response, UploadFile
from pydantic import BaseModel, Field
from starlette.datastructures import QueryParams
from starlette.responses import JSONResponse

from parakeet_stt.audio import AudioDecoder
from parakeet_stt.engine.events import Event, Failed, Final, SegmentEnded
from parakeet_stt.errors import ParakeetError
from parakeet_stt.server.connection import Connection
from parakeet_stt.server.endings import DONE, Ending
from parakeet_stt.server.health import ServerDependency
from parakeet_stt.server.messages import Message, parse
from parakeet_stt.server.protocol import Protocol
from parakeet_stt.server.uploads import (
    MIN_SEGMENT_SECONDS,
    FileRoute,
    failures,
    save_upload,
    transcribe,
)
from parakeet_stt.transcript import Hypothesis, Sentence, Token, Transcript, Word, spelled

# --- files ----------------------------------------------------------------------------------------


class Timed(BaseModel):
    """A part of the text with its times, in seconds of the file."""

    text: str
    start: float
    end: float
    confidence: float


class Timestamps(BaseModel):
    """The times of words, sentences and characters."""

    words: list[Timed]
    segments: list[Timed] = Field(description="Sentences.")
    chars: list[Timed] = Field(
        description="Characters without spaces. The model times tokens, which have one "
        "or a few characters; the characters of a token share its time evenly."
    )


class Result(BaseModel):
    """The transcript of a file."""

    text: str
    confidence: float = Field(description="Mean confidence of the words, 0 to 1.")
    timestamps: Timestamps | None = Field(None, description="Present if requested.")


class Failure(BaseModel):
    """An error."""

    detail: str


_RESPONSES = {
    **failures(Failure),
    422: {"model": Failure, "description": "A field is missing or invalid."},
}

router = APIRouter(tags=["Parakeet FastAPI services"], route_class=FileRoute)


@router.post(
    "/transcribe",
    summary="Transcribe a file",
    response_model=Result,
    responses=_RESPONSES,
)
async def transcribe_upload(
    request: Request,
    server: ServerDependency,
    file: Annotated[UploadFile, File(description="Audio or video of any common format.")],
    include_timestamps: Annotated[
        bool, Form(description="Return the times of words, segments and characters.")
    ] = False,
    should_chunk: Annotated[
        bool,
        Form(description="Cut a file of more than 30 seconds at silences."),
    ] = True,
) -> Response:
    """Transcribe a file."""
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
    """Return the characters of some tokens' text, each with an even share of the tokens' time."""
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


# --- streams --------------------------------------------------------------------------------------


class StreamParameters(BaseModel):
    """Query parameters of a stream."""

    interims: bool = False
    sample_rate: int | None = Field(None, ge=4_000, le=384_000)


class Command(BaseModel):
    """``flush`` ends the segment now; ``finish`` closes the connection after the last result."""

    type: Literal["flush", "finish"]


_PARAMETERS = pydantic.TypeAdapter(StreamParameters)
_COMMAND = pydantic.TypeAdapter(Command)

_FLUSH = "flush"


class ParakeetFastAPI(Protocol[Message]):
    """The WebSocket ``/ws``, on which exactly one ``text`` follows every ``queued``.

    The benchmark of parakeet-tdt-0.6b-v2-fastapi disconnects when it has as many texts as
    ``queued`` messages. A segment without words, or one that failed, therefore gets an empty text.
    """

    name = "ws"

    def __init__(self, connection: Connection[Message], query: QueryParams) -> None:
        super().__init__(connection, query)
        self._parameters = parse(_PARAMETERS, json.dumps(dict(query)))
        rate = self._parameters.sample_rate or connection.server.settings.sample_rate
        self._decoder = AudioDecoder("pcm16", rate)
        self._queued: set[int] = set()  # Segments without a result yet.
        self._partial = ""

    def on_open(self) -> None:
        """Open the session."""
        endpointing = self.connection.server.endpointing()
        self.connection.open(endpointing=endpointing, interims=self._parameters.interims)

    def on_message(self, message: Message) -> None:
        """Handle audio (bytes) or a command (text)."""
        if isinstance(message, bytes):
            self.connection.send_audio(self._decoder(message))
        elif parse(_COMMAND, message).type == "finish":
            self.connection.end(DONE)
        else:
            self.flush_audio()
            self.connection.session.flush(_FLUSH)

    def on_event(self, event: Event) -> None:
        """Send ``queued`` when a segment has ended, then its text."""
        match event:
            case Hypothesis(text=text):
                if text != self._partial:
                    self._partial = text
                    self._send(partial=text)
            case SegmentEnded(segment=segment, tag=tag):
                self._partial = ""
                # The end of the connection flushes too; without a segment it has no result.
                if event.end > event.start or tag == _FLUSH:
                    self._queued.add(segment)
                    self._send(status="queued")
            case Final(segment=segment, transcript=transcript) if segment in self._queued:
                self._send_result(segment, transcript)
            case Failed(segment=segment, error=error) if segment in self._queued:
                self._send_result(segment, Transcript(()), error=f"a segment got no text: {error}")
            case Failed(error=error):
                self._send(error=str(error))

    def on_error(self, error: ParakeetError) -> None:
        """Send an error; the stream goes on."""
        self._send(error=str(error))

    def flush_audio(self) -> None:
        """Send the audio that the resampler holds to the session."""
        self.connection.send_audio(self._decoder.flush())

    def on_close(self, ending: Ending) -> None:
        """Send the reason if the client did not end the stream."""
        if ending is not DONE:
            self._send(error=ending.reason)

    def _send_result(self, segment: int, transcript: Transcript, **more: str) -> None:
        self._queued.remove(segment)
        self._send(
            text=transcript.text,
            confidence=round(transcript.confidence, 4),
            words=[round(word.confidence, 4) for word in transcript.words],
            **more,
        )

    def _send(self, **message: Any) -> None:
        self.connection.send(json.dumps(message, ensure_ascii=False, separators=(",", ":")))
