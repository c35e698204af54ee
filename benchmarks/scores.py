"""From what measurements heard to figures: word errors, shares, ratios.

Word errors are counted in lower case without punctuation. Times are milliseconds per second of
audio, memory is MB, where nothing else is said.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from statistics import fmean, median
from typing import Any

from benchmarks.jobs import Job
from parakeet_stt.bench.report import percentiles
from parakeet_stt.bench.scores import Figures, word_error_rate
from tests.support.recordings import normalised

Result = dict[str, Any]

EARLY, LATE = 5, 30
"""Seconds into a segment at which the cost of interims is compared."""


def offline(job: Job, result: Result, references: Mapping[str, str]) -> Figures:
    """Figures of :func:`benchmarks.tasks.offline`."""
    return {
        "engine": job.engine,
        "threads": job.threads or "default",
        "recordings": len(result["rows"]),
        "wer": _wer(result["rows"], "text", references),
        **_costs(result),
    }


def streaming(job: Job, result: Result, references: Mapping[str, str]) -> Figures:
    """Figures of :func:`benchmarks.tasks.streaming`."""
    rows = result["rows"]
    first = [r["first_text_seconds"] for r in rows if r["first_text_seconds"] is not None]
    flushes = [row["flush_ms"] for row in rows if row["flush_ms"] is not None]
    return {
        "engine": job.engine,
        "chunk_ms": job.chunk_ms,
        "recordings": len(rows),
        "wer": _wer(rows, "text", references),
        "as_offline": round(fmean(row["as_offline"] for row in rows), 4),
        "wer_last_interim": _wer(rows, "last_interim", references),
        **_costs(result),
        "first_text_seconds": round(median(first), 3) if first else None,
        "flush_ms": _rounded(percentiles(flushes)),
    }


def promised(job: Job, result: Result) -> Figures:
    """What became of the committed text of recordings: figures of the same measurement."""
    return {
        "engine": job.engine,
        "speech": f"recordings, {job.chunk_ms} ms",
        **_kept(result["rows"], "text"),
        "wer_committed": None,
        "wer_offline": None,
    }


def committed(job: Job, result: Result) -> Figures:
    """Figures of :func:`benchmarks.promises.committed`."""
    rows = result["rows"]
    errors = offline_errors = words = 0
    for row in rows:
        reference = _words(row["reference"])
        found, length = prefix_fit(_words(row["committed"]), reference)
        errors += found
        words += length
        offline_errors += prefix_fit(reference[:length], _words(row["offline"]))[0]
    return {
        "engine": job.engine,
        "speech": f"unbroken, {job.chunk_ms} ms",
        "seconds": [round(row["seconds"], 1) for row in rows],
        **_kept(rows, "final"),
        "wer_committed": round(errors / words, 5) if words else None,
        "wer_offline": round(offline_errors / words, 5) if words else None,
    }


def exactness(job: Job, result: Result) -> Figures:
    """Figures of :func:`benchmarks.promises.exactness`."""
    return {
        "engine": job.engine,
        **result,
        "as_offline": round(1 - len(result["different"]) / result["finals"], 4),
    }


def lengths(job: Job, result: Result) -> Figures:
    """Figures of :func:`benchmarks.tasks.lengths`."""
    positions = [round(fmean(bin), 2) for bin in zip(*result["positions"], strict=True)]
    return {
        "engine": job.engine,
        "threads": job.threads or "default",
        "segments": job.segments,
        "cpu_ms_per_second": {k: round(fmean(v), 2) for k, v in result["costs"].items()},
        "interims_cpu_ms_by_position": positions,
        "interims_late_by_early": round(positions[LATE - 1] / positions[EARLY - 1], 2),
    }


def flush(job: Job, result: Result) -> Figures:
    """Figures of :func:`benchmarks.promises.flush`."""
    times = result["flush_ms"]
    return {
        "engine": job.engine,
        "finals": len(times),
        "flush_ms": _rounded(percentiles(times)),
        "as_offline": round(result["as_offline"] / len(times), 4),
        "speculated": round(result["speculated"] / len(times), 4),
        "each_ms": sorted(round(value, 2) for value in times),
    }


def ratios(figures: Figures) -> list[Figures]:
    """CPU time of each peer by ours, for the same audio and as many threads."""
    costs: defaultdict[tuple[str, Any], dict[str, float]] = defaultdict(dict)
    for row in figures["offline"]:
        costs["offline", row["threads"]][row["engine"]] = row["cpu_ms_per_second"]
    for row in figures["lengths"]:
        for seconds, cost in row["cpu_ms_per_second"].items():
            costs[f"{seconds} s, streamed", row["threads"]][row["engine"]] = cost
    return [
        {
            "what": what,
            "threads": threads,
            "engine": engine,
            **{ours: round(cost / own, 2) for ours, own in of.items() if ours.startswith("ours")},
        }
        for (what, threads), of in costs.items()
        for engine, cost in of.items()
        if not engine.startswith("ours")
    ]


def prefix_fit(words: Sequence[str], text: Sequence[str]) -> tuple[int, int]:
    """The prefix of a text that words fit best.

    Returns:
        How many words have to be changed, added or dropped, and the prefix's length.
    """
    row = list(range(len(text) + 1))
    for count, word in enumerate(words, start=1):
        above, row = row, [count]
        for j, other in enumerate(text):
            row.append(min(above[j + 1] + 1, row[j] + 1, above[j] + (word != other)))
    length = min(range(len(row)), key=lambda j: (row[j], abs(j - len(words))))
    return row[length], length


def _kept(rows: Sequence[Result], final: str) -> Figures:
    """How much was committed, and what was not kept of it."""
    words = [_words(row["committed"]) for row in rows]
    changed = sum(prefix_fit(w, _words(row[final]))[0] for w, row in zip(words, rows, strict=True))
    total = sum(map(len, words))
    return {
        "hypotheses": sum(row["hypotheses"] for row in rows),
        "taken_back": sum(row["taken_back"] for row in rows),
        "words_committed": total,
        "words_differing_from_final": round(changed / total, 5) if total else None,
    }


def _wer(rows: Sequence[Result], heard: str, references: Mapping[str, str]) -> float:
    said = [references[row["file"]] for row in rows]
    return round(word_error_rate(said, [row[heard] for row in rows]), 5)


def _costs(result: Result) -> Figures:
    return {
        "audio_seconds": round(result["audio_seconds"], 1),
        "cpu_ms_per_second": round(result["cpu_ms_per_second"], 2),
        "wall_ms_per_second": round(result["wall_ms_per_second"], 2),
        "peak_mb": round(result["peak_memory"] / 1e6, 1),
    }


def _words(text: str) -> list[str]:
    return normalised(text).split()


def _rounded(values: Mapping[str, float]) -> dict[str, float]:
    return {name: round(value, 2) for name, value in values.items()}
