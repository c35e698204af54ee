"""The state that all protocols share: settings, engine, metrics, admission, and shutdown."""

from __future__ import annotations

import asyncio
import itertools
import time
import typing
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from loguru import logger

from parakeet_stt.engine.engine import Engine
from parakeet_stt.engine.vad import Endpointing
from parakeet_stt.language import SURE, detect_language, load_detector
from parakeet_stt.model.model import Model
from parakeet_stt.model.stream import StreamOptions
from parakeet_stt.server.admission import Admission, State
from parakeet_stt.server.broadcast import Broadcast
from parakeet_stt.server.metrics import Metrics
from parakeet_stt.server.settings import ServerSettings
from parakeet_stt.transcript import Transcript

CLOSE_SECONDS = 5.0
"""Time for a client to read the last messages."""


class Drainable(typing.Protocol):
    """What is open and has to end before the server does."""

    def drain(self) -> None:
        """End, with the finals of the received audio."""

    def cut_short(self) -> None:
        """End now; finals that are not ready become errors."""


class Server:
    """One engine behind many protocols.

    Args:
        settings: The settings of the engine and the server.

    Attributes:
        settings: As the argument.
        engine: The engine of all sessions.
        metrics: Counters for Prometheus.
        admission: Limits of sessions and requests.
        created: When the server was created, in seconds since 1970.
        conversations: Open streaming conversations, which a shutdown ends.
        broadcasts: Streams that other clients may listen to, by stream id.
        stream_ids: Source of stream ids.
    """

    def __init__(self, settings: ServerSettings) -> None:
        self.settings = settings
        self.engine = Engine.from_settings(
            settings,
            batch_size=settings.batch_size,
            batch_window=settings.batch_window_ms / 1000,
        )
        self.metrics = Metrics()
        self.admission = Admission(settings, self.metrics)
        self.metrics.lag.set_function(lambda: sum(s.backlog for s in self.engine.sessions))
        self.metrics.ready.set_function(lambda: self.admission.state is State.READY)
        self.created = int(time.time())
        self.conversations: set[Drainable] = set()
        self.broadcasts: dict[int, Broadcast] = {}
        self.stream_ids = itertools.count(1)

    @property
    def model_name(self) -> str:
        """The name that clients see: that of the setting, or a folder's last part."""
        path = Path(self.settings.model).expanduser()
        return path.name if path.is_dir() else self.settings.model

    @property
    def model(self) -> Model:
        """The model, which has been loaded before any work is admitted."""
        assert self.engine.model is not None
        return self.engine.model

    async def start(self) -> None:
        """Load the model, then accept work.

        Raises:
            ParakeetError: The model cannot be loaded, or not with these settings.
        """
        loop = asyncio.get_running_loop()
        self.metrics.tasks.set_function(lambda: len(asyncio.all_tasks(loop)))
        await self.engine.check(self.options())
        if self.model.language is None:
            await asyncio.to_thread(load_detector)
        self.admission.start()

    def with_language(self, transcript: Transcript) -> Transcript:
        """Add the language to a transcript if the model has only one or the text identifies it.

        Takes less than a millisecond.
        """
        if transcript.language is not None:
            return transcript
        found = detect_language(transcript.text, self.model.languages)
        if found is None or found[1] < SURE:
            return transcript
        return replace(transcript, language=found[0])

    def options(self, boost: Mapping[str, float] | None = None) -> StreamOptions:
        """Return the options of a stream: the settings, plus a client's phrases.

        Args:
            boost: Phrases to boost in addition to the server's, with their weights.

        Raises:
            ConfigurationError: A phrase or weight is invalid.
        """
        options = StreamOptions.from_settings(self.settings)
        return replace(options, boost={**options.boost, **(boost or {})})

    def endpointing(
        self,
        threshold: float | None = None,
        stop_seconds: float | None = None,
        min_segment_seconds: float = 0,
    ) -> Endpointing:
        """Return the server's endpointing, with a client's values if given.

        Args:
            threshold: Speech probability; ``PARAKEET_VAD_THRESHOLD`` by default.
            stop_seconds: Silence that ends a segment; ``PARAKEET_VAD_STOP_MS`` by default.
            min_segment_seconds: Length below which silence does not end a segment.

        Raises:
            ConfigurationError: A value is out of range.
        """
        settings = self.settings
        return Endpointing(
            settings.vad_threshold if threshold is None else threshold,
            stop_seconds=settings.vad_stop_ms / 1000 if stop_seconds is None else stop_seconds,
            min_segment_seconds=min_segment_seconds,
        )

    async def drain(self) -> None:
        """Refuse new work and finish open work, within ``PARAKEET_DRAIN_SECONDS``."""
        admission = self.admission
        admission.drain()
        logger.info(
            f"draining: {admission.sessions} sessions and {admission.requests} requests are open"
        )
        for conversation in list(self.conversations):
            conversation.drain()
        seconds = self.settings.drain_seconds
        if not await self._is_idle_within(seconds):
            logger.warning(
                f"{admission.sessions} sessions and {admission.requests} requests did not end "
                f"within {seconds:g} s"
            )
            for conversation in list(self.conversations):
                conversation.cut_short()
            await self._is_idle_within(CLOSE_SECONDS)
        await self.engine.close()

    async def _is_idle_within(self, seconds: float) -> bool:
        """Wait until no session or request is open; return whether that happened in time."""
        try:
            async with asyncio.timeout(seconds):
                await self.admission.wait_until_idle()
        except TimeoutError:
            return False
        return True
