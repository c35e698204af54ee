"""Files over HTTP: admitted before they are uploaded, stored on disk, transcribed by segments.

All protocols that take files share this module. The admission, files and work of a request end with
the request, however that ends.
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
from parakeet_stt.server.admission import FILE_PROTOCOL
from parakeet_stt.server.state import Server
from parakeet_stt.transcript import Transcript, joined

MIN_SEGMENT_SECONDS = 20.0
"""Minimum length of a file's segment: silence does not end a shorter one."""

_ONE_PIECE_SECONDS = 30.0
"""A file up to this length is one segment, which fits into the model's maximum window."""

_BLOCK_SECONDS = 5.0  # Audio decoded at a time.
_AHEAD_SECONDS = 30.0  # Maximum decoded audio that waits for inference.
_REPORT_SECONDS = 60.0  # Audio between progress reports; a tenth of a file if that is more.


@dataclass(frozen=True)
class Upload:
    """An uploaded file.

    Attributes:
        path: Its path until the request has ended.
        name: The client's name for it.
    """

    path: Path
    name: str


def failures(shape: type[BaseModel]) -> dict[int | str, dict[str, Any]]:
    """Return the error responses of a :class:`FileRoute`, for OpenAPI.

    Args:
        shape: The body of an error.
    """
    retry = "Retry-After contains the seconds to wait."
    meanings = {
        400: "The form or a field is invalid.",
        401: "A valid API key is needed.",
        408: "The upload stalled.",
        413: "Too many bytes, or too many seconds of audio.",
        415: "The file cannot be decoded or contains no audio.",
        429: f"Too many files at the same time; {retry}",
        500: "Internal error.",
        503: f"The model is being loaded or the server is shutting down; {retry}",
        504: "The file was not transcribed in time.",
    }
    return {
        status: {"model": shape, "description": meaning} for status, meaning in meanings.items()
    }


