"""Files over HTTP: admitted before they are uploaded, kept on disk, heard segment by segment.

What every protocol that takes files shares; it knows none of them. A request's place, its files and
its work end with the request, however that ends.
"""

from __future__ import annotations

import asyncio
import shutil
import time
from collections.abc import AsyncGenerator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from fastapi import HTTPException, Request, UploadFile
from fastapi.routing import APIRoute
from loguru import logger
from pydantic import BaseModel
from starlette.types import Message, Receive, Scope, Send

from parakeet_stt.audio import SAMPLE_RATE, AudioFile, Samples
from parakeet_stt.engine.events import Failed, Final
from parakeet_stt.engine.options import SessionOptions
from parakeet_stt.engine.vad import Endpointing
from parakeet_stt.errors import SessionClosedError
from parakeet_stt.model.stream import StreamOptions
from parakeet_stt.server.state import FILE_PROTOCOL, Server
from parakeet_stt.transcript import Transcript, joined

MIN_SEGMENT_SECONDS = 20.0
"""A segment of a file that is shorter is not ended by silence."""

_ONE_PIECE_SECONDS = 30.0
"""A file that is no longer is one segment: it fits the model's longest window."""

_BLOCK_SECONDS = 5.0  # Decoded at a time.
_AHEAD_SECONDS = 30.0  # Audio that may have been decoded and wait for inference.
_REPORT_SECONDS = 60.0  # Of audio; or a tenth of the file, where that is more.


@dataclass(frozen=True)
class Upload:
    """A file that a request has brought.

    Attributes:
        path: Where it lies until the request has ended.
        name: What the client calls it.
    """

    path: Path
    name: str


def failures(shape: type[BaseModel]) -> dict[int | str, dict[str, Any]]:
    """What a :class:`FileRoute` may answer where it does not transcribe, for OpenAPI."""
    retry = "Retry-After says when to come again."
    meanings = {
        400: "A form or a field that cannot be used.",
        401: "A key is needed.",
        408: "The upload came to a standstill.",
        413: "Too many bytes, or too many seconds of audio.",
        415: "The file cannot be decoded, or has no audio in it.",
        429: f"Too many files at a time; {retry}",
        500: "A defect of the server's.",
        503: f"The model is being loaded, or the server shuts down; {retry}",
        504: "It was not transcribed in time.",
    }
    return {
        status: {"model": shape, "description": meaning} for status, meaning in meanings.items()
    }


class FileRoute(APIRoute):
    """A route for files: give it to a router as ``route_class``.

    A request has one of the server's places from before its body is read until its response is
    sent, so that no more is uploaded than can be worked on.
    """

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request.

        Raises:
            RefusedError: There is no place.
        """
        server: Server = scope["app"].state.server
        with server.admit(FILE_PROTOCOL), ExitStack() as stack:
            folder = Path(stack.enter_context(TemporaryDirectory(prefix="parakeet-")))
            errand = _Errand(server, folder, stack)
            scope[_ERRAND] = errand
            await super().handle(scope, partial(errand.receive, receive), send)


async def save_upload(request: Request, upload: UploadFile) -> Upload:
    """Keep a file of a form."""
    path = _errand(request).folder / "upload"

    def copy() -> None:
        with path.open("wb") as file:
            shutil.copyfileobj(upload.file, file, 2**20)

    await asyncio.to_thread(copy)
    await upload.close()
    return Upload(path, upload.filename or "the file")


async def save_body(request: Request) -> Upload:
    """Keep a request's body, which is the file itself."""
    path = _errand(request).folder / "upload"
    with path.open("wb") as file:
        async for chunk in request.stream():
            file.write(chunk)
    return Upload(path, "the file")


async def transcribe(
    request: Request,
    upload: Upload,
    *,
    endpointing: Endpointing | None,
    boost: Mapping[str, float] | None = None,
) -> Transcript:
    """The whole file's transcript; arguments and errors as :func:`transcripts`."""
    segments = transcripts(request, upload, endpointing=endpointing, boost=boost)
    return joined([transcript async for transcript in segments])


async def transcripts(
    request: Request,
    upload: Upload,
    *,
    endpointing: Endpointing | None,
    boost: Mapping[str, float] | None = None,
) -> AsyncGenerator[Transcript, None]:
    """A file's segments, each as soon as it is final; times are seconds of the file.

    Together they are all of the file. One of up to half a minute is one segment, and says what
    ``transcribe()`` says of it.

    Args:
        request: On a :class:`FileRoute`.
        upload: The file.
        endpointing: Which silences end a segment (see :data:`MIN_SEGMENT_SECONDS`); None for none.
        boost: Phrases to expect.

    Raises:
        AudioError: It cannot be decoded.
        ConfigurationError: A phrase that cannot be used.
        HTTPException: It is too long (413), was not done in time (504), or the server shuts down
            (503).
    """
    errand = _errand(request)
    server = errand.server
    options = server.options(boost)
    file = AudioFile(upload.path, upload.name)
    length = await asyncio.to_thread(file.duration)
    if length is not None and length > server.settings.max_file_seconds:
        raise _too_long(server, f"{upload.name} has {length:.0f}")
    work = _Work(server, file, upload.name, length, options, endpointing)
    errand.stack.callback(work.stop, _gone())
    watching = asyncio.create_task(_watch(request, work))
    limit = asyncio.get_running_loop().call_later(errand.left, work.stop, _overdue(server))
    try:
        async for event in work.session:
            match event:
                case Final(transcript=transcript):
                    if transcript.text:
                        server.metrics.segments.labels(FILE_PROTOCOL).inc()
                    yield server.with_language(transcript)
                case Failed(error=error):
                    raise error
        await work.fed()
    finally:
        limit.cancel()
        watching.cancel()
        work.stop(_gone())


