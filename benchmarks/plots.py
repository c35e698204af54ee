"""The figures of ``bench engine`` as plots."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from benchmarks.promises import FLUSH_SECONDS, QUIET_SECONDS
from parakeet_stt.bench.report import new_plot, save_plot
from parakeet_stt.bench.scores import Figures

_COLOURS = {"ours-onnx": "tab:blue", "ours-mlx": "tab:green", "parakeet-mlx": "tab:red"}


def draw(figures: Figures, folder: Path) -> None:
    """Write the plots for which there are figures into a folder."""
    if figures["lengths"]:
        _costs(
            [row for row in figures["lengths"] if row["threads"] == 1],
            folder / "cost-by-length.svg",
        )
    if figures["flush"]:
        _flushes(figures["flush"], folder / "flush-to-final.svg")


def _costs(rows: list[Figures], path: Path) -> None:
    figure, axes = new_plot()
    for row in rows:
        costs = row["interims_cpu_ms_by_position"]
        seconds = np.arange(1, len(costs) + 1)
        axes.plot(seconds, costs, color=_COLOURS[row["engine"]], label=row["engine"])
    axes.set_yscale("log")
    axes.set_xlabel("segment so far (s)")
    axes.set_ylabel("CPU time per second of audio (ms)")
    axes.set_title("Interims every 100 ms, one thread")
    axes.legend(frameon=False)
    save_plot(figure, path)


def _flushes(rows: list[Figures], path: Path) -> None:
    figure, axes = new_plot()
    for row in rows:
        axes.ecdf(row["each_ms"], color=_COLOURS[row["engine"]], label=row["engine"])
    axes.set_xlim(left=0)
    axes.set_yticks(np.linspace(0, 1, 6), [f"{share:.0%}" for share in np.linspace(0, 1, 6)])
    axes.set_xlabel("flush to final (ms)")
    axes.set_ylabel("share of finals at most as late")
    axes.set_title(f"Final after {FLUSH_SECONDS} s of speech and {QUIET_SECONDS} s of quiet")
    axes.legend(frameon=False)
    save_plot(figure, path)
