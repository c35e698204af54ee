"""``/v1/realtime`` with OpenAI's own client, with Pipecat's service, and with what others send."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import numpy as np
import pytest
import soxr
import websockets
from openai import AsyncOpenAI
from openai.resources.realtime.realtime import AsyncRealtimeConnection
from openai.types.realtime import (
    ConversationItemAdded,
    ConversationItemDone,
    ConversationItemInputAudioTranscriptionCompletedEvent,
    InputAudioBufferCommittedEvent,
    RealtimeErrorEvent,
    SessionCreatedEvent,
    SessionUpdatedEvent,
)
from pipecat.audio.vad.silero import SileroVADAnalyzer
from pipecat.audio.vad.vad_analyzer import VADParams
from pipecat.frames.frames import (
    ErrorFrame,
    InterimTranscriptionFrame,
    ProposedUserStartedSpeakingFrame,
    ProposedUserStoppedSpeakingFrame,
    TranscriptionFrame,
)
from pipecat.processors.audio.vad_processor import VADProcessor
from pipecat.services.openai.stt import OpenAIRealtimeSTTService
from websockets.asyncio.client import ClientConnection, connect

from parakeet_stt import load_model
from parakeet_stt.audio import SAMPLE_RATE, Resampler, Samples
from parakeet_stt.model.stream import EncoderJob
from parakeet_stt.transcript import Transcript
from tests.support.pipelines import Listener, play
from tests.support.recordings import RECORDINGS
from tests.support.serving import Served, in_frames, pcm16, serving
from tests.support.streams import Streams
from tests.support.telephone import ALAW, MULAW, compand

RATE = 24_000
TRANSCRIPTION = "conversation.item.input_audio_transcription"
KNOWN = [recording for recording in RECORDINGS if recording.set == "known"]


def resampled(samples: Samples, rate: int = RATE) -> Samples:
    audio: Samples = soxr.resample(samples, SAMPLE_RATE, rate)
    return audio


def offline(pcm: bytes, rate: int = RATE) -> str:
    """What ``transcribe()`` makes of 16-bit PCM that our resampler brought to 16 kHz."""
    resampler = Resampler(rate)
    samples = np.frombuffer(pcm, "<i2").astype(np.float32) / np.float32(32768)
    heard = np.concatenate((resampler(samples), resampler.flush()))
    return load_model("tiny", backend="onnx").transcribe(heard).text


PCM = pcm16(resampled(KNOWN[0].samples()))
TEXT = KNOWN[0].text
OTHER = pcm16(resampled(KNOWN[1].samples()))
SILENCE = bytes(2 * RATE)
MANUAL = {"type": "transcription", "audio": {"input": {"turn_detection": None}}}


def openai(served: Served) -> AsyncOpenAI:
    return AsyncOpenAI(
        api_key="any", base_url=served.http + "/v1", websocket_base_url=served.ws + "/v1"
    )


@asynccontextmanager
async def transcribing(
    served: Served, **audio_input: Any
) -> AsyncIterator[AsyncRealtimeConnection]:
    """OpenAI's client in a session whose input is described so."""
    async with openai(served).realtime.connect(
        extra_query={"intent": "transcription"}
    ) as connection:
        assert isinstance(await connection.recv(), SessionCreatedEvent)
        if audio_input:
            session: Any = {"type": "transcription", "audio": {"input": audio_input}}
            await connection.session.update(session=session)
            assert isinstance(await connection.recv(), SessionUpdatedEvent)
        yield connection


async def send(connection: Any, audio: bytes, size: int = 4800) -> None:
    for start in range(0, len(audio), size):
        piece = base64.b64encode(audio[start : start + size]).decode()
        await connection.input_audio_buffer.append(audio=piece)


async def until_completed(connection: Any, count: int = 1) -> list[Any]:
    """Events up to so many transcripts; an error is never among them."""
    events: list[Any] = []
    while count:
        events.append(await connection.recv())
        assert events[-1].type != "error", events[-1]
        count -= events[-1].type == f"{TRANSCRIPTION}.completed"
    return events