class _Errand:
    """What a request has while it lasts.

    Args:
        server: Where it came to.
        folder: For its files.
        stack: What is done when it has ended.
    """

    def __init__(self, server: Server, folder: Path, stack: ExitStack) -> None:
        self.server = server
        self.folder = folder
        self.stack = stack
        self._until = time.monotonic() + server.settings.request_seconds
        self._uploaded = False

    @property
    def left(self) -> float:
        """Seconds that it may still take."""
        return max(0.0, self._until - time.monotonic())

    async def receive(self, receive: Receive) -> Message:
        """Receive a part of the request, as long as they keep coming."""
        if self._uploaded:
            return await receive()  # Until the client goes.
        patience = min(self.server.settings.idle_seconds, self.left)
        try:
            async with asyncio.timeout(patience):
                message = await receive()
        except TimeoutError as error:
            raise HTTPException(
                408, "the upload has come to a standstill", {"Connection": "close"}
            ) from error
        if message["type"] == "http.disconnect":
            raise _gone()
        self._uploaded = not message.get("more_body", False)
        return message


_ERRAND = "parakeet_stt.errand"


def _errand(request: Request) -> _Errand:
    errand: _Errand = request.scope[_ERRAND]
    return errand


class _Work:
    """A file on its way through a session.

    Attributes:
        session: Its finals are the file's segments.
    """

    def __init__(
        self,
        server: Server,
        file: AudioFile,
        name: str,
        length: float | None,
        options: StreamOptions,
        endpointing: Endpointing | None,
    ) -> None:
        self._server = server
        self._name = name
        self._length = length
        self._file = file
        self._stopped: Exception | None = None
        self._begun = time.monotonic()
        self._reported = 0.0
        opening = SessionOptions(options, interval=None, low_priority=True)
        self.session = server.engine.open(opening)
        # Never cancelled, only stopped: a thread may be reading the file.
        self._feeding = asyncio.create_task(self._feed(replace(opening, endpointing=endpointing)))

    def stop(self, reason: Exception) -> None:
        """End it, wherever it is; the first reason counts."""
        if self._stopped is None:
            self._stopped = reason
        self._file.stop()
        self.session.abort()

    async def fed(self) -> None:
        """Wait until the file is not read any more.

        Raises:
            Exception: Why not all of it was heard.
        """
        await asyncio.wait([self._feeding])
        if self._stopped is not None:
            raise self._stopped

    async def _feed(self, if_long: SessionOptions) -> None:
        """Send the file to the session, and close that."""
        session, blocks = self.session, self._file.blocks(_BLOCK_SECONDS)
        held: list[Samples] | None = []  # Until it is known whether this is a long file.
        read = 0
        try:
            while (block := await asyncio.to_thread(next, blocks, None)) is not None:
                read += len(block)
                if read > self._server.settings.max_file_seconds * SAMPLE_RATE:
                    raise _too_long(self._server, f"{self._name} has more")
                if held is None:
                    await self._send([block])
                    continue
                held.append(block)
                if read > _ONE_PIECE_SECONDS * SAMPLE_RATE:
                    session.configure(if_long)
                    await self._send(held)
                    held = None
            await self._send(held or [])
            await session.finish()
            took = time.monotonic() - self._begun
            logger.info(f"{self._name!r}: {session.seconds:.0f} s heard in {took:.1f} s")
        except SessionClosedError:
            self.stop(HTTPException(503, "the server is shutting down", {"Retry-After": "5"}))
        except Exception as error:
            self.stop(error)
        finally:
            blocks.close()

    async def _send(self, blocks: list[Samples]) -> None:
        """Let the session hear more, no faster than it can."""
        session = self.session
        for block in blocks:
            session.send(block)
            self._server.metrics.audio.labels(FILE_PROTOCOL).inc(len(block) / SAMPLE_RATE)
        await session.wait_for_backlog(_AHEAD_SECONDS)
        heard = session.seconds - session.backlog
        if heard - self._reported >= max(_REPORT_SECONDS, (self._length or 0) / 10):
            self._reported = heard
            known = "" if self._length is None else f" of {self._length:.0f}"
            logger.info(f"{self._name!r}: {heard:.0f}{known} s heard")


async def _watch(request: Request, work: _Work) -> None:
    """Stop when the client goes."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
    work.stop(_gone())


def _gone() -> HTTPException:
    return HTTPException(499, "the client has gone")


def _too_long(server: Server, found: str) -> HTTPException:
    limit = server.settings.max_file_seconds
    return HTTPException(413, f"{found} seconds of audio: files may have {limit:g} at most")


def _overdue(server: Server) -> HTTPException:
    limit = server.settings.request_seconds
    return HTTPException(504, f"the file was not transcribed within {limit:g} seconds")
