"""The base class of streaming protocols."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar, Generic, TypeVar

from starlette.datastructures import QueryParams

from parakeet_stt.engine.events import Event
from parakeet_stt.errors import ParakeetError
from parakeet_stt.server.connection import Connection
from parakeet_stt.server.endings import Ending

M = TypeVar("M")


class Protocol(ABC, Generic[M]):
    """Turns a client's messages into session calls, and session events into messages.

    A protocol does no input or output, and none of its methods waits. It uses
    :attr:`connection`: ``open()``, ``send_audio()`` and ``session`` for the session, ``send()`` for
    the client, ``end()`` to close. Limits, queues and the end of the conversation are the same for
    all protocols and not its concern.

    A protocol is created before the connection is accepted. If its constructor raises a
    ParakeetError, the connection is refused with that message.

    Attributes:
        name: Its name in metrics and the log.
        idle_code: The close code for a client that sends nothing.
        connection: The client's connection.
        response_headers: Headers of the response that accepts a WebSocket.
        may_be_silent: Whether the client may send nothing for any length of time.

    Args:
        connection: The client's connection.
        query: Parameters of the URL.
    """

    name: ClassVar[str]
    idle_code: ClassVar[int] = 1008

    def __init__(self, connection: Connection[M], query: QueryParams) -> None:
        self.connection = connection
        self.response_headers: dict[str, str] = {}
        self.may_be_silent = False

    def on_open(self) -> None:
        """Handle the start: open the session, send a greeting."""

    @abstractmethod
    def on_message(self, message: M) -> None:
        """Handle a message from the client.

        Raises:
            ParakeetError: It cannot be used; :meth:`on_error` is called, and the conversation goes
                on.
        """

    @abstractmethod
    def on_event(self, event: Event) -> None:
        """Handle an event from the session."""

    @abstractmethod
    def on_error(self, error: ParakeetError) -> None:
        """Send an error to the client."""

    def flush_audio(self) -> None:
        """Send audio that a decoder or resampler still holds to the session."""

    def on_close(self, ending: Ending) -> None:
        """Handle the end: every final has been sent, and the connection is closed next."""
