"""How a session segments and transcribes its audio."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Self

from parakeet_stt.engine.vad import Endpointing
from parakeet_stt.model.stream import StreamOptions
from parakeet_stt.settings import ParakeetSettings


@dataclass(frozen=True)
class SessionOptions:
    """Options of a session.

    Attributes:
        stream: Context, attention and boosted phrases of the session's streams.
        interval: Minimum time between interims, in seconds of audio; None for finals only.
        preroll: None if all audio belongs to a segment (the caller flushes). Otherwise only audio
            between :meth:`Session.start_segment` and a flush is speech, and this many seconds
            before the VAD reports speech belong to the segment. If the VAD is behind the newest
            audio, the session locates the start and end of speech in the audio itself.
        endpointing: When speech starts and stops, if the session detects it itself: it then starts
            segments (with ``preroll``) and flushes them.
        low_priority: Whether other sessions go first: set it for recordings, so that they do not
            delay people who are speaking now.
    """

    stream: StreamOptions = field(default_factory=StreamOptions)
    interval: float | None = 0.1
    preroll: float | None = None
    endpointing: Endpointing | None = None
    low_priority: bool = False

    @classmethod
    def from_settings(cls, settings: ParakeetSettings) -> Self:
        """Return the options of a session whose segments a VAD starts and flushes.

        Raises:
            ConfigurationError: A phrase or weight that cannot be used.
        """
        return cls(
            stream=StreamOptions.from_settings(settings),
            interval=settings.chunk_ms / 1000 if settings.emit_partial else None,
            preroll=settings.preroll_ms / 1000,
        )
