"""Why and how conversations end."""

from __future__ import annotations

from dataclasses import dataclass

from parakeet_stt.server.transport import ABNORMAL_CLOSURE


@dataclass(frozen=True)
class Ending:
    """Why and how a conversation ends.

    Attributes:
        code: The WebSocket's close code.
        reason: Text for the client and the log.
        deliver: Send the finals of the received audio first.
        read_on: Read data already in flight before closing.
    """

    code: int
    reason: str
    deliver: bool = True
    read_on: bool = False


DONE = Ending(1000, "")
DISCONNECTED = Ending(ABNORMAL_CLOSURE, "the client has disconnected", deliver=False)
DRAINING = Ending(1001, "the server is shutting down", read_on=True)
DRAINED = Ending(1001, "the server has shut down")
FAILED = Ending(1011, "inference failed: not every segment got its final")
BROKEN = Ending(1011, "internal error", deliver=False)
