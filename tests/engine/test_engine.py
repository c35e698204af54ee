"""Sessions on one inference thread: order, priorities, bounds, ends."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator

import numpy as np
import pytest

from parakeet_stt import MLX_GLOBAL_LOCK, Engine, Final, Hypothesis, Session, Stream, Transcript
from parakeet_stt.audio import SAMPLE_RATE
from parakeet_stt.engine.events import Discarded, Event, Failed, SegmentEnded, SpeechStarted
from parakeet_stt.engine.options import SessionOptions
from parakeet_stt.engine.runtime import open_segments
from parakeet_stt.engine.scheduler import RESERVE, Job, Priority, scheduler
from parakeet_stt.engine.session import MAX_BACKLOG_SECONDS, SessionState
from parakeet_stt.engine.vad import Endpointing
from parakeet_stt.errors import (
    AudioError,
    BacklogError,
    ModelNotFoundError,
    ParakeetError,
    SessionClosedError,
)
from parakeet_stt.model import device
from parakeet_stt.model.encoder import MAX_WINDOW
from parakeet_stt.model.model import MAX_BATCH
from parakeet_stt.model.stream import EncoderJob, StreamOptions, Window
from tests.support.recordings import GOLDEN, RECORDINGS
from tests.support.serving import PATIENCE, eventually
from tests.support.streams import Streams

SINGLE = [r for r in RECORDINGS if r.set == "known"]
LONG = max(RECORDINGS, key=lambda r: r.end)


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
        await session.wait_for_backlog(0.1)
    return await session.flush()


async def inference() -> None:
    """Wait until what has been asked of the inference thread is done, and its results are here."""
    await asyncio.wrap_future(device.submit(lambda: None))


def spoken(transcript: Transcript) -> list[tuple[int, float, float]]:
    begun = transcript.start
    return [(t.id, round(t.start - begun, 6), round(t.end - begun, 6)) for t in transcript.tokens]


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
    events: list[Event] = []

    async def collect() -> None:
        events.extend([event async for event in session])

    collecting = asyncio.create_task(collect())
    finals = [await speak_slowly(session, recording.samples()) for recording in SINGLE[:3]]
    finals.append(await session.finish())
    await collecting
    assert [e.transcript for e in events if isinstance(e, Final)] == finals
    current = iter(finals)
    wanted = next(current)
    for event in events:
        if isinstance(event, Final):
            wanted = next(current, wanted)
        else:
            assert isinstance(event, Hypothesis | SegmentEnded)
            assert wanted.start <= event.end <= wanted.end
    assert sum(isinstance(e, Hypothesis) for e in events) >= 3


async def test_every_final_has_the_number_of_the_segment_that_ended_before_it(
    engine: Engine,
) -> None:
    session = engine.open(SessionOptions(interval=None))
    session.send(SINGLE[0].samples())
    session.flush("first")
    session.flush("empty")
    session.send(SINGLE[1].samples())
    await session.finish()
    events = [event async for event in session]
    ended = [event for event in events if isinstance(event, SegmentEnded)]
    finals = [event for event in events if isinstance(event, Final)]
    assert [event.segment for event in ended] == [1, 2, 3] == [final.segment for final in finals]
    assert [event.tag for event in ended] == ["first", "empty", None]
    for event, final in zip(ended, finals, strict=True):
        assert events.index(event) < events.index(final)
        assert (event.start, event.tag) == (final.transcript.start, final.tag)
        assert event.end == pytest.approx(final.transcript.end)


@pytest.mark.parametrize("endpointing", [None, Endpointing()])
async def test_what_is_discarded_gets_no_final_and_is_no_preroll(
    engine: Engine, endpointing: Endpointing | None
) -> None:
    preroll = None if endpointing is None else 30.0
    session = engine.open(SessionOptions(interval=None, preroll=preroll, endpointing=endpointing))
    session.send(SINGLE[0].samples())
    session.flush("kept")
    session.send(SINGLE[1].samples())
    session.discard()
    session.send(SINGLE[2].samples())
    session.flush("after")
    await session.finish()
    events = [event async for event in session]
    finals = {e.tag: e.transcript for e in events if isinstance(e, Final)}
    assert finals["kept"].text == SINGLE[0].text
    assert finals["after"].text == SINGLE[2].text
    dropped = (len(SINGLE[0].samples()) + len(SINGLE[1].samples())) / SAMPLE_RATE
    assert finals["after"].start >= dropped
    # What an endpointer finds of what is discarded is told before that is acknowledged.
    (done,) = (index for index, event in enumerate(events) if isinstance(event, Discarded))
    begun = [event for event in events[done:] if isinstance(event, SpeechStarted)]
    assert all(event.start >= dropped for event in begun)
    assert session.backlog == 0


@pytest.mark.parametrize("batch", [1, MAX_BATCH])
async def test_eight_sessions_at_once_hear_what_one_alone_hears(
    monkeypatch: pytest.MonkeyPatch, engine: Engine, batch: int
) -> None:
    assert engine.model is not None
    monkeypatch.setattr(engine.model, "batch", batch)
    chosen = SINGLE[:8]
    sessions = [engine.open() for _ in chosen]
    finals = await asyncio.gather(
        *(speak(s, r.samples()) for s, r in zip(sessions, chosen, strict=True))
    )
    for final, recording in zip(finals, chosen, strict=True):
        assert spoken(final) == spoken(engine.model.transcribe(recording.samples()))
    assert len(engine.sessions) == 8
    await engine.close()
    assert not engine.sessions
    assert all(session.state is SessionState.CLOSED for session in sessions)


async def test_finals_come_in_the_order_of_their_segments_however_they_are_encoded(
    monkeypatch: pytest.MonkeyPatch, engine: Engine
) -> None:
    """In a batch the longest windows are encoded first."""
    assert engine.model is not None
    monkeypatch.setattr(engine.model, "batch", MAX_BATCH)
    lengths = [16_000, 64_000, 32_000, 48_000]
    samples = np.tile(SINGLE[0].samples(), 2)
    gate = threading.Event()
    device.submit(gate.wait)
    async with engine.open(SessionOptions(interval=None)) as session:
        settled: list[int] = []
        for number, length in enumerate(lengths):
            session.send(samples[:length])
            session.flush().add_done_callback(lambda _, n=number: settled.append(n))  # type: ignore[misc]
        gate.set()
        await session.finish()
        finals = [event.transcript async for event in session if isinstance(event, Final)]
    assert settled == [0, 1, 2, 3]
    begun = 0.0
    for final, length in zip(finals, lengths, strict=False):
        assert final.start == pytest.approx(begun)
        assert spoken(final) == spoken(engine.model.transcribe(samples[:length]))
        begun += length / 16_000


async def test_a_final_overtakes_the_interims_that_wait(engine: Engine) -> None:
    order: list[str] = []
    gate = threading.Event()
    device.submit(gate.wait)  # The thread is busy while everything below is queued.
    talkers = [engine.open() for _ in range(4)]

    async def note(session: Session, name: str) -> None:
        async for event in session:
            order.append(f"{name} {type(event).__name__}")

    notes = [asyncio.create_task(note(s, f"talker {i}")) for i, s in enumerate(talkers)]
    for session in talkers:
        session.send(SINGLE[0].samples())
    hasty = engine.open(SessionOptions(interval=None))
    notes.append(asyncio.create_task(note(hasty, "hasty")))
    hasty.send(SINGLE[1].samples())
    final = hasty.flush()
    gate.set()
    await final
    for session in talkers:
        await session.finish()
    await hasty.finish()
    await asyncio.gather(*notes)
    assert order[:2] == ["hasty SegmentEnded", "hasty Final"]


async def test_interims_that_are_behind_are_one_about_the_newest_audio(engine: Engine) -> None:
    samples = SINGLE[0].samples()
    gate = threading.Event()
    device.submit(gate.wait)
    async with engine.open() as session:
        for start in range(0, len(samples), 1_600):
            session.send(samples[start : start + 1_600])
        assert session.backlog == pytest.approx(len(samples) / 16_000)
        gate.set()
        await inference()
        assert session.backlog == 0
        await session.finish()
        interims = [event.end async for event in session if isinstance(event, Hypothesis)]
        assert interims == pytest.approx([len(samples) / 16_000])


async def test_interims_come_as_often_as_the_thread_can_bear(
    monkeypatch: pytest.MonkeyPatch, engine: Engine
) -> None:
    samples = SINGLE[0].samples()
    async with engine.open() as session:
        session.send(samples[:1])
        others = open_segments.wanting_interims - 1
        # As on a machine that takes so long for one that it has time for one in 0.6 s.
        monkeypatch.setattr(scheduler, "_interim_seconds", 0.6 * (1 - RESERVE) / (others + 1))
        assert scheduler.cadence(others + 1) == pytest.approx(0.6)
        session.send(samples[1:9_500])
        await inference()
        assert session.backlog == pytest.approx(9_500 / 16_000)
        session.send(samples[9_500:9_700])
        await inference()
        assert session.backlog == 0


@pytest.mark.parametrize("interval", [0.1, None])
async def test_a_backlog_is_worked_off_however_rare_interims_are(
    monkeypatch: pytest.MonkeyPatch, engine: Engine, interval: float | None
) -> None:
    """Whoever waits for it sends nothing meanwhile, so that no interim becomes due."""
    # As on a machine that takes a minute for an interim.
    monkeypatch.setattr(scheduler, "_interim_seconds", 60.0)
    async with asyncio.timeout(PATIENCE), engine.open(SessionOptions(interval=interval)) as session:
        session.send(SINGLE[0].samples()[:16_000])
        await session.wait_for_backlog(0.1)
        assert session.backlog <= 0.1


async def test_only_segments_that_want_interims_make_them_rarer(engine: Engine) -> None:
    before = open_segments.wanting_interims
    audio = np.zeros(1_600, np.float32)
    async with (
        engine.open() as one,
        engine.open() as two,
        engine.open(SessionOptions(interval=None)) as finals_only,
        engine.open(SessionOptions(preroll=0.5)) as silent,
    ):
        for session in (one, two, finals_only, silent):
            session.send(audio)
        assert open_segments.wanting_interims - before == 2
        one.configure(SessionOptions(interval=None))  # From its next segment on.
        assert open_segments.wanting_interims - before == 2
        await one.flush()
        one.send(audio)
        assert open_segments.wanting_interims - before == 1
        silent.start_segment()
        await eventually(
            lambda: open_segments.wanting_interims - before == 2
        )  # After the audio before it.
        two.abort()
        assert open_segments.wanting_interims - before == 1
        await silent.finish()
        assert open_segments.wanting_interims == before
    assert open_segments.wanting_interims == before


async def speak_until_speculated(
    streams: Streams, session: Session, samples: np.ndarray
) -> np.ndarray:
    """Speak, then be silent until the final has been made; gives all that was sent."""
    samples = np.pad(samples, (0, 160_000))
    for start in range(0, len(samples), 1_600):
        session.send(samples[start : start + 1_600])
        await session.wait_for_backlog(0.0)  # However rare interims are on a busy machine.
        for _ in range(3):  # Interim, speculation, and what the loop makes of them.
            await inference()
        sent = samples[: start + 1_600]
        if streams.opened[-1].speculated and len(sent) > len(samples) - 160_000:
            return sent
    raise AssertionError("no final was made in ten seconds of silence")


async def test_a_final_is_ready_before_it_is_asked_for(
    monkeypatch: pytest.MonkeyPatch, engine: Engine
) -> None:
    assert engine.model is not None
    streams = Streams(monkeypatch, engine.model)
    session = engine.open()
    heard = await speak_until_speculated(streams, session, SINGLE[0].samples())
    encode, encoded = engine.model.encoder.encode, []
    monkeypatch.setattr(
        engine.model.encoder, "encode", lambda *args: encoded.append(args) or encode(*args)
    )
    transcript = await session.flush()
    assert not encoded
    monkeypatch.undo()
    session.abort()
    (final,) = [event async for event in session if isinstance(event, Final)]
    assert final == Final(transcript, speculated=True)
    assert transcript.text
    assert spoken(transcript) == spoken(engine.model.transcribe(heard))


async def test_a_final_that_was_ready_is_dropped_when_speech_goes_on(
    monkeypatch: pytest.MonkeyPatch, engine: Engine
) -> None:
    assert engine.model is not None
    streams = Streams(monkeypatch, engine.model)
    session = engine.open()
    heard = await speak_until_speculated(streams, session, SINGLE[0].samples())
    more = SINGLE[1].samples()[: int(SINGLE[1].end * 16_000) - 1_600]  # Broken off.
    assert (await speak(session, more)).text
    session.abort()
    (final,) = [event async for event in session if isinstance(event, Final)]
    assert not final.speculated
    offline = engine.model.transcribe(np.concatenate((heard, more)))
    assert spoken(final.transcript) == spoken(offline)
    assert len(offline.words) > len(engine.model.transcribe(heard).words)


async def test_a_final_is_made_early_once_however_many_interims_tell_of_the_pause(
    monkeypatch: pytest.MonkeyPatch, engine: Engine
) -> None:
    """The thread is kept from speculating until two interims have seen the same pause."""
    assert engine.model is not None
    model = engine.model
    streams = Streams(monkeypatch, model)
    monkeypatch.setattr(model, "batch", MAX_BATCH)
    lengths: list[int] = []
    encode = model.encoder.encode

    def note(windows: list[np.ndarray], *args: object) -> object:
        lengths.append(len(windows))
        return encode(windows, *args)  # type: ignore[arg-type]

    monkeypatch.setattr(model.encoder, "encode", note)
    first, second = threading.Event(), threading.Event()
    samples = np.pad(SINGLE[0].samples(), (0, 8_000))
    other = type("Other", (), {"batch": 1})()  # A model of its own, so that no batch holds both.
    async with asyncio.timeout(PATIENCE), engine.open() as session:
        session.send(samples)
        device.submit(first.wait)  # Behind the interim.
        await anext(aiter(session))
        session.send(np.zeros(1_600, np.float32))  # The next interim.
        scheduler.add(Job(Priority.INTERIM, other, lambda: second.wait() and None, print))  # type: ignore[arg-type, return-value]
        first.set()
        await anext(aiter(session))
        second.set()
        for _ in range(3):
            await inference()
        assert streams.opened[-1].speculated
        assert lengths == [1, 1]  # An interim, which the next one repeats, and one speculation.


async def test_audio_is_bounded_and_what_was_heard_is_kept(engine: Engine) -> None:
    assert engine.model is not None
    gate = threading.Event()
    device.submit(gate.wait)
    samples = SINGLE[0].samples()
    async with engine.open(SessionOptions(interval=None)) as session:
        session.send(samples)
        with pytest.raises(BacklogError, match=r"^300\.0 s of audio were sent while \d\.\d s wait"):
            session.send(np.zeros(int(16_000 * MAX_BACKLOG_SECONDS), np.float32))
        gate.set()
        assert (await session.flush()).text == engine.model.transcribe(samples).text
        with pytest.raises(
            BacklogError, match=r"^300\.1 s of .* at most 300 s are kept.*Session.backlog"
        ):
            session.send(np.zeros(int(16_000 * (MAX_BACKLOG_SECONDS + 0.1)), np.float32))
        assert (await speak(session, samples)).text


async def test_hours_may_be_sent_as_fast_as_they_are_heard(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """More than may wait: whoever sends is told, waits, and sends the rest."""
    engine = Engine("tiny", backend="onnx")
    model = await engine.start()
    encode, lengths = model.encoder.encode, list[int]()

    def note(windows: list[np.ndarray], *args: object) -> object:
        lengths.extend(len(window) for window in windows)
        lags.append(session.backlog)
        return encode(windows, *args)  # type: ignore[arg-type]

    lags: list[float] = []
    monkeypatch.setattr(model.encoder, "encode", note)
    samples = np.tile(LONG.samples(), 10)
    assert len(samples) > 1.1 * MAX_BACKLOG_SECONDS * 16_000
    gate = threading.Event()
    device.submit(gate.wait)
    refused: list[ParakeetError] = []
    async with asyncio.timeout(PATIENCE), engine.open(SessionOptions(interval=None)) as session:
        for piece in np.split(samples, range(50_000, len(samples), 50_000)):
            while True:
                try:
                    session.send(piece)
                    break
                except ParakeetError as error:
                    refused.append(error)
                    gate.set()
                    await inference()
            assert session.backlog <= MAX_BACKLOG_SECONDS
        await session.wait_for_backlog(2.0)
        before = len(lengths)
        assert min(lags) > 2.0, "audio that is being processed still counts as waiting"
        final = await session.flush()
        assert session.seconds == len(samples) / 16_000
    assert max(lengths) <= MAX_WINDOW
    assert len(lengths) - before <= 1, "the final costs more than the last window"
    assert refused
    assert all(isinstance(error, BacklogError) for error in refused)
    assert spoken(final) == spoken(model.transcribe(samples))


@pytest.mark.parametrize("backend", ["onnx"])
@pytest.mark.parametrize("open_segment", [True, False], ids=["in speech", "before it"])
async def test_bad_samples_are_refused_and_the_session_goes_on(
    engine: Engine, open_segment: bool
) -> None:
    assert engine.model is not None
    samples = SINGLE[0].samples()
    bad: dict[str, object] = {
        r"got shape \(1600, 2\)": np.zeros((1_600, 2), np.float32),
        r"got shape \(\)": None,
        "got <U1": ["a", "b"],
        "got int64": np.zeros(1_600, np.int64),
        "not finite.* at 1 of 3": [0.0, np.nan, 0.0],
        "not finite.* at 0 of 1": [np.inf],
        "got one of 1e": np.full(1_600, 1e30, np.float32),
    }
    async with engine.open(SessionOptions(preroll=None if open_segment else 30.0)) as session:
        session.send(samples[:16_000])
        for message, audio in bad.items():
            with pytest.raises(AudioError, match=message):
                session.send(audio)
            session.send(np.zeros(0, np.float32))
            session.send([])
        assert session.seconds == 1.0
        assert session.state is (SessionState.SPEAKING if open_segment else SessionState.IDLE)
        session.start_segment()
        final = await speak(session, samples[16_000:])
        assert spoken(final) == spoken(engine.model.transcribe(samples))


async def test_whoever_sends_may_use_the_array_again(engine: Engine) -> None:
    """As sound cards' callbacks do."""
    assert engine.model is not None
    samples = SINGLE[0].samples()
    buffer = np.zeros(1_600, np.float32)
    async with engine.open(SessionOptions(preroll=0.3)) as session:
        for number, piece in enumerate(np.split(samples, range(1_600, len(samples), 1_600))):
            buffer[: len(piece)] = piece
            session.send(buffer[: len(piece)])
            if number == 2:
                session.start_segment()
        final = await session.flush()
        assert spoken(final) == spoken(engine.model.transcribe(samples))


