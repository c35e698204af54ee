"""A Pipecat pipeline that shows what the service transcribes, for ``parakeet-stt demo``."""

from __future__ import annotations

import asyncio
import time
from statistics import median

from pipecat.audio.vad.silero import SileroVADAnalyzer
from pipecat.audio.vad.vad_analyzer import VADParams
from pipecat.frames.frames import (
    EndFrame,
    ErrorFrame,
    Frame,
    InterimTranscriptionFrame,
    TranscriptionFrame,
    VADUserStartedSpeakingFrame,
    VADUserStoppedSpeakingFrame,
)
from pipecat.pipeline.pipeline import Pipeline
from pipecat.pipeline.worker import PipelineWorker, ProcessorUnusablePolicy
from pipecat.processors.audio.vad_processor import VADProcessor
from pipecat.processors.frame_processor import FrameDirection, FrameProcessor
from pipecat.workers.runner import WorkerRunner

from parakeet_stt import Engine, Hypothesis, ParakeetSTTService, Transcript
from parakeet_stt.audio import Samples
from parakeet_stt.cli import console
from parakeet_stt.cli.screen import Screen
from parakeet_stt.errors import ParakeetError
from parakeet_stt.pipecat.player import Player

STOP_SECONDS = 0.2
"""Silence after which the VAD ends a segment: Pipecat's default."""


async def play(samples: Samples, engine: Engine) -> None:
    """Play samples, show what the service transcribes, and print a summary.

    Raises:
        ParakeetError: The pipeline failed.
    """
    player = Player(samples)
    vad = VADProcessor(vad_analyzer=SileroVADAnalyzer(params=VADParams(stop_secs=STOP_SECONDS)))
    with Screen(console.out) as screen:
        display = _Display(screen)
        worker = PipelineWorker(
            Pipeline([player, vad, ParakeetSTTService(engine=engine), display]),
            enable_rtvi=False,
            processor_unusable_policy=ProcessorUnusablePolicy.END,
        )
        failures: list[ErrorFrame] = []

        @worker.event_handler("on_pipeline_error")  # type: ignore[untyped-decorator]
        async def failed(_: object, frame: ErrorFrame) -> None:
            failures.append(frame)

        async def end() -> None:
            await player.played.wait()
            await display.silent()
            await worker.queue_frame(EndFrame())

        runner = WorkerRunner(handle_sigint=False)
        await runner.add_workers(worker)
        ending = asyncio.create_task(end())
        await runner.run()
        ending.cancel()
    if failures:
        raise ParakeetError(f"the pipeline failed: {failures[0].error}")
    display.summarize()


class _Display(FrameProcessor):
    """Shows interims and finals, and measures the time to each final."""

    def __init__(self, screen: Screen) -> None:
        super().__init__()
        self._screen = screen
        self._speech_end: float | None = None
        self._quiet = asyncio.Event()
        self._quiet.set()
        self._interims = 0
        self._finals = 0
        self._delays: list[float] = []

    async def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
        """Show a frame and pass it on."""
        await super().process_frame(frame, direction)
        match frame:
            case VADUserStartedSpeakingFrame():
                self._quiet.clear()
                self._speech_end = None
            case VADUserStoppedSpeakingFrame():
                self._quiet.set()
                self._speech_end = frame.timestamp - frame.stop_secs
            case InterimTranscriptionFrame(result=Hypothesis() as hypothesis):
                self._interims += 1
                self._screen.show(hypothesis.committed, hypothesis.tentative)
            case TranscriptionFrame(result=Transcript() as transcript):
                self._finals += 1
                note = ""
                if self._speech_end is not None:
                    delay = (time.time() - self._speech_end) * 1000
                    self._delays.append(delay)
                    note = f"[{delay:.0f} ms]"
                self._screen.keep(transcript.start, frame.text, note)
        await self.push_frame(frame, direction)

    async def silent(self) -> None:
        """Wait until the VAD has ended the segment that is open."""
        await self._quiet.wait()

    def summarize(self) -> None:
        """Print how many interims and finals there were, and the median time to a final."""
        if not self._finals:
            console.out.print("No words were transcribed.")
            return
        plural = "s" if self._finals > 1 else ""
        text = f"\n{self._finals} final{plural}, {self._interims} interims"
        if self._delays:
            text += f"; median time to a final {median(self._delays):.0f} ms"
        console.out.print(text)
