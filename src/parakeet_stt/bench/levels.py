"""So many people at once: a level of ``bench server``, its figures, and how they are shown."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from parakeet_stt.bench.clips import STOP_SECONDS
from parakeet_stt.bench.report import PERCENTILES, new_plot, percentiles, save_plot
from parakeet_stt.bench.scores import Figures, tail_word_recall, word_error_rate
from parakeet_stt.bench.utterance import Utterance

CLIENT_LATE_SECONDS = 0.05
"""From here on the client's own lateness (p99) is no longer small beside what is measured."""

STALLED_SECONDS = 1.0
"""So long a server may take no audio before it is told."""

_REASONS = 3  # Of failures, that are shown.
_WIDTH = 150  # Least width of what is written to a file or pipe.


@dataclass
class Level:
    """So many people at once.

    Attributes:
        sessions: How many.
        warm: The event loop's time from which on an utterance counts, if it ends later.
        utterances: Those that count.
        everybody: Set when each has had one.
    """

    sessions: int
    warm: float
    utterances: list[Utterance] = field(default_factory=list)
    everybody: asyncio.Event = field(default_factory=asyncio.Event)
    _heard: set[int] = field(default_factory=set)

    def note(self, number: int, utterance: Utterance) -> None:
        """Take note of what became of an utterance of that session."""
        if utterance.speech_end < self.warm:
            return
        self.utterances.append(utterance)
        self._heard.add(number)
        if len(self._heard) == self.sessions:
            self.everybody.set()


def level_figures(level: Level, gpu: dict[str, float]) -> Figures:
    """A level's figures, in seconds and shares; latencies and words of what has a final."""
    heard = [utterance for utterance in level.utterances if utterance.failure is None]
    failed = [utterance for utterance in level.utterances if utterance.failure is not None]
    said, texts = [u.clip.text for u in heard], [u.text for u in heard]
    late = list(chain.from_iterable(u.lateness for u in level.utterances))
    return {
        "sessions": level.sessions,
        "utterances": len(level.utterances),
        "finals": len(heard),
        "fails": dict(Counter(str(u.failure) for u in failed)),
        "reasons": dict(Counter(u.reason for u in failed).most_common()),
        "eos_seconds": _spread([u.eos_seconds for u in heard]),
        "flush_to_final_seconds": _spread([u.flush_seconds for u in heard]),
        "first_interim_seconds": _spread([u.first_interim_seconds for u in heard]),
        "audio_seconds": float(np.mean([u.clip.seconds for u in level.utterances])),
        "wer": word_error_rate(said, texts) if heard else None,
        "tail_word_recall": tail_word_recall(said, texts) if heard else None,
        "lag_seconds": _spread(list(chain.from_iterable(u.lags for u in level.utterances))),
        "stalled_seconds": max(u.stalled for u in level.utterances),
        "client_late_seconds": _spread(late),
        "gpu": gpu,
    }


def csv_row(figures: Figures) -> dict[str, Any]:
    """A level as a line of CSV: the columns of `benchmark_stt.py`, then ours. Seconds, per cent."""
    eos, gpu, fails = figures["eos_seconds"], figures["gpu"], figures["fails"]
    row = {
        "concurrency": figures["sessions"],
        "eos_p50": eos.get("p50"),
        "eos_p95": eos.get("p95"),
        "eos_mean": eos.get("mean"),
        "audio_duration_s": figures["audio_seconds"],
        "wer_pct": _percent(figures["wer"]),
        "cancelled": sum(fails.values()),
        "total": figures["utterances"],
        "gpu_util_p95": gpu.get("percent_p95"),
        "gpu_util_mean": gpu.get("percent_mean"),
        "vram_peak_mib": gpu.get("mib_peak"),
        "vram_mean_mib": gpu.get("mib_mean"),
        "eos_p99": eos.get("p99"),
        **_columns("flush", figures["flush_to_final_seconds"]),
        **_columns("first_interim", figures["first_interim_seconds"]),
        "tail_word_recall_pct": _percent(figures["tail_word_recall"]),
        "failed_connect": fails.get("connect", 0),
        "failed_no_final": fails.get("no final", 0),
        "failed_error": fails.get("error", 0),
        "failed_closed": fails.get("closed", 0),
        "lag_p95": figures["lag_seconds"].get("p95"),
        "lag_max": figures["lag_seconds"].get("max"),
        "client_late_p99": figures["client_late_seconds"].get("p99"),
    }
    return {k: round(v, 4) if isinstance(v, float) else v for k, v in row.items()}


def _columns(name: str, spread: Figures) -> dict[str, Any]:
    return {f"{name}_p{p}": spread.get(f"p{p}") for p in PERCENTILES}


def _percent(share: float | None) -> float | None:
    return None if share is None else share * 100