async def test_the_preroll_belongs_to_the_segment_and_earlier_audio_does_not(
    engine: Engine,
) -> None:
    assert engine.model is not None
    recording = SINGLE[0]
    samples = recording.samples()
    cut = int(recording.start * 16_000) + 3_200  # 0.2 s into the first word.
    async with engine.open(SessionOptions(preroll=0.6)) as session:
        session.send(np.zeros(48_000, np.float32))
        session.send(samples[:cut])
        assert session.state is SessionState.IDLE
        session.start_segment()
        session.send(samples[cut:])
        final = await session.flush()
        assert final.text == engine.model.transcribe(samples[cut - 9_600 :]).text
        assert final.start == pytest.approx(3 + cut / 16_000 - 0.6)
        # Nothing of the first segment is taken for the second.
        session.start_segment()
        assert (await session.flush()).text == ""


async def test_flushing_without_a_segment_is_an_empty_final(engine: Engine) -> None:
    async with engine.open(SessionOptions(preroll=0.5)) as session:
        assert (await session.flush()).text == ""


async def test_cancelling_whoever_awaits_a_flush_loses_nothing(engine: Engine) -> None:
    assert engine.model is not None
    session = engine.open()
    gate = threading.Event()
    device.submit(gate.wait)
    session.send(SINGLE[0].samples())

    async def wait() -> None:
        await session.flush()

    waiting = asyncio.create_task(wait())
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.wait([waiting])
    assert waiting.cancelled()
    session.send(SINGLE[1].samples())
    gate.set()
    await session.finish()
    finals = [e.transcript.text async for e in session if isinstance(e, Final)]
    assert finals == [engine.model.transcribe(r.samples()).text for r in SINGLE[:2]]


