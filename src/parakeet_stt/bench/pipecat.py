"""``parakeet-stt bench pipecat``: the service in a real pipeline, in real time.

A fresh pipeline for each recording, with Silero as Pipecat configures it (``stop_secs`` 0.2) in
front of the service. Reports word errors of the finals beside those of the offline transcript,
and Pipecat's own time from the end of speech to the final.
"""

from __future__ import annotations

import asyncio
import json
import platform
from dataclasses import dataclass, field
from pathlib import Path

import jiwer
import numpy as np
from pipecat.audio.vad.silero import SileroVADAnalyzer
from pipecat.audio.vad.vad_analyzer import VADParams
from pipecat.frames.frames import (
    EndFrame,
    Frame,
    InterimTranscriptionFrame,
    MetricsFrame,
    TranscriptionFrame,
    VADUserStartedSpeakingFrame,
    VADUserStoppedSpeakingFrame,
)
from pipecat.metrics.metrics import TTFBMetricsData
from pipecat.pipeline.pipeline import Pipeline
from pipecat.pipeline.worker import PipelineParams, PipelineWorker
from pipecat.processors.audio.vad_processor import VADProcessor
from pipecat.processors.frame_processor import FrameDirection, FrameProcessor
from pipecat.workers.runner import WorkerRunner
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from parakeet_stt.audio import Samples
from parakeet_stt.bench.recordings import Recording, normalised, read_recordings
from parakeet_stt.engine import Engine
from parakeet_stt.model.parakeet import load_model
from parakeet_stt.player import Player
from parakeet_stt.service import ParakeetMLXSTTService
from parakeet_stt.settings import ParakeetSettings

_PERCENTILES = (50, 95, 99)
_QUIET_SECONDS = 1.0  # After a recording, with nothing said and no final awaited, it is over.


@dataclass
class Heard:
    """What came out of a pipeline.

    Attributes:
        finals: Texts of the finals.
        interims: How many interims there were.
        latencies: Pipecat's seconds from the end of speech to each final.
    """

    finals: list[str] = field(default_factory=list)
    interims: int = 0
    latencies: list[float] = field(default_factory=list)


class Recorder(FrameProcessor):
    """Keeps what the service says, and knows when nothing more is to come."""

    def __init__(self) -> None:
        """Initialize the recorder."""
        super().__init__()
        self.heard = Heard()
        self.quiet = asyncio.Event()
        self.quiet.set()

    async def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
        """Take note of a frame and pass it on."""
        await super().process_frame(frame, direction)
        match frame:
            case VADUserStartedSpeakingFrame():
                self.quiet.clear()
            case VADUserStoppedSpeakingFrame():
                self.quiet.set()
            case InterimTranscriptionFrame():
                self.heard.interims += 1
            case TranscriptionFrame():
                self.heard.finals.append(frame.text)
            case MetricsFrame():
                self.heard.latencies += [
                    data.value
                    for data in frame.data
                    if isinstance(data, TTFBMetricsData) and data.value > 0
                ]
        await self.push_frame(frame, direction)


async def hear(samples: Samples, service: ParakeetMLXSTTService) -> Heard:
    """Play ``float32 [samples]`` at 16 kHz into a fresh pipeline around the service."""
    player, recorder = Player(samples), Recorder()
    vad = VADProcessor(vad_analyzer=SileroVADAnalyzer(params=VADParams(stop_secs=0.2)))
    worker = PipelineWorker(
        Pipeline([player, vad, service, recorder]),
        params=PipelineParams(enable_metrics=True),
        enable_rtvi=False,
    )

    async def end() -> None:
        await player.played.wait()
        # Time for the VAD to notice what the last second held; then for it to fall silent.
        await asyncio.sleep(_QUIET_SECONDS)
        await recorder.quiet.wait()
        await worker.queue_frame(EndFrame())

    runner = WorkerRunner(handle_sigint=False)
    await runner.add_workers(worker)
    ending = asyncio.create_task(end())
    await runner.run()
    await ending
    return recorder.heard


async def _hear_all(
    settings: ParakeetSettings, recordings: list[Recording], console: Console
) -> list[Heard]:
    engine = Engine(settings.model, backend=settings.backend, precision=settings.precision)
    await engine.start()
    found: list[Heard] = []
    with Progress(console=console, transient=True) as bar:
        for recording in bar.track(recordings, description="real time"):
            service = ParakeetMLXSTTService(engine=engine)
            found.append(await hear(recording.samples(), service))
    return found


def run(
    settings: ParakeetSettings,
    folder: Path,
    limit: int | None,
    report: Path | None,
    console: Console,
) -> int:
    """Measure, print a table, and write it as JSON where that is wanted.

    Raises:
        ParakeetError: The model cannot be loaded, or the folder holds no recordings.
    """
    recordings = read_recordings(folder, limit)
    model = load_model(settings.model, backend=settings.backend, precision=settings.precision)
    offline = [model.transcribe(recording.samples()).text for recording in recordings]
    found = asyncio.run(_hear_all(settings, recordings, console))
    sets = {}
    for name in dict.fromkeys(recording.set for recording in recordings):
        chosen = [i for i, recording in enumerate(recordings) if recording.set == name]
        texts = [normalised(recordings[i].text) for i in chosen]
        finals = [normalised(" ".join(found[i].finals)) for i in chosen]
        sets[name] = {
            "recordings": len(chosen),
            "wer_pipeline": jiwer.wer(texts, finals),
            "wer_offline": jiwer.wer(texts, [normalised(offline[i]) for i in chosen]),
            "finals": sum(len(found[i].finals) for i in chosen),
            "interims": sum(found[i].interims for i in chosen),
        }
    latencies = sorted(value for heard in found for value in heard.latencies)
    figures = {
        "model": repr(model),
        "machine": f"{platform.platform()}, {platform.processor() or platform.machine()}",
        "sets": sets,
        "speech_end_to_final_seconds": {
            f"p{p}": round(float(np.percentile(latencies, p)), 4) for p in _PERCENTILES if latencies
        },
    }
    table = Table("set", "recordings", "finals", "WER, pipeline", "WER, offline", box=None)
    for name, row in sets.items():
        table.add_row(
            name,
            str(row["recordings"]),
            str(row["finals"]),
            f"{row['wer_pipeline']:.2%}",
            f"{row['wer_offline']:.2%}",
        )
    out = Console()
    out.print(repr(model), markup=False)
    out.print(table)
    if latencies:
        times = ", ".join(f"p{p} {np.percentile(latencies, p) * 1000:.0f} ms" for p in _PERCENTILES)
        out.print(
            f"end of speech to final: {times}; 200 ms of it are the VAD's stop time. "
            f"ttfs_p99_latency={np.percentile(latencies, 99):.2f}"
        )
    if report is not None:
        report.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    return 0
