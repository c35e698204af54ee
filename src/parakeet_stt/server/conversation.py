"""One streaming client, from its first message to its last: queues, limits, and its end.

A :class:`Dialect` says what messages mean; everything that is the same for all protocols is here.
"""

from __future__ import annotations

import asyncio
import base64
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar, Generic, TypeVar

import pydantic
from loguru import logger
from starlette.datastructures import Headers, QueryParams

from parakeet_stt.audio import SAMPLE_RATE, Samples
from parakeet_stt.errors import ParakeetError
from parakeet_stt.events import Event, Failed, Final
from parakeet_stt.server.connection import (
    BadMessageError,
    Connection,
    GoneError,
    M,
    UnreadableError,
)
from parakeet_stt.server.server import Server
from parakeet_stt.session import Session
from parakeet_stt.vad import Endpointing

T = TypeVar("T")


def _unbase64(value: Any) -> bytes:
    try:
        return base64.b64decode(value, validate=True)
    except (TypeError, ValueError) as error:
        raise ValueError(f"not base64: {error}") from error


Base64 = Annotated[bytes, pydantic.BeforeValidator(_unbase64, json_schema_input_type=str)]
"""Bytes that a message has in base64."""

_CLOSE_SECONDS = 5.0  # How long messages may take to be sent when too many wait, or at the end.
_LISTEN_SECONDS = 0.2  # How long what a client has sent already may take to get here.


@dataclass(frozen=True)
class Ending:
    """Why and how a conversation ends.

    Attributes:
        code: The WebSocket's close code.
        reason: For the client and the log.
        deliver: Whether what was heard gets its finals first.
        listen: Whether what is on its way is heard first: the client does not know of its end yet.
    """

    code: int
    reason: str
    deliver: bool = True
    listen: bool = False


DONE = Ending(1000, "")
GONE = Ending(1000, "the client has gone", deliver=False)
DRAINING = Ending(1001, "the server is shutting down", listen=True)
BROKEN = Ending(1011, "internal error", deliver=False)


class Dialect(ABC, Generic[M]):
    """One protocol: what its messages mean for a session, and a session's events for it.

    Made before the connection is accepted; raises a ParakeetError where it cannot be, and the
    client is then told why.

    Attributes:
        protocol: Its name in metrics and the log.
        idle_code: The close code of a client that sends nothing.
        answer: Headers of the response that accepts a WebSocket.
        silent: Whether the client has a reason to send nothing, however long.

    Args:
        talk: The conversation that it translates.
        query: What the URL asks for.
    """

    protocol: ClassVar[str]
    idle_code: ClassVar[int] = 1008
    silent = False

    def __init__(self, talk: Conversation[M], query: QueryParams) -> None:
        self.talk = talk
        self.answer: dict[str, str] = {}

    def greet(self) -> None:
        """The connection is there: open the session, say what is said first."""

    @abstractmethod
    def receive(self, message: M) -> None:
        """A message has come.

        Raises:
            ParakeetError: It cannot be used; the client is told, and the conversation goes on.
        """

    @abstractmethod
    def tell(self, event: Event) -> None:
        """The session has something to say."""

    @abstractmethod
    def complain(self, error: ParakeetError) -> None:
        """Tell the client of an error."""

    def rest(self) -> None:
        """Nothing more will be received: hand over audio that a decoder still holds back."""

    def leave(self, ending: Ending) -> None:
        """The last words, after every final and before the connection is closed."""


