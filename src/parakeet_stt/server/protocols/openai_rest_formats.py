"""The response formats of OpenAI's ``/v1/audio/transcriptions``."""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterable, Sequence
from statistics import fmean
from typing import Any, Literal

from pydantic import BaseModel, Field
from starlette.responses import JSONResponse, PlainTextResponse, Response

from parakeet_stt.server.protocols.openai_languages import NAMES
from parakeet_stt.server.protocols.openai_rest_request import TranscriptionRequest
from parakeet_stt.transcript import Token, Transcript, joined, spelled


class ErrorObject(BaseModel):
    """What is wrong."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorResponse(BaseModel):
    """An error."""

    error: ErrorObject


class Usage(BaseModel):
    """The length of the audio."""

    type: Literal["duration"] = "duration"
    seconds: float


class Logprob(BaseModel):
    """A token and the natural logarithm of the probability that the model gave it."""

    token: str
    bytes: list[int]
    logprob: float | None


class Transcription(BaseModel):
    """``response_format=json``."""

    text: str
    logprobs: list[Logprob] | None = Field(
        None, description="Present if `include[]` requests them."
    )
    usage: Usage


class TimedWord(BaseModel):
    """A word with its times, in seconds of the file."""

    word: str
    start: float
    end: float


class TimedSegment(BaseModel):
    """A sentence, with Whisper's fields."""

    id: int
    seek: int = Field(description="Start of the audio segment, in units of 10 ms.")
    start: float
    end: float
    text: str
    tokens: list[int]
    temperature: float = Field(description="0: decoding is greedy.")
    avg_logprob: float | None = Field(description="Mean log-probability of the tokens.")
    compression_ratio: float = Field(description="Bytes of the text per byte of its zlib form.")
    no_speech_prob: None = Field(description="Null: Parakeet models do not estimate it.")


class VerboseTranscription(BaseModel):
    """``response_format=verbose_json``."""

    task: Literal["transcribe"] = "transcribe"
    language: str | None = Field(
        description="Such as `english`: that of the request, of the model, or of the text."
    )
    duration: float
    text: str
    segments: list[TimedSegment] | None = None
    words: list[TimedWord] | None = None
    usage: Usage


def format_transcript(request: TranscriptionRequest, segments: Sequence[Transcript]) -> Response:
    """Return a transcript in the requested format.

    Args:
        request: The client's request.
        segments: The transcripts of the file's segments.
    """
    whole = joined(segments)
    match request.response_format:
        case "text":
            return PlainTextResponse(whole.text + "\n")
        case "srt":
            return Response(whole.to_srt(), media_type="application/x-subrip; charset=utf-8")
        case "vtt":
            return Response(whole.to_vtt(), media_type="text/vtt")
        case "verbose_json":
            return _json(_verbose(request, segments, whole))
    usage = Usage(seconds=round(whole.end, 3), type="duration")
    if not request.logprobs:
        return _json(Transcription(text=whole.text, usage=usage))
    return _json(Transcription(text=whole.text, usage=usage, logprobs=_logprobs(whole.tokens)))


def delta_event(delta: str, tokens: Iterable[Token] | None) -> str:
    """Return the server-sent event for more text.

    Args:
        delta: The text.
        tokens: Its tokens, if the client wants log-probabilities.
    """
    return _event("transcript.text.delta", delta=delta, **_with_logprobs(tokens))


def done_event(text: str, tokens: Iterable[Token] | None) -> str:
    """Return the server-sent event for the end.

    Args:
        text: The whole text.
        tokens: Its tokens, if the client wants log-probabilities.
    """
    return _event("transcript.text.done", text=text, **_with_logprobs(tokens))


def error_event(error: dict[str, str | None]) -> str:
    """Return the server-sent event for an error."""
    return _event("error", error=error)


def _verbose(
    request: TranscriptionRequest, segments: Sequence[Transcript], whole: Transcript
) -> VerboseTranscription:
    granularities = request.granularities or {"segment"}
    times: dict[str, Any] = {}
    if "segment" in granularities:
        sentences = [(segment, sentence) for segment in segments for sentence in segment.sentences]
        times["segments"] = [
            TimedSegment(
                id=number,
                seek=round(segment.start * 100),
                start=round(sentence.start, 3),
                end=round(sentence.end, 3),
                text=sentence.text,
                tokens=[token.id for token in sentence.tokens],
                temperature=0.0,
                avg_logprob=_mean_logprob(sentence.tokens),
                compression_ratio=_compression(sentence.text),
                no_speech_prob=None,
            )
            for number, (segment, sentence) in enumerate(sentences)
        ]
    if "word" in granularities:
        times["words"] = [
            TimedWord(word=word.text, start=round(word.start, 3), end=round(word.end, 3))
            for word in whole.words
        ]
    language = request.language or whole.language
    seconds = round(whole.end, 3)
    return VerboseTranscription(
        task="transcribe",
        language=NAMES.get(language, language) if language else None,
        duration=seconds,
        text=whole.text,
        usage=Usage(type="duration", seconds=seconds),
        **times,
    )


def _mean_logprob(tokens: Iterable[Token]) -> float | None:
    known = [token.logprob for token in tokens if token.logprob is not None]
    return round(fmean(known), 4) if known else None


def _compression(text: str) -> float:
    """Return Whisper's compression ratio, which is high for repetitive text."""
    data = text.encode()
    return round(len(data) / len(zlib.compress(data)), 4)


def _logprobs(tokens: Iterable[Token]) -> list[Logprob]:
    return [
        Logprob(token=text, bytes=list(text.encode()), logprob=_sum_of_logprobs(parts))
        for text, parts in spelled(tokens)
    ]


def _sum_of_logprobs(tokens: tuple[Token, ...]) -> float | None:
    known = [token.logprob for token in tokens if token.logprob is not None]
    return sum(known) if len(known) == len(tokens) else None


def _with_logprobs(tokens: Iterable[Token] | None) -> dict[str, Any]:
    return {} if tokens is None else {"logprobs": [p.model_dump() for p in _logprobs(tokens)]}


def _event(kind: str, **content: Any) -> str:
    return f"data: {json.dumps({'type': kind, **content}, ensure_ascii=False)}\n\n"


def _json(content: BaseModel) -> Response:
    return JSONResponse(content.model_dump(mode="json", exclude_unset=True))
