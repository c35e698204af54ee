"""How streaming messages travel: on WebSockets, and on TCP, in lines or in frames."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Generic

from starlette.datastructures import QueryParams
from starlette.websockets import WebSocket, WebSocketDisconnect, WebSocketState
from typing_extensions import TypeVar

from parakeet_stt.errors import ParakeetError

TRANSPORT = "parakeet.transport"
"""ASGI extension of a WebSocket: its :class:`Transport`."""

ABNORMAL_CLOSURE = 1006
"""The close code of a connection that ended without a close frame; it is never sent."""

M = TypeVar("M", default=str | bytes)
"""What the messages of a protocol are."""

_MESSAGE_OVERHEAD = 100  # Bytes that a queue needs for a message, however short.
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


@dataclass(frozen=True)
class Transport:
    """What ASGI does not offer of a WebSocket's transport.

    Attributes:
        abort: Closes the transport, whatever has not been sent.
        close_code: Returns the code of the first close frame, sent or received;
            :data:`ABNORMAL_CLOSURE` if there was none.
    """

    abort: Callable[[], None]
    close_code: Callable[[], int]


class Inbox(Generic[M]):
    """Received messages and errors in order, bounded in bytes.

    It stands between a connection and its conversation, so that the connection is read while the
    conversation waits for inference.

    Args:
        max_bytes: Size from which :meth:`put` waits. One message may exceed it.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._bytes = 0
        self._entries: deque[tuple[M | ParakeetError, int]] = deque()
        self._closed = False
        self._changed = asyncio.Event()

    def close(self) -> None:
        """Accept nothing more: :meth:`put` discards, and :meth:`get` returns None at the end."""
        self._closed = True
        self._changed.set()

    async def put(self, entry: M | ParakeetError, size: int = 0) -> None:
        """Add a message or an error, then wait while the inbox is full.

        Args:
            entry: The message or error.
            size: Bytes of the message.
        """
        if self._closed:
            return
        self._entries.append((entry, size + _MESSAGE_OVERHEAD))
        self._bytes += size + _MESSAGE_OVERHEAD
        self._changed.set()
        while self._bytes > self._max_bytes and not self._closed:
            await self._wait_for_change()

    async def get(self) -> M | None:
        """Return the next message, or None after the last one of a closed inbox.

        Raises:
            ParakeetError: The next entry is an error.
        """
        if self._entries:
            await asyncio.sleep(0)  # Other clients get their turn, however many messages wait.
        while not self._entries:
            if self._closed:
                return None
            await self._wait_for_change()
        entry, size = self._entries.popleft()
        self._bytes -= size
        self._changed.set()
        if isinstance(entry, ParakeetError):
            raise entry
        return entry

    async def _wait_for_change(self) -> None:
        self._changed.clear()
        await self._changed.wait()


class Connection(ABC, Generic[M]):
    """Messages to and from one client.

    Attributes:
        query: What the client asked for in the URL.
    """

    query: QueryParams = QueryParams()

    @abstractmethod
    async def receive(self) -> M | None:
        """The next message; None when the client sends no more but may still read.

        Raises:
            BadMessageError: It is not what a message is; the next may be.
            UnreadableError: There is no next one: this one is over the limit, or has no end.
            GoneError: The client is no longer there.
        """

    def size(self, message: M) -> int:
        """Bytes that a message takes."""
        return sys.getsizeof(message)

    @abstractmethod
    async def send(self, message: M) -> None:
        """Send a message; waits while the client does not take any.

        Raises:
            GoneError: The client is no longer there.
        """

    @abstractmethod
    async def close(self, code: int, reason: str) -> int:
        """Close; never raises.

        Args:
            code: A WebSocket's close code, which is sent where the protocol has any.
            reason: Text beside the code.

        Returns:
            The code that the connection was closed with: another one if it was closed before.
        """

    @abstractmethod
    def abort(self) -> None:
        """Close at once, whatever has not been sent."""


class WebSocketConnection(Connection):
    """A WebSocket that has been accepted; uvicorn bounds its messages (close code 1009)."""

    def __init__(self, websocket: WebSocket) -> None:
        self._websocket = websocket
        self._transport: Transport = websocket.scope["extensions"][TRANSPORT]
        self.query = websocket.query_params

    async def receive(self) -> str | bytes:
        """As :meth:`Connection.receive`."""
        message = await self._websocket.receive()
        if message["type"] == "websocket.disconnect":
            raise GoneError
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

    async def close(self, code: int, reason: str) -> int:
        """As :meth:`Connection.close`."""
        if self._websocket.application_state is WebSocketState.CONNECTED:
            with contextlib.suppress(WebSocketDisconnect, RuntimeError):  # It went first.
                await self._websocket.close(code, reason[:120])  # 123 bytes at most.
        return self._transport.close_code()

    def abort(self) -> None:
        """As :meth:`Connection.abort`."""
        self._transport.abort()


class TcpConnection(Connection[M]):
    """Messages on TCP.

    Args:
        reader: Whose limit bounds a line.
        writer: Of the same connection.
    """

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def close(self, code: int, reason: str) -> int:
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
        try:
            await self._writer.wait_closed()
        except OSError:  # It went first.
            return ABNORMAL_CLOSURE
        return code

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
            except OSError as error:
                raise GoneError from error
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
