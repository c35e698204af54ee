"""How late an event loop wakes its tasks: what everything else in a voice agent feels.

Knows nothing of what runs on the loop.
"""

from __future__ import annotations

import asyncio
from types import TracebackType

_INTERVAL = 0.005
"""Seconds between wake-ups."""


class LoopLag:
    """Watches the running event loop while its ``async with`` block runs.

    A task asks to be woken every 5 ms, at deadlines that do not move when one is missed, so that a
    stall of 50 ms counts as ten late wake-ups and not as one. On Linux asyncio rounds timers up to
    whole milliseconds: an idle loop shows half a millisecond.

    Attributes:
        values: Seconds by which each wake-up was late.
    """

    def __init__(self) -> None:
        self.values: list[float] = []

    async def __aenter__(self) -> LoopLag:
        self._task = asyncio.create_task(self._watch())
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._task.cancel()

    async def _watch(self) -> None:
        loop = asyncio.get_running_loop()
        due = loop.time()
        while True:
            due += _INTERVAL
            await asyncio.sleep(due - loop.time())
            self.values.append(loop.time() - due)
