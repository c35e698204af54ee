"""``/v1/ears`` and its own port: what eaRS's (003) documents and clients expect."""

from __future__ import annotations

import json
import shutil
import socket
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soxr
import websockets
from websockets.asyncio.client import ClientConnection, connect

from parakeet_stt import load_model
from parakeet_stt.audio import AudioDecoder, Samples
from parakeet_stt.model.catalog import BUNDLED
from tests.support.recordings import RECORDINGS
from tests.support.serving import Served, in_frames, serving

SINGLE = [recording for recording in RECORDINGS if recording.set == "known"]
SILENCE = np.zeros(24_000, np.float32)


def at_24_khz(number: int) -> Samples:
    resampled: Samples = soxr.resample(SINGLE[number].samples(), 16_000, 24_000)
    return resampled


AUDIO = at_24_khz(0)
TEXT = SINGLE[0].text


def pack(samples: Samples) -> bytes:
    """As eaRS's documents have it."""
    return struct.pack(f"<{len(samples)}f", *samples)


def offline(samples: Samples) -> str:
    """What ``transcribe()`` makes of what the server hears of audio at 24 kHz."""
    decode = AudioDecoder("f32", 24_000)
    heard = np.concatenate((decode(pack(samples)), decode.flush()))
    return load_model("tiny", backend="onnx").transcribe(heard).text


async def ask(ws: ClientConnection, kind: str, **content: Any) -> None:
    await ws.send(json.dumps({"type": kind, **content}))


async def until(ws: ClientConnection, kind: str) -> list[dict[str, Any]]:
    """Messages up to the first of a kind."""
    messages: list[dict[str, Any]] = []
    while not messages or messages[-1]["type"] != kind:
        messages.append(json.loads(await ws.recv()))
    return messages


async def until_closed(ws: ClientConnection) -> list[dict[str, Any]]:
    return [json.loads(message) async for message in ws]


async def speak(url: str, *messages: str | bytes) -> list[dict[str, Any]]:
    """Send all of it, stop, and give what came."""
    async with connect(url) as ws:
        for message in (*messages, '{"type":"stop"}'):
            await ws.send(message)
        answers = await until_closed(ws)
        assert (ws.close_code, ws.close_reason) == (1000, "")
    return answers


def of(messages: list[dict[str, Any]], kind: str) -> list[dict[str, Any]]:
    return [message for message in messages if message["type"] == kind]


def said(messages: list[dict[str, Any]]) -> str:
    """What a client that types every word has typed."""
    return " ".join(message["word"] for message in of(messages, "word"))


def bare(text: str) -> str:
    """Without what a final, made anew, may put otherwise than the words that came before it."""
    return "".join(c for c in text.casefold() if c.isalnum() or c == " ")


