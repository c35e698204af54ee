"""``parakeet-stt bench pipecat``: the service in a real pipeline, in real time.

A fresh pipeline for each recording, with Silero as Pipecat configures it (``stop_secs`` 0.2) in
front of the service; one after another, so that none disturbs another. Reports word errors of the
finals beside those of the offline transcript, Pipecat's own time from the end of speech to the
final, and how late the event loop was.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

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

from parakeet_stt.audio import SAMPLE_RATE, Samples
from parakeet_stt.bench.looplag import LoopLag
from parakeet_stt.bench.recordings import Recording, read_recordings
from parakeet_stt.bench.report import machine, new_plot, percentiles, save_plot, write_json
from parakeet_stt.bench.scores import word_error_rate
from parakeet_stt.engine.engine import Engine
from parakeet_stt.model.loading import load_model
from parakeet_stt.pipecat.player import Player
from parakeet_stt.pipecat.service import ParakeetSTTService
from parakeet_stt.settings import ParakeetSettings

_STOP_SECONDS = 0.2  # Of silence, after which the VAD says that speech has ended.
_QUIET_SECONDS = 1.0  # After a recording, with nothing said and no final awaited, it is over.


@dataclass
class Heard:
    """What came out of a pipeline.

    Attributes:
        finals: Texts of the finals.
        interims: How many interims there were.
        latencies: Pipecat's seconds from the end of speech to each final.
        loop_lags: Seconds by which the event loop was late (:class:`LoopLag`).
    """

    finals: list[str] = field(default_factory=list)
    interims: int = 0
    latencies: list[float] = field(default_factory=list)
    loop_lags: list[float] = field(default_factory=list)


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


async def hear(samples: Samples, service: ParakeetSTTService) -> Heard:
    """Play ``float32 [samples]`` at 16 kHz into a fresh pipeline around the service."""
    player, recorder = Player(samples), Recorder()
    vad = VADProcessor(vad_analyzer=SileroVADAnalyzer(params=VADParams(stop_secs=_STOP_SECONDS)))
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
    async with LoopLag() as watch:
        await runner.run()
    await ending
    recorder.heard.loop_lags = watch.values
    return recorder.heard


async def _hear_all(
    settings: ParakeetSettings, recordings: list[Recording], console: Console
) -> list[Heard]:
    engine = Engine.from_settings(settings)
    await engine.start()
    found: list[Heard] = []
    with Progress(console=console, transient=True) as bar:
        for recording in bar.track(recordings, description="real time"):
            service = ParakeetSTTService(engine=engine)
            found.append(await hear(recording.samples(), service))
    return found


def run(
    settings: ParakeetSettings,
    folder: Path | None,
    limit: int | None,
    report: Path | None,
    plots: Path | None,
    console: Console,
) -> int:
    """Measure, print a table, and write JSON and a plot where they are wanted.

    Raises:
        ParakeetError: The model cannot be loaded, or the folder holds no recordings.
    """
    recordings = read_recordings(folder, limit)
    model = load_model(settings.model, backend=settings.backend, precision=settings.precision)
    offline = [model.transcribe(recording.samples()).text for recording in recordings]
    found = asyncio.run(_hear_all(settings, recordings, console))
    latencies = [value for heard in found for value in heard.latencies]
    lags = [value for heard in found for value in heard.loop_lags]
    figures = {
        "model": repr(model),
        "machine": machine(),
        "sets": {
            name: _set_figures(
                [
                    (recording, text, heard)
                    for recording, text, heard in zip(recordings, offline, found, strict=True)
                    if recording.set == name
                ]
            )
            for name in dict.fromkeys(recording.set for recording in recordings)
        },
        "speech_end_to_final_seconds": percentiles(latencies) if latencies else {},
        "loop_lag_seconds": {**percentiles(lags), "max": max(lags)},
    }
    _show(figures)
    if report is not None:
        write_json(report, figures)
    if plots is not None and latencies:
        _plot(latencies, plots)
    return 0


def _set_figures(rows: list[tuple[Recording, str, Heard]]) -> dict[str, Any]:
    """Figures of one set: each recording, its offline transcript, and what a pipeline heard."""
    texts = [recording.text for recording, _, _ in rows]
    seconds = sum(len(recording.samples()) for recording, _, _ in rows) / SAMPLE_RATE
    interims = sum(heard.interims for _, _, heard in rows)
    return {
        "recordings": len(rows),
        "wer_pipeline": word_error_rate(texts, [" ".join(heard.finals) for _, _, heard in rows]),
        "wer_offline": word_error_rate(texts, [text for _, text, _ in rows]),
        "finals": sum(len(heard.finals) for _, _, heard in rows),
        "interims": interims,
        "interims_per_second": interims / seconds,
    }


def _show(figures: dict[str, Any]) -> None:
    table = Table(
        "set", "recordings", "finals", "interims per s", "WER, pipeline", "WER, offline", box=None
    )
    for name, row in figures["sets"].items():
        table.add_row(
            name,
            str(row["recordings"]),
            str(row["finals"]),
            f"{row['interims_per_second']:.1f}",
            f"{row['wer_pipeline']:.2%}",
            f"{row['wer_offline']:.2%}",
        )
    out = Console()
    out.print(figures["model"], markup=False)
    out.print(table)
    loop = figures["loop_lag_seconds"]
    out.print(
        f"event loop late: p50 {loop['p50'] * 1000:.1f} ms, p99 {loop['p99'] * 1000:.1f} ms, "
        f"max {loop['max'] * 1000:.0f} ms"
    )
    finals = figures["speech_end_to_final_seconds"]
    if finals:
        times = ", ".join(f"{name} {value * 1000:.0f} ms" for name, value in finals.items())
        out.print(
            f"end of speech to final: {times}; {_STOP_SECONDS * 1000:.0f} ms of it are the VAD's "
            f"stop time. ttfs_p99_latency={finals['p99']:.2f}"
        )


def _plot(latencies: list[float], folder: Path) -> None:
    """How the latencies are spread, with the VAD's stop time and the percentiles."""
    figure, axes = new_plot()
    axes.hist([value * 1000 for value in latencies], bins=40)
    axes.axvline(_STOP_SECONDS * 1000, color="grey", linestyle="--", label="VAD's stop time")
    for number, (name, value) in enumerate(percentiles(latencies).items(), 1):
        axes.axvline(value * 1000, color=f"C{number}", label=f"{name}: {value * 1000:.0f} ms")
    axes.set_xlabel("end of speech to final, as Pipecat measures it (ms)")
    axes.set_ylabel("finals")
    axes.legend()
    save_plot(figure, folder / "pipecat.svg")
