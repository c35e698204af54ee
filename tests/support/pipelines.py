"""Pipecat pipelines that are driven by conditions: what came out decides what is sent next."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from pipecat.frames.frames import EndFrame, Frame, TranscriptionFrame
from pipecat.pipeline.pipeline import Pipeline
from pipecat.pipeline.worker import PipelineWorker
from pipecat.processors.frame_processor import FrameDirection, FrameProcessor
from pipecat.workers.runner import WorkerRunner

from parakeet_stt.audio import Samples
from parakeet_stt.pipecat.player import Player
from tests.support.serving import PATIENCE, eventually


class Listener(FrameProcessor):
    """Keeps every frame that comes out of a pipeline."""

    def __init__(self) -> None:
        super().__init__()
        self.frames: list[Frame] = []

    async def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
        await super().process_frame(frame, direction)
        self.frames.append(frame)
        await self.push_frame(frame, direction)

    def of(self, kind: type[Frame]) -> list[Any]:
        return [frame for frame in self.frames if isinstance(frame, kind)]


async def drive(
    driver: Callable[[PipelineWorker, Listener], Awaitable[None]], *stages: FrameProcessor
) -> Listener:
    """Run a pipeline of these stages until the driver returns, and then to its end.

    Args:
        driver: Sends frames to the pipeline and waits for what comes out of it.
        stages: All of the pipeline but the listener at its end.
    """
    listener = Listener()
    worker = PipelineWorker(Pipeline([*stages, listener]), enable_rtvi=False)

    async def run_driver() -> None:
        try:
            async with asyncio.timeout(PATIENCE):
                await driver(worker, listener)
        finally:
            await worker.queue_frame(EndFrame())

    runner = WorkerRunner(handle_sigint=False)
    await runner.add_workers(worker)
    driving = asyncio.create_task(run_driver())
    await runner.run()
    await driving
    return listener


async def play(
    samples: Samples, *stages: FrameProcessor, finals: int, speed: float = 4.0
) -> Listener:
    """Play a recording into a pipeline, followed by silence until all finals are there.

    Args:
        samples: ``float32 [samples]``, mono, 16 kHz.
        stages: Everything between the player and the end of the pipeline.
        finals: How many finals are expected.
        speed: 1 is real time.
    """
    player = Player(samples, speed=speed)

    async def wait(_: PipelineWorker, listener: Listener) -> None:
        await player.played.wait()
        await eventually(lambda: len(listener.of(TranscriptionFrame)) >= finals)

    return await drive(wait, player, *stages)