def _spread(values: list[Any]) -> Figures:
    """Percentiles, mean and most of those that are there; empty without any."""
    there = [value for value in values if value is not None]
    if not there:
        return {}
    return {**percentiles(there), "mean": float(np.mean(there)), "max": max(there)}


def show(figures: Figures) -> None:
    """Print a table of all levels, and what has to be known to read it."""
    out = Console(highlight=False)
    if not out.is_terminal:
        out.width = max(out.width, _WIDTH)
    levels: list[Figures] = figures["levels"]
    table = Table(box=None, pad_edge=False)
    columns = [column for column in _COLUMNS if any(column[1](level) for level in levels)]
    for header, _ in columns:
        table.add_column(header, justify="right", overflow="fold")
    for level in levels:
        table.add_row(*(cell(level) or "-" for _, cell in columns))
    out.print(f"{figures['url']}, {figures['dialect']}", markup=False)
    out.print(table)
    if any(level["flush_to_final_seconds"] for level in levels):
        out.print(
            f"The flush is sent {STOP_SECONDS * 1000:.0f} ms after the end of speech (EOS), as by "
            f"a voice agent's VAD."
        )
    else:
        out.print("From the end of speech (EOS) on the server's own VAD is waiting, too.")
    if figures["gpu"] is not None:
        out.print(f"GPU: number {figures['gpu']} of the machine on which this client runs.")
    for level in levels:
        for remark in _remarks(level):
            out.print(f"{level['sessions']} at once, {remark}", markup=False)


def _remarks(level: Figures) -> Iterator[str]:
    """What went wrong at a level, which is in none of its figures but the fails."""
    for reason, count in list(level["reasons"].items())[:_REASONS]:
        yield f"{count} failed: {reason}"
    if level["stalled_seconds"] > STALLED_SECONDS:
        yield f"the server took no audio for up to {level['stalled_seconds']:.1f} s"
    late = level["client_late_seconds"].get("p99", 0)
    if late > CLIENT_LATE_SECONDS:
        yield (
            f"this client was itself {late * 1000:.0f} ms late (p99): it needs a faster machine, "
            f"or fewer sessions"
        )


def _times(name: str) -> Callable[[Figures], str]:
    def cell(level: Figures) -> str:
        spread = level[name]
        if not spread:
            return ""
        return " / ".join(f"{spread[f'p{p}'] * 1000:.0f}" for p in PERCENTILES)

    return cell


def _share(name: str) -> Callable[[Figures], str]:
    return lambda level: "" if level[name] is None else f"{level[name]:.2%}"


def _gpu(first: str, second: str) -> Callable[[Figures], str]:
    def cell(level: Figures) -> str:
        gpu = level["gpu"]
        return f"{gpu[first]:.0f} / {gpu[second]:.0f}" if first in gpu else ""

    return cell


def _most(name: str, key: str, digits: int, scale: float = 1) -> Callable[[Figures], str]:
    def cell(level: Figures) -> str:
        spread = level[name]
        return f"{spread[key] * scale:.{digits}f}" if spread else ""

    return cell


_COLUMNS: tuple[tuple[str, Callable[[Figures], str]], ...] = (
    ("at\nonce", lambda level: str(level["sessions"])),
    ("EOS to final, ms\np50 / p95 / p99", _times("eos_seconds")),
    ("mean", _most("eos_seconds", "mean", 0, 1000)),
    ("flush to final, ms\np50 / p95 / p99", _times("flush_to_final_seconds")),
    ("first interim, ms\np50 / p95 / p99", _times("first_interim_seconds")),
    ("audio\ns", lambda level: f"{level['audio_seconds']:.1f}"),
    ("WER", _share("wer")),
    ("last words\nheard", _share("tail_word_recall")),
    ("fails", lambda level: f"{sum(level['fails'].values())}/{level['utterances']}"),
    ("GPU %\np95 / mean", _gpu("percent_p95", "percent_mean")),
    ("VRAM, MiB\npeak / mean", _gpu("mib_peak", "mib_mean")),
    ("server lag, s\nmax", _most("lag_seconds", "max", 2)),
    ("client late,\nms p99", _most("client_late_seconds", "p99", 1, 1000)),
)
"""Headers and cells; a column without any is left out."""


def plot(levels: list[Figures], folder: Path) -> None:
    """People at once against the time from the end of speech to the final."""
    figure, axes = new_plot()
    there = [level for level in levels if level["eos_seconds"]]
    for p in PERCENTILES:
        axes.plot(
            [level["sessions"] for level in there],
            [level["eos_seconds"][f"p{p}"] * 1000 for level in there],
            marker="o",
            label=f"p{p}",
        )
    axes.set_ylim(0, 1.1 * axes.get_ylim()[1])
    axes.set_xlabel("people at once")
    axes.set_ylabel("end of speech to final (ms)")
    axes.legend()
    save_plot(figure, folder / "server.svg")
