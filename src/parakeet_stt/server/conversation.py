"""Runs one streaming client from its first message to its last.

A conversation moves messages between the client's transport, its protocol and its session. Limits,
flow control and the end are here, once for all protocols.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine
from dataclasses import replace
from typing import Any, Generic, TypeVar

from loguru import logger
from starlette.datastructures import Headers, QueryParams

from parakeet_stt.engine.events import Event, Failed, Final
from parakeet_stt.engine.session import Session
from parakeet_stt.errors import ParakeetError
from parakeet_stt.server.connection import Connection
from parakeet_stt.server.endings import (
    BROKEN,
    DISCONNECTED,
    DONE,
    DRAINED,
    DRAINING,
    FAILED,
    Ending,
)
from parakeet_stt.server.messages import UnreadableError
from parakeet_stt.server.protocol import Protocol
from parakeet_stt.server.queues import Inbox
from parakeet_stt.server.state import CLOSE_SECONDS, Server
from parakeet_stt.server.transport import ABNORMAL_CLOSURE, DisconnectedError, Transport

M = TypeVar("M")

_CLOSED_BY_CLIENT = (1000, 1001, 1005)  # Close codes of clients that want no more finals.
_READ_ON_SECONDS = 0.2  # Time for data that a client has already sent to arrive.


class Conversation(Generic[M]):
    """Runs one streaming client.

    Args:
        server: The server that the client is connected to.
        protocol: The protocol that the client uses.
        query: Parameters of the URL.
        headers: Headers of the request that opened the connection; TCP has none.

    Attributes:
        protocol: The client's instance of the protocol.

    Raises:
        ParakeetError: The protocol refuses the parameters.
    """

    def __init__(
        self,
        server: Server,
        protocol: type[Protocol[M]],
        query: QueryParams,
        headers: Headers | None = None,
    ) -> None:
        self._server = server
        self._connection: Connection[M] = Connection(server, protocol.name, headers)
        self.protocol = protocol(self._connection, query)
        # Why finals are no longer waited for: the client has disconnected, or time is up.
        self._cut: asyncio.Future[Ending] = asyncio.get_running_loop().create_future()
        self._failed = 0  # Segments whose final became an error.
        self._inbox: Inbox[M] = Inbox(server.settings.max_unread_kb * 1024)
        self._tasks: set[asyncio.Task[None]] = set()
        self._relaying: asyncio.Task[None] | None = None

    def drain(self) -> None:
        """End because the server is shutting down."""
        self._connection.end(DRAINING)

    def cut_short(self) -> None:
        """End without the finals that are not ready, because the shutdown takes too long."""
        self._end_now(DRAINED)

    async def run(self, transport: Transport[M]) -> None:
        """Serve the client until either side ends the conversation.

        Args:
            transport: The client's transport; a WebSocket has been accepted.
        """
        server, protocol, connection = self._server, self.protocol, self._connection
        seconds = server.settings.max_session_seconds
        too_long = Ending(1008, f"sessions end after {seconds:g} seconds", read_on=True)
        limit = asyncio.get_running_loop().call_later(seconds, connection.end, too_long)
        server.conversations.add(self)
        try:
            self._start(self._write(transport))
            protocol.on_open()
            self._start_relaying()
            receiving = self._start(self._receive(transport))
            reading = self._start(self._read())
            ending = await connection.wait_for_ending()
            if ending.read_on:
                await asyncio.wait([receiving], timeout=_READ_ON_SECONDS)
            # From here on the transport is read only to answer pings and to detect its end.
            self._inbox.close()
            if ending.deliver:
                ending = await self._deliver(ending, reading)
            elif ending is BROKEN:
                protocol.on_error(ParakeetError(ending.reason))
            missing = self._failed
            if connection.is_open:
                missing += connection.session.finals_due
                connection.session.abort()
            await _cancel(reading, receiving)
            code = await self._close(transport, ending)
            server.metrics.endings.labels(protocol.name, str(code)).inc()
            self._log_end(ending, code, missing)
        finally:
            limit.cancel()
            server.conversations.discard(self)
            connection.cleanup.close()
            if connection.is_open:
                connection.session.abort()
            for task in self._tasks:
                task.cancel()

    # --- input ------------------------------------------------------------------------------------

    async def _receive(self, transport: Transport[M]) -> None:
        """Read the transport into the inbox."""
        while True:
            try:
                message = await transport.receive()
                if message is None:
                    self._inbox.close()
                    return
                await self._inbox.put(message, transport.size(message))
            except DisconnectedError:
                self._end_now(DISCONNECTED)
                return
            except ParakeetError as error:
                await self._inbox.put(error)
                if isinstance(error, UnreadableError):
                    return

    async def _read(self) -> None:
        """Pass the inbox's messages to the protocol, at the pace of client and inference."""
        idle = self._server.settings.idle_seconds
        connection, protocol = self._connection, self.protocol
        while connection.ending is None or connection.ending.read_on:
            try:
                async with asyncio.timeout(None if protocol.may_be_silent else idle):
                    message = await self._inbox.get()
                if message is None:
                    connection.end(DONE)
                    return
                protocol.on_message(message)
            except TimeoutError:
                reason = f"nothing was received for {idle:g} seconds"
                connection.end(Ending(protocol.idle_code, reason))
            except UnreadableError as error:
                self._count_error(error)
                connection.end(Ending(error.code, str(error)))
            except ParakeetError as error:
                self._report(error)
            self._start_relaying()
            if connection.waiting > self._server.settings.max_unsent:
                await self._wait_for_client()
            if connection.is_open:
                await self._wait_for_backlog(connection.session)

    async def _wait_for_client(self) -> None:
        """Wait until the client has read all messages; end the conversation if it does not."""
        try:
            async with asyncio.timeout(CLOSE_SECONDS):
                await self._connection.outbox.wait_until_empty()
        except TimeoutError:
            self._connection.end(self._connection.too_slow)

    async def _wait_for_backlog(self, session: Session) -> None:
        """Wait while too much audio waits for inference."""
        limit = self._server.settings.max_backlog_seconds
        if session.backlog <= limit:
            return
        catching_up = self._start(session.wait_for_backlog(limit))
        cut = await self._wait_for_inference(catching_up)
        catching_up.cancel()
        if cut is not None:
            self._end_now(cut)

    # --- output -----------------------------------------------------------------------------------

    def _start_relaying(self) -> None:
        """Relay the session's events from when the protocol has opened it."""
        if self._relaying is None and self._connection.is_open:
            self._relaying = self._start(self._relay(self._connection.session))

    async def _relay(self, session: Session) -> None:
        """Pass events to the protocol as fast as the client reads.

        Hypotheses wait in the session, where a newer one replaces an older one.
        """
        events = aiter(session)
        while True:
            await self._connection.outbox.wait_until_empty()
            try:
                event = await anext(events)
            except StopAsyncIteration:
                return
            if isinstance(event, Final):
                event = replace(event, transcript=self._server.with_language(event.transcript))
            self._count(event)
            self.protocol.on_event(event)

    async def _write(self, transport: Transport[M]) -> None:
        """Send the messages in the outbox."""
        outbox = self._connection.outbox
        while True:
            try:
                await outbox.send_all(transport.send)
            except DisconnectedError:
                self._end_now(DISCONNECTED)
                unsent = len(outbox.take())
                logger.info(f"{self.protocol.name}: {unsent} messages could not be sent")

    # --- the end ----------------------------------------------------------------------------------

    def _end_now(self, ending: Ending) -> None:
        """End without the finals that are not ready; each becomes an error.

        Args:
            ending: Its code is used if the connection would otherwise be closed with 1000.
        """
        self._connection.end(ending)
        if not self._cut.done():
            self._cut.set_result(ending)

    async def _deliver(self, ending: Ending, reading: asyncio.Task[None]) -> Ending:
        """Send the finals of all received audio, and the protocol's last messages.

        Returns:
            The ending to use: the argument, or one with another code than 1000 if a final is
            missing.
        """
        connection, cut = self._connection, None
        if ending.read_on:
            cut = await self._wait_for_inference(reading)
        if self._relaying is not None:
            session = connection.session
            try:
                self.protocol.flush_audio()
            except ParakeetError as error:
                self._report(error)
            last = session.flush()
            cut = cut or await self._wait_for_inference(last)
            if cut is DISCONNECTED:
                return DISCONNECTED
            if cut is not None:
                session.fail(ParakeetError(cut.reason))
            session.abort()  # No final is due any more: this ends the events.
            if not await self._reads_everything(self._relaying):
                return connection.too_slow
            if self._cut.done() and self._cut.result() is DISCONNECTED:
                return DISCONNECTED
        if self._failed and ending.code == DONE.code:
            ending = FAILED if cut is None else Ending(cut.code, cut.reason)
        self.protocol.on_close(ending)
        return ending

    async def _wait_for_inference(self, work: asyncio.Future[Any]) -> Ending | None:
        """Wait for something that needs inference, as long as inference makes progress.

        Returns:
            None once it is done; otherwise why the wait was given up.
        """
        limit = self._server.settings.stall_seconds
        started = time.monotonic()
        while not work.done():
            if self._cut.done():
                return self._cut.result()
            connection = self._connection
            progressed = connection.session.progressed_at if connection.is_open else 0.0
            left = max(started, progressed) + limit - time.monotonic()
            if left <= 0:
                return Ending(1013, f"inference has made no progress for {limit:g} seconds")
            first = asyncio.FIRST_COMPLETED
            await asyncio.wait([work, self._cut], timeout=left, return_when=first)
        return None

    async def _reads_everything(self, relaying: asyncio.Task[None]) -> bool:
        """Wait until every event has become messages; return False if the client stops reading."""
        outbox = self._connection.outbox
        while not relaying.done():
            sent = outbox.sent
            await asyncio.wait([relaying], timeout=CLOSE_SECONDS)
            if outbox.sent == sent and not relaying.done():
                return False
        return True

    async def _close(self, transport: Transport[M], ending: Ending) -> int:
        """Send the remaining messages and close.

        Returns:
            The close code that was sent or received.
        """
        try:
            async with asyncio.timeout(CLOSE_SECONDS):
                await self._connection.outbox.wait_until_empty()
                return await transport.close(ending.code, ending.reason)
        except TimeoutError:
            logger.warning(f"{self.protocol.name}: the client did not read the last messages")
            transport.abort()
            return ABNORMAL_CLOSURE

    # --- counting and logging ---------------------------------------------------------------------

    def _report(self, error: ParakeetError) -> None:
        """Count an error and send it to the client."""
        self._count_error(error)
        self.protocol.on_error(error)

    def _count_error(self, error: ParakeetError) -> None:
        name = self.protocol.name
        self._server.metrics.errors.labels(name, type(error).__name__).inc()
        logger.info(f"{name}: {error}")

    def _count(self, event: Event) -> None:
        metrics, name = self._server.metrics, self.protocol.name
        match event:
            case Final() if event.transcript.text:
                metrics.segments.labels(name).inc()
                metrics.latency.labels(name).observe(event.latency)
            case Failed():
                self._failed += event.segment > 0
                metrics.errors.labels(name, type(event.error).__name__).inc()

    def _log_end(self, ending: Ending, code: int, missing: int) -> None:
        by_client = ending is DISCONNECTED and code in _CLOSED_BY_CLIENT
        logger.log(
            "DEBUG" if not missing else "INFO" if by_client else "WARNING",
            f"{self.protocol.name}: closed with {code}: {ending.reason or 'finished'}"
            + (f"; segments without a final: {missing}" if missing else ""),
        )

    # --- tasks ------------------------------------------------------------------------------------

    def _start(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._task_ended)
        return task

    def _task_ended(self, task: asyncio.Task[None]) -> None:
        """End the conversation if one of its tasks fails, which is a defect of ours."""
        self._tasks.discard(task)
        if task.cancelled() or (error := task.exception()) is None:
            return
        logger.opt(exception=error).error(f"{self.protocol.name}: {error!r}")
        self._server.metrics.errors.labels(self.protocol.name, "internal").inc()
        self._connection.end(BROKEN)


async def _cancel(*tasks: asyncio.Task[None]) -> None:
    """Cancel tasks and wait until they have ended."""
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
