"""The service and the frames around it: what is sent to it, and what it reports."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import numpy as np
import soxr
from pipecat.frames.frames import (
    EndFrame,
    ErrorFrame,
    Frame,
    InputAudioRawFrame,
    InterimTranscriptionFrame,
    TranscriptionFrame,
    VADUserStartedSpeakingFrame,
    VADUserStoppedSpeakingFrame,
)
from pipecat.pipeline.pipeline import Pipeline
from pipecat.pipeline.worker import PipelineParams, PipelineWorker
from pipecat.processors.frame_processor import FrameDirection, FrameProcessor
from pipecat.tests.utils import run_test
from pipecat.workers.runner import WorkerRunner

from parakeet_stt import ParakeetSTTService
from tests.support.recordings import CLEAR
from tests.support.serving import PATIENCE

Settings = ParakeetSTTService.Settings
START, STOP = VADUserStartedSpeakingFrame, VADUserStoppedSpeakingFrame


def service(backend: str = "onnx", **settings: Any) -> ParakeetSTTService:
    return ParakeetSTTService(settings=Settings(model="tiny", backend=backend, **settings))


def audio(samples: np.ndarray, rate: int = 16_000, channels: int = 1) -> list[Frame]:
    """20 ms frames of ``float32 [samples]`` at 16 kHz, converted to a rate and channels."""
    if rate != 16_000:
        samples = soxr.resample(samples, 16_000, rate)
    pcm = (np.clip(samples, -1, 1) * 32767).astype("<i2")
    size = rate // 50
    pieces = [pcm[i : i + size] for i in range(0, len(pcm), size)]
    return [
        InputAudioRawFrame(np.repeat(piece, channels).tobytes(), rate, channels) for piece in pieces
    ]


def spoken(index: int, **form: Any) -> list[Frame]:
    """A recording between a VAD's frames, as a VAD in front of the service sends them."""
    frames = audio(CLEAR[index].samples(), **form)
    first = int(CLEAR[index].start * 50) + 10
    return [*frames[:first], START(start_secs=0.2), *frames[first:], STOP(stop_secs=0.2)]


async def run(
    processor: FrameProcessor, frames: Sequence[Frame], metrics: bool = False, **options: Any
) -> list[Frame]:
    """Run frames through a processor with Pipecat's own utility; gives what went downstream."""
    down, _ = await run_test(
        processor,
        frames_to_send=frames,
        pipeline_params=PipelineParams(enable_metrics=metrics, enable_usage_metrics=metrics),
        start_timeout=PATIENCE,
        **options,
    )
    return list(down)


def finals(frames: Sequence[Frame]) -> list[TranscriptionFrame]:
    return [frame for frame in frames if isinstance(frame, TranscriptionFrame)]


class Events:
    """What a service reports, as it is reported."""

    def __init__(self, stt: ParakeetSTTService) -> None:
        self.errors: list[ErrorFrame] = []
        self.error = asyncio.Event()
        self.connected = asyncio.Event()
        self.failed = asyncio.Event()
        stt.add_event_handler("on_error", self._on_error)
        stt.add_event_handler("on_connected", self._on_connected)
        stt.add_event_handler("on_connection_error", self._on_connection_error)

    async def _on_error(self, _: object, error: ErrorFrame) -> None:
        self.errors.append(error)
        self.error.set()

    async def _on_connected(self, _: object) -> None:
        self.connected.set()

    async def _on_connection_error(self, _: object, message: str) -> None:
        assert message
        self.failed.set()


class Tap(FrameProcessor):
    """Keeps what is transcribed."""

    def __init__(self) -> None:
        super().__init__()
        self.interims: asyncio.Queue[InterimTranscriptionFrame] = asyncio.Queue()
        self.finals: asyncio.Queue[TranscriptionFrame] = asyncio.Queue()

    async def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
        await super().process_frame(frame, direction)
        match frame:
            case InterimTranscriptionFrame():
                self.interims.put_nowait(frame)
            case TranscriptionFrame():
                self.finals.put_nowait(frame)
        await self.push_frame(frame, direction)


@asynccontextmanager
async def running(stt: FrameProcessor) -> AsyncIterator[tuple[PipelineWorker, Tap]]:
    """A pipeline around the service, from its start to its EndFrame."""
    tap, started = Tap(), asyncio.Event()
    worker = PipelineWorker(Pipeline([stt, tap]), enable_rtvi=False, cancel_on_idle_timeout=False)

    @worker.event_handler("on_pipeline_started")
    async def begun(*_: object) -> None:
        started.set()

    runner = WorkerRunner(handle_sigint=False)
    await runner.add_workers(worker)
    run = asyncio.create_task(runner.run())
    try:
        await started.wait()
        yield worker, tap
        await worker.queue_frame(EndFrame())
        ended, _ = await asyncio.wait([run], timeout=PATIENCE)
        assert ended, "the pipeline does not end"
    finally:
        await runner.cancel()
        await asyncio.wait([run], timeout=PATIENCE)
