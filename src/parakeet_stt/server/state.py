"""What every protocol shares: the engine, who may come in, and how the server comes to its end."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Any

from loguru import logger

from parakeet_stt.engine.engine import Engine
from parakeet_stt.engine.vad import Endpointing
from parakeet_stt.errors import ParakeetError
from parakeet_stt.language import SURE, detect_language, load_detector
from parakeet_stt.model.model import Model
from parakeet_stt.model.stream import StreamOptions
from parakeet_stt.server.metrics import Metrics
from parakeet_stt.server.settings import ServerSettings
from parakeet_stt.transcript import Transcript

if TYPE_CHECKING:
    from parakeet_stt.server.conversation import Conversation

CLOSE_SECONDS = 5.0
"""Time for a client to take the last messages."""

FILE_PROTOCOL = "file"
"""What requests for files are counted as."""


class RefusedError(ParakeetError):
    """New work is not accepted now.

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
    """Where a server is in its life."""

    LOADING = "loading"
    READY = "ready"
    DRAINING = "draining"


class Server:
    """One engine behind many protocols.

    Args:
        settings: What was asked for.
    """

    def __init__(self, settings: ServerSettings) -> None:
        self.settings = settings
        self.engine = Engine.from_settings(
            settings,
            batch_size=settings.batch_size,
            batch_window=settings.batch_window_ms / 1000,
        )
        self.metrics = Metrics()
        self.metrics.lag.set_function(lambda: sum(s.backlog for s in self.engine.sessions))
        self.metrics.ready.set_function(lambda: self.state is State.READY)
        self.state = State.LOADING
        self.created = int(time.time())
        self.conversations: set[Conversation[Any]] = set()
        self.stream_ids = itertools.count(1)
        self._sessions = 0
        self._requests = 0
        self._idle = asyncio.Event()
        self._idle.set()

    @property
    def sessions(self) -> int:
        """Streaming clients that are here now."""
        return self._sessions

    @property
    def model_name(self) -> str:
        """What clients may know the model by: its name, of a folder only the last part."""
        path = Path(self.settings.model).expanduser()
        return path.name if path.is_dir() else self.settings.model

    @property
    def model(self) -> Model:
        """The model; only what is admitted asks for it, so it has been loaded."""
        assert self.engine.model is not None
        return self.engine.model

    async def start(self) -> None:
        """Load the model; from then on work is accepted.

        Raises:
            ParakeetError: It cannot be loaded, or not be used with these settings.
        """
        loop = asyncio.get_running_loop()
        self.metrics.tasks.set_function(lambda: len(asyncio.all_tasks(loop)))
        await self.engine.check(self.options())
        if self.model.language is None:
            await asyncio.to_thread(load_detector)
        if self.state is State.LOADING:
            self.state = State.READY

    def with_language(self, transcript: Transcript) -> Transcript:
        """The transcript with its language, where the model or, for certain, its text tells it.

        Takes less than a millisecond.
        """
        if transcript.language is not None:
            return transcript
        found = detect_language(transcript.text, self.model.languages)
        if found is None or found[1] < SURE:
            return transcript
        return replace(transcript, language=found[0])

    def options(self, boost: Mapping[str, float] | None = None) -> StreamOptions:
        """How streams listen: as was set, and with a client's phrases beside the server's.

        Raises:
            ConfigurationError: A phrase or weight that cannot be used.
        """
        options = StreamOptions.from_settings(self.settings)
        return replace(options, boost={**options.boost, **(boost or {})})

    def endpointing(
        self,
        threshold: float | None = None,
        stop_seconds: float | None = None,
        min_segment_seconds: float = 0,
    ) -> Endpointing:
        """The server's endpointing: what a client does not say is as was set.

        Raises:
            ConfigurationError: A value that cannot be used.
        """
        settings = self.settings
        return Endpointing(
            settings.vad_threshold if threshold is None else threshold,
            stop_seconds=settings.vad_stop_ms / 1000 if stop_seconds is None else stop_seconds,
            min_segment_seconds=min_segment_seconds,
        )

    @contextmanager
    def admit(self, protocol: str) -> Iterator[None]:
        """A place for one session, or for one request (:data:`FILE_PROTOCOL`).

        Raises:
            RefusedError: There is none, or the server is loading or draining.
        """
        try:
            self._check(protocol)
        except RefusedError as refusal:
            self.metrics.rejected.labels(refusal.reason).inc()
            logger.info(f"refused {protocol}: {refusal}")
            raise
        self._count(protocol, 1)
        try:
            yield
        finally:
            self._count(protocol, -1)

    async def drain(self) -> None:
        """Refuse what is new, and give what is there its finals, within the time for it."""
        self.state = State.DRAINING
        logger.info(f"draining: {self._sessions} sessions and {self._requests} requests are open")
        for conversation in list(self.conversations):
            conversation.drain()
        seconds = self.settings.drain_seconds
        if not await self._is_idle_within(seconds):
            logger.warning(
                f"{self._sessions} sessions and {self._requests} requests did not end within "
                f"{seconds:g} s"
            )
            for conversation in list(self.conversations):
                conversation.cut_short()
            await self._is_idle_within(CLOSE_SECONDS)
        await self.engine.close()

    async def _is_idle_within(self, seconds: float) -> bool:
        """Wait until no session or request is open; whether that was so in time."""
        try:
            async with asyncio.timeout(seconds):
                await self._idle.wait()
        except TimeoutError:
            return False
        return True

    def _check(self, protocol: str) -> None:
        settings = self.settings
        if self.state is State.LOADING:
            raise RefusedError("loading", "the model is being loaded", 5)
        if self.state is State.DRAINING:
            raise RefusedError("draining", "the server is shutting down", 5)
        if protocol == FILE_PROTOCOL and self._requests >= settings.max_requests:
            raise RefusedError(
                "requests", f"{self._requests} files are being transcribed, as many as may be", 1
            )
        if protocol != FILE_PROTOCOL and self._sessions >= settings.max_sessions:
            raise RefusedError(
                "sessions", f"{self._sessions} sessions are open, as many as may be", 5
            )

    def _count(self, protocol: str, step: int) -> None:
        if protocol == FILE_PROTOCOL:
            self._requests += step
        else:
            self._sessions += step
            self.metrics.active.labels(protocol).inc(step)
            if step > 0:
                self.metrics.sessions.labels(protocol).inc()
        if self._sessions or self._requests:
            self._idle.clear()
        else:
            self._idle.set()