def transcripts(events: list[Any]) -> list[str]:
    return [event.transcript for event in events if event.type == f"{TRANSCRIPTION}.completed"]


def kinds(events: list[Any]) -> list[str]:
    """Types of events, but for deltas."""
    return [event.type for event in events if event.type != f"{TRANSCRIPTION}.delta"]


async def test_openais_client_transcribes(served: Served) -> None:
    async with transcribing(served, turn_detection=None) as connection:
        await send(connection, PCM)
        await connection.input_audio_buffer.commit()
        events = await until_completed(connection)
    told = [event.delta for event in events if event.type == f"{TRANSCRIPTION}.delta"]
    assert "".join(told) == TEXT != ""
    committed, added, done, completed = (e for e in events if not e.type.endswith("delta"))
    assert isinstance(committed, InputAudioBufferCommittedEvent)
    assert isinstance(added, ConversationItemAdded)
    assert isinstance(done, ConversationItemDone)
    assert isinstance(completed, ConversationItemInputAudioTranscriptionCompletedEvent)
    assert completed.transcript == TEXT
    assert completed.content_index == 0
    assert completed.usage.type == "duration"
    assert completed.usage.seconds == pytest.approx(len(PCM) / 2 / RATE, abs=0.01)
    assert committed.previous_item_id is None
    assert {committed.item_id, added.item.id, completed.item_id} == {done.item.id}
    assert len({event.event_id for event in events}) == len(events)
    await served.settled()


async def test_the_betas_client_transcribes(served: Served) -> None:
    async with openai(served).beta.realtime.connect(
        model="gpt-4o-transcribe", extra_query={"intent": "transcription"}
    ) as connection:
        created: Any = await connection.recv()
        assert created.type == "transcription_session.created"
        assert created.session["input_audio_transcription"] == {"model": "gpt-4o-transcribe"}
        turns: Any = None
        await connection.transcription_session.update(
            session={"input_audio_format": "pcm16", "turn_detection": turns}
        )
        updated: Any = await connection.recv()
        assert updated.type == "transcription_session.updated"
        assert updated.session.input_audio_format == "pcm16"
        assert updated.session.turn_detection is None
        await send(connection, PCM)
        await connection.input_audio_buffer.commit()
        events = await until_completed(connection)
    assert kinds(events) == [
        "input_audio_buffer.committed",
        "conversation.item.created",
        f"{TRANSCRIPTION}.completed",
    ]
    assert transcripts(events) == [TEXT]


@pytest.mark.parametrize("size", [1, 7, 333, 960, 2 * RATE])
async def test_audio_of_any_frame_size_is_heard_whole(served: Served, size: int) -> None:
    async with raw(served) as ws:
        await ask(ws, "session.update", session=MANUAL)
        for frame in in_frames(PCM, size):
            data = base64.b64encode(frame).decode()
            await ask(ws, "input_audio_buffer.append", audio=data)
        await ask(ws, "input_audio_buffer.commit")
        events = await until(ws, f"{TRANSCRIPTION}.completed")
    assert events[-1]["transcript"] == TEXT


async def test_the_server_finds_turns(served: Served) -> None:
    turns = {"type": "server_vad", "prefix_padding_ms": 400, "silence_duration_ms": 300}
    async with transcribing(served, turn_detection=turns) as connection:
        await send(connection, PCM + SILENCE + PCM + SILENCE)
        events = await until_completed(connection, 2)
    order = [e for e in events if e.type.startswith("input_audio_buffer") or "completed" in e.type]
    for number, recording_at in enumerate((0.0, (len(PCM) / 2 + RATE) / RATE)):
        item = [e for e in order if getattr(e, "item_id", None) == order[0].item_id]
        order = order if number else [e for e in order if e not in item]
        started, stopped, committed, completed = item
        assert [e.type.rpartition(".")[2] for e in item] == [
            *("speech_started", "speech_stopped", "committed", "completed")
        ]
        assert completed.transcript == KNOWN[0].text
        begun, ended = recording_at + KNOWN[0].start, recording_at + KNOWN[0].end
        assert begun * 1000 - 700 <= started.audio_start_ms <= begun * 1000
        assert ended * 1000 <= stopped.audio_end_ms <= ended * 1000 + 700
        assert (committed.previous_item_id is None) == (number == 0)


