"""Where speech begins and ends, for sessions that no Pipecat VAD opens and flushes.

Silero's network as pipecat-ai brings it, with Pipecat's own smoothing and defaults.
"""

from __future__ import annotations

from enum import Enum

import numpy as np
from pipecat.audio.vad.silero import SileroVADAnalyzer
from pipecat.audio.vad.vad_analyzer import VADParams, VADState

from parakeet_stt.audio import SAMPLE_RATE, Samples

WINDOW = 512
"""Samples that Silero looks at, at 16 kHz (32 ms)."""


class Speech(Enum):
    """A change that the endpointer has noticed."""

    STARTED = "started"
    STOPPED = "stopped"


class Endpointer:
    """Voice activity of one audio stream.

    Args:
        start_seconds: Speech must last so long to begin.
        stop_seconds: Silence must last so long to end it.
    """

    def __init__(self, start_seconds: float = 0.2, stop_seconds: float = 0.2) -> None:
        self._analyzer = SileroVADAnalyzer(
            sample_rate=SAMPLE_RATE,
            params=VADParams(start_secs=start_seconds, stop_secs=stop_seconds),
        )
        self._analyzer.set_sample_rate(SAMPLE_RATE)
        self._speaking = False

    async def __call__(self, window: Samples) -> Speech | None:
        """Look at one more window; the network runs on a thread of its own.

        Args:
            window: ``float32 [512]``, mono, 16 kHz; a shorter one is the stream's last.
        """
        pcm = (np.clip(window, -1, 1) * 32767).astype("<i2").tobytes()
        state = await self._analyzer.analyze_audio(pcm)
        if state is VADState.SPEAKING and not self._speaking:
            self._speaking = True
            return Speech.STARTED
        if state is VADState.QUIET and self._speaking:
            self._speaking = False
            return Speech.STOPPED
        return None