async def test_an_aborted_session_ends_its_events_and_refuses_more(engine: Engine) -> None:
    session = engine.open()
    session.send(SINGLE[0].samples())
    pending = session.flush()
    session.abort()
    session.abort()
    with pytest.raises(SessionClosedError):
        await pending
    assert [event async for event in session if isinstance(event, Final)] == []
    for call in (
        lambda: session.send(np.zeros(1, np.float32)),
        session.start_segment,
        session.flush,
    ):
        with pytest.raises(SessionClosedError, match="closed"):
            call()


async def test_a_session_that_finishes_refuses_audio_and_requests(engine: Engine) -> None:
    session = engine.open()
    session.send(SINGLE[0].samples())
    gate = threading.Event()
    device.submit(gate.wait)
    finishing = asyncio.ensure_future(session.finish())
    await asyncio.sleep(0)
    assert not session.is_open
    send = lambda: session.send(np.zeros(1_600, np.float32))  # noqa: E731
    for refused in (send, session.flush, session.start_segment, session.discard):
        with pytest.raises(SessionClosedError, match="finishing"):
            refused()
    gate.set()
    assert (await finishing).text == SINGLE[0].text
    assert session.state is SessionState.CLOSED


async def test_a_session_that_fails_has_an_error_for_each_final_that_is_due(
    engine: Engine,
) -> None:
    session = engine.open(SessionOptions(interval=None, preroll=0.0, endpointing=Endpointing()))
    session.send(SINGLE[0].samples())
    finals = [session.flush("first"), session.flush("second")]
    session.fail(ParakeetError("out of time"))  # Before the endpointer has got on.
    for final in finals:
        with pytest.raises(ParakeetError, match="out of time"):
            await final
    events = [event async for event in session]
    assert [(type(e), e.tag, e.segment) for e in events] == [  # type: ignore[union-attr]
        (SegmentEnded, "first", 1),
        (Failed, "first", 1),
        (SegmentEnded, "second", 2),
        (Failed, "second", 2),
    ]
    assert session.state is SessionState.CLOSED