async def test_turns_are_found_without_being_asked_for(served: Served) -> None:
    async with transcribing(served) as connection:
        await send(connection, PCM + SILENCE)
        assert transcripts(await until_completed(connection)) == [KNOWN[0].text]


@pytest.mark.parametrize("turns", [None, {"type": "server_vad"}])
async def test_a_commit_right_after_the_last_audio_keeps_the_last_word(
    served: Served, turns: Any
) -> None:
    audio = PCM[: int(KNOWN[0].end * RATE) * 2]  # Nothing of the silence after it.
    async with transcribing(served, turn_detection=turns) as connection:
        await send(connection, audio)
        await connection.input_audio_buffer.commit()
        events = await until_completed(connection)
    assert transcripts(events) == [KNOWN[0].text]
    if turns:
        assert kinds(events)[:3] == [
            "input_audio_buffer.speech_started",
            "input_audio_buffer.speech_stopped",
            "input_audio_buffer.committed",
        ]


async def test_items_come_in_order_and_know_what_they_follow(served: Served) -> None:
    audio = [pcm16(resampled(recording.samples())) for recording in KNOWN[:5]]
    async with transcribing(served, turn_detection=None) as connection:
        for piece in audio:
            await send(connection, piece)
            await connection.input_audio_buffer.commit()
        events = await until_completed(connection, len(audio))
    committed = [e for e in events if e.type == "input_audio_buffer.committed"]
    completed = [e for e in events if e.type == f"{TRANSCRIPTION}.completed"]
    assert [e.item_id for e in committed] == [e.item_id for e in completed]
    assert [e.previous_item_id for e in committed] == [None, *(e.item_id for e in committed[:-1])]
    assert transcripts(events) == [offline(piece) for piece in audio]
    for item in completed:
        told = [
            e.delta
            for e in events
            if e.type == f"{TRANSCRIPTION}.delta" and e.item_id == item.item_id
        ]
        assert "".join(told) == item.transcript


async def test_deltas_come_while_there_is_speech_and_are_never_taken_back(served: Served) -> None:
    async with transcribing(served, turn_detection=None) as connection:
        await send(connection, PCM + OTHER)
        first: Any = await connection.recv()
        assert first.type == f"{TRANSCRIPTION}.delta"
        await connection.input_audio_buffer.commit()
        events = [first, *await until_completed(connection)]
    told = [e for e in events if e.type == f"{TRANSCRIPTION}.delta"]
    assert len({e.item_id for e in events if hasattr(e, "item_id")}) == 1
    assert "".join(e.delta for e in told) == transcripts(events)[0] == offline(PCM + OTHER)


@pytest.mark.parametrize("turns", [None, {"type": "server_vad"}])
async def test_what_was_cleared_is_not_heard(served: Served, turns: Any) -> None:
    async with transcribing(served, turn_detection=turns) as connection:
        await send(connection, PCM)
        await connection.input_audio_buffer.clear()
        before = []
        while not before or before[-1].type != "input_audio_buffer.cleared":
            before.append(await connection.recv())
        await send(connection, OTHER)
        await connection.input_audio_buffer.commit()
        events = await until_completed(connection)
    assert not [e for e in before if e.type == "input_audio_buffer.committed"]
    assert transcripts(events) == [offline(OTHER)]
    items = [{e.item_id for e in part if hasattr(e, "item_id")} for part in (before, events)]
    assert len(items[1]) == 1
    assert not items[0] & items[1]


