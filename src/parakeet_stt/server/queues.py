"""The queues between a client's transport and its protocol."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

from parakeet_stt.errors import ParakeetError

M = TypeVar("M")

_MESSAGE_OVERHEAD = 100  # Bytes that a queue needs for a message of any length.


class Inbox(Generic[M]):
    """Received messages and errors in order, bounded in bytes.

    The transport is read while the protocol waits for inference, so that pings are answered.

    Args:
        max_bytes: Size above which :meth:`put` waits. A single message may exceed it.
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
            await asyncio.sleep(0)  # Let other clients run, however many messages wait here.
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


class Outbox(Generic[M]):
    """Messages that have not been sent yet, in order.

    Attributes:
        sent: Number of messages sent so far.
    """

    def __init__(self) -> None:
        self.sent = 0
        self._messages: deque[M] = deque()
        self._has_messages = asyncio.Event()
        self._empty = asyncio.Event()
        self._empty.set()

    def __len__(self) -> int:
        return len(self._messages)

    def put(self, message: M) -> None:
        """Add a message. Never waits: its callers look at the length."""
        self._messages.append(message)
        self._empty.clear()
        self._has_messages.set()

    def take(self) -> list[M]:
        """Remove and return all messages."""
        messages = list(self._messages)
        self._messages.clear()
        self._empty.set()
        return messages

    async def send_all(self, send: Callable[[M], Awaitable[None]]) -> None:
        """Send the messages, and those that are added later, until cancelled.

        Args:
            send: Sends one message. What it raises is raised here; the message stays queued.
        """
        while True:
            while self._messages:
                await send(self._messages[0])
                self._messages.popleft()
                self.sent += 1
            self._empty.set()
            self._has_messages.clear()
            await self._has_messages.wait()

    async def wait_until_empty(self) -> None:
        """Wait until every message has been sent or removed."""
        await self._empty.wait()
