"""The events of a session until somebody takes them."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator

from parakeet_stt.engine.events import Event
from parakeet_stt.transcript import Hypothesis


class EventQueue:
    """Events in order. A hypothesis that nobody has taken is replaced by a newer one; no other
    event ever is."""

    def __init__(self) -> None:
        self._events: deque[Event] = deque()
        self._changed = asyncio.Event()
        self._closed = False

    def __len__(self) -> int:
        return len(self._events)

    def put(self, event: Event) -> None:
        """Append an event, or replace the newest one if both are hypotheses."""
        if isinstance(event, Hypothesis) and self._events:
            newest = self._events[-1]
            if isinstance(newest, Hypothesis):
                self._events.pop()
        self._events.append(event)
        self._changed.set()

    def close(self) -> None:
        """End the iterations once the events that are left have been taken."""
        self._closed = True
        self._changed.set()

    async def __aiter__(self) -> AsyncIterator[Event]:
        while True:
            while not self._events:
                if self._closed:
                    return
                self._changed.clear()
                await self._changed.wait()
            yield self._events.popleft()
