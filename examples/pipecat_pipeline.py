"""A Pipecat pipeline: uv run examples/pipecat_pipeline.py samples/spelling.flac"""

import asyncio
import sys

from pipecat.audio.vad.silero import SileroVADAnalyzer
from pipecat.frames.frames import EndFrame, Frame, InterimTranscriptionFrame, TranscriptionFrame
from pipecat.pipeline.pipeline import Pipeline
from pipecat.pipeline.worker import PipelineWorker
from pipecat.processors.audio.vad_processor import VADProcessor
from pipecat.processors.frame_processor import FrameDirection, FrameProcessor
from pipecat.workers.runner import WorkerRunner

from parakeet_stt import ParakeetSTTService
from parakeet_stt.audio import read_audio
from parakeet_stt.pipecat.player import Player  # In your bot: transport.input().


class Printer(FrameProcessor):
    async def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
        await super().process_frame(frame, direction)
        if isinstance(frame, (InterimTranscriptionFrame, TranscriptionFrame)):
            print("final:" if isinstance(frame, TranscriptionFrame) else "...", frame.text)
        await self.push_frame(frame, direction)


async def main(path: str) -> None:
    player = Player(read_audio(path))
    stt = ParakeetSTTService(settings=ParakeetSTTService.Settings(model="tiny"))
    vad = VADProcessor(vad_analyzer=SileroVADAnalyzer())
    worker = PipelineWorker(Pipeline([player, vad, stt, Printer()]))
    runner = WorkerRunner()
    await runner.add_workers(worker)
    running = asyncio.create_task(runner.run())
    await player.played.wait()
    await worker.queue_frame(EndFrame())
    await running


asyncio.run(main(sys.argv[1]))
