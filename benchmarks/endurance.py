"""``python -m benchmarks endurance``: does a running server leave anything behind?

Many sessions are opened and dropped in mid-sentence, then one hears minutes and minutes of speech
as fast as the server takes it. The server tells of its memory, sessions and tasks by ``/metrics``.
At last it is filled with sessions, and how long it takes to refuse more of them is measured.
"""

from __future__ import annotations

import asyncio
import json
import time
import urllib.error
import urllib.request
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import numpy as np
import websockets
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from websockets.asyncio.client import connect

from parakeet_stt.audio import SAMPLE_RATE, Samples
from parakeet_stt.bench.report import machine, new_plot, percentiles, save_plot, write_json
from parakeet_stt.bench.talker import ServerError
from parakeet_stt.errors import ConfigurationError
from tests.support.recordings import Recording, read_recordings

DROPPED_AT_ONCE = 20
REFUSALS = 100

_PIECE = SAMPLE_RATE // 5
_PAUSE = np.zeros(int(0.8 * SAMPLE_RATE), np.float32)
_FIGURES = {
    "rss": "process_resident_memory_bytes",
    "files": "process_open_fds",
    "tasks": "parakeet_tasks",
}


@dataclass(frozen=True)
class Refusals:
    """What came of asking for more sessions than there may be.

    Attributes:
        sessions: How many there were.
        milliseconds: From asking to the refusal, as percentiles.
        untouched: Whether those inside all got the same final, with text.
    """

    sessions: int
    milliseconds: dict[str, float]
    untouched: bool


@dataclass(frozen=True)
class State:
    """What a server says of itself.

    Attributes:
        rss: Resident memory, bytes.
        files: Open files and sockets.
        tasks: Tasks on its event loop.
        sessions: Open sessions.
    """

    rss: float
    files: float
    tasks: float
    sessions: float


def run(
    url: str,
    key: str | None,
    folder: Path,
    drop: int,
    minutes: int,
    report: Path | None,
    plots: Path | None,
    console: Console,
) -> int:
    """Measure, print a table, and write JSON and a plot where they are wanted.

    Raises:
        ServerError: The server is not there, refuses, or has no ``/metrics``.
        ConfigurationError: There are no recordings.
    """
    recordings = [r for r in read_recordings(folder) if r.set == "several"]
    if not recordings:
        raise ConfigurationError(f"{folder} has no recordings of the set 'several'")
    speech = np.concatenate([part for r in recordings for part in (r.samples(), _PAUSE)])
    with Progress(console=console, transient=True) as bar:
        try:
            states, finals = asyncio.run(_wear(url, key, speech, drop, minutes, bar))
            refusals = asyncio.run(_crowd(url, key, recordings[0], bar))
        except (OSError, websockets.WebSocketException) as error:
            raise ServerError(f"{url}: {error}") from error
    figures = {
        "machine": machine(),
        "url": url,
        "dropped": drop,
        "finals": finals,
        "refusals": asdict(refusals),
        "states": {name: asdict(state) for name, state in states.items()},
    }
    _show(states, finals, refusals)
    if report is not None:
        write_json(report, figures)
    if plots is not None:
        _plot(states, plots)
    return 0


async def _wear(
    url: str, key: str | None, speech: Samples, drop: int, minutes: int, bar: Progress
) -> tuple[dict[str, State], int]:
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    states: dict[str, State] = {}

    async def note(name: str) -> None:
        states[name] = await asyncio.to_thread(_state, url, headers)

    pcm = (np.clip(speech, -1, 1) * 32767).astype("<i2").tobytes()

    async def open_and_drop(number: int) -> None:
        ws = await connect(url, additional_headers=headers, proxy=None)
        await ws.recv()  # The server has opened its session.
        await ws.send(pcm[: 2 * SAMPLE_RATE * (1 + number % 3)])
        ws.transport.abort()

    await note("before")
    task = bar.add_task("sessions dropped", total=drop)
    for start in range(0, drop, DROPPED_AT_ONCE):
        numbers = range(start, min(start + DROPPED_AT_ONCE, drop))
        await asyncio.gather(*map(open_and_drop, numbers))
        bar.advance(task, len(numbers))
    await _settle(url, headers)
    await note(f"{drop} dropped")
    task = bar.add_task("minutes of audio", total=minutes)
    finals = 0
    async with connect(f"{url}?vad=true", additional_headers=headers, proxy=None) as ws:
        for minute in range(1, minutes + 1):
            at = np.arange((minute - 1) * 60 * SAMPLE_RATE, minute * 60 * SAMPLE_RATE)
            samples = speech.take(at, mode="wrap")
            data = (np.clip(samples, -1, 1) * 32767).astype("<i2").tobytes()
            finals += await _hear(ws, data, minute)
            await note(f"minute {minute}")
            bar.advance(task)
    await _settle(url, headers)
    await note("after")
    return states, finals


