"""``python -m benchmarks load``: how many people one process hears at once.

Speakers in real time, 1, 2, 4, 8 and so on, until a bound breaks, then a bisection between the last
number that held and the first that did not. Each candidate has a fresh process: our engine on each
backend that the model has, and the server that people build on parakeet-mlx today.
"""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from benchmarks.capacity import (
    FINAL_P95_SECONDS,
    LAG_SECONDS,
    MANY,
    Capacity,
    breaks,
    final_p95,
    search,
)
from benchmarks.speakers import measure, prepare_process, read_turns, step_seconds
from benchmarks.step import Candidate, Step
from parakeet_stt.audio import SAMPLE_RATE
from parakeet_stt.bench.report import machine, new_plot, percentiles, save_plot, write_json
from parakeet_stt.errors import ConfigurationError, ParakeetError
from parakeet_stt.model.hub import find_model
from parakeet_stt.settings import Backend

LOOP_LAG_P99_SECONDS = 0.005
"""Bound of the event loop's lag with :data:`MANY` sessions, at the 99th percentile."""

NAIVE = "parakeet-mlx"


def run(
    model: str,
    backend: Backend | None,
    folder: Path,
    seconds: float,
    frame_ms: int,
    report: Path | None,
    plots: Path | None,
    console: Console,
) -> int:
    """Measure every candidate, print a table, and write JSON and plots where they are wanted.

    Args:
        model: As :func:`~parakeet_stt.load_model`.
        backend: The engine's; None for all that the model has.
        folder: The recordings.
        seconds: How long a step is measured.
        frame_ms: Audio that is sent at a time, milliseconds.
        report: JSON file.
        plots: Folder.
        console: Where progress is shown.

    Raises:
        ParakeetError: The model cannot be loaded, the folder holds no recordings, or an argument
            cannot be used.
    """
    if not 10 <= frame_ms <= 1000:
        raise ConfigurationError(f"--frame-ms {frame_ms}: expected 10 to 1000")
    piece = frame_ms * SAMPLE_RATE // 1000
    read_turns(folder, seconds / 2, piece)  # Before anything takes long: are there any?
    every: tuple[Backend, ...] = ("onnx", "mlx")
    backends = [backend] if backend else [choice for choice in every if _has(model, choice)]
    candidates = [
        Candidate(f"ours, {choice}", choice, model, folder, seconds, piece) for choice in backends
    ]
    if _has(model, "mlx"):
        candidates.append(Candidate(NAIVE, None, model, folder, seconds, piece))
    with Progress(console=console, transient=True) as bar:
        found = {candidate.name: _search(candidate, bar) for candidate in candidates}
    figures = {
        "machine": machine(),
        "piece_ms": frame_ms,
        "seconds": seconds,
        "bounds": {
            "flush_to_final_p95_seconds": FINAL_P95_SECONDS,
            "lag_seconds": LAG_SECONDS,
            "lost_finals": 0,
            f"loop_lag_p99_seconds_at_{MANY}": LOOP_LAG_P99_SECONDS,
        },
        "candidates": {name: _figures(capacity) for name, capacity in found.items()},
        "ratios": _ratios(found),
    }
    _show(found)
    if report is not None:
        write_json(report, figures)
    if plots is not None:
        _plot(found, plots)
    return 0


def _has(model: str, backend: Backend) -> bool:
    """Whether the model has an encoder for a backend."""
    try:
        find_model(model, backend, has_gpu=False)
    except ConfigurationError:
        return False
    return True


def _search(candidate: Candidate, bar: Progress) -> Capacity:
    """Search in a fresh process, which keeps the model from step to step."""
    with ProcessPoolExecutor(1, get_context("spawn"), initializer=prepare_process) as pool:

        def measure_step(sessions: int) -> Step:
            result = pool.submit(measure, candidate, sessions)
            label = f"{candidate.name}: {sessions} session{'s' if sessions > 1 else ''}"
            task = bar.add_task(label, total=step_seconds(candidate))
            while not wait([result], timeout=0.5).done:
                bar.advance(task, 0.5)
            bar.remove_task(task)
            step = result.result()
            bar.console.print(f"{label}: {', '.join(breaks(step)) or 'held'}", markup=False)
            return step

        try:
            return search(measure_step)
        except BrokenProcessPool as error:
            raise ParakeetError(f"{candidate.name}: its process has died: {error}") from error