class FileRoute(APIRoute):
    """The ``route_class`` of routers that take files.

    A request is admitted before its body is read and counted until its response is sent, so that
    clients do not upload more files than the server can transcribe.
    """

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request.

        Raises:
            RefusedError: Too many files are being transcribed.
        """
        server: Server = scope["app"].state.server
        with server.admission.admit(FILE_PROTOCOL), ExitStack() as stack:
            folder = Path(stack.enter_context(TemporaryDirectory(prefix="parakeet-")))
            context = _RequestContext(server, folder, stack)
            scope[_CONTEXT] = context
            await super().handle(scope, partial(context.receive, receive), send)


async def save_upload(request: Request, upload: UploadFile) -> Upload:
    """Store a file of a form."""
    path = _context(request).folder / "upload"

    def copy() -> None:
        with path.open("wb") as file:
            shutil.copyfileobj(upload.file, file, 2**20)

    await asyncio.to_thread(copy)
    await upload.close()
    return Upload(path, upload.filename or "the file")


async def save_body(request: Request) -> Upload:
    """Store the body of a request, which is the file itself."""
    path = _context(request).folder / "upload"
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
    """Return the transcript of a whole file; arguments and errors as :func:`transcripts`."""
    segments = transcripts(request, upload, endpointing=endpointing, boost=boost)
    return joined([transcript async for transcript in segments])


async def transcripts(
    request: Request,
    upload: Upload,
    *,
    endpointing: Endpointing | None,
    boost: Mapping[str, float] | None = None,
) -> AsyncGenerator[Transcript, None]:
    """Yield the final of each segment of a file; times are seconds of the file.

    The segments cover the whole file. A file of up to 30 seconds is one segment, whose transcript
    is that of ``transcribe()``.

    Args:
        request: A request of a :class:`FileRoute`.
        upload: The file.
        endpointing: Which silences end a segment (see :data:`MIN_SEGMENT_SECONDS`); None for none.
        boost: Phrases to boost in addition to the server's, with their weights.

    Raises:
        AudioError: The file cannot be decoded.
        ConfigurationError: A phrase or weight is invalid.
        HTTPException: The file is too long (413) or was not transcribed in time (504), or the
            server is shutting down (503).
    """
    context = _context(request)
    server = context.server
    options = server.options(boost)
    file = AudioFile(upload.path, upload.name)
    length = await asyncio.to_thread(file.duration)
    if length is not None and length > server.settings.max_file_seconds:
        raise _too_long(server, f"{upload.name} has {length:.0f}")
    work = _Transcription(server, file, upload.name, length, options, endpointing)
    context.stack.callback(work.stop, _disconnected())
    watching = asyncio.create_task(_watch(request, work))
    limit = asyncio.get_running_loop().call_later(context.left, work.stop, _overdue(server))
    try:
        async for event in work.session:
            match event:
                case Final(transcript=transcript):
                    if transcript.text:
                        server.metrics.segments.labels(FILE_PROTOCOL).inc()
                    yield server.with_language(transcript)
                case Failed(error=error):
                    raise error
        await work.wait_until_read()
    finally:
        limit.cancel()
        watching.cancel()
        work.stop(_disconnected())


class _RequestContext:
    """The resources of a request.

    Args:
        server: The server that received it.
        folder: Where its files are stored.
        stack: Cleanup when it has ended.
    """

    def __init__(self, server: Server, folder: Path, stack: ExitStack) -> None:
        self.server = server
        self.folder = folder
        self.stack = stack
        self._until = time.monotonic() + server.settings.request_seconds
        self._uploaded = False

    @property
    def left(self) -> float:
        """Seconds left before the request times out."""
        return max(0.0, self._until - time.monotonic())

    async def receive(self, receive: Receive) -> Message:
        """Receive a part of the request; raise if the upload stalls."""
        if self._uploaded:
            return await receive()  # Returns when the client disconnects.
        limit = min(self.server.settings.idle_seconds, self.left)
        try:
            async with asyncio.timeout(limit):
                message = await receive()
        except TimeoutError as error:
            raise HTTPException(408, "the upload has stalled", {"Connection": "close"}) from error
        if message["type"] == "http.disconnect":
            raise _disconnected()
        self._uploaded = not message.get("more_body", False)
        return message


_CONTEXT = "parakeet_stt.request_context"


def _context(request: Request) -> _RequestContext:
    context: _RequestContext = request.scope[_CONTEXT]
    return context


class _Transcription:
    """Sends a file through a session.

    Attributes:
        session: The session, whose finals are the file's segments.
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
        self._started = time.monotonic()
        self._reported = 0.0
        opening = SessionOptions(options, interval=None, low_priority=True)
        self.session = server.engine.open(opening)
        # Stopped, never cancelled: a thread may be reading the file.
        self._reading = asyncio.create_task(
            self._send_file(replace(opening, endpointing=endpointing))
        )

    def stop(self, reason: Exception) -> None:
        """Stop; only the first reason counts."""
        if self._stopped is None:
            self._stopped = reason
        self._file.stop()
        self.session.abort()

    async def wait_until_read(self) -> None:
        """Wait until reading the file has ended.

        Raises:
            Exception: The reason why it stopped before the end.
        """
        await asyncio.wait([self._reading])
        if self._stopped is not None:
            raise self._stopped

    async def _send_file(self, if_long: SessionOptions) -> None:
        """Send the file to the session, then finish the session.

        Args:
            if_long: Options of a file that is longer than one segment may be.
        """
        session, blocks = self.session, self._file.blocks(_BLOCK_SECONDS)
        held: list[Samples] | None = []  # Blocks held until the file is known to be long.
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
            took = time.monotonic() - self._started
            logger.info(f"{self._name!r}: {session.seconds:.0f} s transcribed in {took:.1f} s")
        except SessionClosedError:
            self.stop(HTTPException(503, "the server is shutting down", {"Retry-After": "5"}))
        except Exception as error:
            self.stop(error)
        finally:
            blocks.close()

    async def _send(self, blocks: list[Samples]) -> None:
        """Send blocks to the session at the pace of inference."""
        session = self.session
        for block in blocks:
            session.send(block)
            self._server.metrics.audio.labels(FILE_PROTOCOL).inc(len(block) / SAMPLE_RATE)
        await session.wait_for_backlog(_AHEAD_SECONDS)
        done = session.seconds - session.backlog
        if done - self._reported >= max(_REPORT_SECONDS, (self._length or 0) / 10):
            self._reported = done
            total = "" if self._length is None else f" of {self._length:.0f}"
            logger.info(f"{self._name!r}: {done:.0f}{total} s transcribed")


async def _watch(request: Request, work: _Transcription) -> None:
    """Stop the transcription when the client disconnects."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
    work.stop(_disconnected())


def _disconnected() -> HTTPException:
    return HTTPException(499, "the client has disconnected")


def _too_long(server: Server, found: str) -> HTTPException:
    limit = server.settings.max_file_seconds
    return HTTPException(413, f"{found} seconds of audio: the maximum is {limit:g}")


def _overdue(server: Server) -> HTTPException:
    limit = server.settings.request_seconds
    return HTTPException(504, f"the file was not transcribed within {limit:g} seconds")
