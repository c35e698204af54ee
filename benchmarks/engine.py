"""``python -m benchmarks engine``: the engine beside its peers, on one machine, with one model.

Every measurement runs in a fresh process, one at a time; one that fails is named, and the others
go on.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from benchmarks import SECTIONS, scores
from benchmarks.jobs import Job, JobError, measure
from benchmarks.peers import export_sherpa
from benchmarks.plots import draw
from benchmarks.tables import tables
from parakeet_stt.bench.report import machine, write_json
from parakeet_stt.bench.scores import Figures
from parakeet_stt.errors import ConfigurationError, ParakeetError
from parakeet_stt.model.hub import find_model
from parakeet_stt.model.layout import Executor
from parakeet_stt.settings import ParakeetSettings
from tests.support.recordings import Recording, read_recordings

CHUNKS_MS = (50, 100, 200, 1000)

SEGMENTS = 3
"""Segments of each length whose costs are averaged."""

FLUSHES = 60
"""Segments whose finals are timed."""

UPSTREAM_RECORDINGS = 3
"""Of each set: parakeet-mlx streams at 0.3 to 2 s of CPU time per second of audio."""

UPSTREAM_SEGMENTS = 1

_STREAMED = ("offline", "streaming", "lengths")
_SECTIONS = {
    "ours-onnx": (*_STREAMED, "exactness", "committed", "flush"),
    "ours-mlx": (*_STREAMED, "exactness", "committed", "flush"),
    "parakeet-mlx": _STREAMED,
    "onnx-asr": ("offline",),
    "sherpa-onnx": ("offline",),
}
"""What can be measured of each."""

_RUNS: dict[str, Executor] = {
    "ours-onnx": "onnx",
    "ours-mlx": "mlx",
    "parakeet-mlx": "mlx",
    "onnx-asr": "onnx",
    "sherpa-onnx": "onnx",
}
"""Which of a model's folders each reads."""

_WIDTH = 120
"""Least width of what is written to a file or pipe."""

_PACKAGES = {"onnx-asr": ("onnx_asr",), "sherpa-onnx": ("sherpa_onnx", "onnx")}
_INSTALL = {
    "onnx-asr": "pip install onnx-asr",
    "sherpa-onnx": "pip install sherpa-onnx onnx",
}


def run(
    settings: ParakeetSettings,
    data: Path,
    limit: int | None,
    engines: Sequence[str],
    sections: Sequence[str],
    report: Path | None,
    plots: Path | None,
    console: Console,
) -> int:
    """Measure, print tables, and write JSON and plots where they are wanted.

    Args:
        settings: Which model.
        data: Folder of the recordings.
        limit: At most so many recordings of each set.
        engines: Of :data:`parakeet_stt.bench.ENGINES`.
        sections: Of :data:`parakeet_stt.bench.SECTIONS`.
        report: Where to write the figures.
        plots: Folder for the plots.
        console: For the progress.

    Raises:
        ParakeetError: The folder holds no recordings, or nothing could be measured.
    """
    recordings = read_recordings(data, limit)
    absent: list[Figures] = []
    with TemporaryDirectory() as scratch:
        jobs: list[Job] = []
        for engine in engines:
            try:
                job = _job(settings, engine, data, limit, Path(scratch))
            except ParakeetError as error:
                absent.append({"what": engine, "why": str(error)})
            else:
                jobs += _jobs(job, sections)
        figures = _measure(jobs, recordings, console)
    figures["not_measured"] = absent + figures["not_measured"]
    if not any(figures[section] for section in sections):
        reasons = "; ".join(f"{row['what']}: {row['why']}" for row in figures["not_measured"])
        raise ConfigurationError(f"nothing could be measured: {reasons or 'no such section'}")
    figures = {"machine": machine(), "model": settings.model, "precision": "fp32", **figures}
    _print(figures)
    if report is not None:
        write_json(report, figures)
    if plots is not None:
        draw(figures, plots)
    return 0


