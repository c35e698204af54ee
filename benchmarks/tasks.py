"""What is measured of every candidate: offline, in a stream, and by the length of a segment.

Runs in the process that :mod:`benchmarks.candidates` is, and gives what was heard and what
it cost as plain values. Word errors are counted by the parent.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from benchmarks.jobs import Job
from parakeet_stt.audio import SAMPLE_RATE, Samples
from tests.support.recordings import Recording

SEGMENT_SECONDS = (5, 30)
"""Lengths whose costs are compared."""

POSITION_SECONDS = 32
"""Length of the segment within which the cost of interims is followed."""

_WARM_UP_SECONDS = 2


class Said(NamedTuple):
    """A transcript: its text, and its tokens where the engine tells them."""

    text: str
    tokens: list[int] | None = None


class Live(Protocol):
    """One stream."""

    def add(self, samples: Samples) -> tuple[str, str]:
        """Hear more; gives the text so far, and the part of it that is promised to stay."""
        ...

    def finish(self) -> Said:
        """The final."""
        ...


@dataclass(frozen=True)
class Candidate:
    """An engine with a model.

    Attributes:
        transcribe: ``float32 [samples]`` at 16 kHz to what is said in them.
        stream: Opens a stream, where the engine has any.
        flushes: Whether a stream hears what is left when it is finished; otherwise its final is
            what the last piece gave.
    """

    transcribe: Callable[[Samples], Said]
    stream: Callable[[], AbstractContextManager[Live]] | None = None
    flushes: bool = True

    def open(self) -> AbstractContextManager[Live]:
        """Open a stream; only of an engine that has them."""
        assert self.stream is not None
        return self.stream()


@dataclass(frozen=True)
class Run:
    """A job under way.

    Attributes:
        job: The job.
        candidate: What is measured.
        recordings: The recordings and their samples.
        progress: To be called with the share that is done, 0 to 1.
    """

    job: Job
    candidate: Candidate
    recordings: list[tuple[Recording, Samples]]
    progress: Callable[[float], None]

    def each(self) -> Iterator[tuple[Recording, Samples]]:
        """One recording after the other, with progress."""
        for done, item in enumerate(self.recordings):
            self.progress(done / len(self.recordings))
            yield item

    def segment(self, seconds: float, number: int) -> Samples:
        """One of the segments that all recordings in a row are cut into, from the start again
        where they end."""
        speech = np.concatenate([samples for _, samples in self.recordings])
        length = int(seconds * SAMPLE_RATE)
        return np.take(speech, np.arange(length) + number * length, mode="wrap")


class Meter:
    """Adds up the process's CPU seconds and the wall seconds of its ``with`` blocks."""

    def __init__(self) -> None:
        self.cpu = 0.0
        self.wall = 0.0

    def __enter__(self) -> None:
        self._begun = time.process_time(), time.perf_counter()

    def __exit__(self, *_: object) -> None:
        self.cpu += time.process_time() - self._begun[0]
        self.wall += time.perf_counter() - self._begun[1]


def peak_memory() -> int:
    """The most memory that this process has had in RAM so far, in bytes."""
    if sys.platform == "linux":
        # Not ru_maxrss: there it starts with the peak of the process that started this one.
        status = Path("/proc/self/status").read_text(encoding="ascii")
        return int(status.partition("VmHWM:")[2].split()[0]) << 10
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def pieces_of(samples: Samples, size: int) -> Iterator[Samples]:
    """Samples in pieces of a size, the last one shorter."""
    return (samples[start : start + size] for start in range(0, len(samples), size))


def whole_words(text: str, committed: str) -> str:
    """The committed part of a text without a word of which only the beginning is committed."""
    goes_on = text[len(committed) : len(committed) + 1].strip()
    return committed.rpartition(" ")[0] if goes_on else committed


