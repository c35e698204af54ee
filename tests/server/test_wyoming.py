"""Wyoming as Home Assistant speaks it: the package's own client, and what no client should send."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any

import numpy as np
import pytest
import soxr
from wyoming.asr import Transcribe, Transcript, TranscriptChunk, TranscriptStart, TranscriptStop
from wyoming.audio import AudioChunk, AudioStart, AudioStop
from wyoming.client import AsyncTcpClient
from wyoming.error import Error
from wyoming.event import Event, async_read_event
from wyoming.info import Describe, Info, SelectProgram
from wyoming.ping import Ping, Pong

from tests.support.recordings import RECORDINGS
from tests.support.serving import PATIENCE, Served, offline, pcm16, serving

RECORDING, OTHER = [recording for recording in RECORDINGS if recording.set == "known"][:2]
PCM, OTHER_PCM = pcm16(RECORDING.samples()), pcm16(OTHER.samples())
FORMAT = {"rate": 16_000, "width": 2, "channels": 1}


def client_of(served: Served) -> AsyncTcpClient:
    return AsyncTcpClient("127.0.0.1", served.port("wyoming_port"), read_timeout=PATIENCE)


async def next_event(client: AsyncTcpClient) -> Event:
    event = await client.read_event()
    assert event is not None, "the connection was closed"
    return event


async def speak(client: AsyncTcpClient, audio: bytes, size: int = 2048, **form: int) -> None:
    """An utterance, as Home Assistant sends it."""
    form = {**FORMAT, **form}
    await client.write_event(AudioStart(**form).event())
    for start in range(0, len(audio), size):
        await client.write_event(AudioChunk(audio=audio[start : start + size], **form).event())
    await client.write_event(AudioStop().event())


async def answer(client: AsyncTcpClient) -> list[Event]:
    """Everything up to the end of a transcript."""
    events = [await next_event(client)]
    while not TranscriptStop.is_type(events[-1].type):
        events.append(await next_event(client))
    return events


async def transcript(client: AsyncTcpClient) -> Transcript:
    """What Home Assistant reads: whatever is no transcript is passed over."""
    events = await answer(client)
    (event,) = (event for event in events if Transcript.is_type(event.type))
    return Transcript.from_event(event)


async def rest(client: AsyncTcpClient) -> list[Event]:
    """Everything until the server closes the connection."""
    events = []
    while (event := await client.read_event()) is not None:
        events.append(event)
    return events


def errors(events: list[Event]) -> list[Error]:
    return [Error.from_event(event) for event in events if Error.is_type(event.type)]


def texts(events: list[Event]) -> list[str]:
    return [Transcript.from_event(e).text for e in events if Transcript.is_type(e.type)]


async def test_what_can_be_had_is_described(served: Served) -> None:
    async with client_of(served) as client:
        await client.write_event(Describe().event())
        event = await next_event(client)
    assert Info.is_type(event.type)
    (program,) = Info.from_event(event).asr
    assert program.installed
    assert program.supports_transcript_streaming
    (model,) = program.models
    assert (model.name, model.languages, model.installed) == ("tiny", ["en"], True)
    await served.settled()


@pytest.mark.parametrize("size", [1, 7, 333, 2048, 32_000])
async def test_an_utterance_in_chunks_of_any_size_is_heard_whole(served: Served, size: int) -> None:
    async with client_of(served) as client:
        await client.write_event(Transcribe(language="en").event())
        await speak(client, PCM if size > 1 else PCM[:20_000], size)
        events = await answer(client)
    expected = offline(PCM if size > 1 else PCM[:20_000])
    assert texts(events) == [expected]
    assert Transcript.from_event(events[-2]).language == "en"
    assert errors(events) == []
    await served.settled()


async def heard(served: Served, client: AsyncTcpClient) -> list[Event]:
    """Wait until inference has come near to what was sent, so that it forms one hypothesis after
    another, as with somebody who speaks; returns what was said meanwhile."""
    await client.write_event(Ping().event())
    events = [await next_event(client)]
    while not Pong.is_type(events[-1].type):
        events.append(await next_event(client))
    (session,) = served.server.engine.sessions
    await served.start(session.wait_for_backlog(0.5))
    return events[:-1]


async def test_text_comes_while_one_speaks_and_the_chunks_are_the_transcript(
    served: Served,
) -> None:
    audio = PCM + OTHER_PCM + PCM
    async with client_of(served) as client:
        await client.write_event(Transcribe().event())
        await client.write_event(AudioStart(**FORMAT).event())
        before: list[Event] = []
        for start in range(0, len(audio), 3200):
            chunk = AudioChunk(audio=audio[start : start + 3200], **FORMAT)
            await client.write_event(chunk.event())
            before += await heard(served, client)
        await client.write_event(AudioStop().event())
        after = await answer(client)
    assert TranscriptStart.is_type(before[0].type)
    assert all(TranscriptChunk.is_type(event.type) for event in before[1:])
    events = before + after
    assert [event.type for event in events if event.type != "transcript-chunk"] == [
        "transcript-start",
        "transcript",
        "transcript-stop",
    ]
    chunks = [TranscriptChunk.from_event(e) for e in events if TranscriptChunk.is_type(e.type)]
    together, (text,) = "".join(chunk.text for chunk in chunks), texts(events)
    assert text == offline(audio)
    # Text that came early is not taken back, but what is heard later can change the final's mind.
    assert (together == text) == text.startswith(together)
    assert len(together) > len(text) / 2


async def test_one_connection_is_good_for_many_utterances_and_some_are_empty(
    served: Served,
) -> None:
    async with client_of(served) as client:
        for _ in range(2):
            await speak(client, PCM)
            assert (await transcript(client)).text == offline(PCM)
            await speak(client, b"")
            assert [e.type for e in await answer(client)] == [
                "transcript-start",
                "transcript",
                "transcript-stop",
            ]
            await speak(client, bytes(16_000))
            assert (await transcript(client)).text == ""
            await client.write_event(AudioStop().event())  # Without a beginning.
            assert (await transcript(client)).text == ""
        for audio in (OTHER_PCM, PCM):  # Without waiting for the first one's answer.
            await speak(client, audio)
        assert (await transcript(client)).text == offline(OTHER_PCM)
        assert (await transcript(client)).text == offline(PCM)
    await served.settled()


@pytest.mark.parametrize("rate", [16_000, 44_100])
async def test_a_client_that_stops_without_saying_so_gets_its_transcript(
    served: Served, rate: int
) -> None:
    audio = pcm16(soxr.resample(RECORDING.samples(), 16_000, rate))
    reader, writer = await asyncio.open_connection("127.0.0.1", served.port("wyoming_port"))
    form = {**FORMAT, "rate": rate}
    chunk = {"type": "audio-chunk", "data": form, "payload_length": len(audio)}
    writer.write(json.dumps(chunk).encode() + b"\n" + audio)
    writer.write_eof()
    events = []
    while event := await async_read_event(reader):
        events.append(event)
    assert texts(events) == [RECORDING.text]
    writer.close()
    await served.settled()


async def test_an_end_after_the_answer_adds_nothing_to_it(served: Served) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", served.port("wyoming_port"))
    writer.write(b'{"type":"audio-stop"}\n')
    writer.write_eof()
    data = await reader.read()
    assert data.count(b'"transcript"') == 1
    writer.close()
    await served.settled()


async def test_stereo_at_22_khz_is_heard(served: Served) -> None:
    rate = 22_050
    samples = soxr.resample(RECORDING.samples(), 16_000, rate)
    stereo = pcm16(np.stack([samples, samples], axis=1).reshape(-1))
    async with client_of(served) as client:
        heard = set()
        for size in (1001, 2048, len(stereo)):
            await speak(client, stereo, size, rate=rate, channels=2)
            heard.add((await transcript(client)).text)
    assert heard == {offline(pcm16(soxr.resample(samples, rate, 16_000)))}
    assert heard == {RECORDING.text}


async def test_chunks_say_themselves_what_they_are(served: Served) -> None:
    """Without a start, and with another rate from the middle on."""
    samples = RECORDING.samples()
    half = len(samples) // 2
    quick = soxr.resample(samples[half:], 16_000, 48_000)
    async with client_of(served) as client:
        await client.write_event(AudioChunk(audio=pcm16(samples[:half]), **FORMAT).event())
        other = AudioChunk(audio=pcm16(quick), **{**FORMAT, "rate": 48_000})
        await client.write_event(other.event())
        await client.write_event(AudioStop().event())
        assert (await transcript(client)).text == RECORDING.text


async def test_phrases_to_expect_are_taken(served: Served) -> None:
    async with client_of(served) as client:
        asked = Transcribe(transcript_names=["Ada Lovelace", " "], transcript_terms=["engine"])
        await client.write_event(asked.event())
        await client.write_event(Ping().event())
        assert Pong.is_type((await next_event(client)).type)
        (session,) = served.server.engine.sessions
        assert session.options.stream.boost.keys() == {"Ada Lovelace", "engine"}
        await client.write_event(Transcribe().event())
        await speak(client, PCM)
        assert (await transcript(client)).text == offline(PCM)
        assert session.options.stream.boost == {}


async def test_what_is_not_for_a_recogniser_is_dropped(served: Served) -> None:
    async with client_of(served) as client:
        await client.write_event(SelectProgram("another").event())
        await client.write_event(Event("synthesize", {"text": "hello"}))
        await client.write_event(Event("", {}, b"payload"))
        await speak(client, PCM)
        events = await answer(client)
    assert texts(events) == [offline(PCM)]
    assert errors(events) == []


async def test_a_language_that_the_model_does_not_know_is_said_and_a_transcript_comes(
    served: Served,
) -> None:
    async with client_of(served) as client:
        for language in ("en", "en-US", "en_GB", "auto", "", None):
            await client.write_event(Transcribe(language=language).event())
        await client.write_event(Transcribe(language="de").event())
        await speak(client, PCM)
        events = await answer(client)
    (error,) = errors(events)
    assert "'de'" in error.text
    assert texts(events) == [offline(PCM)]


@pytest.mark.parametrize(
    ("form", "complaint"),
    [
        ({"width": 1}, "16-bit"),
        ({"width": 4}, "16-bit"),
        ({"width": 0}, "16-bit"),
        ({"rate": 7}, "7 Hz"),
        ({"rate": 10**30}, "Hz"),
        ({"channels": 0}, "channels"),
        ({"channels": 999}, "channels"),
    ],
)
async def test_audio_that_cannot_be_heard_is_refused_once_and_then_goes_on(
    served: Served, form: dict[str, int], complaint: str
) -> None:
    async with client_of(served) as client:
        for _ in range(2):
            await speak(client, PCM, **form)
            events = await answer(client)
            (error,) = errors(events)
            assert complaint in error.text
            assert error.code == "unsupported-audio"
            assert texts(events) == [""]
        await speak(client, PCM)
        assert (await transcript(client)).text == offline(PCM)
    await served.settled()


@pytest.mark.parametrize(
    ("event", "complaint"),
    [
        (b'{"type":"audio-start"}\n', "rate"),
        (b'{"type":"audio-start","data":{"rate":"fast","width":2,"channels":1}}\n', "rate"),
        (b'{"type":"audio-start","data":{"rate":1e400,"width":2,"channels":1}}\n', "rate"),
        (b'{"type":"audio-chunk","payload_length":4}\nabcd', "rate"),
        (b'{"type":"transcribe","data":{"language":7}}\n', "language"),
        (b'{"type":"transcribe","data":{"transcript_names":"Ada"}}\n', "transcript_names"),
        (b'{"type":"ping","data":{"text":[]}}\n', "text"),
        (b'{"data":{}}\n', "type"),
        (b'{"type":7,"payload_length":3}\nabc', "type"),
        (b'{"type":"ping","data":[1]}\n', "data"),
        (b'{"type":"ping","data_length":2}\n[]', "data: Input should be an object"),
        (b'{"type":"ping","data_length":3}\n{"a', "data: Invalid JSON"),
        (b'{"type":"ping","data_length":2,"payload_length":2}\n\xff\xfeab', "JSON"),
    ],
)
async def test_an_event_that_cannot_be_used_is_an_error_and_costs_nothing_heard(
    served: Served, event: bytes, complaint: str
) -> None:
    async with client_of(served) as client:
        half = len(PCM) // 4 * 2
        await client.write_event(AudioChunk(audio=PCM[:half], **FORMAT).event())
        assert client._writer is not None
        client._writer.write(event)
        await speak(client, PCM[half:])
        events = await answer(client)
    (error,) = errors(events)
    assert complaint in error.text
    assert error.code == "bad-event"
    assert texts(events) == [offline(PCM)]
    await served.settled()


@pytest.mark.parametrize(
    ("sent", "complaint"),
    [
        (b"GET / HTTP/1.1\r\nHost: here\r\n\r\n", "JSON"),
        (b"\x00\xff\xfe\n", "JSON"),
        (b"[]\n", "header"),
        (b'"describe"\n', "header"),
        (b'{"type":"audio-chunk","payload_length":-1}\n', "payload_length"),
        (b'{"type":"audio-chunk","data_length":-5}\n', "data_length"),
        (b'{"type":"audio-chunk","payload_length":"many"}\n', "payload_length"),
        (b'{"type":"audio-chunk","payload_length":1.5}\n', "payload_length"),
        (b'{"type":"audio-chunk","payload_length":99999999999999999999}\n', "at most"),
        (b'{"type":"audio-chunk","data_length":4194305}\n', "expected at most 4194304"),
        (b'{"type":"audio-chunk","payload_length":100}\nabc', "100 bytes of payload"),
        (b'{"type":"audio-chunk","data_length":100}\n{}', "100 bytes of data"),
        (b"[" * 100_000 + b"\n", "header"),
        (b"{" * 5_000_000, "a line of over 4"),
    ],
)
async def test_what_has_no_end_is_told_and_closes_and_what_was_heard_before_is_not_lost(
    served: Served, sent: bytes, complaint: str
) -> None:
    async with client_of(served) as client:
        await client.write_event(AudioChunk(audio=PCM, **FORMAT).event())
        assert client._writer is not None
        client._writer.write(sent)
        client._writer.write_eof()
        events = await rest(client)
    (error,) = errors(events)
    assert complaint in error.text
    assert texts(events) == [offline(PCM)]
    await served.settled()


@contextlib.asynccontextmanager
async def halfway(served: Served) -> AsyncIterator[AsyncTcpClient]:
    """A client in the middle of an utterance, whose audio has been received."""
    async with client_of(served) as client:
        await client.write_event(AudioChunk(audio=PCM, **FORMAT).event())
        await client.write_event(Ping().event())
        await heard(served, client)
        yield client


async def test_one_client_too_many_is_told_so() -> None:
    with serving(max_sessions=1, wyoming_port=0) as served:
        async with halfway(served) as inside:
            async with client_of(served) as client:
                await speak(client, PCM)  # It does not look before it speaks.
                (event,) = await rest(client)
                error = Error.from_event(event)
                assert (error.code, "1 sessions" in error.text) == ("sessions", True)
            await inside.write_event(AudioStop().event())
            assert (await transcript(inside)).text == offline(PCM)
        await served.settled()
        async with client_of(served) as client:
            await speak(client, PCM)
            assert (await transcript(client)).text == offline(PCM)


async def test_a_server_that_shuts_down_gives_the_transcript_first() -> None:
    with serving(wyoming_port=0) as served:
        async with halfway(served) as client:
            draining = asyncio.create_task(asyncio.to_thread(served.run, served.server.drain()))
            events = await rest(client)
            assert texts(events) == [offline(PCM)]
            assert "shutting down" in errors(events)[0].text
            await draining
        async with client_of(served) as client:
            assert errors(await rest(client))[0].code == "draining"


async def test_an_idle_client_gets_its_transcript_and_the_reason() -> None:
    with serving(idle_seconds=1.5, wyoming_port=0) as served:
        async with halfway(served) as client:
            events = await rest(client)
        assert texts(events) == [offline(PCM)]
        assert "1.5 seconds" in errors(events)[0].text
        await served.settled()


async def test_inference_that_fails_is_an_error_and_an_empty_transcript() -> None:
    with serving(wyoming_port=0) as served:
        encoder = served.server.model.encoder

        def fail(*_: Any) -> Any:
            raise RuntimeError("out of memory")

        async with client_of(served) as client:
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(encoder, "encode", fail)
                await speak(client, PCM)
                events = await answer(client)
            assert "out of memory" in errors(events)[0].text
            assert texts(events) == [""]
            await speak(client, PCM)
            assert (await transcript(client)).text == offline(PCM)


async def test_keys_keep_the_port_to_this_machine() -> None:
    with serving(host="0.0.0.0", api_keys="secret", wyoming_port=0) as served:
        addresses = {s.getsockname()[0] for tcp in served.running._tcp for s in tcp.sockets}
        assert addresses == {"127.0.0.1"}
