"""``/v1/listen``: Deepgram's own client, Pipecat's service for it, and the bare protocol."""

from __future__ import annotations

import asyncio
import hashlib
import json
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from itertools import pairwise
from typing import Any

import httpx
import numpy as np
import pytest
import soxr
import websockets
from deepgram import AsyncDeepgramClient, DeepgramClient, DeepgramClientEnvironment
from deepgram.core import ApiError
from deepgram.core.events import EventType
from deepgram.errors import BadRequestError
from deepgram.listen.v1.types import (
    ListenV1Metadata,
    ListenV1Results,
    ListenV1SpeechStarted,
    ListenV1UtteranceEnd,
)
from pipecat.audio.vad.silero import SileroVADAnalyzer
from pipecat.audio.vad.vad_analyzer import VADParams
from pipecat.frames.frames import (
    InterimTranscriptionFrame,
    TranscriptionFrame,
    VADUserStoppedSpeakingFrame,
)
from pipecat.processors.audio.vad_processor import VADProcessor
from pipecat.services.deepgram.stt import DeepgramSTTService
from websockets.asyncio.client import ClientConnection, connect

from parakeet_stt import __version__
from parakeet_stt.settings import DEFAULT_BOOST, MOST_BOOST
from tests.support.pipelines import play
from tests.support.recordings import RECORDINGS
from tests.support.serving import (
    PATIENCE,
    Served,
    eventually,
    in_frames,
    offline,
    pcm16,
    serving,
)
from tests.support.telephone import ALAW, MULAW, compand

KNOWN = [recording for recording in RECORDINGS if recording.set == "known"]
FIRST, SECOND = KNOWN[0], KNOWN[1]
PCM = pcm16(FIRST.samples())
RAW = "encoding=linear16&sample_rate=16000"


def quiet(seconds: float) -> bytes:
    return bytes(2 * int(16_000 * seconds))


def seconds_of(data: bytes) -> float:
    return len(data) / 2 / 16_000


def pieces(data: bytes, size: int) -> Iterator[bytes]:
    return (data[start : start + size] for start in range(0, len(data), size))


@asynccontextmanager
async def listening(served: Served, query: str = RAW) -> AsyncIterator[ClientConnection]:
    async with connect(f"{served.ws}/v1/listen?{query}") as ws:
        yield ws


async def ask(ws: ClientConnection, kind: str, **more: Any) -> None:
    await ws.send(json.dumps({"type": kind, **more}))


async def until(ws: ClientConnection, **wanted: Any) -> list[dict[str, Any]]:
    """Messages up to one with these values."""
    messages: list[dict[str, Any]] = []
    with suppress(websockets.ConnectionClosedError):  # The test looks at the code.
        async for message in ws:
            messages.append(json.loads(message))
            if wanted.items() <= messages[-1].items():
                break
    return messages


async def ended(ws: ClientConnection) -> list[dict[str, Any]]:
    """The rest of the messages after a CloseStream, which is the Metadata's end."""
    await ask(ws, "CloseStream")
    messages = await until(ws, type="Closed")  # There is no such message.
    assert (ws.close_code, ws.close_reason) == (1000, "")
    assert [m["type"] for m in messages].count("Metadata") == 1
    assert messages[-1]["type"] == "Metadata"
    return messages


