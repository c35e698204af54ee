"""One streaming client as its protocol sees it: session, outgoing messages, and ending."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import replace
from typing import Generic, TypeVar

from starlette.datastructures import Headers

from parakeet_stt.audio import SAMPLE_RATE, Samples
from parakeet_stt.engine.options import SessionOptions
from parakeet_stt.engine.session import Session
from parakeet_stt.engine.vad import Endpointing
from parakeet_stt.server.endings import Ending
from parakeet_stt.server.queues import Outbox
from parakeet_stt.server.state import Server

M = TypeVar("M")


class Connection(Generic[M]):
    """One streaming client as its protocol sees it.

    It does no input or output: a :class:`~parakeet_stt.server.conversation.Conversation` sends what
    is in the outbox, and a test reads it.

    Args:
        server: The server that the client is connected to.
        protocol: Name of the protocol in metrics.
        headers: Headers of the request that opened the connection; TCP has none.

    Attributes:
        server: As the argument.
        headers: As the argument.
        outbox: Messages for the client.
        cleanup: Callbacks for the end of the connection, however it ends.
    """

    def __init__(self, server: Server, protocol: str, headers: Headers | None = None) -> None:
        self.server = server
        self.headers = headers or Headers()
        self.outbox: Outbox[M] = Outbox()
        self.cleanup = ExitStack()
        self._protocol = protocol
        self._session: Session | None = None
        self._ending: Ending | None = None
        self._ended = asyncio.Event()

    @property
    def is_open(self) -> bool:
        """Whether a session has been opened."""
        return self._session is not None

    @property
    def session(self) -> Session:
        """The session, which must have been opened."""
        assert self._session is not None, "the protocol uses a session that it has not opened"
        return self._session

    @property
    def ending(self) -> Ending | None:
        """How the conversation ends; None while it goes on."""
        return self._ending

    @property
    def waiting(self) -> int:
        """Messages, and events that will become messages, that the client has not read yet."""
        return len(self.outbox) + (self._session.pending_events if self._session else 0)

    @property
    def too_slow(self) -> Ending:
        """The ending for a client that does not read."""
        return Ending(1008, f"too slow: {self.waiting} messages wait to be read", deliver=False)

    def open(
        self,
        *,
        endpointing: Endpointing | None,
        interims: bool,
        preroll: float | None = None,
        boost: Mapping[str, float] | None = None,
    ) -> None:
        """Open the session, or reconfigure it from the next segment on.

        Args:
            endpointing: How silence ends segments; None if the client flushes.
            interims: Whether the client wants hypotheses.
            preroll: Seconds before speech that belong to its segment; ``PARAKEET_PREROLL_MS`` by
                default. Without endpointing all audio belongs to a segment.
            boost: Phrases to boost in addition to the server's, with their weights.

        Raises:
            ConfigurationError: A phrase or weight is invalid.
        """
        options = SessionOptions.from_settings(self.server.settings)
        if endpointing is None:
            preroll = None
        elif preroll is None:
            preroll = options.preroll
        options = replace(
            options,
            stream=self.server.options(boost),
            interval=options.interval if interims else None,
            preroll=preroll,
            endpointing=endpointing,
        )
        if self._session is not None:
            self._session.configure(options)
        else:
            self._session = self.server.engine.open(options)

    def send_audio(self, samples: Samples) -> None:
        """Send audio to the session.

        Raises:
            SessionClosedError: The session is finishing or closed.
            AudioError: The samples have another shape or type.
            BacklogError: Too much audio waits for inference.
        """
        self.session.send(samples)
        self.server.metrics.audio.labels(self._protocol).inc(len(samples) / SAMPLE_RATE)

    def send(self, message: M) -> None:
        """Queue a message for the client."""
        self.outbox.put(message)

    def forward(self, message: M) -> bool:
        """Queue a message that another client caused; end the conversation if too many wait.

        Returns:
            Whether it was queued; if not, no later one will be either.
        """
        if len(self.outbox) >= self.server.settings.max_unsent:
            self.end(self.too_slow)
        if self._ending is not None:
            return False
        self.send(message)
        return True

    def end(self, ending: Ending) -> None:
        """End the conversation; only the first ending counts."""
        if self._ending is None:
            self._ending = ending
            self._ended.set()

    async def wait_for_ending(self) -> Ending:
        """Wait until the conversation is to end, and return how."""
        await self._ended.wait()
        assert self._ending is not None
        return self._ending
