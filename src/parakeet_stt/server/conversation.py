"""One streaming client, from its first message to its last: queues, limits, and its end.

A :class:`Dialect` says what messages mean; everything that is the same for all protocols is here.
"""

from __future__ import annotations

import asyncio
import base64
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar, Generic, TypeVar

import pydantic
from loguru import logger
from starlette.datastructures import Headers, QueryParams

from parakeet_stt.audio import SAMPLE_RATE, Samples
from parakeet_stt.engine.events import Event, Failed, Final
from parakeet_stt.engine.options import SessionOptions
from parakeet_stt.engine.session import Session
from parakeet_stt.engine.vad import Endpointing
from parakeet_stt.errors import ParakeetError
from parakeet_stt.server.connection import (
    ABNORMAL_CLOSURE,
    BadMessageError,
    Connection,
    GoneError,
    Inbox,
    M,
    UnreadableError,
)
from parakeet_stt.server.state import CLOSE_SECONDS, Server

T = TypeVar("T")


def _unbase64(value: Any) -> bytes:
    try:
        return base64.b64decode(value, validate=True)
    except (TypeError, ValueError) as error:
        raise ValueError(f"not base64: {error}") from error


Base64 = Annotated[bytes, pydantic.BeforeValidator(_unbase64, json_schema_input_type=str)]
"""Bytes that a message has in base64."""