class Client:
    """eaRS's Python client, as its documents describe it: frames of a microphone, ``handle`` for
    what comes, ``stop`` at the end."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.words: list[str] = []
        self.text: str | None = None
        self.errors: list[str] = []

    async def listen_to(self, samples: Samples) -> None:
        async with connect(self.url) as ws:
            for start in range(0, len(samples), 4096):
                await ws.send(pack(samples[start : start + 4096]))
            await ws.send('{"type":"stop"}')
            async for message in ws:
                self.handle(json.loads(message))

    def handle(self, message: dict[str, Any]) -> None:
        match message["type"]:
            case "word":
                assert isinstance(message["start_time"], float)
                self.words.append(message["word"])
            case "final":
                self.text = message["text"]
            case "error":
                self.errors.append(message["message"])


async def test_a_client_by_the_documents_gets_words_and_the_whole_text(served: Served) -> None:
    for url in (f"ws://127.0.0.1:{served.port('ears_port')}/", served.ws + "/v1/ears"):
        client = Client(url)
        await client.listen_to(AUDIO)
        assert client.text == TEXT
        assert bare(" ".join(client.words)) == bare(TEXT)
        assert client.errors == []
    await served.settled()


@pytest.mark.parametrize("size", [1, 2, 3, 5, 1333, 7680, 96_000])
async def test_frames_of_any_size_give_the_same(served: Served, size: int) -> None:
    audio = pack(np.concatenate((AUDIO, SILENCE, at_24_khz(1))))
    messages = await speak(served.ws + "/v1/ears", *in_frames(audio, size))
    assert [m["text"] for m in of(messages, "segment")] == [TEXT, SINGLE[1].text]
    assert messages[-1]["text"] == f"{TEXT} {SINGLE[1].text}"
    assert bare(said(messages)) == bare(messages[-1]["text"])
    await served.settled()


@pytest.mark.parametrize("stop", ["stop", '"stop"', " STOP\n", '{"type":"stop"}'])
async def test_stop_right_behind_the_audio_loses_nothing(served: Served, stop: str) -> None:
    for end in (len(AUDIO), len(AUDIO) // 2, len(AUDIO) // 3):
        async with connect(served.ws + "/v1/ears") as ws:
            await ws.send(pack(AUDIO[:end]))
            await ws.send(stop)
            messages = await until_closed(ws)
        assert messages[-1]["text"] == offline(AUDIO[:end])
        assert bare(said(messages)) == bare(messages[-1]["text"])


async def test_words_come_while_they_are_spoken_and_are_never_taken_back(served: Served) -> None:
    speech = np.concatenate([at_24_khz(number) for number in range(4)])
    early: list[dict[str, Any]] = []
    async with connect(served.ws + "/v1/ears") as ws:
        await ask(ws, "setvadtimeout", seconds=30)
        for start in range(0, len(speech), 2400):
            await ws.send(pack(speech[start : start + 2400]))
        while len(of(early, "word")) < len(TEXT.split()):
            early += await until(ws, "word")
        await ask(ws, "stop")
        messages = early + await until_closed(ws)
    assert of(early, "segment") == of(early, "final") == []
    assert len(of(messages, "segment")) == 1
    assert messages[-1]["text"] == of(messages, "segment")[0]["text"]
    assert bare(said(messages)) == bare(messages[-1]["text"])
    starts = [word["start_time"] for word in of(messages, "word")]
    assert starts == sorted(starts)


async def test_times_are_seconds_of_audio_and_confidences_are_there(served: Served) -> None:
    lead, gap = 2, 3
    speech = [*[SILENCE] * lead, AUDIO, *[SILENCE] * gap, at_24_khz(1), SILENCE]
    messages = await speak(served.ws + "/v1/ears", pack(np.concatenate(speech)))
    begins = [lead, lead + len(AUDIO) / 24_000 + gap]
    for number, (segment, pause) in enumerate(
        zip(of(messages, "segment"), of(messages, "pause"), strict=True)
    ):
        recording, begin = SINGLE[number], begins[number]
        assert segment["start_time"] == pytest.approx(begin + recording.start, abs=0.25)
        assert segment["end_time"] == pytest.approx(begin + recording.end, abs=0.35)
        assert pause["timestamp"] == pytest.approx(begin + recording.end, abs=0.35)
    assert messages[-1]["type"] == "final"
    words = messages[-1]["words"]
    assert [set(word) for word in words] == [
        {"word", "start_time", "end_time", "confidence"} for _ in words
    ]
    assert all(word["start_time"] < word["end_time"] for word in words)
    assert all(0 < word["confidence"] <= 1 for word in words)
    told = [{k: v for k, v in word.items() if k != "type"} for word in of(messages, "word")]
    assert [bare(word["word"]) for word in told] == [bare(word["word"]) for word in words]
    assert " ".join(word["word"] for word in words) == messages[-1]["text"]


async def test_nothing_is_said_before_the_first_message(served: Served) -> None:
    async with connect(served.ws + "/v1/ears") as ws:
        await ask(ws, "getstatus")
        messages = await until(ws, "status")
        assert messages[0] == {"type": "enginechanged", "engine": "parakeet"}
        assert messages[1:] == [
            {
                "type": "status",
                "paused": False,
                "vad": True,
                "timestamps": True,
                "vad_timeout": 0.5,
                "lang": None,
                "engine": "parakeet",
            }
        ]
        await ws.send("stop")
        assert await until_closed(ws) == [{"type": "final", "text": "", "words": []}]


async def test_what_comes_in_a_pause_is_not_heard_but_its_time_passes(served: Served) -> None:
    async with connect(served.ws + "/v1/ears") as ws:
        await ws.send(pack(AUDIO))
        await ask(ws, "pause")
        await ask(ws, "pause")
        await ask(ws, "getstatus")
        assert (await until(ws, "status"))[-1]["paused"]
        await ws.send(pack(at_24_khz(1)))
        await ask(ws, "resume")
        await ws.send(pack(at_24_khz(2)))
        await ws.send("stop")
        messages = await until_closed(ws)
    assert messages[-1]["text"] == f"{TEXT} {SINGLE[2].text}"
    before = (len(AUDIO) + len(at_24_khz(1))) / 24_000
    third = messages[-1]["words"][len(TEXT.split())]
    assert third["start_time"] == pytest.approx(before + SINGLE[2].start, abs=0.25)


async def test_a_restart_in_the_middle_of_a_sample_shifts_nothing(served: Served) -> None:
    audio = pack(AUDIO)
    half = len(audio) // 2 + 1
    async with connect(served.ws + "/v1/ears") as ws:
        await ws.send(audio[:half])
        await ask(ws, "restart")
        await ws.send(audio[half:] + pack(SILENCE) + pack(at_24_khz(1)))
        await ws.send("stop")
        messages = await until_closed(ws)
    assert messages[-1]["text"].endswith(SINGLE[1].text)


async def test_a_restart_gives_the_text_so_far_and_begins_anew(served: Served) -> None:
    async with connect(served.ws + "/v1/ears") as ws:
        await ws.send(pack(np.concatenate((AUDIO, SILENCE))))
        await ask(ws, "restart")
        await ask(ws, "restart")
        await ws.send(pack(at_24_khz(1)))
        await ws.send("stop")
        messages = await until_closed(ws)
    assert [final["text"] for final in of(messages, "final")] == [TEXT, "", SINGLE[1].text]
    assert len(of(messages, "enginechanged")) == 3
    first = messages[-1]["words"][0]
    assert first["start_time"] == pytest.approx(SINGLE[1].start, abs=0.25)


async def test_the_vad_timeout_is_the_silence_that_ends_a_segment(served: Served) -> None:
    gap = SILENCE[:19_200]  # 0.8 s, and what the recordings have at their ends.
    speech = pack(np.concatenate((AUDIO, gap, at_24_khz(1))))
    url = served.ws + "/v1/ears"
    patient = '{"type":"setvadtimeout","seconds":2.5}'
    assert len(of(await speak(url, speech), "segment")) == 2
    assert len(of(await speak(url, patient, speech), "segment")) == 1
    # Speech that has begun is not forgotten when it is set in the middle of it.
    half = len(speech) // 8 * 4
    messages = await speak(url, speech[:half], patient, speech[half:] + pack(SILENCE) * 4)
    assert of(messages, "pause")[-1]["timestamp"] > len(AUDIO) / 24_000
    assert messages[-1]["text"] == f"{TEXT} {SINGLE[1].text}"
    async with connect(url) as ws:
        await ws.send(patient)
        await ask(ws, "getstatus")
        assert (await until(ws, "status"))[-1]["vad_timeout"] == 2.5


async def test_the_language_is_told_once_and_not_where_it_was_set(
    served: Served, tmp_path: Path
) -> None:
    speech = [pack(np.concatenate((at_24_khz(number), SILENCE))) for number in range(3)]
    messages = await speak(served.ws + "/v1/ears", *speech)
    detected = {"type": "language_detected", "language": "en", "lang": "en", "confidence": 1.0}
    assert of(messages, "language_detected") == [detected]
    # A model that is not known: its text tells.
    folder = shutil.copytree(BUNDLED["tiny"], tmp_path / "model")
    with serving(model=str(folder)) as unknown:
        found = of(await speak(unknown.ws + "/v1/ears", *speech), "language_detected")
        assert [message["lang"] for message in found] == ["en"]
        assert 0.8 <= found[0]["confidence"] < 1
        chosen = '{"type":"setlanguage","lang":"fr"}'
        messages = await speak(unknown.ws + "/v1/ears", chosen, *speech)
    assert of(messages, "languagechanged") == [{"type": "languagechanged", "lang": "fr"}]
    assert of(messages, "language_detected") == []


@pytest.mark.parametrize(
    ("engine", "answer"),
    [
        ("parakeet", {"type": "enginechanged", "engine": "parakeet"}),
        ("PRKT", {"type": "enginechanged", "engine": "parakeet"}),
        ("kyutai", {"type": "error", "message": "engine not available"}),
        ("whisper", {"type": "error", "message": "unknown engine"}),
    ],
)
async def test_there_is_one_engine(served: Served, engine: str, answer: dict[str, Any]) -> None:
    message = json.dumps({"type": "setengine", "engine": engine})
    messages = await speak(served.ws + "/v1/ears", message)
    assert messages[1:] == [answer, {"type": "final", "text": "", "words": []}]


@pytest.mark.parametrize(
    ("message", "complaint"),
    [
        ("{", "Invalid JSON"),
        ("Resume", "Invalid JSON"),
        ('"Resume"', "object"),
        ("[1]", "object"),
        ('{"Resume":{}}', "type"),
        ('{"type":"shout"}', "'shout'"),
        ('{"type":7}', "type"),
        ('{"type":"setlanguage"}', "lang"),
        ('{"type":"setlanguage","lang":"tlh"}', "the model transcribes en"),
        ('{"type":"setvadtimeout","seconds":-1}', "seconds"),
        ('{"type":"setvadtimeout","seconds":1e300}', "seconds"),
        ('{"type":"setvadtimeout","seconds":NaN}', "seconds"),
        ('{"type":"setvadtimeout","seconds":"soon"}', "seconds"),
        ('{"type":"subscribe","stream_id":1}', "speaks"),
        (struct.pack("<2f", 0, float("nan")), "not finite"),
        (struct.pack("<f", 1e30), "within -1 to 1"),
    ],
)
async def test_what_cannot_be_used_is_an_error_and_costs_nothing_heard(
    served: Served, message: str | bytes, complaint: str
) -> None:
    half = len(AUDIO) // 2
    messages = await speak(served.ws + "/v1/ears", pack(AUDIO[:half]), message, pack(AUDIO[half:]))
    errors = of(messages, "error")
    assert len(errors) == 1
    assert complaint in errors[0]["message"]
    assert messages[-1]["text"] == TEXT


async def test_who_comes_when_all_places_are_taken_is_refused_before_the_handshake() -> None:
    with serving(max_sessions=1, ears_port=0) as served:
        url = f"ws://127.0.0.1:{served.port('ears_port')}"
        async with connect(url):
            with pytest.raises(websockets.InvalidStatus) as refused:
                await connect(url)
            assert refused.value.response.status_code == 503
            assert refused.value.response.headers["Retry-After"]


# --- listeners ------------------------------------------------------------------------------------


@pytest.mark.realtime
async def test_a_listener_hears_what_the_speaker_hears() -> None:
    with serving(ears_listener_tokens="one,two", idle_seconds=2) as served:
        url = served.ws + "/v1/ears"
        async with connect(url) as listener, connect(url) as speaker:
            await ask(listener, "liststreams")
            await ask(listener, "authenticate", token="three")
            refused = [json.loads(await listener.recv()) for _ in range(2)]
            assert [m["message"] for m in refused] == ["not authenticated", "invalid token"]
            await ask(listener, "authenticate", token="two")
            assert json.loads(await listener.recv()) == {"type": "authenticated", "success": True}
            await ask(listener, "liststreams")
            assert json.loads(await listener.recv()) == {"type": "streams", "stream_ids": []}

            await ask(speaker, "getstatus")
            await until(speaker, "status")
            await ask(listener, "liststreams")
            streams = json.loads(await listener.recv())
            assert len(streams["stream_ids"]) == 1
            number = streams["stream_ids"][0]
            await ask(listener, "subscribe", stream_id=number + 1)
            failed = json.loads(await listener.recv())["message"]
            assert failed == f"subscription failed: Stream {number + 1} not found"
            for _ in range(2):
                await ask(listener, "subscribe", stream_id=number)
                answer = json.loads(await listener.recv())
                assert answer == {"type": "subscribed", "stream_id": number}

            # Until the speaker is closed for being idle, which the listener is not.
            await speaker.send(pack(AUDIO))
            heard = await until(listener, "final")
            messages = [json.loads(message) for message in await drained(speaker)]
            assert heard == [m for m in messages if m["type"] != "error"]
            assert heard[-1]["text"] == TEXT
            await ask(listener, "liststreams")
            assert json.loads(await listener.recv()) == {"type": "streams", "stream_ids": []}
            await listener.send(pack(AUDIO))
            assert "open another one" in json.loads(await listener.recv())["message"]
            await listener.send("stop")
            assert await until_closed(listener) == []
        await served.settled()


async def drained(ws: ClientConnection) -> list[str | bytes]:
    """What is left to read of a connection, however it was closed."""
    messages: list[str | bytes] = []
    try:
        while True:
            messages.append(await ws.recv())
    except websockets.ConnectionClosed:
        return messages


async def test_nobody_listens_where_no_token_was_set(served: Served) -> None:
    async with connect(served.ws + "/v1/ears") as ws:
        await ask(ws, "authenticate", token="")
        message = json.loads(await ws.recv())
        assert message == {"type": "error", "message": "listener mode is not enabled"}
    assert "secret" not in json.dumps(served.server.settings.shown())


async def test_a_listener_that_does_not_read_is_closed_and_the_speaker_is_not() -> None:
    with serving(ears_listener_tokens="t", max_unsent=100) as served:
        url = served.ws + "/v1/ears"
        narrow = socket.socket()
        narrow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        narrow.connect(("127.0.0.1", served.running.ports["port"]))
        async with connect(url) as speaker, connect(url, max_queue=1, sock=narrow) as listener:
            await ask(speaker, "getstatus")
            await until(speaker, "status")
            await ask(listener, "authenticate", token="t")
            await ask(listener, "liststreams")
            await listener.recv()
            number = json.loads(await listener.recv())["stream_ids"][0]
            await ask(listener, "subscribe", stream_id=number)
            await listener.recv()
            # The sockets' own buffers come first.
            while len(served.server.conversations) == 2:
                for _ in range(50):
                    await ask(speaker, "setlanguage", lang="en")
                for _ in range(50):
                    await speaker.recv()
            await speaker.send(pack(AUDIO))
            await speaker.send("stop")
            assert (await until_closed(speaker))[-1]["text"] == TEXT
            listener.transport.abort()  # It would read everything first.
        await served.settled()