def offline(run: Run) -> dict[str, Any]:
    """Transcribe every recording at once."""
    run.candidate.transcribe(run.recordings[0][1])
    meter, rows = Meter(), []
    for recording, samples in run.each():
        with meter:
            said = run.candidate.transcribe(samples)
        rows.append({"file": str(recording.path), "text": said.text})
    return _costs(run, meter) | {"rows": rows}


def streaming(run: Run) -> dict[str, Any]:
    """Stream every recording in pieces of one size, with an interim after each."""
    _warm_up(run)
    meter, rows, finals = Meter(), [], []
    size = run.job.chunk_ms * SAMPLE_RATE // 1000
    for recording, samples in run.each():
        heard, first, text, promised, taken_back, flush = 0, None, "", "", 0, Meter()
        with run.candidate.open() as live:
            for piece in pieces_of(samples, size):
                with meter:
                    text, promise = live.add(piece)
                heard += len(piece)
                if text and first is None:
                    first = heard / SAMPLE_RATE
                taken_back += not promise.startswith(promised)
                promised = promise
            with meter, flush:
                final = live.finish()
        finals.append(final)
        rows.append(
            {
                "file": str(recording.path),
                "text": final.text,
                "first_text_seconds": first,
                "last_interim": text,
                "committed": whole_words(text, promised),
                "hypotheses": -(-len(samples) // size),
                "taken_back": taken_back,
                "flush_ms": flush.wall * 1000 if run.candidate.flushes else None,
            }
        )
    costs = _costs(run, meter)
    for row, final, (_, samples) in zip(rows, finals, run.recordings, strict=True):
        row["as_offline"] = final == run.candidate.transcribe(samples)
    return costs | {"rows": rows}


def lengths(run: Run) -> dict[str, Any]:
    """Stream segments of several lengths, and follow the cost of interims within a long one.

    Gives milliseconds of CPU time per second of audio: of each segment by length, final included;
    and of each second of each long segment, without the final.
    """
    _warm_up(run)
    costs: dict[str, list[float]] = {}
    done, total = 0, (sum(SEGMENT_SECONDS) + POSITION_SECONDS) * run.job.segments
    for seconds in SEGMENT_SECONDS:
        costs[str(seconds)] = []
        for number in range(run.job.segments):
            _, whole = _segment_costs(run, run.segment(seconds, number))
            costs[str(seconds)].append(whole / seconds * 1000)
            done += seconds
            run.progress(done / total)
    positions: list[list[float]] = []
    for number in range(run.job.segments):
        interims, _ = _segment_costs(run, run.segment(POSITION_SECONDS, number))
        per_second = np.reshape(interims, (POSITION_SECONDS, -1)).sum(axis=1) * 1000
        positions.append(per_second.tolist())
        done += POSITION_SECONDS
        run.progress(done / total)
    return {"costs": costs, "positions": positions}


def _segment_costs(run: Run, samples: Samples) -> tuple[list[float], float]:
    """CPU seconds of each piece of a segment, and of all of it with the final."""
    interims = []
    with run.candidate.open() as live:
        for piece in pieces_of(samples, run.job.chunk_ms * SAMPLE_RATE // 1000):
            meter = Meter()
            with meter:
                live.add(piece)
            interims.append(meter.cpu)
        last = Meter()
        with last:
            live.finish()
    return interims, sum(interims) + last.cpu


def _warm_up(run: Run) -> None:
    """Stream a little, so that nothing that is done once is measured."""
    with run.candidate.open() as live:
        live.add(run.segment(_WARM_UP_SECONDS, 0))
        live.finish()


def _costs(run: Run, meter: Meter) -> dict[str, Any]:
    seconds = sum(len(samples) for _, samples in run.recordings) / SAMPLE_RATE
    return {
        "audio_seconds": seconds,
        "cpu_ms_per_second": meter.cpu / seconds * 1000,
        "wall_ms_per_second": meter.wall / seconds * 1000,
        "peak_memory": peak_memory(),
    }