_CLOSED_BY_CLIENT = (1000, 1001, 1005)  # Codes with which a client leaves that wants no more.
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
GONE = Ending(ABNORMAL_CLOSURE, "the client has gone", deliver=False)
DRAINING = Ending(1001, "the server is shutting down", listen=True)
DRAINED = Ending(1001, "the server has shut down")
_FAILED = Ending(1011, "inference failed: not every segment got its final")
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
        loop = asyncio.get_running_loop()
        self._ending: asyncio.Future[Ending] = loop.create_future()
        # Why finals are waited for no longer: the client has gone, or the server has no more time.
        self._cut: asyncio.Future[Ending] = loop.create_future()
        self._failed = 0  # Segments that the client was sent an error for instead of a final.
        self._inbox: Inbox[M] = Inbox(server.settings.max_unread_kb * 1024)
        self._unsent: deque[M] = deque()
        self._taken = 0  # Messages that the client has taken.
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
        options = SessionOptions.from_settings(self.server.settings)
        if endpointing is None:
            preroll = None
        elif preroll is None:
            preroll = options.preroll
        options = replace(
            options,
            stream=self.server.options(boost),
            interval=options.interval if interims else None,
            preroll=preroll,
            endpointing=endpointing,
        )
        if self.session is not None:
            self.session.configure(options)
            return self.session
        self.session = self.server.engine.open(options)
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
            self.end(self._too_slow)
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

    def cut_short(self) -> None:
        """End without the finals that are not ready, because the server has no more time."""
        self.cut(DRAINED)

    def cut(self, ending: Ending) -> None:
        """Come to an end without the finals that are not ready; each becomes an error.

        Args:
            ending: Why; its code is used if the connection would be closed with 1000 otherwise.
        """
        self.end(ending)
        if not self._cut.done():
            self._cut.set_result(ending)

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
            receiving = self._start(self._receive(connection))
            reading = self._start(self._read())
            ending = await self._ending
            if ending.listen:
                await asyncio.wait([receiving], timeout=_LISTEN_SECONDS)
            # From here on the connection is read only to answer pings and to notice its end.
            self._inbox.close()
            if ending.deliver:
                ending = await self._deliver(ending, reading)
            elif ending is BROKEN:
                dialect.complain(ParakeetError(ending.reason))
            lost = self._failed + (self.session.finals_due if self.session else 0)
            if self.session is not None:
                self.session.abort()
            await _cancelled(reading, receiving)
            code = await self._close(connection, ending)
            server.metrics.endings.labels(dialect.protocol, str(code)).inc()
            left = ending is GONE and code in _CLOSED_BY_CLIENT
            logger.log(
                "DEBUG" if not lost else "INFO" if left else "WARNING",
                f"{dialect.protocol}: closed with {code}: {ending.reason or 'finished'}"
                + (f"; segments without a final: {lost}" if lost else ""),
            )
        finally:
            limit.cancel()
            server.conversations.discard(self)
            if self.session is not None:
                self.session.abort()
            for task in self._tasks:
                task.cancel()

    async def _deliver(self, ending: Ending, reading: asyncio.Task[None]) -> Ending:
        """Send the finals of everything received, and the last words.

        Returns:
            How the conversation ends after that: as it was to, or with another code than 1000 if a
            final is missing.
        """
        session, cut = self.session, None
        if ending.listen:
            cut = await self._inference(reading)
        if session is not None and self._relaying is not None:
            try:
                self._dialect.rest()
            except ParakeetError as error:
                self._complain(error)
            last = session.flush()
            cut = cut or await self._inference(last)
            if cut is GONE:
                return GONE
            if cut is not None:
                session.fail(ParakeetError(cut.reason))
            session.abort()  # Nothing is due any more: this ends the events.
            if not await self._takes_everything(self._relaying):
                return self._too_slow
            if self._cut.done() and self._cut.result() is GONE:
                return GONE
        if self._failed and ending.code == DONE.code:
            ending = _FAILED if cut is None else Ending(cut.code, cut.reason)
        self._dialect.leave(ending)
        return ending

    async def _inference(self, work: asyncio.Future[Any]) -> Ending | None:
        """Wait for what needs inference.

        Returns:
            None once it is done; otherwise why it is waited for no longer.
        """
        limit = self.server.settings.stall_seconds
        begun = time.monotonic()
        while not work.done():
            if self._cut.done():
                return self._cut.result()
            progressed = self.session.progressed_at if self.session else 0.0
            left = max(begun, progressed) + limit - time.monotonic()
            if left <= 0:
                return Ending(1013, f"inference has made no progress for {limit:g} seconds")
            both = asyncio.FIRST_COMPLETED
            await asyncio.wait([work, self._cut], timeout=left, return_when=both)
        return None

    async def _takes_everything(self, relaying: asyncio.Task[None]) -> bool:
        """Wait until every event has become messages; False if the client takes none of them."""
        while not relaying.done():
            taken = self._taken
            await asyncio.wait([relaying], timeout=CLOSE_SECONDS)
            if self._taken == taken and not relaying.done():
                return False
        return True

    async def _close(self, connection: Connection[M], ending: Ending) -> int:
        """Send what is left, and close.

        Returns:
            The close code that was sent or received.
        """
        try:
            async with asyncio.timeout(CLOSE_SECONDS):
                await self._sent.wait()
                return await connection.close(ending.code, ending.reason)
        except TimeoutError:
            logger.warning(f"{self._dialect.protocol}: the client did not take the last messages")
            connection.abort()
            return ABNORMAL_CLOSURE

    async def _receive(self, connection: Connection[M]) -> None:
        """Read the connection into the inbox."""
        while True:
            try:
                message = await connection.receive()
                if message is None:
                    self._inbox.close()
                    return
                await self._inbox.put(message, connection.size(message))
            except GoneError:
                self.cut(GONE)
                return
            except ParakeetError as error:
                await self._inbox.put(error)
                if isinstance(error, UnreadableError):
                    return

    async def _read(self) -> None:
        idle = self.server.settings.idle_seconds
        while self.ending is None or self.ending.listen:
            try:
                async with asyncio.timeout(None if self._dialect.silent else idle):
                    message = await self._inbox.get()
                if message is None:
                    self.end(DONE)
                    return
                self._dialect.receive(message)
            except TimeoutError:
                reason = f"nothing was received for {idle:g} seconds"
                self.end(Ending(self._dialect.idle_code, reason))
            except UnreadableError as error:
                self._count_error(error)
                self.end(Ending(error.code, str(error)))
            except ParakeetError as error:
                self._complain(error)
            if self._waiting > self.server.settings.max_unsent:
                await self._keep_pace()
            if self.session is not None:
                await self._keep_up(self.session)

    @property
    def _waiting(self) -> int:
        """Messages, and events that will become some, that wait for the client."""
        return len(self._unsent) + (self.session.pending_events if self.session else 0)

    async def _keep_pace(self) -> None:
        """Read no more until the client has taken what waits for it, if it does."""
        try:
            async with asyncio.timeout(CLOSE_SECONDS):
                await self._sent.wait()
        except TimeoutError:
            self.end(self._too_slow)

    @property
    def _too_slow(self) -> Ending:
        reason = f"too slow: {self._waiting} messages wait to be read"
        return Ending(1008, reason, deliver=False)

    async def _keep_up(self, session: Session) -> None:
        """Take nothing more from the inbox while inference is behind."""
        most = self.server.settings.max_backlog_seconds
        if session.backlog <= most:
            return
        catching_up = self._start(session.wait_for_backlog(most))
        cut = await self._inference(catching_up)
        catching_up.cancel()
        if cut is not None:
            self.cut(cut)

    def _complain(self, error: ParakeetError) -> None:
        """Count an error, and tell the client."""
        self._count_error(error)
        self._dialect.complain(error)

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
                self._failed += event.segment > 0
                metrics.errors.labels(protocol, type(event.error).__name__).inc()

    async def _write(self, connection: Connection[M]) -> None:
        while True:
            while self._unsent:
                try:
                    await connection.send(self._unsent[0])
                except GoneError:
                    self.cut(GONE)
                    left = len(self._unsent)
                    logger.info(f"{self._dialect.protocol}: {left} messages could not be sent")
                    self._unsent.clear()
                    break
                self._unsent.popleft()
                self._taken += 1
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


async def _cancelled(*tasks: asyncio.Task[None]) -> None:
    """Cancel tasks and wait for their ends."""
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)


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
