"""``POST /v1/listen``: files as Deepgram takes them, the request's body being the file."""

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
from parakeet_stt.server.protocols.deepgram_messages import (
    Options,
    Summary,
    alternative,
    boost_of,
    check_options,
)
from parakeet_stt.server.state import Server
from parakeet_stt.server.uploads import MIN_SEGMENT_SECONDS, FileRoute, save_body, transcribe
from parakeet_stt.transcript import Transcript, Word

router = APIRouter(route_class=FileRoute, tags=["Deepgram"])


class FileOptions(Options):
    """What the URL may ask for besides, of a file."""

    detect_language: bool = False
    utterances: bool = False
    utt_split: float = Field(
        0.8, ge=0, le=60, description="Seconds of silence between two utterances."
    )


@router.post("/v1/listen", summary="Transcribe a file (Deepgram's protocol).")
async def listen(request: Request, options: Annotated[FileOptions, Query()]) -> Response:
    """The body is a file of any common format. Whatever else Deepgram's URLs say changes nothing.

    Raises:
        ParakeetError: The file cannot be decoded, or something was asked for that cannot be had.
    """
    server: Server = request.app.state.server
    check_options(options, server)
    boost = boost_of(options)
    if request.headers.get("content-type", "").startswith("application/json"):
        raise ConfigurationError(
            "this server fetches nothing from URLs, so that nobody can use it to reach what is "
            "near it: send the file itself as the request's body"
        )
    summary = Summary(server)
    upload = await save_body(request)
    transcript = await transcribe(
        request,
        upload,
        endpointing=server.endpointing(min_segment_seconds=MIN_SEGMENT_SECONDS),
        boost=boost,
    )
    digest = await asyncio.to_thread(_digest, upload.path)
    content = {
        "metadata": summary.content(digest, transcript.end, 1),
        "results": _results(transcript, options),
    }
    return JSONResponse(content, headers={"dg-request-id": summary.request_id})


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
    """Words without a silence of ``gap`` seconds between them."""
    if not words:
        return []
    runs = [[words[0]]]
    for word, following in pairwise(words):
        if following.start - word.end >= gap:
            runs.append([])
        runs[-1].append(following)
    return runs