async def test_a_backlog_is_worked_off_though_interims_are_rare(engine: Engine) -> None:
    session = engine.open(SessionOptions(interval=3600))
    session.send(SINGLE[0].samples())
    assert session.backlog > 1
    async with asyncio.timeout(20):
        await session.wait_for_backlog(1)
    assert session.backlog <= 1
    assert (await session.finish()).text == SINGLE[0].text


async def test_an_error_stays_in_its_session(
    monkeypatch: pytest.MonkeyPatch, engine: Engine
) -> None:
    healthy, ill = engine.open(), engine.open()

    def fail(*arguments: object) -> object:
        raise MemoryError("no memory on the device")

    with monkeypatch.context() as patch:
        patch.setattr(engine.model, "open_stream", fail)
        ill.send(SINGLE[0].samples())
        with pytest.raises(MemoryError):
            await ill.flush()
    assert any([isinstance(e, Failed) async for e in _so_far(ill)])
    assert (await speak(healthy, SINGLE[1].samples())).text
    assert (await speak(ill, SINGLE[1].samples())).text, "the session did not go on"


async def test_interims_go_on_after_one_that_failed(
    monkeypatch: pytest.MonkeyPatch, engine: Engine
) -> None:
    samples = SINGLE[0].samples()
    failures: list[MemoryError] = []

    def fail_once(stream: Stream) -> None:
        make = stream.hypothesis_job

        def fail() -> EncoderJob[Hypothesis]:
            stream.hypothesis_job = make  # type: ignore[method-assign]
            failures.append(MemoryError("no memory on the device"))
            raise failures[-1]

        stream.hypothesis_job = fail  # type: ignore[method-assign]

    assert engine.model is not None
    Streams(monkeypatch, engine.model, fail_once)
    async with asyncio.timeout(PATIENCE), engine.open() as session:
        session.send(samples[:8_000])
        await session.wait_for_backlog(0.0)
        await eventually(lambda: bool(failures))
        session.send(samples[8_000:])
        async for event in session:
            assert isinstance(event, Hypothesis)
            break
        assert engine.model is not None
        assert spoken(await session.finish()) == spoken(engine.model.transcribe(samples))


