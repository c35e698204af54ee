"""Streams that other clients may listen to."""

from __future__ import annotations

from collections.abc import Callable

Forward = Callable[[str], bool]
"""Forwards a message to a listener; returns False once the listener takes no more."""


class Broadcast:
    """The messages of one stream, forwarded to its listeners."""

    def __init__(self) -> None:
        self._listeners: list[Forward] = []

    def subscribe(self, listener: Forward) -> None:
        """Forward later messages to a listener; subscribing twice has no further effect."""
        if listener not in self._listeners:
            self._listeners.append(listener)

    def send(self, message: str) -> None:
        """Forward a message to every listener."""
        self._listeners = [forward for forward in self._listeners if forward(message)]