async def test_what_was_committed_is_not_cleared(served: Served) -> None:
    async with transcribing(served, turn_detection=None) as connection:
        await send(connection, PCM)
        await connection.input_audio_buffer.commit()
        await connection.input_audio_buffer.clear()
        await connection.input_audio_buffer.commit()
        assert transcripts(await until_completed(connection, 2)) == [TEXT, ""]


@pytest.mark.parametrize("turns", [None, {"type": "server_vad"}])
async def test_an_empty_commit_is_an_empty_item(served: Served, turns: Any) -> None:
    async with transcribing(served, turn_detection=turns) as connection:
        for _ in range(3):
            await connection.input_audio_buffer.commit()
        await send(connection, PCM)
        await connection.input_audio_buffer.commit()
        assert transcripts(await until_completed(connection, 4))[:3] == [""] * 3


async def test_many_commits_at_once_are_no_reason_to_end(served: Served) -> None:
    async with transcribing(served, turn_detection=None) as connection:
        for _ in range(60):
            await connection.input_audio_buffer.commit()
        assert transcripts(await until_completed(connection, 60)) == [""] * 60


@pytest.mark.parametrize("name", ["audio/pcmu", "audio/pcma", "g711_ulaw", "g711_alaw"])
async def test_telephone_audio_is_heard(served: Served, name: str) -> None:
    narrow = resampled(KNOWN[0].samples(), 8_000)
    table = MULAW if name in ("audio/pcmu", "g711_ulaw") else ALAW
    audio = compand(narrow, table)
    async with raw(served) as ws:
        if name.startswith("audio"):
            shape = {"audio": {"input": {"format": {"type": name}, "turn_detection": None}}}
            await ask(ws, "session.update", session={"type": "transcription", **shape})
        else:
            flat = {"input_audio_format": name, "turn_detection": None}
            await ask(ws, "transcription_session.update", session=flat)
        shown = json.loads(await ws.recv())["session"]
        flat_name = shown.get("input_audio_format")
        assert (flat_name or shown["audio"]["input"]["format"]["type"]) == name
        await ask(ws, "input_audio_buffer.append", audio=base64.b64encode(audio).decode())
        await ask(ws, "input_audio_buffer.commit")
        heard = (await until(ws, f"{TRANSCRIPTION}.completed"))[-1]["transcript"]
    decoded = table[np.frombuffer(audio, np.uint8)] * 32768
    assert heard == offline(decoded.astype("<i2").tobytes(), 8_000) != ""


@asynccontextmanager
async def raw(served: Served, **options: Any) -> AsyncIterator[ClientConnection]:
    """A WebSocket that has been greeted."""
    async with connect(f"{served.ws}/v1/realtime?intent=transcription", **options) as ws:
        assert json.loads(await ws.recv())["type"].endswith("session.created")
        yield ws


async def ask(ws: ClientConnection, kind: str, **content: Any) -> None:
    await ws.send(json.dumps({"type": kind, **content}))


async def until(ws: ClientConnection, kind: str) -> list[dict[str, Any]]:
    events = [json.loads(await ws.recv())]
    while events[-1]["type"] != kind:
        events.append(json.loads(await ws.recv()))
    return events


def updating(**session: Any) -> str:
    return json.dumps({"type": "session.update", "event_id": "mine", "session": session})


def listening(**audio_input: Any) -> str:
    return updating(type="transcription", audio={"input": audio_input})


