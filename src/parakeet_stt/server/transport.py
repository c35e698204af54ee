"""Transports of streaming messages: WebSockets, and TCP with lines or frames."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from starlette.websockets import WebSocket, WebSocketDisconnect, WebSocketState

from parakeet_stt.server.messages import BadMessageError, Message, MessageTooLargeError

SOCKET_CONTROL = "parakeet.socket_control"
"""ASGI extension of a WebSocket: its :class:`SocketControl`."""

ABNORMAL_CLOSURE = 1006
"""The close code of a connection that ended without a close frame; it is never sent."""

M = TypeVar("M")

_LINGER_SECONDS = 1.0  # Time for a client to close a TCP connection after our last message.


class DisconnectedError(Exception):
    """The client has closed the connection."""


@dataclass(frozen=True)
class SocketControl:
    """Access to the socket of a WebSocket that ASGI does not offer.

    Attributes:
        abort: Closes the socket and discards unsent messages.
        close_code: Returns the code of the first close frame, sent or received;
            :data:`ABNORMAL_CLOSURE` if there was none.
    """

    abort: Callable[[], None]
    close_code: Callable[[], int]


class Transport(ABC, Generic[M]):
    """Sends messages to one client and receives messages from it."""

    @abstractmethod
    async def receive(self) -> M | None:
        """Receive a message; None if the client has stopped sending but still reads.

        Raises:
            BadMessageError: It cannot be decoded; the next one may be received.
            UnreadableError: It is too large, or its end is unknown: no other one can follow.
            DisconnectedError: The client has closed the connection.
        """

    def size(self, message: M) -> int:
        """Return the bytes of memory that a message takes."""
        return sys.getsizeof(message)

    @abstractmethod
    async def send(self, message: M) -> None:
        """Send a message; wait while the client does not read.

        Raises:
            DisconnectedError: The client has closed the connection.
        """

    @abstractmethod
    async def close(self, code: int, reason: str) -> int:
        """Close the connection; never raises.

        Args:
            code: A WebSocket's close code; TCP has none.
            reason: Text sent with the code.

        Returns:
            The code that the connection was closed with: another one if the client closed it first.
        """

    @abstractmethod
    def abort(self) -> None:
        """Close the connection at once and discard unsent messages."""


class WebSocketTransport(Transport[Message]):
    """A WebSocket that has been accepted. Uvicorn bounds its messages (close code 1009)."""

    def __init__(self, websocket: WebSocket) -> None:
        self._websocket = websocket
        self._control: SocketControl = websocket.scope["extensions"][SOCKET_CONTROL]

    async def receive(self) -> Message:
        """Receive a text or binary message."""
        message = await self._websocket.receive()
        if message["type"] == "websocket.disconnect":
            raise DisconnectedError
        text: str | None = message.get("text")
        return text if text is not None else bytes(message.get("bytes") or b"")

    async def send(self, message: Message) -> None:
        """Send a text or binary message."""
        try:
            if isinstance(message, str):
                await self._websocket.send_text(message)
            else:
                await self._websocket.send_bytes(message)
        except (WebSocketDisconnect, RuntimeError) as error:
            raise DisconnectedError from error

    async def close(self, code: int, reason: str) -> int:
        """Send a close frame, unless the client has closed already."""
        if self._websocket.application_state is WebSocketState.CONNECTED:
            with contextlib.suppress(WebSocketDisconnect, RuntimeError):  # The client closed first.
                await self._websocket.close(code, reason[:120])  # 123 bytes at most.
        return self._control.close_code()

    def abort(self) -> None:
        """Close the socket at once."""
        self._control.abort()


class TcpTransport(Transport[M]):
    """A TCP connection; subclasses define where messages begin and end.

    Args:
        reader: Its limit bounds a line.
        writer: The writer of the same connection.
    """

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def close(self, code: int, reason: str) -> int:
        """Close for writing, read until the client closes too, then close.

        Closing a socket with unread data resets the connection, and a client that is still sending
        would lose our last messages.
        """
        with contextlib.suppress(OSError, TimeoutError):
            if self._writer.can_write_eof():  # TLS cannot.
                self._writer.write_eof()
                async with asyncio.timeout(_LINGER_SECONDS):
                    while await self._reader.read(2**16):
                        pass
        self._writer.close()
        try:
            await self._writer.wait_closed()
        except OSError:  # The client closed first.
            return ABNORMAL_CLOSURE
        return code

    def abort(self) -> None:
        """Close the socket at once."""
        self._writer.transport.abort()

    async def _read_line(self) -> bytes | None:
        """Read the next line that is not blank; None at the end of the stream.

        Raises:
            MessageTooLargeError: It is longer than the reader's limit.
            DisconnectedError: The client has closed the connection.
        """
        line = b"\n"
        while line and not line.strip():
            try:
                line = await self._reader.readuntil(b"\n")
            except asyncio.IncompleteReadError as error:
                line = error.partial
            except asyncio.LimitOverrunError as error:
                raise MessageTooLargeError(f"a line of over {error.consumed} bytes") from error
            except OSError as error:
                raise DisconnectedError from error
        return line or None


class LineTransport(TcpTransport[Message]):
    """Lines of UTF-8 text on TCP."""

    async def receive(self) -> str | None:
        """Receive a line; blank lines are skipped."""
        line = await self._read_line()
        if line is None:
            return None
        try:
            return line.decode()
        except UnicodeDecodeError as error:
            raise BadMessageError(f"a line that is not UTF-8: {error}") from error

    async def send(self, message: Message) -> None:
        """Send a line."""
        data = message.encode() if isinstance(message, str) else message
        try:
            self._writer.write(data + b"\n")
            await self._writer.drain()
        except OSError as error:
            raise DisconnectedError from error
