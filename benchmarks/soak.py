"""``python -m benchmarks soak``: an hour in one session, as fast as it is worked off.

Unbroken speech for half of it, then silence, in one segment: memory and work per second of audio
must be at the end what they were at the beginning.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from parakeet_stt.audio import SAMPLE_RATE, Samples
from parakeet_stt.bench.report import machine, new_plot, save_plot, write_json
from parakeet_stt.engine.engine import Engine
from parakeet_stt.engine.session import Session
from parakeet_stt.errors import ConfigurationError
from parakeet_stt.settings import ParakeetSettings
from parakeet_stt.transcript import Hypothesis
from tests.support.recordings import Recording, read_recordings

Kind = Literal["speech", "silence"]

KINDS: tuple[Kind, ...] = ("speech", "silence")

SHORTEST_MINUTES = 4
"""Two of each kind: the first fills buffers, the second is what the last is compared with."""

_PIECE = SAMPLE_RATE // 10


@dataclass(frozen=True)
class Minute:
    """What a minute of audio has cost.

    Attributes:
        kind: What was heard in it.
        rss: Resident memory at its end, bytes.
        cpu: CPU seconds of the process per second of audio.
        interims: Hypotheses per second of audio.
    """

    kind: Kind
    rss: int
    cpu: float
    interims: float


def run(
    settings: ParakeetSettings,
    folder: Path,
    minutes: int,
    report: Path | None,
    plots: Path | None,
    console: Console,
) -> int:
    """Measure, print a table, and write JSON and plots where they are wanted.

    Raises:
        ParakeetError: The model cannot be loaded, there are no recordings, or too few minutes.
    """
    if minutes < SHORTEST_MINUTES:
        raise ConfigurationError(
            f"--minutes {minutes}: expected at least {SHORTEST_MINUTES}, so that both speech and "
            f"silence have a last minute to compare with their second"
        )
    recordings = [r for r in read_recordings(folder) if r.set == "several"]
    if not recordings:
        raise ConfigurationError(f"{folder} has no recordings of the set 'several'")
    with Progress(console=console, transient=True) as bar:
        task = bar.add_task("minutes of audio", total=minutes)
        about, measured, final = asyncio.run(
            _soak(settings, recordings, minutes, lambda: bar.advance(task))
        )
    parts = {kind: summary([m for m in measured if m.kind == kind]) for kind in KINDS}
    figures = {
        "machine": machine(),
        "model": about,
        "parts": parts,
        "final": final,
        "minutes": [asdict(minute) for minute in measured],
    }
    _show(about, parts, final)
    if report is not None:
        write_json(report, figures)
    if plots is not None:
        _plot(measured, plots)
    return 0


async def soak(session: Session, parts: Iterable[tuple[Kind, Samples]]) -> list[Minute]:
    """Send audio, minute by minute, as fast as it is worked off; the segment stays open.

    Args:
        session: An open session with interims.
        parts: Each minute's kind and audio, ``float32 [samples]``, 16 kHz.
    """
    interims = 0

    async def listen() -> None:
        nonlocal interims
        async for event in session:
            if isinstance(event, Hypothesis) and event.text:
                interims += 1

    listening = asyncio.create_task(listen())
    measured: list[Minute] = []
    for kind, samples in parts:
        cpu, before = time.process_time(), interims
        for start in range(0, len(samples), _PIECE):
            session.send(samples[start : start + _PIECE])
            await asyncio.sleep(0)
            await session.wait_for_backlog(_PIECE / SAMPLE_RATE / 2)
        seconds = len(samples) / SAMPLE_RATE
        cpu = (time.process_time() - cpu) / seconds
        measured.append(Minute(kind, resident_bytes(), cpu, (interims - before) / seconds))
    listening.cancel()
    return measured


def summary(minutes: list[Minute]) -> dict[str, float]:
    """What has grown over the minutes of one kind, of which there are two at least."""
    return {
        "minutes": len(minutes),
        "rss_first": minutes[0].rss,
        "rss_last": minutes[-1].rss,
        "rss_growth": minutes[-1].rss - minutes[0].rss,
        "cpu_second": minutes[1].cpu,
        "cpu_last": minutes[-1].cpu,
        "cpu_ratio": minutes[-1].cpu / minutes[1].cpu,
        "interims_per_second": float(np.mean([minute.interims for minute in minutes])),
    }


def resident_bytes() -> int:
    """The process's resident memory; where there is no ``/proc``, the most there has been."""
    statm = Path("/proc/self/statm")
    if statm.exists():
        return int(statm.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    import resource  # Not on Windows.

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # In bytes on macOS.


async def _soak(
    settings: ParakeetSettings, recordings: list[Recording], minutes: int, done: Callable[[], None]
) -> tuple[str, list[Minute], dict[str, float]]:
    engine = Engine.from_settings(settings)
    model = await engine.start()
    # From first word to last, so that nothing but the speaker's own pauses is between.
    speech = np.concatenate(
        [r.samples()[int(r.start * SAMPLE_RATE) : int(r.end * SAMPLE_RATE)] for r in recordings]
    )
    minute = np.arange(60 * SAMPLE_RATE)

    def parts() -> Iterator[tuple[Kind, Samples]]:
        for number in range(minutes):
            if number < minutes // 2:
                yield "speech", speech.take(number * len(minute) + minute, mode="wrap")
            else:
                yield "silence", np.zeros(len(minute), np.float32)
            done()

    async with engine.open() as session:
        measured = await soak(session, parts())
        begun = time.perf_counter()
        transcript = await session.finish()
    return (
        repr(model),
        measured,
        {"seconds": time.perf_counter() - begun, "words": len(transcript.text.split())},
    )


def _show(about: str, parts: dict[Kind, dict[str, float]], final: dict[str, float]) -> None:
    out = Console()
    out.print(about, markup=False)
    table = Table(
        "",
        "minutes",
        "CPU ms per s of audio\nsecond, last minute",
        "ratio",
        "memory, MB\nfirst, last minute",
        "growth",
        "interims\nper s",
        box=None,
    )
    for kind, part in parts.items():
        table.add_row(
            kind,
            str(part["minutes"]),
            f"{part['cpu_second'] * 1000:.1f}, {part['cpu_last'] * 1000:.1f}",
            f"{part['cpu_ratio']:.2f}",
            f"{part['rss_first'] / 1e6:.0f}, {part['rss_last'] / 1e6:.0f}",
            f"{part['rss_growth'] / 1e6:.1f}",
            f"{part['interims_per_second']:.1f}",
        )
    out.print(table)
    out.print(f"the final took {final['seconds'] * 1000:.0f} ms and has {final['words']} words")


def _plot(minutes: list[Minute], folder: Path) -> None:
    """Minutes of audio against memory and against work."""
    silent = sum(minute.kind == "speech" for minute in minutes)
    clock = range(1, len(minutes) + 1)
    for name, label, values in (
        ("soak-memory", "resident memory (MB)", [minute.rss / 1e6 for minute in minutes]),
        ("soak-cost", "CPU per second of audio (ms)", [minute.cpu * 1000 for minute in minutes]),
    ):
        figure, axes = new_plot()
        axes.plot(clock, values)
        axes.axvline(silent + 0.5, color="grey", linestyle="--", label="silence from here on")
        axes.set_xlabel("minutes of audio")
        axes.set_ylabel(label)
        axes.set_ylim(0, 1.2 * max(values))
        axes.legend()
        save_plot(figure, folder / f"{name}.svg")