@pytest.mark.parametrize(
    ("message", "code", "param"),
    [
        ("{", "invalid_json", None),
        ("[" * 10_000, "invalid_json", None),
        (b"\x00\x01", "invalid_value", None),
        ('"text"', "invalid_value", "type"),
        ('{"event_id":"mine"}', "invalid_value", "type"),
        ('{"type":"shout","event_id":"mine"}', "invalid_value", "type"),
        ('{"type":7,"event_id":"mine"}', "invalid_value", "type"),
        ('{"type":"response.create","event_id":"mine"}', "invalid_value", "type"),
        (
            '{"type":"input_audio_buffer.append","event_id":"mine"}',
            "missing_required_parameter",
            "audio",
        ),
        (
            '{"type":"input_audio_buffer.append","event_id":"mine","audio":"@@@"}',
            "invalid_value",
            "audio",
        ),
        (
            '{"type":"input_audio_buffer.append","event_id":"mine","audio":[1]}',
            "invalid_value",
            "audio",
        ),
        ('{"type":"session.update","event_id":"mine"}', "missing_required_parameter", "session"),
        (updating(type="realtime"), "invalid_value", "session.type"),
        (
            listening(format={"type": "audio/mp3"}),
            "invalid_value",
            "session.audio.input.format.type",
        ),
        (
            listening(turn_detection={"type": "server_vad", "threshold": 7}),
            "invalid_value",
            "session.audio.input.turn_detection.threshold",
        ),
        (
            listening(turn_detection={"silence_duration_ms": 1e300}),
            "invalid_value",
            "session.audio.input.turn_detection.silence_duration_ms",
        ),
        (
            listening(transcription={"keywords": 3}),
            "invalid_value",
            "session.audio.input.transcription.keywords",
        ),
    ],
)
async def test_a_message_that_cannot_be_used_is_an_error_and_costs_nothing_heard(
    served: Served, message: str | bytes, code: str, param: str | None
) -> None:
    async with raw(served) as ws:
        await ask(ws, "session.update", session=MANUAL)
        half = len(PCM) // 4 * 2
        for audio in (PCM[:half], PCM[half:]):
            data = base64.b64encode(audio).decode()
            await ask(ws, "input_audio_buffer.append", audio=data)
            if audio == PCM[:half]:
                await ws.send(message)
        await ask(ws, "input_audio_buffer.commit")
        events = await until(ws, f"{TRANSCRIPTION}.completed")
    errors = [event["error"] for event in events if event["type"] == "error"]
    assert len(errors) == 1
    assert errors[0]["type"] == "invalid_request_error"
    assert (errors[0]["code"], errors[0]["param"]) == (code, param)
    assert errors[0]["message"]
    assert errors[0]["event_id"] == ("mine" if "mine" in str(message) else None)
    assert events[-1]["transcript"] == TEXT


async def test_openais_client_can_read_an_error(served: Served) -> None:
    async with transcribing(served) as connection:
        await connection.response.create(event_id="asked")
        error = await connection.recv()
    assert isinstance(error, RealtimeErrorEvent)
    assert error.error.event_id == "asked"
    assert "transcribes" in error.error.message


async def test_unknown_fields_and_noise_reduction_are_no_error(served: Served) -> None:
    asked = {
        "transcription": {"model": "gpt-realtime-whisper", "language": "en", "colour": "red"},
        "noise_reduction": {"type": "near_field"},
        "turn_detection": {"type": "server_vad", "create_response": True, "idle_timeout_ms": 6000},
    }
    async with raw(served) as ws:
        await ask(
            ws,
            "session.update",
            session={"type": "transcription", "audio": {"input": asked}, "include": ["x"]},
        )
        updated = json.loads(await ws.recv())
    assert updated["type"] == "session.updated"
    assert updated["session"]["include"] is None
    shown = updated["session"]["audio"]["input"]
    assert shown["transcription"] == {"model": "gpt-realtime-whisper", "language": "en"}
    assert shown["noise_reduction"] is None
    assert shown["turn_detection"] == {
        "type": "server_vad",
        "threshold": 0.5,
        "prefix_padding_ms": 600,
        "silence_duration_ms": 500,
    }


