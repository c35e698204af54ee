"""A Pipecat input transport that plays samples as if somebody spoke them, in real time.

For trying a pipeline on recordings: the example, the tests and the benchmark use it.
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
"""Audio in a frame, as WebRTC sends it."""


class Player(BaseInputTransport):
    """Plays samples, then silence until it is told to stop.

    Frames are paced against absolute deadlines, so that delays do not add up.

    Args:
        samples: ``float32 [samples]``, mono.
        rate: Their sample rate, Hz; also that of the frames.
        speed: 1 is real time.
        **kwargs: For :class:`pipecat.transports.base_input.BaseInputTransport`.
    """

    def __init__(
        self, samples: Samples, rate: int = SAMPLE_RATE, speed: float = 1.0, **kwargs: Any
    ) -> None:
        """Initialize the player; arguments as the class says."""
        params = TransportParams(audio_in_enabled=True, audio_in_sample_rate=rate)
        super().__init__(params, **kwargs)
        self._samples = samples
        self._rate = rate
        self._speed = speed
        self._playing: asyncio.Task[None] | None = None
        self.played = asyncio.Event()
        """Set when the last sample has been sent; silence follows it."""

    async def start(self, frame: StartFrame) -> None:
        """Begin to play as soon as the pipeline has started."""
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
        begun, sent = loop.time(), 0
        while True:
            piece = pcm[sent * size : (sent + 1) * size]
            if len(piece) < size:
                self.played.set()
                piece = np.concatenate((piece, np.zeros(size - len(piece), "<i2")))
            await self.push_audio_frame(InputAudioRawFrame(piece.tobytes(), self._rate, 1))
            sent += 1
            # The clock of real time, not a wait for something to have happened.
            await asyncio.sleep(begun + sent * FRAME_SECONDS / self._speed - loop.time())
