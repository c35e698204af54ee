"""The endpointer: where speech begins and ends, whatever the pieces; and sessions that use it."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from parakeet_stt import Engine, Final
from parakeet_stt.audio import SAMPLE_RATE, Samples
from parakeet_stt.engine.events import Event, SpeechStarted, SpeechStopped, TimeReached
from parakeet_stt.engine.options import SessionOptions
from parakeet_stt.engine.session import Session
from parakeet_stt.engine.vad import Change, Endpointer, Endpointing, Speech
from parakeet_stt.errors import ConfigurationError
from tests.support.recordings import RECORDINGS

SINGLE = [recording for recording in RECORDINGS if recording.set == "known"]
PAUSE = np.zeros(SAMPLE_RATE, np.float32)


def said(*numbers: int) -> Samples:
    """Recordings, a second of silence after each."""
    return np.concatenate([p for n in numbers for p in (SINGLE[n].samples(), PAUSE)])


@pytest.fixture
async def engine() -> Engine:
    engine = Engine("tiny", backend="onnx")
    await engine.start()
    return engine


ENDPOINTED = SessionOptions(interval=None, preroll=0.6, endpointing=Endpointing())


async def collect(session: Session) -> list[Event]:
    return [event async for event in session]


def test_speech_is_found_where_the_labels_say() -> None:
    for recording in SINGLE[:20]:
        changes = Endpointer(Endpointing())(np.concatenate((recording.samples(), PAUSE)))
        assert changes[0].speech is Speech.STARTED
        assert changes[-1].speech is Speech.STOPPED
        assert abs(changes[0].since / SAMPLE_RATE - recording.start) < 0.5
        assert abs(changes[-1].since / SAMPLE_RATE - recording.end) < 0.35


@given(st.lists(st.integers(1, 20_000), min_size=1, max_size=8))
def test_changes_do_not_depend_on_the_pieces(lengths: list[int]) -> None:
    audio = said(0, 1)
    whole = Endpointer(Endpointing())(audio)
    endpointer, changes, position = Endpointer(Endpointing()), list[Change](), 0
    while position < len(audio):
        for length in lengths:
            changes += endpointer(audio[position : position + length])
            position += length
    assert changes == whole


def test_streams_do_not_disturb_each_other() -> None:
    alone = Endpointer(Endpointing())(said(0))
    one, other = Endpointer(Endpointing()), Endpointer(Endpointing())
    mine, theirs = said(0), said(3)
    changes = []
    for start in range(0, len(mine), 1600):
        changes += one(mine[start : start + 1600])
        other(theirs[start : start + 1600])
    assert changes == alone


@pytest.mark.parametrize("wrong", [{"threshold": 0}, {"threshold": 1.5}, {"stop_seconds": -1}])
def test_endpointing_that_cannot_be_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ConfigurationError, match="expected"):
        Endpointing(**wrong)


@pytest.mark.parametrize("piece", [160, 1600, 16_000])
async def test_a_session_finds_the_segments_by_itself(engine: Engine, piece: int) -> None:
    audio = said(0, 1, 2)
    async with engine.open(SessionOptions(preroll=0.6, endpointing=Endpointing())) as session:
        collecting = asyncio.create_task(collect(session))
        for start in range(0, len(audio), piece):
            session.send(audio[start : start + piece])
            await session.wait_for_backlog(1.0)
        await session.finish()
        events = await collecting
    finals = [event for event in events if isinstance(event, Final) and event.transcript.text]
    assert [final.transcript.text for final in finals] == [SINGLE[n].text for n in range(3)]
    changes = [event for event in events if isinstance(event, SpeechStarted | SpeechStopped)]
    assert [type(change) for change in changes] == [SpeechStarted, SpeechStopped] * 3
    assert [change.at for change in changes] == sorted(change.at for change in changes)
    assert engine.sessions == frozenset()


async def test_what_is_heard_does_not_depend_on_the_pieces(engine: Engine) -> None:
    audio = said(4, 5)

    async def hear(piece: int) -> list[Event]:
        async with engine.open(ENDPOINTED) as session:
            for start in range(0, len(audio), piece):
                session.send(audio[start : start + piece])
            await session.finish()
            # A final may come before or after the next speech begins.
            return sorted(await collect(session), key=lambda event: isinstance(event, Final))

    assert await hear(1000) == await hear(7) == await hear(48_000)


async def test_a_reminder_comes_in_its_place_among_the_events(engine: Engine) -> None:
    first, audio = len(said(4)) / SAMPLE_RATE, said(4, 5)

    async def hear(piece: int) -> list[Event]:
        async with engine.open(ENDPOINTED) as session:
            session.notify_at(first)
            for start in range(0, len(audio), piece):
                session.send(audio[start : start + piece])
            await session.flush()
            session.notify_at(1.0)  # Gone by already.
            await session.finish()
            shown = (SpeechStarted, SpeechStopped, TimeReached)
            return [event for event in await collect(session) if isinstance(event, shown)]

    events = await hear(1000)
    kinds = [SpeechStarted, SpeechStopped, TimeReached, SpeechStarted, SpeechStopped, TimeReached]
    assert [type(event) for event in events] == kinds
    assert [event.at for event in events if isinstance(event, TimeReached)] == [first, 1.0]
    assert events == await hear(48_000)


async def test_a_flush_hears_what_was_too_short_for_the_endpointer(engine: Engine) -> None:
    recording = SINGLE[0]
    patient = Endpointing(start_seconds=30)
    async with engine.open(SessionOptions(preroll=0.6, endpointing=patient)) as session:
        session.send(recording.samples())
        assert (await session.flush()).text == recording.text
        session.send(np.zeros(16_000, np.float32))
        assert (await session.flush()).text == ""


async def test_after_a_flush_in_the_midst_of_speech_nothing_is_lost(engine: Engine) -> None:
    audio = said(0)
    middle = len(SINGLE[0].samples()) // 2
    async with engine.open(SessionOptions(preroll=0.6, endpointing=Endpointing())) as session:
        collecting = asyncio.create_task(collect(session))
        session.send(audio[:middle])
        first = session.flush("asked")
        session.send(audio[middle:])
        await session.finish()
        finals = [event for event in await collecting if isinstance(event, Final)]
    assert [final.tag for final in finals] == ["asked", None, None]
    assert finals[0].transcript == await first
    assert finals[1].transcript.start == pytest.approx(middle / SAMPLE_RATE, abs=0.7)
    words = sum(len(final.transcript.words) for final in finals)
    assert abs(words - len(SINGLE[0].text.split())) <= 1  # The word that was cut, once or twice.


async def test_every_flush_is_acknowledged_in_order(engine: Engine) -> None:
    async with engine.open(SessionOptions(interval=None)) as session:
        session.send(SINGLE[0].samples())
        for tag in range(5):
            session.flush(tag)
        await session.finish()
        events = await collect(session)
    assert [event.tag for event in events if isinstance(event, Final)] == [0, 1, 2, 3, 4, None]


async def test_a_short_segment_goes_on_over_a_silence(engine: Engine) -> None:
    audio = said(0, 1, 2)
    lasting = Endpointing(min_segment_seconds=len(said(0)) / SAMPLE_RATE + 1)
    async with engine.open(SessionOptions(interval=None, endpointing=lasting)) as session:
        session.send(audio)
        await session.finish()
        finals = [e.transcript for e in await collect(session) if isinstance(e, Final)]
    assert [final.text for final in finals] == [
        f"{SINGLE[0].text} {SINGLE[1].text}",
        SINGLE[2].text,
    ]


async def test_endpointing_may_be_changed_while_speech_is_judged(engine: Engine) -> None:
    audio = said(0)
    async with engine.open(SessionOptions(preroll=0.6, endpointing=Endpointing())) as session:
        session.send(audio)
        session.configure(SessionOptions(interval=None))
        assert (await session.flush()).text in SINGLE[0].text
        session.send(SINGLE[1].samples())
        assert (await session.flush()).text == SINGLE[1].text


def keypad(seconds: float) -> Samples:
    """Someone who types a number slowly: a tone of 0.15 s each second."""
    time = np.arange(int(0.15 * SAMPLE_RATE)) / SAMPLE_RATE
    tones = [(697, 1209), (770, 1336), (852, 1477), (941, 1336), (770, 1209), (852, 1209)]
    keys = []
    for low, high in tones:
        tone = 0.1 * (np.sin(2 * np.pi * low * time) + np.sin(2 * np.pi * high * time))
        keys.append(np.concatenate((tone, np.zeros(int(0.85 * SAMPLE_RATE)))))
    count = int(seconds)
    return np.concatenate([keys[n % len(keys)] for n in range(count)]).astype(np.float32)


async def test_a_flush_transcribes_no_half_minute_of_tones(engine: Engine) -> None:
    async with engine.open(ENDPOINTED) as session:
        session.send(keypad(29))
        final = await session.flush()
        assert final.end - final.start < 3.5
        session.send(SINGLE[0].samples())
        assert (await session.flush()).text == SINGLE[0].text


async def test_a_word_that_is_too_short_for_the_endpointer_is_heard_behind_tones(
    engine: Engine,
) -> None:
    word = SINGLE[0].samples()
    patient = Endpointing(start_seconds=len(word) / SAMPLE_RATE)
    async with engine.open(
        SessionOptions(interval=None, preroll=0.6, endpointing=patient)
    ) as session:
        session.send(np.concatenate((keypad(12), PAUSE, word)))
        assert SINGLE[0].text in (await session.flush()).text