async def test_what_an_update_does_not_name_stays_as_it_was(served: Served) -> None:
    async with raw(served) as ws:

        async def shown(**audio_input: Any) -> Any:
            await ws.send(listening(**audio_input))
            return json.loads(await ws.recv())["session"]["audio"]["input"]

        await shown(format={"type": "audio/pcm", "rate": 16_000}, transcription={"model": "mine"})
        after = await shown(turn_detection={"type": "semantic_vad", "eagerness": "high"})
        assert after["format"] == {"type": "audio/pcm", "rate": 16_000}
        assert after["transcription"] == {"model": "mine"}
        assert after["turn_detection"]["eagerness"] == "high"
        assert after["turn_detection"]["silence_duration_ms"] == 400
        after = await shown(transcription={"language": "en"}, format=None)
        assert after["transcription"] == {"model": "mine", "language": "en"}
        assert after["format"] == {"type": "audio/pcm", "rate": RATE}
        assert after["turn_detection"]["type"] == "semantic_vad"
        assert (await shown(turn_detection=None))["turn_detection"] is None
        assert (await shown())["turn_detection"] is None


async def test_keywords_are_phrases_to_expect(served: Served) -> None:
    async with transcribing(served, transcription={"keywords": ["Ada", " "]}) as connection:
        await connection.input_audio_buffer.commit()
        await until_completed(connection)
        (session,) = served.server.engine.sessions
        assert dict(session.options.stream.boost) == {"Ada": 3.0}


async def test_audio_from_before_an_update_is_heard(served: Served) -> None:
    """Pipecat's service sends audio as soon as it is connected, and only then says how."""
    async with raw(served) as ws:
        await ask(ws, "input_audio_buffer.append", audio=base64.b64encode(PCM).decode())
        await ask(ws, "session.update", session=MANUAL)
        await ask(ws, "input_audio_buffer.append", audio=base64.b64encode(OTHER).decode())
        await ask(ws, "input_audio_buffer.commit")
        events = await until(ws, f"{TRANSCRIPTION}.completed")
        assert events[-1]["transcript"] == offline(PCM + OTHER)
        await ask(ws, "session.update", session=MANUAL)
        await ask(ws, "input_audio_buffer.commit")
        assert (await until(ws, f"{TRANSCRIPTION}.completed"))[-1]["transcript"] == ""


