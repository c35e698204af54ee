"""Handing over from one service to another in Pipecat's ServiceSwitcher, in the midst of speech.

The switcher notifies only the service that it switches to. That service asks the others for the
finals of what was said before, and sends its own finals after them.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from pipecat.frames.frames import SystemFrame
from pipecat.pipeline.service_switcher import ServiceSwitcher
from pipecat.processors.frame_processor import FrameProcessor


@dataclass
class SwitchedFrom(SystemFrame):
    """The ServiceSwitcher has switched from the service that receives this frame.

    Parameters:
        receiver: The service's task that turns session events into frames.
        finished: Set when the final of what was said before the switch has been sent.
    """

    receiver: asyncio.Task[None]
    finished: asyncio.Event = field(default_factory=asyncio.Event)


@dataclass
class SwitchedTo(SystemFrame):
    """The ServiceSwitcher has switched to the service that receives this frame.

    Parameters:
        ends: The frames that the other services received, of those whose model is loaded.
        user_speaking: Whether the user was speaking.
    """

    ends: list[SwitchedFrom]
    user_speaking: bool

    async def wait(self) -> None:
        """Wait until the other services have sent their finals, or have ended."""
        for end in self.ends:
            finished = asyncio.ensure_future(end.finished.wait())
            await asyncio.wait((finished, end.receiver), return_when=asyncio.FIRST_COMPLETED)
            finished.cancel()


def switcher_of(service: FrameProcessor, pipeline: FrameProcessor) -> ServiceSwitcher | None:  # type: ignore[type-arg]
    """Return the ServiceSwitcher of a pipeline that switches to and from a service, if any."""
    waiting = [pipeline]
    while waiting:
        processor = waiting.pop()
        if isinstance(processor, ServiceSwitcher) and service in processor.services:
            return processor
        waiting += processor.processors
    return None
