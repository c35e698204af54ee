"""Admission: how many sessions and requests the server accepts, and when."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from enum import Enum

from loguru import logger

from parakeet_stt.errors import ParakeetError
from parakeet_stt.server.metrics import Metrics
from parakeet_stt.server.settings import ServerSettings

FILE_PROTOCOL = "file"
"""The protocol name that requests for files are counted under."""


class RefusedError(ParakeetError):
    """The server accepts no new work at the moment.

    Attributes:
        reason: ``loading``, ``draining``, ``sessions`` or ``requests``.
        retry_after: Seconds after which to try again.
    """

    def __init__(self, reason: str, message: str, retry_after: int) -> None:
        super().__init__(message)
        self.reason = reason
        self.retry_after = retry_after

    @property
    def status(self) -> int:
        """The HTTP status: 429 for too many requests, 503 otherwise."""
        return 429 if self.reason == "requests" else 503


class State(Enum):
    """The state of a server."""

    LOADING = "loading"
    READY = "ready"
    DRAINING = "draining"


class Admission:
    """Counts open sessions and requests, and refuses those over the limits.

    Args:
        settings: The limits.
        metrics: Where sessions and refusals are counted.
    """

    def __init__(self, settings: ServerSettings, metrics: Metrics) -> None:
        self._settings = settings
        self._metrics = metrics
        self._state = State.LOADING
        self._sessions = 0
        self._requests = 0
        self._idle = asyncio.Event()
        self._idle.set()

    @property
    def state(self) -> State:
        """The state of the server; work is accepted if it is READY."""
        return self._state

    @property
    def sessions(self) -> int:
        """Number of open streaming sessions."""
        return self._sessions

    @property
    def requests(self) -> int:
        """Number of files being transcribed."""
        return self._requests

    def start(self) -> None:
        """Accept work, unless the server is draining already."""
        if self._state is State.LOADING:
            self._state = State.READY

    def drain(self) -> None:
        """Refuse new work from here on."""
        self._state = State.DRAINING

    async def wait_until_idle(self) -> None:
        """Wait until no session or request is open."""
        await self._idle.wait()

    @contextmanager
    def admit(self, protocol: str) -> Iterator[None]:
        """Count a session, or a request of :data:`FILE_PROTOCOL`, while the context is open.

        Raises:
            RefusedError: The limit is reached, or the server is loading or draining.
        """
        try:
            self._check(protocol)
        except RefusedError as refusal:
            self._metrics.rejected.labels(refusal.reason).inc()
            logger.info(f"refused {protocol}: {refusal}")
            raise
        self._count(protocol, 1)
        try:
            yield
        finally:
            self._count(protocol, -1)

    def _check(self, protocol: str) -> None:
        settings = self._settings
        if self._state is State.LOADING:
            raise RefusedError("loading", "the model is being loaded", 5)
        if self._state is State.DRAINING:
            raise RefusedError("draining", "the server is shutting down", 5)
        if protocol == FILE_PROTOCOL and self._requests >= settings.max_requests:
            raise RefusedError(
                "requests", f"{self._requests} files are being transcribed, the maximum", 1
            )
        if protocol != FILE_PROTOCOL and self._sessions >= settings.max_sessions:
            raise RefusedError("sessions", f"{self._sessions} sessions are open, the maximum", 5)

    def _count(self, protocol: str, step: int) -> None:
        if protocol == FILE_PROTOCOL:
            self._requests += step
        else:
            self._sessions += step
            self._metrics.active.labels(protocol).inc(step)
            if step > 0:
                self._metrics.sessions.labels(protocol).inc()
        if self._sessions or self._requests:
            self._idle.clear()
        else:
            self._idle.set()