def _job(
    settings: ParakeetSettings, engine: str, data: Path, limit: int | None, scratch: Path
) -> Job:
    """What the jobs of an engine have in common; its model is there then.

    Raises:
        ParakeetError: A package is missing, or the model cannot be had for it.
    """
    if not all(find_spec(package) for package in _PACKAGES.get(engine, ())):
        raise ConfigurationError(f"not installed: {_INSTALL[engine]}")
    files = find_model(settings.model, _RUNS[engine], False, settings.cache_dir)
    folder = files.folder
    if engine == "sherpa-onnx":
        try:
            export_sherpa(folder, scratch)
        except Exception as error:  # onnx and safetensors have many kinds.
            raise ConfigurationError(
                f"{folder} cannot be exported: {type(error).__name__}: {error}"
            ) from error
        folder = scratch
    return Job(engine, "", str(folder), files.config.kind, str(data), limit)


def _jobs(job: Job, sections: Sequence[str]) -> Iterator[Job]:
    """An engine's measurements."""
    ours = job.engine.startswith("ours")
    for section in SECTIONS:
        if section not in sections or section not in _SECTIONS[job.engine]:
            continue
        one = replace(job, section=section)
        match section:
            case "offline":
                yield from (one, replace(one, threads=None))
            case "streaming":
                limit = job.limit if ours else min(UPSTREAM_RECORDINGS, job.limit or sys.maxsize)
                for chunk_ms in CHUNKS_MS:
                    yield replace(one, chunk_ms=chunk_ms, limit=limit)
            case "lengths":
                one = replace(one, segments=SEGMENTS if ours else UPSTREAM_SEGMENTS)
                yield from (one, replace(one, threads=None))
            case "flush":
                yield replace(one, threads=None, segments=FLUSHES)
            case _:
                yield one


def _measure(jobs: list[Job], recordings: list[Recording], console: Console) -> Figures:
    """Run all jobs, one after the other, with a bar for each engine."""
    references = {str(recording.path): recording.text for recording in recordings}
    figures: Figures = {name: [] for name in (*SECTIONS, "ratios", "not_measured")}
    bars = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[job]}"),
        console=console,
    )
    with bars:
        for engine in dict.fromkeys(job.engine for job in jobs):
            own = [job for job in jobs if job.engine == engine]
            bar = bars.add_task(engine, total=len(own), job="")
            for done, job in enumerate(own):
                bars.update(bar, completed=done, job=str(job))
                try:
                    result = measure(job, partial(_show, bars, bar, done))
                except JobError as error:
                    figures["not_measured"].append({"what": f"{engine}, {job}", "why": str(error)})
                else:
                    _score(figures, job, result, references)
            bars.update(bar, completed=len(own), job="")
    figures["ratios"] = scores.ratios(figures)
    return figures


def _show(bars: Progress, bar: TaskID, done: int, share: float) -> None:
    bars.update(bar, completed=done + share)


def _score(figures: Figures, job: Job, result: scores.Result, references: dict[str, str]) -> None:
    """Add a result to the figures."""
    match job.section:
        case "offline":
            figures["offline"].append(scores.offline(job, result, references))
        case "streaming":
            figures["streaming"].append(scores.streaming(job, result, references))
            if job.engine.startswith("ours"):
                figures["committed"].append(scores.promised(job, result))
        case "exactness":
            figures["exactness"].append(scores.exactness(job, result))
        case "lengths":
            figures["lengths"].append(scores.lengths(job, result))
        case "committed":
            figures["committed"].append(scores.committed(job, result))
        case "flush":
            figures["flush"].append(scores.flush(job, result))


def _print(figures: Figures) -> None:
    out = Console()
    if not out.is_terminal:
        out.width = max(out.width, _WIDTH)
    host = figures["machine"]
    out.print(
        f"{figures['model']}, fp32, on {host['processor']}, {host['cores']} cores, "
        f"{host['platform']}",
        highlight=False,
    )
    for table in tables(figures):
        out.print()
        out.print(table)