async def test_a_window_that_fails_in_a_batch_leaves_the_other_finals_right(
    monkeypatch: pytest.MonkeyPatch, engine: Engine
) -> None:
    assert engine.model is not None
    model = engine.model
    monkeypatch.setattr(model, "batch", MAX_BATCH)
    chosen = SINGLE[:3]
    gate = threading.Event()
    device.submit(gate.wait)
    sessions = [engine.open(SessionOptions(interval=None)) for _ in chosen]
    ill = engine.open(SessionOptions(interval=None))
    ill.send(SINGLE[0].samples())

    def fail() -> EncoderJob[Transcript]:
        frames = yield Window(np.zeros((300, 7), np.float32), StreamOptions().band)
        raise AssertionError(f"seven bins were encoded: {frames.shape}")

    def fail_first(stream: Stream) -> None:
        if not streams.opened:
            stream.finish_job = fail  # type: ignore[method-assign]

    streams = Streams(monkeypatch, model, fail_first)
    failing = ill.flush()
    finals = []
    for session, recording in zip(sessions, chosen, strict=True):
        session.send(recording.samples())
        finals.append(session.flush())
    gate.set()
    for final, recording in zip(finals, chosen, strict=True):
        assert spoken(await final) == spoken(model.transcribe(recording.samples()))
    error = failing.exception()
    assert error is not None
    assert not isinstance(error, AssertionError)
    assert [e async for e in _so_far(ill) if isinstance(e, Failed)] == [Failed(error)]
    assert spoken(await speak(ill, SINGLE[3].samples())) == spoken(
        model.transcribe(SINGLE[3].samples())
    )


