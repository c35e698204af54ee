"""``POST /v1/listen``: Deepgram's protocol for files; the request's body is the file."""

from __future__ import annotations

import asyncio
import hashlib
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import JSONResponse
from pydantic import Field

from parakeet_stt.errors import ConfigurationError
from parakeet_stt.server.health import ServerDependency
from parakeet_stt.server.protocols.deepgram_messages import (
    Metadata,
    Options,
    alternative,
    boost_of,
    check_options,
)
from parakeet_stt.server.uploads import MIN_SEGMENT_SECONDS, FileRoute, save_body, transcribe
from parakeet_stt.transcript import Transcript, Word

router = APIRouter(route_class=FileRoute, tags=["Deepgram"])


class FileOptions(Options):
    """Query parameters for files."""

    detect_language: bool = False
    utterances: bool = False
    utt_split: float = Field(
        0.8, ge=0, le=60, description="Seconds of silence between two utterances."
    )


@router.post("/v1/listen", summary="Transcribe a file (Deepgram)")
async def listen(
    request: Request, server: ServerDependency, options: Annotated[FileOptions, Query()]
) -> Response:
    """Transcribe the body, an audio or video file of any common format.

    Deepgram's other parameters are accepted and ignored.
    """
    check_options(options, server.model.language)
    boost = boost_of(options)
    if request.headers.get("content-type", "").startswith("application/json"):
        raise ConfigurationError(
            "url: this server fetches nothing from URLs, so that nobody can use it to reach hosts "
            "on its network; send the file itself as the request's body"
        )
    metadata = Metadata(server.model_name)
    upload = await save_body(request)
    transcript = await transcribe(
        request,
        upload,
        endpointing=server.endpointing(min_segment_seconds=MIN_SEGMENT_SECONDS),
        boost=boost,
    )
    digest = await asyncio.to_thread(_digest, upload.path)
    content = {
        "metadata": metadata.complete(digest, transcript.end, 1),
        "results": _results(transcript, options),
    }
    return JSONResponse(content, headers={"dg-request-id": metadata.request_id})


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _results(transcript: Transcript, options: FileOptions) -> dict[str, Any]:
    words, language = transcript.words, transcript.language
    channel: dict[str, Any] = {"alternatives": [alternative(words, transcript.text, language)]}
    if options.detect_language and language is not None:
        channel["detected_language"] = language
    results: dict[str, Any] = {"channels": [channel]}
    if options.utterances:
        results["utterances"] = [
            {
                "id": str(number),
                "channel": 0,
                "start": round(run[0].start, 3),
                "end": round(run[-1].end, 3),
                **alternative(run, " ".join(word.text for word in run), language),
            }
            for number, run in enumerate(_runs(words, options.utt_split))
        ]
    return results


def _runs(words: tuple[Word, ...], gap: float) -> list[list[Word]]:
    """Split words at silences of ``gap`` seconds."""
    if not words:
        return []
    runs = [[words[0]]]
    for word, following in pairwise(words):
        if following.start - word.end >= gap:
            runs.append([])
        runs[-1].append(following)
    return runs