def _figures(capacity: Capacity) -> dict[str, Any]:
    return {
        "about": capacity.steps[0].about,
        "sessions_held": capacity.held,
        "capacity": capacity.sessions,
        "steps": [
            {
                "sessions": step.sessions,
                "broken": breaks(step),
                "flush_to_final_seconds": percentiles(step.finals) if step.finals else None,
                "finals": len(step.finals),
                "lost_finals": step.lost,
                "lag_seconds": step.lag,
                "loop_lag_seconds": {**percentiles(step.loop_lags), "max": max(step.loop_lags)},
                "interims_per_second": step.interims / step.seconds / step.sessions,
                "cpu_cores": step.cpu / step.seconds,
                "real_time_factor": step.real_time_factor,
            }
            for step in capacity.steps
        ],
    }


def _ratios(found: dict[str, Capacity]) -> dict[str, float]:
    """How many times the naive server's capacity each of ours has."""
    naive = found[NAIVE].sessions if NAIVE in found else 0.0
    if not naive:
        return {}
    return {name: c.sessions / naive for name, c in found.items() if name != NAIVE}


def _show(found: dict[str, Capacity]) -> None:
    out = Console()
    for name, capacity in found.items():
        table = Table(
            "sessions",
            "flush to final, ms\np50 / p95 / p99",
            "lag, s",
            "event loop late, ms\np50 / p99 / max",
            "interims\nper s",
            "CPU\ncores",
            "lost\nfinals",
            "broken",
            box=None,
        )
        for step in capacity.steps:
            finals = percentiles(step.finals).values() if step.finals else ()
            loop = percentiles(step.loop_lags)
            late = (loop["p50"], loop["p99"], max(step.loop_lags))
            table.add_row(
                str(step.sessions),
                " / ".join(f"{value * 1000:.0f}" for value in finals) or "none came",
                f"{step.lag:.1f}",
                " / ".join(f"{value * 1000:.1f}" for value in late),
                f"{step.interims / step.seconds / step.sessions:.1f}",
                f"{step.cpu / step.seconds:.2f}",
                str(step.lost),
                ", ".join(breaks(step)),
            )
        out.print(f"\n{name}: {capacity.steps[0].about}", markup=False)
        out.print(table)
        out.print(_verdict(capacity))
    for name, ratio in _ratios(found).items():
        out.print(f"{name} holds {ratio:.1f} times the sessions of {NAIVE}")


def _verdict(capacity: Capacity) -> str:
    verdict = f"sessions held: {capacity.held}"
    factor = capacity.steps[0].real_time_factor
    if factor is not None:
        verdict += f" (one is {factor:.2f} s of work per second, so {1 / factor:.1f} by work alone)"
    late = next(percentiles(s.loop_lags)["p99"] for s in capacity.steps if s.sessions == MANY)
    kept = "within" if late <= LOOP_LAG_P99_SECONDS else "over"
    return (
        f"{verdict}; with {MANY} the event loop is {late * 1000:.1f} ms late (p99), {kept} the "
        f"bound of {LOOP_LAG_P99_SECONDS * 1000:.0f} ms"
    )


def _plot(found: dict[str, Capacity], folder: Path) -> None:
    """Sessions against flush-to-final p95 and against lag, each with its bound."""
    for name, label, bound, scale, value in (
        ("load-final", "flush to final, p95 (s)", FINAL_P95_SECONDS, "log", final_p95),
        ("load-lag", "audio that waits (s)", LAG_SECONDS, "symlog", lambda step: step.lag),
    ):
        figure, axes = new_plot()
        for candidate, capacity in found.items():
            steps = [step for step in capacity.steps if step.finals]
            sessions = [step.sessions for step in steps]
            axes.plot(sessions, [value(step) for step in steps], marker="o", label=candidate)
        axes.axhline(bound, color="grey", linestyle="--", label="bound")
        axes.set_xscale("log", base=2)
        axes.xaxis.set_major_formatter("{x:.0f}")
        axes.set_yscale(scale)
        axes.set_xlabel("sessions in one process")
        axes.set_ylabel(label)
        axes.legend()
        save_plot(figure, folder / f"{name}.svg")