async def _crowd(url: str, key: str | None, recording: Recording, bar: Progress) -> Refusals:
    """Take every place there is, and ask for more."""
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    most = int(await asyncio.to_thread(_most_sessions, url, headers))
    pcm = (np.clip(recording.samples(), -1, 1) * 32767).astype("<i2").tobytes()
    inside = [await connect(url, additional_headers=headers, proxy=None) for _ in range(most)]
    for ws in inside:
        await ws.recv()
        await ws.send(pcm)
    task = bar.add_task("sessions refused", total=REFUSALS)
    seconds: list[float] = []
    for _ in range(REFUSALS):
        begun = time.perf_counter()
        try:
            ws = await connect(url, additional_headers=headers, proxy=None)
        except websockets.InvalidStatus as refused:
            seconds.append(time.perf_counter() - begun)
            if refused.response.status_code != 503:
                raise ServerError(f"{url}: refused with {refused.response.status_code}") from None
        else:
            await ws.close()
            raise ServerError(f"{url} takes more than the {most} sessions that it says it does")
        bar.advance(task)
    texts = set()
    for ws in inside:
        await ws.send(json.dumps({"type": "close"}))
        messages = [json.loads(message) async for message in ws]
        texts.add(next(m["text"] for m in reversed(messages) if m.get("is_final")))
    return Refusals(
        most, percentiles([s * 1000 for s in seconds]), len(texts) == 1 and texts != {""}
    )


async def _hear(ws: Any, data: bytes, number: int) -> int:
    """Have the server hear a minute; how many finals with text it made of it."""

    async def send() -> None:
        for start in range(0, len(data), 2 * _PIECE):
            await ws.send(data[start : start + 2 * _PIECE])
        await ws.send(json.dumps({"type": "flush", "id": number}))

    sending = asyncio.create_task(send())
    finals = 0
    async for message in ws:
        told = json.loads(message)
        if told["type"] == "flushed":
            break
        finals += told["type"] == "result" and told["is_final"] and bool(told["text"])
    await sending
    return finals


async def _settle(url: str, headers: dict[str, str]) -> None:
    """Wait until the server knows that everybody has gone."""
    async with asyncio.timeout(30):
        while (await asyncio.to_thread(_state, url, headers)).sessions:  # noqa: ASYNC110
            await asyncio.sleep(0.1)  # Between two questions: the server tells only when asked.


def _ask(url: str, path: str, headers: dict[str, str]) -> str:
    parts = urlsplit(url)
    address = urlunsplit((parts.scheme.replace("ws", "http"), parts.netloc, path, "", ""))
    try:
        with urllib.request.urlopen(urllib.request.Request(address, headers=headers)) as answer:
            text: str = answer.read().decode()
    except (urllib.error.URLError, OSError) as error:
        raise ServerError(f"{address}: {error}") from error
    return text


def _most_sessions(url: str, headers: dict[str, str]) -> int:
    return int(json.loads(_ask(url, "/config", headers))["settings"]["max_sessions"])


def _state(url: str, headers: dict[str, str]) -> State:
    lines = _ask(url, "/metrics", headers).splitlines()
    values = dict(line.rsplit(" ", 1) for line in lines if line and not line.startswith("#"))
    missing = [name for name in _FIGURES.values() if name not in values]
    if missing:
        raise ServerError(f"{url}: /metrics does not tell {', '.join(missing)}")
    sessions = sum(
        float(value)
        for name, value in values.items()
        if name.startswith("parakeet_sessions_active")
    )
    return State(
        **{field: float(values[name]) for field, name in _FIGURES.items()}, sessions=sessions
    )


def _show(states: dict[str, State], finals: int, refusals: Refusals) -> None:
    out = Console()
    table = Table("", "memory, MB", "open files", "tasks", "sessions", box=None)
    names = list(states)
    minutes = [name for name in names if name.startswith("minute")]
    for name in [n for n in names if n not in minutes[1:-1]]:
        state = states[name]
        table.add_row(
            name,
            f"{state.rss / 1e6:.1f}",
            f"{state.files:.0f}",
            f"{state.tasks:.0f}",
            f"{state.sessions:.0f}",
        )
    out.print(table)
    out.print(f"{finals} finals in {len(minutes)} minutes of audio")
    took = refusals.milliseconds
    out.print(
        f"with {refusals.sessions} sessions, {REFUSALS} more were refused in "
        f"{took['p50']:.1f} / {took['p95']:.1f} / {took['p99']:.1f} ms (p50 / p95 / p99); "
        + ("all inside got their finals" if refusals.untouched else "finals inside were harmed")
    )


def _plot(states: dict[str, State], folder: Path) -> None:
    """Minutes of audio against the server's memory."""
    rss = [state.rss / 1e6 for name, state in states.items() if name.startswith("minute")]
    figure, axes = new_plot()
    axes.plot(range(1, len(rss) + 1), rss)
    axes.set_xlabel("minutes of audio through one session")
    axes.set_ylabel("server's resident memory (MB)")
    axes.set_ylim(0, 1.2 * max(rss))
    save_plot(figure, folder / "endurance.svg")