class Conversation(Generic[M]):
    """One streaming client.

    Args:
        server: Whose client it is.
        dialect: What it speaks.
        query: What its URL asks for.
        headers: What it was opened with, where there are any.

    Raises:
        ParakeetError: The URL asks for what cannot be had.
    """

    def __init__(
        self,
        server: Server,
        dialect: Callable[[Conversation[M], QueryParams], Dialect[M]],
        query: QueryParams,
        headers: Headers | None = None,
    ) -> None:
        self.server = server
        self.headers = headers or Headers()
        self.session: Session | None = None
        self._ending: asyncio.Future[Ending] = asyncio.get_running_loop().create_future()
        self._unsent: deque[M] = deque()
        self._has_unsent = asyncio.Event()
        self._sent = asyncio.Event()
        self._sent.set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._relaying: asyncio.Task[None] | None = None
        self._dialect = dialect(self, query)

    @property
    def dialect(self) -> Dialect[M]:
        """What it speaks."""
        return self._dialect

    @property
    def ending(self) -> Ending | None:
        """How it ends, once that is known."""
        return self._ending.result() if self._ending.done() else None

    def open(
        self,
        *,
        endpointing: Endpointing | None,
        interims: bool,
        preroll: float | None = None,
        boost: Mapping[str, float] | None = None,
    ) -> Session:
        """Open the session, or change how the one that is open listens.

        Args:
            endpointing: As :meth:`~parakeet_stt.Engine.open`; None where the client flushes.
            interims: Whether hypotheses are wanted.
            preroll: Seconds before speech that belong to its segment; as was set by default. Where
                the client flushes, all audio belongs to a segment.
            boost: Phrases to expect.

        Raises:
            ConfigurationError: A phrase that cannot be used.
        """
        settings = self.server.settings
        options = self.server.options(boost)
        interval = settings.chunk_ms / 1000 if interims and settings.emit_partial else None
        if endpointing is None:
            preroll = None
        elif preroll is None:
            preroll = settings.preroll_ms / 1000
        if self.session is not None:
            self.session.configure(
                options, interval=interval, preroll=preroll, endpointing=endpointing
            )
            return self.session
        self.session = self.server.engine.open(
            options, interval=interval, preroll=preroll, endpointing=endpointing
        )
        self._relaying = self._start(self._relay(self.session))
        return self.session

    def hear(self, samples: Samples) -> None:
        """Hand audio to the session.

        Raises:
            ParakeetError: As :meth:`~parakeet_stt.Session.send`.
        """
        assert self.session is not None
        self.session.send(samples)
        metrics = self.server.metrics.audio.labels(self._dialect.protocol)
        metrics.inc(len(samples) / SAMPLE_RATE)

    def say(self, message: M) -> None:
        """Queue a message for the client."""
        self._unsent.append(message)
        self._sent.clear()
        self._has_unsent.set()

    def copy(self, message: M) -> bool:
        """Queue another client's message, unless this one is about to end or does not keep up.

        Returns:
            Whether it was queued; if not, nothing will be any more.
        """
        if len(self._unsent) >= self.server.settings.max_unsent:
            self._end_slow()
        if self._ending.done():
            return False
        self.say(message)
        return True

    def end(self, ending: Ending) -> None:
        """Come to an end; the first reason for it is the one that counts."""
        if not self._ending.done():
            self._ending.set_result(ending)

    def drain(self) -> None:
        """End because the server does."""
        self.end(DRAINING)

    async def run(self, connection: Connection[M]) -> None:
        """Talk to the client until either side ends it.

        Args:
            connection: Accepted already.
        """
        server, dialect = self.server, self._dialect
        too_long = Ending(
            1008, f"sessions end after {server.settings.max_session_seconds:g} seconds", listen=True
        )
        limit = asyncio.get_running_loop().call_later(
            server.settings.max_session_seconds, self.end, too_long
        )
        server.conversations.add(self)
        try:
            self._start(self._write(connection))
            dialect.greet()
            reading = self._start(self._read(connection))
            ending = await self._ending
            if ending.listen:
                await asyncio.wait([reading], timeout=_LISTEN_SECONDS)
            reading.cancel()
            await asyncio.wait([reading])
            await self._finish(connection, ending)
            server.metrics.endings.labels(dialect.protocol, str(ending.code)).inc()
            logger.debug(f"{dialect.protocol}: closed with {ending.code} {ending.reason}")
        finally:
            limit.cancel()
            server.conversations.discard(self)
            if self.session is not None:
                self.session.abort()
            for task in self._tasks:
                task.cancel()

    async def _finish(self, connection: Connection[M], ending: Ending) -> None:
        """Get the finals that are wanted, send everything, and close."""
        server = self.server
        session = self.session
        try:
            async with asyncio.timeout(server.settings.drain_seconds):
                if session is not None and self._relaying is not None and ending.deliver:
                    try:
                        self._dialect.rest()
                        await session.finish()
                    except ParakeetError as error:  # An event tells the client.
                        logger.warning(f"the last words got no final: {error}")
                        session.abort()
                    await asyncio.wait([self._relaying])
                if ending.deliver:
                    self._dialect.leave(ending)
        except TimeoutError:
            logger.warning(f"the last finals were not ready in {server.settings.drain_seconds:g} s")
        if session is not None:
            session.abort()
        try:
            async with asyncio.timeout(_CLOSE_SECONDS):
                await self._sent.wait()
                await connection.close(ending.code, ending.reason)
        except TimeoutError:
            logger.info("the client did not take the last messages")
            connection.abort()

    async def _read(self, connection: Connection[M]) -> None:
        idle = self.server.settings.idle_seconds
        while self.ending is None or self.ending.listen:
            try:
                async with asyncio.timeout(None if self._dialect.silent else idle):
                    message = await connection.receive()
                if message is None:
                    self.end(DONE if connection.finishes else GONE)
                    return
                self._dialect.receive(message)
            except TimeoutError:
                reason = f"nothing was received for {idle:g} seconds"
                self.end(Ending(self._dialect.idle_code, reason))
            except UnreadableError as error:
                self._count_error(error)
                self.end(Ending(error.code, str(error)))
            except ParakeetError as error:
                self._count_error(error)
                self._dialect.complain(error)
            if self._waiting > self.server.settings.max_unsent:
                await self._keep_pace()
            if self.session is not None:
                await self._keep_up(self.session)

    @property
    def _waiting(self) -> int:
        """Messages, and events that will become some, that wait for the client."""
        return len(self._unsent) + (self.session.unread if self.session else 0)

    async def _keep_pace(self) -> None:
        """Read no more until the client has taken what waits for it, if it does."""
        try:
            async with asyncio.timeout(_CLOSE_SECONDS):
                await self._sent.wait()
        except TimeoutError:
            self._end_slow()

    def _end_slow(self) -> None:
        reason = f"too slow: {self._waiting} messages wait to be read"
        self.end(Ending(1008, reason, deliver=False))

    async def _keep_up(self, session: Session) -> None:
        """Read no more while inference is behind."""
        settings = self.server.settings
        if session.lag <= settings.max_backlog_seconds:
            return
        try:
            async with asyncio.timeout(settings.idle_seconds):
                await session.keep_up(settings.max_backlog_seconds)
        except TimeoutError:
            self.end(Ending(1013, f"{session.lag:.0f} seconds of audio wait for inference"))

    def _count_error(self, error: ParakeetError) -> None:
        protocol = self._dialect.protocol
        self.server.metrics.errors.labels(protocol, type(error).__name__).inc()
        logger.info(f"{protocol}: {error}")

    async def _relay(self, session: Session) -> None:
        """Tell the session's events as fast as the client takes them: interims wait in the session,
        where a newer one takes an older one's place."""
        events = aiter(session)
        while True:
            await self._sent.wait()
            try:
                event = await anext(events)
            except StopAsyncIteration:
                return
            if isinstance(event, Final):
                event = replace(event, transcript=self.server.with_language(event.transcript))
            self._count(event)
            self._dialect.tell(event)

    def _count(self, event: Event) -> None:
        metrics, protocol = self.server.metrics, self._dialect.protocol
        match event:
            case Final() if event.transcript.text:
                metrics.segments.labels(protocol).inc()
                metrics.latency.labels(protocol).observe(event.latency)
            case Failed():
                metrics.errors.labels(protocol, type(event.error).__name__).inc()

    async def _write(self, connection: Connection[M]) -> None:
        while True:
            while self._unsent:
                try:
                    await connection.send(self._unsent[0])
                except GoneError:
                    self.end(GONE)
                    self._unsent.clear()
                    break
                self._unsent.popleft()
            self._sent.set()
            self._has_unsent.clear()
            await self._has_unsent.wait()

    def _start(self, work: Any) -> asyncio.Task[None]:
        task: asyncio.Task[None] = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[None]) -> None:
        """A part of the conversation has come to its end; by a defect of ours, all of it does."""
        self._tasks.discard(task)
        if task.cancelled() or (error := task.exception()) is None:
            return
        logger.opt(exception=error).error(f"{self._dialect.protocol}: {error!r}")
        self.server.metrics.errors.labels(self._dialect.protocol, "internal").inc()
        self.end(BROKEN)


def parse(kind: pydantic.TypeAdapter[T], message: str | bytes) -> T:
    """A client's JSON message as what the protocol has.

    Raises:
        BadMessageError: It is something else; the message says where and what.
    """
    try:
        return kind.validate_json(message)
    except pydantic.ValidationError as error:
        raise BadMessageError(_in_words(error)) from error


def check(kind: pydantic.TypeAdapter[T], content: Any) -> T:
    """What is no JSON any more as what the protocol has; as :func:`parse`."""
    try:
        return kind.validate_python(content)
    except pydantic.ValidationError as error:
        raise BadMessageError(_in_words(error)) from error


def _in_words(error: pydantic.ValidationError) -> str:
    first = error.errors(include_url=False, include_context=False)[0]
    place = ".".join(str(part) for part in first["loc"])
    return f"{place}: {first['msg']}" if place else first["msg"]
