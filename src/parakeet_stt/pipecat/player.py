"""A Pipecat input transport that plays a recording in real time.

Use it to try a pipeline without a microphone, as the example, the tests and the benchmark do.
"""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np
from pipecat.frames.frames import InputAudioRawFrame, StartFrame
from pipecat.transports.base_input import BaseInputTransport
from pipecat.transports.base_transport import TransportParams

from parakeet_stt.audio import SAMPLE_RATE, Samples

FRAME_SECONDS = 0.02
"""Length of a frame, as in WebRTC."""


class Player(BaseInputTransport):
    """Plays samples, then silence until the pipeline ends.

    Each frame has an absolute deadline, so that delays do not add up.

    Args:
        samples: ``float32 [samples]``, mono.
        rate: Sample rate of the samples and of the frames, Hz. Default: 16,000.
        speed: Speed of playing. Default: 1, which is real time.
        **kwargs: For :class:`pipecat.transports.base_input.BaseInputTransport`.
    """

    def __init__(
        self, samples: Samples, rate: int = SAMPLE_RATE, speed: float = 1.0, **kwargs: Any
    ) -> None:
        """Initialize the player; the class documents the arguments."""
        params = TransportParams(audio_in_enabled=True, audio_in_sample_rate=rate)
        super().__init__(params, **kwargs)
        self._samples = samples
        self._rate = rate
        self._speed = speed
        self._playing: asyncio.Task[None] | None = None
        self.played = asyncio.Event()
        """Set when the last sample has been sent."""

    async def start(self, frame: StartFrame) -> None:
        """Start playing as soon as the pipeline has started."""
        await super().start(frame)
        await self.set_transport_ready(frame)
        if self._playing is None:
            self._playing = self.create_task(self._play(), "play")

    async def cleanup(self) -> None:
        """Stop playing."""
        if self._playing is not None:
            await self.cancel_task(self._playing)
            self._playing = None
        await super().cleanup()  # type: ignore[no-untyped-call]

    async def _play(self) -> None:
        size = int(self._rate * FRAME_SECONDS)
        pcm = (np.clip(self._samples, -1, 1) * 32767).astype("<i2")
        loop = asyncio.get_running_loop()
        started, sent = loop.time(), 0
        while True:
            chunk = pcm[sent * size : (sent + 1) * size]
            if len(chunk) < size:
                self.played.set()
                chunk = np.concatenate((chunk, np.zeros(size - len(chunk), "<i2")))
            await self.push_audio_frame(InputAudioRawFrame(chunk.tobytes(), self._rate, 1))
            sent += 1
            # Real time itself, not a wait for a condition.
            await asyncio.sleep(started + sent * FRAME_SECONDS / self._speed - loop.time())