async def test_an_item_that_gets_no_transcript_has_failed_and_the_next_has_one(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail() -> EncoderJob[Transcript]:
        raise ValueError("the device is on fire")
        yield

    assert served.server.engine.model is not None
    streams = Streams(monkeypatch, served.server.engine.model)
    async with raw(served) as ws:
        await ask(ws, "session.update", session=MANUAL)
        data = base64.b64encode(PCM + OTHER).decode()
        await ask(ws, "input_audio_buffer.append", audio=data)
        await until(ws, f"{TRANSCRIPTION}.delta")
        streams.opened[-1].finish_job = fail  # type: ignore[method-assign]
        await ask(ws, "input_audio_buffer.commit")
        failed = (await until(ws, f"{TRANSCRIPTION}.failed"))[-1]
        assert failed["error"]["type"] == "transcription_error"
        assert "on fire" in failed["error"]["message"]
        await ask(ws, "input_audio_buffer.append", audio=base64.b64encode(PCM).decode())
        await ask(ws, "input_audio_buffer.commit")
        events = await until(ws, f"{TRANSCRIPTION}.completed")
    committed = next(e for e in events if e["type"] == "input_audio_buffer.committed")
    assert committed["previous_item_id"] == failed["item_id"]
    assert events[-1]["transcript"] == TEXT


async def test_a_vad_that_fails_is_an_error_and_costs_nothing_heard(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> float:
        monkeypatch.undo()
        raise ValueError("no probability")

    monkeypatch.setattr("parakeet_stt.engine.vad._Silero.__call__", fail)
    async with raw(served) as ws:
        for audio in (SILENCE, PCM):
            data = base64.b64encode(audio).decode()
            await ask(ws, "input_audio_buffer.append", audio=data)
            if audio == SILENCE:
                (error,) = await until(ws, "error")
                assert "no probability" in error["error"]["message"]
        await ask(ws, "input_audio_buffer.commit")
        assert (await until(ws, f"{TRANSCRIPTION}.completed"))[-1]["transcript"] == KNOWN[0].text


async def test_what_is_open_gets_its_transcript_when_the_server_ends() -> None:
    with serving() as served:
        async with raw(served) as ws:
            await ask(ws, "session.update", session=MANUAL)
            await ws.recv()
            data = base64.b64encode(PCM + OTHER).decode()
            await ask(ws, "input_audio_buffer.append", audio=data)
            (delta,) = await until(ws, f"{TRANSCRIPTION}.delta")
            draining = asyncio.create_task(asyncio.to_thread(served.run, served.running.drain()))
            events = [json.loads(message) async for message in ws]
            assert ws.close_code == 1001
            await draining
    assert [e["type"] for e in events if not e["type"].endswith("delta")] == [
        "input_audio_buffer.committed",
        "conversation.item.added",
        "conversation.item.done",
        f"{TRANSCRIPTION}.completed",
    ]
    # To the last sample, though the resampler holds some back.
    assert events[-1]["usage"]["seconds"] == pytest.approx(len(PCM + OTHER) / 2 / RATE, abs=0.001)
    told = [delta, *(e for e in events if e["type"].endswith("delta"))]
    assert "".join(e["delta"] for e in told) == events[-1]["transcript"] == offline(PCM + OTHER)


async def test_nothing_is_made_up_when_the_server_ends() -> None:
    with serving() as served:
        async with raw(served) as ws:
            draining = asyncio.create_task(asyncio.to_thread(served.run, served.running.drain()))
            assert [message async for message in ws] == []
            await draining


async def test_browsers_show_their_key_as_a_subprotocol() -> None:
    with serving(api_keys="sk-a.b_c") as served:

        def offer(key: str) -> Any:
            names = ("realtime", f"openai-insecure-api-key.{key}", "openai-beta.realtime-v1")
            return [websockets.Subprotocol(name) for name in names]

        url = f"{served.ws}/v1/realtime?intent=transcription"
        for order in (1, -1):
            offered = offer("sk-a.b_c")[::order]
            async with connect(url, subprotocols=offered) as ws:
                assert ws.subprotocol in ("realtime", "openai-beta.realtime-v1")
                greeting = json.loads(await ws.recv())
                assert greeting["type"] == "transcription_session.created"
                assert "sk-a" not in str(greeting)
        for key in ("b_c", "sk-a", "wrong"):
            with pytest.raises(websockets.InvalidStatus) as refused:
                await connect(url, subprotocols=offer(key))
            assert refused.value.response.status_code == 401
            body = json.loads(refused.value.response.body or b"")
            assert body["error"]["type"] == "authentication_error"


async def pipecat_hears(served: Served, server_vad: bool) -> Listener:
    """A recording twice, at four times its speed, through Pipecat's own service."""
    pause = np.zeros(SAMPLE_RATE, np.float32)
    samples = np.concatenate((KNOWN[0].samples(), pause, KNOWN[0].samples(), pause, pause))
    stt = OpenAIRealtimeSTTService(
        api_key="any",
        base_url=f"{served.ws}/v1/realtime",
        turn_detection={"type": "server_vad"} if server_vad else False,
    )
    vad = VADProcessor(vad_analyzer=SileroVADAnalyzer(params=VADParams(stop_secs=0.2)))
    return await play(samples, *([stt] if server_vad else [vad, stt]), finals=2)


@pytest.mark.realtime
@pytest.mark.parametrize("server_vad", [False, True])
async def test_pipecats_service_works_unmodified(served: Served, server_vad: bool) -> None:
    listener = await pipecat_hears(served, server_vad)
    assert [frame.text for frame in listener.of(TranscriptionFrame)] == [KNOWN[0].text] * 2
    assert listener.of(InterimTranscriptionFrame)
    assert not listener.of(ErrorFrame)
    proposals = [
        type(frame)
        for frame in listener.frames
        if isinstance(frame, ProposedUserStartedSpeakingFrame | ProposedUserStoppedSpeakingFrame)
    ]
    turn = [ProposedUserStartedSpeakingFrame, ProposedUserStoppedSpeakingFrame]
    assert proposals == (turn * 2 if server_vad else [])
    await served.settled()
