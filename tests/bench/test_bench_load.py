"""The benchmarks of load and of an hour's session, on the real parts, with little to do."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import numpy as np
import pytest

from benchmarks.capacity import Capacity, breaks, search
from benchmarks.soak import Minute, resident_bytes, soak, summary
from benchmarks.speakers import measure, read_turns
from benchmarks.step import Candidate, Step
from parakeet_stt.audio import SAMPLE_RATE
from parakeet_stt.bench.looplag import LoopLag
from parakeet_stt.engine.engine import Engine
from parakeet_stt.errors import ConfigurationError
from parakeet_stt.settings import Backend
from tests.support.command import benchmark
from tests.support.recordings import RECORDINGS, ROOT

DATA = ROOT / "tests" / "data"
SECONDS = 4.5  # Room for the shortest recordings in each half.


def candidate(backend: Backend | None) -> Candidate:
    return Candidate("somebody", backend, "tiny", DATA, SECONDS, SAMPLE_RATE // 10)


@pytest.mark.realtime
def test_speakers_get_their_finals_and_interims() -> None:
    step = measure(candidate("onnx"), 2)
    assert "tiny" in step.about
    assert len(step.finals) >= 2
    assert step.lost == 0
    assert all(latency > 0 for latency in step.finals)
    assert step.interims > 0
    assert 0 < step.cpu < SECONDS * 64
    assert len(step.loop_lags) > SECONDS / 0.005 / 2
    assert step.real_time_factor is None


@pytest.mark.realtime
def test_the_naive_server_hears_with_the_same_measure() -> None:
    step = measure(candidate(None), 1)
    assert step.about.startswith("parakeet-mlx 0.7")
    assert len(step.finals) + step.lost >= 1
    assert step.interims > 0
    assert step.real_time_factor is not None
    assert step.real_time_factor > 0


def test_recordings_end_in_quiet_and_are_whole_pieces() -> None:
    turns = read_turns(DATA, 2.25, 320)
    assert turns
    for turn in turns:
        assert len(turn) % 320 == 0
        assert len(turn) <= (2.25 + 0.3) * SAMPLE_RATE + 320
        assert not turn[-int(0.3 * SAMPLE_RATE) :].any()
    with pytest.raises(ConfigurationError, match=r"no recordings of at most 0\.1 s"):
        read_turns(DATA, 0.1, 320)


def holding(most: int) -> Capacity:
    return search(lambda n: Step(n, lag=0.1 if n <= most else 1.5, real_time_factor=1.25))


@pytest.mark.parametrize("most", [0, 1, 2, 3, 5, 16, 17, 31])
def test_the_search_finds_the_most_that_hold(most: int) -> None:
    found = holding(most)
    assert found.held == most
    measured = [step.sessions for step in found.steps]
    assert measured == sorted(set(measured))
    assert {1, 16} <= set(measured)


def test_the_search_is_done_within_a_sixteenth() -> None:
    found = holding(100)
    assert 96 <= found.held <= 100
    assert len(found.steps) < 14


def test_where_not_one_holds_the_work_alone_is_compared() -> None:
    assert holding(0).sessions == 1 / 1.25
    assert holding(3).sessions == 3


def test_a_step_that_was_disturbed_has_a_second_try() -> None:
    lags = iter([0.1, 5.0, 0.1])
    found = search(lambda n: Step(n, lag=next(lags) if n <= 2 else 5.0))
    assert found.held == 2
    assert found.steps[1].lag == 0.1


def test_every_broken_bound_is_named() -> None:
    assert breaks(Step(1, finals=[0.1, 0.2], lag=1.0)) == []
    assert breaks(Step(1, finals=[0.1, 0.5], lag=2.0, lost=3)) == [
        "final p95",
        "lag",
        "lost finals",
    ]


async def test_a_blocked_event_loop_is_late_all_the_while() -> None:
    async with LoopLag() as watch:
        await asyncio.sleep(0.05)
        time.sleep(0.1)  # noqa: ASYNC251 (what is being measured)
        await asyncio.sleep(0.05)
    assert max(watch.values) > 0.09
    # Every wake-up that was missed counts: 100, 95, 90 ... ms.
    assert sum(value > 0.04 for value in watch.values) >= 10


async def test_a_long_session_is_measured_minute_by_minute() -> None:
    speech = next(r for r in RECORDINGS if r.set == "several").samples()[: 2 * SAMPLE_RATE]
    silence = np.zeros(2 * SAMPLE_RATE, np.float32)
    engine = Engine("tiny", backend="onnx", precision="fp32")
    await engine.start()
    async with engine.open() as session:
        minutes = await soak(session, [("speech", speech), ("silence", silence)])
        assert session.seconds == 4
        assert (await session.finish()).text
    assert [minute.kind for minute in minutes] == ["speech", "silence"]
    for minute in minutes:
        assert minute.cpu > 0
        assert 0 < minute.interims <= 11
        assert 50e6 < minute.rss < 50e9


def test_growth_is_told_from_the_first_and_from_the_second_minute() -> None:
    figures = summary(
        [Minute("speech", 100, 9.0, 10), Minute("speech", 150, 2.0, 8), Minute("speech", 160, 3, 9)]
    )
    assert figures["rss_growth"] == 60
    assert figures["cpu_ratio"] == 1.5
    assert figures["interims_per_second"] == 9


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="only the peak is known")
def test_memory_that_is_held_is_counted() -> None:
    before = resident_bytes()
    held = np.ones(50_000_000, np.uint8)
    assert resident_bytes() - before > 0.9 * len(held)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("load", "--frame-ms", "5", "--model", "tiny"), "expected 10 to 1000"),
        (("soak", "--minutes", "3", "--model", "tiny"), "expected at least 4"),
    ],
)
def test_a_wrong_argument_is_an_error(arguments: tuple[str, ...], message: str) -> None:
    done = benchmark(*arguments)
    assert done.returncode == 1
    assert message in done.stderr
