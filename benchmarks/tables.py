"""The figures of ``bench engine`` as tables for people."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from rich.console import JustifyMethod
from rich.table import Table

from benchmarks.promises import FLUSH_SECONDS, MOST_SAMPLES, QUIET_SECONDS
from benchmarks.scores import EARLY, LATE
from benchmarks.tasks import SEGMENT_SECONDS
from parakeet_stt.bench.scores import Figures

_NONE = "-"
_PER_SECOND = "CPU and wall: ms per second of audio."
_MEMORY = "Peak MB: most memory in RAM, less what the process had before it imported the engine."


class _Column(NamedTuple):
    header: str
    cell: Callable[[Figures], str]
    justify: JustifyMethod = "right"


def tables(figures: Figures) -> Iterator[Table]:
    """A table for each part that was measured."""
    for name, (title, columns, note) in _TABLES.items():
        if not figures[name]:
            continue
        table = Table(title=title, caption=note, box=None, pad_edge=False)
        table.title_justify = table.caption_justify = "left"
        for column in columns:
            table.add_column(column.header, justify=column.justify, overflow="fold")
        for row in figures[name]:
            table.add_row(*(column.cell(row) for column in columns))
        yield table


def _text(header: str, name: str) -> _Column:
    return _Column(header, lambda row: str(row[name]), "left")


def _count(header: str, name: str) -> _Column:
    return _Column(header, lambda row: str(row[name]))


def _number(header: str, name: str, digits: int = 1) -> _Column:
    def cell(row: Figures) -> str:
        value = row.get(name)
        return _NONE if value is None else f"{value:.{digits}f}"

    return _Column(header, cell)


def _share(header: str, name: str, digits: int = 2) -> _Column:
    return _Column(header, lambda row: _NONE if row[name] is None else f"{row[name]:.{digits}%}")


def _at(header: str, name: str, key: Any) -> _Column:
    return _Column(header, lambda row: f"{row[name][key]:.1f}")


def _times(row: Figures) -> str:
    return " / ".join(f"{value:.0f}" for value in row["flush_ms"].values()) or _NONE


_ENGINE = _text("engine", "engine")
_COSTS = (
    _number("CPU", "cpu_ms_per_second"),
    _number("wall", "wall_ms_per_second"),
)
_PEAK = _number("peak MB", "peak_mb", 0)

_TABLES: dict[str, tuple[str, tuple[_Column, ...], str]] = {
    "offline": (
        "Offline",
        (
            _ENGINE,
            _count("threads", "threads"),
            _count("recordings", "recordings"),
            _share("WER", "wer"),
            *_COSTS,
            _PEAK,
        ),
        f"{_PER_SECOND} {_MEMORY}",
    ),
    "streaming": (
        "Streaming, an interim after every chunk, one thread",
        (
            _ENGINE,
            _count("chunk, ms", "chunk_ms"),
            _count("recordings", "recordings"),
            _share("WER", "wer"),
            _share("as offline", "as_offline", 1),
            _share("WER, last interim", "wer_last_interim"),
            *_COSTS,
            _number("first text, s", "first_text_seconds", 2),
            _Column("flush, ms: p50 / p95 / p99", _times),
            _PEAK,
        ),
        f"As offline: finals with the tokens (parakeet-mlx: the text) of the engine's own offline "
        f"transcript. parakeet-mlx has no flush: its final is what the last chunk gave. "
        f"{_PER_SECOND} {_MEMORY}",
    ),
    "exactness": (
        f"Finals of streams in random pieces of 1 to {MOST_SAMPLES:,} samples",
        (
            _ENGINE,
            _count("finals", "finals"),
            _count("pieces", "pieces"),
            _share("as offline", "as_offline", 1),
            _Column(
                "sample by sample",
                lambda row: "as offline" if row["sample_by_sample_as_offline"] else "different",
            ),
        ),
        "As offline: token by token. Sample by sample: the shortest recording.",
    ),
    "lengths": (
        "Streaming by length of the segment, interims every 100 ms",
        (
            _ENGINE,
            _count("threads", "threads"),
            _count("segments of each", "segments"),
            *(_at(f"{s} s", "cpu_ms_per_second", str(s)) for s in SEGMENT_SECONDS),
            _at(f"interims at {EARLY} s", "interims_cpu_ms_by_position", EARLY - 1),
            _at(f"at {LATE} s", "interims_cpu_ms_by_position", LATE - 1),
            _number(f"{LATE} s by {EARLY} s", "interims_late_by_early", 2),
        ),
        "CPU: ms per second of audio.",
    ),
    "ratios": (
        "CPU time of others in times ours",
        (
            _text("what", "what"),
            _count("threads", "threads"),
            _ENGINE,
            _number("times ours-onnx", "ours-onnx"),
            _number("times ours-mlx", "ours-mlx"),
        ),
        "",
    ),
    "committed": (
        "Committed text",
        (
            _ENGINE,
            _text("speech, chunks", "speech"),
            _count("hypotheses", "hypotheses"),
            _count("taken back", "taken_back"),
            _count("words", "words_committed"),
            _share("differ from final", "words_differing_from_final"),
            _share("WER", "wer_committed"),
            _share("WER, offline", "wer_offline"),
        ),
        "What was committed just before the end. WER, offline: of the offline transcript, on the "
        "part of the reference that was committed.",
    ),
    "flush": (
        f"Flush to final through a session, after {FLUSH_SECONDS} s of speech and "
        f"{QUIET_SECONDS} s of quiet",
        (
            _ENGINE,
            _count("finals", "finals"),
            _Column("ms: p50 / p95 / p99", _times),
            _share("as offline", "as_offline", 1),
            _share("speculated", "speculated", 1),
        ),
        "",
    ),
    "not_measured": (
        "Not measured",
        (_text("what", "what"), _text("why", "why")),
        "",
    ),
}
"""Title, columns and note of each part's table."""
