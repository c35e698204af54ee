"""Sessions on one inference thread: order, priorities, bounds, ends."""

from __future__ import annotations

import asyncio
import gc
import threading
import time
from collections.abc import AsyncIterator

import numpy as np
import pytest
from conftest import GOLDEN, RECORDINGS

from parakeet_stt import MLX_GLOBAL_LOCK, Engine, Final, Hypothesis, Session, Transcript
from parakeet_stt.errors import BacklogError, ModelNotFoundError, SessionClosedError
from parakeet_stt.model import device
from parakeet_stt.session import MAX_BACKLOG_SECONDS, Failed, SessionState

SINGLE = [r for r in RECORDINGS if r.set == "known"]


@pytest.fixture
async def engine(backend: str) -> AsyncIterator[Engine]:
    engine = Engine("tiny", backend=backend)  # type: ignore[arg-type]
    await engine.start()
    yield engine
    await engine.close()


async def speak(session: Session, samples: np.ndarray, size: int = 1_600) -> Transcript:
    for start in range(0, len(samples), size):
        session.send(samples[start : start + size])
        await asyncio.sleep(0)  # Let events through, as a socket would.
    return await session.flush()


async def speak_slowly(session: Session, samples: np.ndarray) -> Transcript:
    """Send the next piece when the last has been heard."""
    for start in range(0, len(samples), 6_400):
        session.send(samples[start : start + 6_400])
        while session.lag >= 0.1:  # noqa: ASYNC110 (there is no event for it, nor need of one)
            await asyncio.sleep(0.001)
    return await session.flush()


async def test_a_flush_gives_the_final_and_the_session_goes_on(engine: Engine) -> None:
    assert engine.model is not None
    async with engine.open() as session:
        for recording in SINGLE[:3]:
            begun = session.seconds
            final = await speak(session, recording.samples())
            offline = engine.model.transcribe(recording.samples())
            assert final.text == offline.text
            assert final.start == pytest.approx(begun)
            assert [w.start - begun for w in final.words] == pytest.approx(
                [w.start for w in offline.words]
            )


async def test_hypotheses_come_before_their_final_and_never_after(engine: Engine) -> None:
    session = engine.open()
    events: list[Hypothesis | Final | Failed] = []

    async def collect() -> None:
        events.extend([event async for event in session])

    collecting = asyncio.create_task(collect())
    finals = [await speak_slowly(session, recording.samples()) for recording in SINGLE[:3]]
    await session.finish()
    await collecting
    assert [e.transcript for e in events if isinstance(e, Final)] == finals
    current = iter(finals)
    wanted = next(current)
    for event in events:
        if isinstance(event, Final):
            wanted = next(current, wanted)
        else:
            assert isinstance(event, Hypothesis)
            assert wanted.start <= event.end <= wanted.end
    assert sum(isinstance(e, Hypothesis) for e in events) >= 3


async def test_eight_sessions_at_once_hear_what_one_alone_hears(engine: Engine) -> None:
    assert engine.model is not None
    chosen = SINGLE[:8]
    sessions = [engine.open() for _ in chosen]
    finals = await asyncio.gather(
        *(speak(s, r.samples()) for s, r in zip(sessions, chosen, strict=True))
    )
    for final, recording in zip(finals, chosen, strict=True):
        assert final.text == engine.model.transcribe(recording.samples()).text
    assert len(engine.sessions) == 8
    await engine.close()
    assert not engine.sessions
    assert all(session.state is SessionState.CLOSED for session in sessions)


async def test_a_final_overtakes_the_interims_that_wait(engine: Engine) -> None:
    order: list[str] = []
    gate = threading.Event()
    device.submit(gate.wait)  # The thread is busy while everything below is queued.
    talkers = [engine.open(interval=0.1) for _ in range(4)]

    async def note(session: Session, name: str) -> None:
        async for event in session:
            order.append(f"{name} {type(event).__name__}")

    notes = [asyncio.create_task(note(s, f"talker {i}")) for i, s in enumerate(talkers)]
    for session in talkers:
        session.send(SINGLE[0].samples())
    hasty = engine.open(interval=None)
    notes.append(asyncio.create_task(note(hasty, "hasty")))
    hasty.send(SINGLE[1].samples())
    final = hasty.flush()
    gate.set()
    await final
    for session in talkers:
        await session.finish()
    await hasty.finish()
    await asyncio.gather(*notes)
    assert order[0] == "hasty Final"


async def test_interims_that_are_behind_are_about_the_newest_audio(engine: Engine) -> None:
    samples = SINGLE[0].samples()
    gate = threading.Event()
    device.submit(gate.wait)
    async with engine.open(interval=0.1) as session:
        for start in range(0, len(samples), 1_600):
            session.send(samples[start : start + 1_600])
        assert session.lag == pytest.approx(len(samples) / 16_000)
        gate.set()
        async for event in session:
            assert isinstance(event, Hypothesis)
            assert event.end == pytest.approx(len(samples) / 16_000)
            break
        assert session.lag == 0


async def test_audio_is_bounded_and_what_was_heard_is_kept(engine: Engine) -> None:
    assert engine.model is not None
    gate = threading.Event()
    device.submit(gate.wait)
    samples = SINGLE[0].samples()
    async with engine.open(interval=None) as session:
        session.send(samples)
        with pytest.raises(BacklogError, match="wait for inference"):
            session.send(np.zeros(int(16_000 * MAX_BACKLOG_SECONDS), np.float32))
        gate.set()
        assert (await session.flush()).text == engine.model.transcribe(samples).text
        assert (await speak(session, samples)).text