def of(kind: str, messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [message for message in messages if message["type"] == kind]


def finals(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [message for message in of("Results", messages) if message["is_final"]]


def text(result: dict[str, Any]) -> str:
    return str(result["channel"]["alternatives"][0]["transcript"])


def texts(messages: list[dict[str, Any]]) -> list[str]:
    return [text(final) for final in finals(messages)]


def halves(data: bytes) -> tuple[bytes, bytes]:
    middle = len(data) // 4 * 2
    return data[:middle], data[middle:]


# --- Deepgram's own client -----------------------------------------------------------------------


def environment(served: Served) -> DeepgramClientEnvironment:
    return DeepgramClientEnvironment(
        base=served.http, production=served.ws, agent=served.ws, agent_rest=served.http
    )


def of_interims(messages: list[Any]) -> list[ListenV1Results]:
    return [m for m in messages if isinstance(m, ListenV1Results) and not m.is_final]


async def test_the_sdk_hears_interims_finals_events_and_the_summary(served: Served) -> None:
    client = AsyncDeepgramClient(api_key="any", environment=environment(served))
    heard: list[Any] = []
    errors: list[Any] = []
    options: dict[str, Any] = {"interim_results": True, "vad_events": True, "punctuate": True}
    async with client.listen.v1.connect(
        model="nova-3",
        language="en-US",
        encoding="linear16",
        sample_rate=16_000,
        channels=1,
        utterance_end_ms=1000,
        endpointing=300,
        **options,
    ) as connection:
        connection.on(EventType.MESSAGE, heard.append)
        connection.on(EventType.ERROR, errors.append)
        listening = asyncio.create_task(connection.start_listening())
        for number, half in enumerate(halves(PCM), start=1):
            for piece in pieces(half, 3200):
                await connection.send_media(piece)
            await eventually(lambda n=number: len(of_interims(heard)) >= n)  # type: ignore[misc]
        for piece in pieces(quiet(2), 3200):
            await connection.send_media(piece)
        await connection.send_keep_alive()
        await connection.send_close_stream()
        await listening
    assert errors == []
    interims = of_interims(heard)
    final = next(m for m in heard if isinstance(m, ListenV1Results) and m.is_final)
    assert final.channel.alternatives[0].transcript == FIRST.text
    assert final.speech_final
    assert all(m.channel.alternatives[0].transcript for m in interims)
    (started,) = (m for m in heard if isinstance(m, ListenV1SpeechStarted))
    assert started.timestamp == pytest.approx(FIRST.start, abs=0.15)
    (end,) = (m for m in heard if isinstance(m, ListenV1UtteranceEnd))
    assert end.last_word_end == final.channel.alternatives[0].words[-1].end
    assert heard.index(started) < heard.index(interims[0]) < heard.index(final) < heard.index(end)
    metadata = heard[-1]
    assert isinstance(metadata, ListenV1Metadata)
    assert metadata.request_id == final.metadata.request_id
    assert metadata.sha256 == hashlib.sha256(PCM + quiet(2)).hexdigest()
    assert metadata.duration == pytest.approx(seconds_of(PCM) + 2, abs=0.001)
    assert metadata.channels == 1
    await served.settled()


def test_the_blocking_sdk_finalizes(served: Served) -> None:
    client = DeepgramClient(api_key="any", environment=environment(served))
    with client.listen.v1.connect(
        model="nova-3", encoding="linear16", sample_rate=16_000
    ) as connection:
        connection.send_media(PCM)
        connection.send_finalize()
        result = connection.recv()
        assert isinstance(result, ListenV1Results)
        assert result.from_finalize
        assert result.channel.alternatives[0].transcript == offline(PCM)
        connection.send_close_stream()
        assert isinstance(connection.recv(), ListenV1Metadata)


@pytest.mark.parametrize("wrong", [{"encoding": "opus"}, {"language": "de"}])
async def test_the_sdk_says_that_a_handshake_was_refused(
    served: Served, wrong: dict[str, Any]
) -> None:
    client = AsyncDeepgramClient(api_key="any", environment=environment(served))
    with pytest.raises(ApiError) as refused:
        async with client.listen.v1.connect(model="nova-3", sample_rate=16_000, **wrong):
            pass
    assert refused.value.status_code == 400


def test_the_sdk_has_files_transcribed(served: Served) -> None:
    client = DeepgramClient(api_key="any", environment=environment(served))
    data = FIRST.path.read_bytes()
    response = client.listen.v1.media.transcribe_file(
        request=data, model="nova-3", smart_format=True, detect_language=True, utterances=True
    )
    (channel,) = response.results.channels
    (found,) = channel.alternatives
    assert found.transcript == offline(PCM)
    assert [word.punctuated_word for word in found.words] == found.transcript.split()
    assert all(0 <= word.start < word.end and 0 < word.confidence <= 1 for word in found.words)
    assert channel.detected_language == "en"
    (utterance,) = response.results.utterances
    assert utterance.transcript == found.transcript
    assert (utterance.start, utterance.end) == (found.words[0].start, found.words[-1].end)
    metadata = response.metadata
    assert metadata.sha256 == hashlib.sha256(data).hexdigest()
    assert metadata.duration == pytest.approx(seconds_of(PCM), abs=0.001)
    assert metadata.model_info[metadata.models[0]]["name"] == "tiny"
    assert uuid.UUID(metadata.request_id)


def test_the_sdk_is_told_that_nothing_is_fetched_from_urls(served: Served) -> None:
    client = DeepgramClient(api_key="any", environment=environment(served))
    with pytest.raises(BadRequestError) as refused:
        client.listen.v1.media.transcribe_url(url="http://127.0.0.1/secret.wav", model="nova-3")
    assert "send the file itself" in refused.value.body["err_msg"]


# --- Pipecat's service ---------------------------------------------------------------------------


@pytest.mark.realtime
@pytest.mark.parametrize("endpointing", [None, False])
async def test_pipecats_deepgram_service_hears_turns(
    served: Served, endpointing: bool | None
) -> None:
    """In a pipeline with Silero, whose stops make the service finalize."""
    settings = DeepgramSTTService.Settings(endpointing=endpointing, keyterm=["oven"])
    service = DeepgramSTTService(api_key="any", base_url=served.ws, settings=settings)
    vad = VADProcessor(vad_analyzer=SileroVADAnalyzer(params=VADParams(stop_secs=0.2)))
    pause = np.zeros(16_000, np.float32)
    spoken = np.concatenate([FIRST.samples(), pause, SECOND.samples(), pause])
    listener = await play(spoken, vad, service, finals=2)
    found = listener.of(TranscriptionFrame)
    assert [frame.text for frame in found] == [FIRST.text, SECOND.text]
    assert all(frame.finalized for frame in found)
    assert listener.of(InterimTranscriptionFrame)
    assert len(listener.of(VADUserStoppedSpeakingFrame)) == 2
    await served.settled()


# --- The protocol --------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 7, 333, 3200, 32_000])
async def test_audio_of_any_frame_size_is_heard_whole(served: Served, size: int) -> None:
    """The last word too, though the end comes right after it."""
    async with listening(served) as ws:
        for frame in in_frames(PCM, size):
            await ws.send(frame)
        messages = await ended(ws)
    assert texts(messages) == [offline(PCM)]
    assert finals(messages)[0]["speech_final"]
    await served.settled()


async def test_results_are_as_deepgram_has_them(served: Served) -> None:
    async with listening(served) as ws:
        assert ws.response is not None
        request_id = ws.response.headers["dg-request-id"]
        await ws.send(PCM)
        await ask(ws, "Finalize")
        (result,) = await until(ws, from_finalize=True)
        (metadata,) = await ended(ws)
    (found,) = result["channel"].pop("alternatives")
    (model_uuid,) = metadata["models"]
    model = {"name": "tiny", "version": __version__, "arch": "parakeet"}
    assert result == {
        "type": "Results",
        "channel_index": [0, 1],
        "start": 0.0,
        "duration": pytest.approx(seconds_of(PCM), abs=0.001),
        "is_final": True,
        "speech_final": True,
        "from_finalize": True,
        "channel": {},
        "metadata": {"request_id": request_id, "model_info": model, "model_uuid": model_uuid},
    }
    assert found["transcript"] == FIRST.text
    assert found["languages"] == ["en"]
    assert [w["punctuated_word"] for w in found["words"]] == FIRST.text.split()
    assert [w["word"] for w in found["words"]] == FIRST.text.lower().rstrip("?").split()
    mean = np.mean([w["confidence"] for w in found["words"]])
    assert found["confidence"] == pytest.approx(mean, abs=1e-4), "all of them have four digits"
    for word in found["words"]:
        assert set(word) == {"word", "start", "end", "confidence", "punctuated_word"}
        assert FIRST.start - 0.3 < word["start"] < word["end"] < FIRST.end + 0.3
    assert metadata["request_id"] == request_id
    assert metadata["transaction_key"] == "deprecated"
    assert metadata["model_info"] == {model_uuid: model}


async def test_every_finalize_is_answered_also_where_nothing_was_said(served: Served) -> None:
    async with listening(served) as ws:
        await ask(ws, "Finalize")
        await ws.send(PCM)
        await ask(ws, "Finalize")
        await ws.send(quiet(0.5))
        await ask(ws, "Finalize")
        messages = await ended(ws)
    assert texts(messages) == ["", offline(PCM), ""]
    assert all(m["from_finalize"] and m["speech_final"] for m in finals(messages))
    starts = [m["start"] for m in finals(messages)]
    assert starts == pytest.approx([0, 0, seconds_of(PCM)], abs=0.001)


async def test_an_interim_is_all_since_the_last_final(served: Served) -> None:
    async with listening(served, f"{RAW}&interim_results=true") as ws:
        shown: list[list[str]] = []
        for recording in (FIRST, SECOND):
            messages: list[dict[str, Any]] = []
            for half in halves(pcm16(recording.samples())):
                for piece in pieces(half, 3200):
                    await ws.send(piece)
                messages += await until(ws, is_final=False)
            await ask(ws, "Finalize")
            messages += await until(ws, from_finalize=True)
            assert text(messages[-1]) == recording.text
            shown.append([text(m) for m in messages[:-1]])
        await ended(ws)
    for recording, interims in zip((FIRST, SECOND), shown, strict=True):
        assert all(a != b for a, b in pairwise(interims))
        assert interims[-1].split()[0] == recording.text.split()[0]


async def test_there_are_no_interims_and_no_events_unless_asked_for(served: Served) -> None:
    async with listening(served) as ws:
        await ws.send(PCM + quiet(3))
        messages = await until(ws, speech_final=True)
        messages += await ended(ws)
    assert [m["type"] for m in messages] == ["Results", "Results", "Metadata"]
    assert texts(messages) == [FIRST.text, ""]  # The second is about the silence that follows.


async def test_silence_alone_says_nothing(served: Served) -> None:
    async with listening(served, f"{RAW}&interim_results=true&vad_events=true") as ws:
        for _ in range(50):
            await ws.send(quiet(0.2))
        messages = await ended(ws)
    assert [m["type"] for m in messages] == ["Results", "Metadata"]
    assert texts(messages) == [""]
    assert finals(messages)[0]["duration"] == pytest.approx(10, abs=0.001)


@pytest.mark.parametrize(
    ("query", "pause", "parts"),
    [
        ("", 0.2, 1),
        ("", 1.0, 2),
        ("&endpointing=true", 1.0, 2),
        ("&endpointing=300", 0.5, 2),
        ("&endpointing=10", 0.1, 1),  # A breath: see LEAST_STOP_SECONDS.
        ("&endpointing=5000", 2.0, 1),
        ("&endpointing=false", 2.0, 1),
    ],
)
async def test_pauses_end_segments_as_the_client_wants(
    served: Served, query: str, pause: float, parts: int
) -> None:
    first = FIRST.samples()[: int(FIRST.end * 16_000)]
    second = SECOND.samples()[int(SECOND.start * 16_000) : int(SECOND.end * 16_000)]
    spoken = pcm16(first) + quiet(pause) + pcm16(second)
    async with listening(served, RAW + query) as ws:
        await ws.send(spoken)
        await ask(ws, "Finalize")
        messages = await until(ws, from_finalize=True)
        await ended(ws)
    assert [m["speech_final"] for m in messages] == [True] * parts
    assert [m["from_finalize"] for m in messages] == [False] * (parts - 1) + [True]
    said = " ".join(texts(messages)).split()
    assert len(said) == pytest.approx(len(f"{FIRST.text} {SECOND.text}".split()), abs=2)


async def test_without_endpointing_a_long_segment_still_ends_at_a_pause(served: Served) -> None:
    """Of a client that never finalizes, too: nothing grows without end."""
    spoken = b"".join(pcm16(r.samples()) + quiet(0.6) for r in KNOWN[:9])
    assert seconds_of(spoken) > 25
    async with listening(served, f"{RAW}&endpointing=false") as ws:
        await ws.send(spoken)
        messages = await ended(ws)
    first, second = finals(messages)
    assert (first["is_final"], first["speech_final"]) == (True, False)
    assert 20 <= first["duration"] < 25
    assert second["start"] == pytest.approx(first["duration"], abs=0.001)
    assert second["speech_final"]
    assert text(first).startswith(FIRST.text)
    assert text(second).endswith(KNOWN[8].text)


async def test_an_utterance_ends_by_the_time_of_its_audio(served: Served) -> None:
    """However fast that comes; and the client need not send anything more."""
    async with listening(served, f"{RAW}&utterance_end_ms=1500") as ws:
        await ws.send(PCM + quiet(2))
        messages = await until(ws, type="UtteranceEnd")
        await ws.send(PCM + quiet(0.3) + PCM + quiet(1.6))  # Of two, with a little pause.
        messages += await ended(ws)
    kinds = ["Results", "UtteranceEnd", "Results", "Results", "UtteranceEnd", "Results", "Metadata"]
    assert [m["type"] for m in messages] == kinds
    assert texts(messages) == [*[FIRST.text] * 3, ""]
    for final, end in ((messages[0], messages[1]), (messages[3], messages[4])):
        (found,) = final["channel"]["alternatives"]
        last = found["words"][-1]["end"]
        assert end == {"type": "UtteranceEnd", "channel": [0, 1], "last_word_end": last}


async def test_without_endpointing_words_are_final_before_their_utterance_ends(
    served: Served,
) -> None:
    async with listening(served, f"{RAW}&utterance_end_ms=1000&endpointing=false") as ws:
        await ws.send(PCM + quiet(2))
        final, _ = await until(ws, type="UtteranceEnd")
        await ended(ws)
    assert text(final) == FIRST.text
    assert (final["is_final"], final["speech_final"]) == (True, False)


@pytest.mark.parametrize(
    ("encoding", "rate", "channels"),
    [
        ("linear16", 8_000, 1),
        ("linear16", 48_000, 2),
        ("linear32", 16_000, 1),
        ("mulaw", 8_000, 1),
        ("alaw", 8_000, 1),
    ],
)
async def test_encodings_rates_and_channels(
    served: Served, encoding: str, rate: int, channels: int
) -> None:
    samples = soxr.resample(FIRST.samples(), 16_000, rate).astype(np.float32)
    # Of two channels one is silent: they are averaged.
    interleaved = np.stack([samples * channels, *[0 * samples] * (channels - 1)], axis=1).ravel()
    match encoding:
        case "linear16":
            data = pcm16(interleaved)
        case "linear32":
            data = interleaved.astype("<f4").tobytes()
        case _:
            data = compand(interleaved, MULAW if encoding == "mulaw" else ALAW)
    query = f"encoding={encoding}&sample_rate={rate}&channels={channels}"
    async with listening(served, query) as ws:
        await ws.send(data)
        messages = await ended(ws)
    (final,) = finals(messages)
    if rate >= 16_000:
        assert text(final) == FIRST.text
    else:
        assert len(text(final).split()) == pytest.approx(len(FIRST.text.split()), abs=3)
    assert messages[-1]["channels"] == channels
    assert messages[-1]["duration"] == pytest.approx(seconds_of(PCM), abs=0.01)


async def test_half_a_sample_before_a_finalize_is_completed_after_it(served: Served) -> None:
    async with listening(served, f"{RAW}&endpointing=false") as ws:
        half = len(PCM) // 4 * 2 + 1
        await ws.send(quiet(0.2) + b"\0")
        await ask(ws, "Finalize")
        await ws.send(b"\0" + PCM[:half])
        await ws.send(PCM[half:])
        messages = await ended(ws)
    assert texts(messages) == ["", FIRST.text]


@pytest.mark.parametrize(
    ("query", "boost"),
    [
        ("keyterm=Ada&keyterm=Grace%20Hopper", {"Ada": DEFAULT_BOOST, "Grace Hopper": 3.0}),
        ("keywords=Ada:2&keywords=Grace", {"Ada": 2 * DEFAULT_BOOST, "Grace": DEFAULT_BOOST}),
        ("keywords=Ada:99&keywords=at%2010:30am&keyterm=", {"Ada": MOST_BOOST, "at 10:30am": 3.0}),
    ],
)
async def test_keyterms_and_keywords_are_expected(
    served: Served, query: str, boost: dict[str, float]
) -> None:
    async with listening(served, f"{RAW}&{query}") as ws:
        await ask(ws, "Finalize")
        await until(ws, from_finalize=True)
        (session,) = served.server.engine.sessions
        assert session.options.stream.boost == boost
        await ask(ws, "Configure", keyterms=["Turing"])
        (answer,) = await until(ws, type="ConfigureSuccess")
        assert answer["keyterms"] == ["Turing"]
        assert session.options.stream.boost == {"Turing": DEFAULT_BOOST}
        await ask(ws, "Configure", features={"numerals": True})
        (answer,) = await until(ws, type="ConfigureSuccess")
        assert "keyterms" not in answer
        assert session.options.stream.boost == {"Turing": DEFAULT_BOOST}
        await ended(ws)


@pytest.mark.parametrize(
    ("message", "variant", "complaint"),
    [
        ('{"type":"Fina', "SchemaError", "Invalid JSON"),
        ("[]", "SchemaError", "object"),
        ("7" * 6000, "SchemaError", ""),
        ('{"kind":"Finalize"}', "SchemaError", "type"),
        ('{"type":"Shout"}', "SchemaError", "'Shout'"),
        ('{"type":"Configure","keyterms":"Ada"}', "SchemaError", "keyterms"),
        ('{"type":["Finalize"]}', "SchemaError", ""),
        ("\ufeff\0", "SchemaError", "JSON"),
    ],
)
async def test_a_message_that_cannot_be_used_costs_nothing_heard(
    served: Served, message: str, variant: str, complaint: str
) -> None:
    async with listening(served) as ws:
        half = len(PCM) // 4 * 2 + 1
        await ws.send(PCM[:half])
        await ws.send(message)
        await ws.send(b"")
        await ws.send(PCM[half:])
        messages = await ended(ws)
    (error,) = of("Error", messages)
    assert error["variant"] == variant
    assert complaint in error["description"]
    assert error["message"] == message[:500]
    assert texts(messages) == [offline(PCM)]


async def test_audio_that_cannot_be_is_an_error_and_the_stream_goes_on(served: Served) -> None:
    async with listening(served, "encoding=linear32&sample_rate=16000") as ws:
        await ws.send(np.array([np.nan, 1e30], "<f4").tobytes())
        await ws.send(FIRST.samples().astype("<f4").tobytes())
        messages = await ended(ws)
    (error,) = of("Error", messages)
    assert error["variant"] == "AudioError"
    assert "finite" in error["description"]
    assert texts(messages) == [FIRST.text]


@pytest.mark.parametrize(
    ("query", "complaint"),
    [
        ("", "send audio in containers as a file"),
        ("model=nova-3", "encoding"),
        ("encoding=opus&sample_rate=48000", "encoding"),
        ("encoding=linear16&sample_rate=1", "sample_rate"),
        ("encoding=linear16&sample_rate=9999999999999999999999", "sample_rate"),
        ("encoding=linear16&sample_rate=fast", "sample_rate"),
        (f"{RAW}&channels=0", "channels"),
        (f"{RAW}&channels=17", "channels"),
        (f"{RAW}&endpointing=soon", "endpointing"),
        (f"{RAW}&endpointing=-1", "endpointing"),
        (f"{RAW}&interim_results=perhaps", "interim_results"),
        (f"{RAW}&utterance_end_ms=1", "utterance_end_ms"),
        (f"{RAW}&keywords=Ada:-5", "keywords"),
        (f"{RAW}&keywords=Ada:nan", "keywords"),
        (f"{RAW}&keywords=:3", "boost"),
        (f"{RAW}&language=fr%0d%0ax:%20y%20%e2%82%ac", "language: fr"),
        (f"{RAW}&callback=http://example.com", "callback"),
        (f"{RAW}&redact=pci", "redact"),
    ],
)
async def test_options_that_cannot_be_are_refused_at_the_handshake(
    served: Served, query: str, complaint: str
) -> None:
    with pytest.raises(websockets.InvalidStatus) as refused:
        await connect(f"{served.ws}/v1/listen?{query}")
    response = refused.value.response
    assert response.status_code == 400
    content = json.loads(response.body)
    assert set(content) == {"err_code", "err_msg", "request_id"}
    assert complaint in content["err_msg"]
    assert complaint in response.headers["dg-error"]
    assert response.headers["dg-request-id"] == content["request_id"]
    await served.settled()


async def test_what_is_not_known_here_changes_nothing(served: Served) -> None:
    query = (
        "model=anything&version=latest&tag=a&tag=b&extra=k:v&punctuate=true&smart_format=true"
        "&diarize=false&numerals=true&filler_words=true&mip_opt_out=true&language=multi"
        "&redact=false&no_such_option=1&encoding=linear16"  # The rate is the server's.
    )
    async with listening(served, query) as ws:
        await ws.send(PCM)
        assert texts(await ended(ws)) == [FIRST.text]


@pytest.mark.realtime
async def test_who_sends_nothing_is_closed_as_deepgram_does_and_keepalive_prevents_it() -> None:
    with serving(idle_seconds=2) as served:
        async with listening(served) as ws:
            await ws.send(PCM)
            for _ in range(12):  # Longer than the limit.
                await asyncio.sleep(0.2)
                await ask(ws, "KeepAlive")
            assert ws.close_code is None
            messages = await until(ws, type="Closed")
            assert ws.close_code == 1011
            assert ws.close_reason is not None
            assert "nothing was received" in ws.close_reason
        assert texts(messages) == [FIRST.text]
        assert messages[-1]["type"] == "Metadata"
        await served.settled()


async def test_a_server_that_shuts_down_gives_the_rest_and_the_summary() -> None:
    with serving() as served:
        async with listening(served) as ws:
            await ws.send(PCM)
            await ask(ws, "Finalize")
            await until(ws, from_finalize=True)
            await ws.send(PCM)
            await ask(ws, "Configure")
            await until(ws, type="ConfigureSuccess")  # The audio before it is there.
            draining = asyncio.to_thread(served.run, served.running.drain())
            messages, _ = await asyncio.gather(until(ws, type="Closed"), draining)
            assert ws.close_code == 1001
    assert [m["type"] for m in messages] == ["Results", "Metadata"]
    assert texts(messages) == [FIRST.text]


async def test_keys_are_shown_as_deepgrams_clients_do() -> None:
    with serving(api_keys="secret,other") as served:
        client = AsyncDeepgramClient(api_key="secret", environment=environment(served))
        async with client.listen.v1.connect(
            model="nova-3", encoding="linear16", sample_rate=16_000
        ) as connection:
            await connection.send_finalize()
            assert isinstance(await connection.recv(), ListenV1Results)
        response = await client.listen.v1.media.transcribe_file(request=FIRST.path.read_bytes())
        assert response.results.channels[0].alternatives[0].transcript == offline(PCM)
        url = f"{served.ws}/v1/listen?{RAW}"
        # As browsers do.
        async with connect(url, subprotocols=["token", "other"]) as ws:  # type: ignore[list-item]
            assert ws.subprotocol == "token"
            await ended(ws)
        wrong = AsyncDeepgramClient(api_key="wrong", environment=environment(served))
        with pytest.raises(ApiError) as refused:
            async with wrong.listen.v1.connect(model="nova-3", encoding="linear16"):
                pass
        assert refused.value.status_code == 401
        with pytest.raises(ApiError) as refused:
            await wrong.listen.v1.media.transcribe_file(request=b"")
        assert refused.value.body["err_code"] == "INVALID_AUTH"
        await served.settled()


# --- Files ---------------------------------------------------------------------------------------


async def test_a_file_is_cut_into_utterances_where_that_is_asked_for(served: Served) -> None:
    import io

    import soundfile

    pause = np.zeros(16_000, np.float32)
    spoken = np.concatenate([FIRST.samples(), pause, SECOND.samples()])
    file = io.BytesIO()
    soundfile.write(file, spoken, 16_000, format="WAV", subtype="PCM_16")
    async with httpx.AsyncClient(base_url=served.http, timeout=PATIENCE) as client:
        plain = await client.post("/v1/listen", content=file.getvalue())
        asked = await client.post("/v1/listen?utterances=true&utt_split=1", content=file.getvalue())
    assert plain.status_code == asked.status_code == 200
    assert "utterances" not in plain.json()["results"]
    assert "detected_language" not in plain.json()["results"]["channels"][0]
    assert asked.headers["dg-request-id"] == asked.json()["metadata"]["request_id"]
    one, two = asked.json()["results"]["utterances"]
    (found,) = asked.json()["results"]["channels"][0]["alternatives"]
    assert found["transcript"] == f"{one['transcript']} {two['transcript']}"
    assert found["words"] == one["words"] + two["words"]
    assert two["start"] - one["end"] >= 1


@pytest.mark.parametrize(
    ("query", "body", "headers", "status", "complaint"),
    [
        ("", b"", {}, 415, "empty"),
        ("", b"no audio at all", {"content-type": "audio/wav"}, 415, "decoded"),
        ("", b"{", {"content-type": "application/json; charset=utf-8"}, 400, "nothing from URLs"),
        ("utterances=perhaps", b"", {}, 400, "utterances"),
        ("utt_split=nan", b"", {}, 400, "utt_split"),
        ("language=fr", b"", {}, 400, "language"),
        ("redact=pci", b"", {}, 400, "redact"),
        ("callback=http://example.com", b"", {}, 400, "callback"),
        ("keywords=Ada:0", b"", {}, 400, "keywords"),
        ("keywords=:3", PCM, {}, 400, "boost"),
    ],
)
async def test_a_file_that_cannot_be_had_is_refused(
    served: Served, query: str, body: bytes, headers: dict[str, str], status: int, complaint: str
) -> None:
    async with httpx.AsyncClient(base_url=served.http, timeout=PATIENCE) as client:
        response = await client.post(f"/v1/listen?{query}", content=body, headers=headers)
    assert response.status_code == status
    assert set(response.json()) == {"err_code", "err_msg", "request_id"}
    assert complaint in response.json()["err_msg"]
    assert "/" not in response.headers["dg-error"].replace("audio/", "")  # No paths of ours.
