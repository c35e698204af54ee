"""How streaming messages travel: on WebSockets, and on TCP, in lines or in frames."""

from __future__ import annotations

import asyncio
import contextlib
from abc import ABC, abstractmethod
from typing import ClassVar, Generic

from starlette.datastructures import QueryParams
from starlette.websockets import WebSocket, WebSocketDisconnect, WebSocketState
from typing_extensions import TypeVar

from parakeet_stt.errors import ParakeetError

ABORT = "parakeet.abort"
"""ASGI extension of a WebSocket that can be closed although its client takes nothing."""

M = TypeVar("M", default=str | bytes)
"""What the messages of a protocol are."""

_LINGER_SECONDS = 1.0  # How long a client may take to end a TCP connection that we have ended.


class BadMessageError(ParakeetError):
    """A message that is not what the protocol has; the connection may go on."""


class UnreadableError(ParakeetError):
    """Nobody can tell where the next message begins: the connection cannot go on.

    Attributes:
        code: With what the connection is closed.
    """

    code: ClassVar[int] = 1002


class MessageTooLargeError(UnreadableError):
    """A message over the limit; the connection cannot go on."""

    code = 1009


class GoneError(Exception):
    """The client is no longer there."""


class Connection(ABC, Generic[M]):
    """Messages to and from one client.

    Attributes:
        query: What the client asked for in the URL.
        finishes: Whether a client that stops sending still listens, and wants its final.
    """

    query: QueryParams = QueryParams()
    finishes = False

    @abstractmethod
    async def receive(self) -> M | None:
        """The next message; None when the client sends no more.

        Raises:
            BadMessageError: It is not what a message is; the next may be.
            UnreadableError: There is no next one: this one is over the limit, or has no end.
        """

    @abstractmethod
    async def send(self, message: M) -> None:
        """Send a message; waits while the client does not take any.

        Raises:
            GoneError: The client is no longer there.
        """

    @abstractmethod
    async def close(self, code: int, reason: str) -> None:
        """Close, with a WebSocket's close code where that is heard; never raises."""

    @abstractmethod
    def abort(self) -> None:
        """Close at once, whatever has not been sent."""


class WebSocketConnection(Connection):
    """A WebSocket that has been accepted; uvicorn bounds its messages (close code 1009)."""

    def __init__(self, websocket: WebSocket) -> None:
        self._websocket = websocket
        self.query = websocket.query_params

    async def receive(self) -> str | bytes | None:
        """As :meth:`Connection.receive`."""
        message = await self._websocket.receive()
        if message["type"] == "websocket.disconnect":
            return None
        text: str | None = message.get("text")
        return text if text is not None else bytes(message.get("bytes") or b"")

    async def send(self, message: str | bytes) -> None:
        """As :meth:`Connection.send`."""
        try:
            if isinstance(message, str):
                await self._websocket.send_text(message)
            else:
                await self._websocket.send_bytes(message)
        except (WebSocketDisconnect, RuntimeError) as error:
            raise GoneError from error

    async def close(self, code: int, reason: str) -> None:
        """As :meth:`Connection.close`."""
        if self._websocket.application_state is WebSocketState.CONNECTED:
            with contextlib.suppress(WebSocketDisconnect, RuntimeError):  # It went first.
                await self._websocket.close(code, reason[:120])  # 123 bytes at most.

    def abort(self) -> None:
        """As :meth:`Connection.abort`."""
        self._websocket.scope["extensions"][ABORT]["abort"]()


class TcpConnection(Connection[M]):
    """Messages on TCP.

    Args:
        reader: Whose limit bounds a line.
        writer: Of the same connection.
    """

    finishes = True

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def close(self, code: int, reason: str) -> None:
        """As :meth:`Connection.close`.

        A connection that is closed with something unread is reset, and a client that is still
        sending would lose our last words: so we only say that they were the last, and wait.
        """
        with contextlib.suppress(OSError, TimeoutError):
            if self._writer.can_write_eof():  # TLS cannot.
                self._writer.write_eof()
                async with asyncio.timeout(_LINGER_SECONDS):
                    while await self._reader.read(2**16):
                        pass
        self._writer.close()
        with contextlib.suppress(OSError):  # It went first.
            await self._writer.wait_closed()

    def abort(self) -> None:
        """As :meth:`Connection.abort`."""
        self._writer.transport.abort()


class LineConnection(TcpConnection):
    """Lines of text on TCP."""

    async def receive(self) -> str | bytes | None:
        """As :meth:`Connection.receive`; empty lines are passed over."""
        while True:
            try:
                line = await self._reader.readuntil(b"\n")
            except asyncio.IncompleteReadError as error:
                line = error.partial
                if not line:
                    return None
            except asyncio.LimitOverrunError as error:
                raise MessageTooLargeError(f"a line of over {error.consumed} bytes") from error
            except OSError:
                return None
            if not line.strip():
                continue
            try:
                return line.decode()
            except UnicodeDecodeError as error:
                raise BadMessageError(f"a line that is not UTF-8: {error}") from error

    async def send(self, message: str | bytes) -> None:
        """As :meth:`Connection.send`."""
        data = message.encode() if isinstance(message, str) else message
        try:
            self._writer.write(data + b"\n")
            await self._writer.drain()
        except OSError as error:
            raise GoneError from error