async def _so_far(session: Session) -> AsyncIterator[object]:
    while session.pending_events:
        yield await anext(aiter(session))


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


class WatchedLock:
    """The global lock, and whether inference has asked for it."""

    def __init__(self) -> None:
        self.wanted = threading.Event()

    def __enter__(self) -> None:
        self.wanted.set()
        MLX_GLOBAL_LOCK.acquire()

    def __exit__(self, *_: object) -> None:
        MLX_GLOBAL_LOCK.release()


async def test_mlx_waits_for_whoever_holds_the_global_lock(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    engine, lock = Engine("tiny", backend="mlx"), WatchedLock()
    await engine.start()
    async with engine.open(SessionOptions(interval=None)) as session:
        session.send(SINGLE[0].samples())
        with MLX_GLOBAL_LOCK:
            monkeypatch.setattr(device, "MLX_GLOBAL_LOCK", lock)
            final = session.flush()
            await eventually(lock.wanted.is_set)
            assert not final.done()
        assert (await final).text


async def test_the_event_loop_is_not_held_up_by_inference(engine: Engine) -> None:
    """Of the work of four sessions, the loop's thread does a small part."""
    sessions = [engine.open() for _ in range(4)]
    samples = np.concatenate([r.samples() for r in SINGLE[:6]])
    process, loop = time.process_time(), time.thread_time()
    await asyncio.gather(*(speak(session, samples, 8_000) for session in sessions))
    process, loop = time.process_time() - process, time.thread_time() - loop
    assert loop < process / 10


@pytest.mark.parametrize("backend", ["mlx", "onnx"])
def test_a_program_may_end_while_something_is_being_heard(backend: str) -> None:
    program = f"""
import threading
import numpy as np
from parakeet_stt import load_model
from parakeet_stt.model import device

model, begun = load_model("tiny", backend="{backend}"), threading.Event()
windows = [np.zeros((3_000, model.config.features), np.float32)] * 2

def work():
    begun.set()
    model.encoder.encode(windows, None)

device.submit(work)
device.submit(model.transcribe, np.zeros(16_000, np.float32))
begun.wait()
"""
    ended = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=PATIENCE
    )
    assert ended.returncode == 0, ended.stderr
    assert "Traceback" not in ended.stderr