async def test_the_preroll_belongs_to_the_segment_and_earlier_audio_does_not(
    engine: Engine,
) -> None:
    assert engine.model is not None
    recording = SINGLE[0]
    samples = recording.samples()
    cut = int(recording.start * 16_000) + 3_200  # 0.2 s into the first word.
    async with engine.open(preroll=0.6) as session:
        session.send(np.zeros(48_000, np.float32))
        session.send(samples[:cut])
        assert session.state is SessionState.IDLE
        session.begin()
        session.send(samples[cut:])
        final = await session.flush()
        assert final.text == engine.model.transcribe(samples[cut - 9_600 :]).text
        assert final.start == pytest.approx(3 + cut / 16_000 - 0.6)
        # Nothing of the first segment is taken for the second.
        session.begin()
        assert (await session.flush()).text == ""


async def test_flushing_without_a_segment_is_an_empty_final(engine: Engine) -> None:
    async with engine.open(preroll=0.5) as session:
        assert (await session.flush()).text == ""


async def test_cancelling_whoever_awaits_a_flush_loses_nothing(engine: Engine) -> None:
    session = engine.open()
    session.send(SINGLE[0].samples())
    gate = threading.Event()
    device.submit(gate.wait)

    async def wait() -> None:
        await asyncio.shield(session.flush())

    waiting = asyncio.create_task(wait())
    await asyncio.sleep(0)
    waiting.cancel()
    gate.set()
    await session.finish()
    finals = [e.transcript.text async for e in session if isinstance(e, Final)]
    assert len(finals) == 1
    assert finals[0]


async def test_an_aborted_session_ends_its_events_and_refuses_more(engine: Engine) -> None:
    session = engine.open()
    session.send(SINGLE[0].samples())
    pending = session.flush()
    session.abort()
    session.abort()
    with pytest.raises(SessionClosedError):
        await pending
    assert [event async for event in session if isinstance(event, Final)] == []
    for call in (lambda: session.send(np.zeros(1, np.float32)), session.begin, session.flush):
        with pytest.raises(SessionClosedError, match="closed"):
            call()


async def test_an_error_stays_in_its_session(engine: Engine) -> None:
    healthy, ill = engine.open(), engine.open()
    ill.send(SINGLE[0].samples())
    # What a device that runs out of memory does to a stream.
    broken = ill._segment
    assert broken is not None

    def fail() -> object:
        raise MemoryError("no memory on the device")

    broken.hear = fail  # type: ignore[method-assign,assignment]
    with pytest.raises(MemoryError):
        await ill.flush()
    assert any([isinstance(e, Failed) async for e in _so_far(ill)])
    assert (await speak(healthy, SINGLE[1].samples())).text
    assert (await speak(ill, SINGLE[1].samples())).text, "the session did not go on"


async def _so_far(session: Session) -> AsyncIterator[object]:
    while session._events:
        yield session._events.popleft()


async def test_a_model_that_cannot_be_loaded_is_told_to_everybody_and_tried_again() -> None:
    engine = Engine("./nowhere")
    session = engine.open()
    session.send(np.zeros(1_600, np.float32))
    with pytest.raises(ModelNotFoundError, match="no such model"):
        await session.flush()
    with pytest.raises(ModelNotFoundError):
        await engine.start()
    await engine.close()


async def test_audio_sent_before_the_model_is_loaded_is_heard() -> None:
    engine = Engine(str(GOLDEN.parent.parent / "src/parakeet_stt/data/tiny"), backend="mlx")
    async with engine.open() as session:
        assert engine.model is None
        final = await speak(session, SINGLE[0].samples())
    assert engine.model is not None
    assert final.text == engine.model.transcribe(SINGLE[0].samples()).text


async def test_mlx_waits_for_whoever_holds_the_global_lock() -> None:
    engine = Engine("tiny", backend="mlx")
    await engine.start()
    async with engine.open(interval=None) as session:
        session.send(SINGLE[0].samples())
        with MLX_GLOBAL_LOCK:
            final = session.flush()
            done, _ = await asyncio.wait([final], timeout=0.3)
            assert not done
        assert (await final).text


async def test_the_event_loop_is_not_held_up_by_inference(engine: Engine) -> None:
    """While four sessions are busy, the loop's longest pause is a small part of their work."""
    sessions = [engine.open(interval=0.1) for _ in range(4)]
    pauses: list[float] = []
    stop = asyncio.Event()

    async def watch() -> None:
        last = time.perf_counter()
        while not stop.is_set():
            await asyncio.sleep(0.005)
            now = time.perf_counter()
            pauses.append(now - last)
            last = now

    watching = asyncio.create_task(watch())
    gc.collect()
    begun = time.perf_counter()
    samples = np.concatenate([r.samples() for r in SINGLE[:6]])
    await asyncio.gather(*(speak(session, samples, 8_000) for session in sessions))
    worked = time.perf_counter() - begun
    stop.set()
    await watching
    assert len(pauses) > 3
    assert sorted(pauses)[int(0.9 * len(pauses))] < worked / 4
