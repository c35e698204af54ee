"""Every streaming protocol by itself: a real session, and no socket."""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import pytest
import soxr
from starlette.datastructures import Headers, QueryParams
from wyoming.asr import Transcript
from wyoming.audio import AudioChunk, AudioStop
from wyoming.error import Error
from wyoming.event import Event
from wyoming.ping import Ping, Pong

from parakeet_stt.engine.events import Failed, SpeechStarted, SpeechStopped
from parakeet_stt.errors import ParakeetError
from parakeet_stt.server.connection import Connection
from parakeet_stt.server.endings import DONE, DRAINING
from parakeet_stt.server.messages import BadMessageError, Message
from parakeet_stt.server.protocol import Protocol
from parakeet_stt.server.protocols.deepgram import Deepgram
from parakeet_stt.server.protocols.ears import SAMPLE_RATE, Ears
from parakeet_stt.server.protocols.native import Native, NativeLines
from parakeet_stt.server.protocols.parakeet_fastapi import ParakeetFastAPI
from parakeet_stt.server.protocols.realtime import Realtime
from parakeet_stt.server.protocols.wyoming import Wyoming
from parakeet_stt.server.settings import load_server_settings
from parakeet_stt.server.state import Server
from tests.support.recordings import RECORDINGS
from tests.support.serving import offline, pcm16

SAMPLES = next(recording for recording in RECORDINGS if recording.set == "known").samples()
PCM = pcm16(SAMPLES)
FLOATS_24K = soxr.resample(SAMPLES, 16_000, SAMPLE_RATE).astype("<f4").tobytes()
IN_BASE64 = base64.b64encode(PCM).decode()
TEXT = offline(PCM)

M = TypeVar("M")


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    """A server that has loaded its model and has no ports."""
    settings = load_server_settings(
        {}, model="tiny", backend="onnx", api_keys="one", ears_listener_tokens="secret"
    )
    server = Server(settings)
    await server.start()
    yield server
    await server.drain()


class Client(Generic[M]):
    """A client of a protocol, without a socket between them."""

    def __init__(
        self, server: Server, protocol: type[Protocol[M]], query: str = "", **headers: str
    ) -> None:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        self.connection: Connection[M] = Connection(server, protocol.name, Headers(named))
        self.protocol = protocol(self.connection, QueryParams(query))
        self.protocol.on_open()

    def send(self, *messages: M) -> list[M]:
        """Send messages; return those that the protocol sends at once."""
        for message in messages:
            try:
                self.protocol.on_message(message)
            except ParakeetError as error:
                self.protocol.on_error(error)
        return self.connection.outbox.take()

    async def finish(self) -> list[M]:
        """End the stream; return the messages that the protocol sends until its end."""
        session = self.connection.session
        self.protocol.flush_audio()
        await session.finish()
        async for event in session:
            self.protocol.on_event(event)
        self.protocol.on_close(DONE)
        return self.connection.outbox.take()


def plain(message: Any) -> dict[str, Any]:
    """A message as a dictionary, whatever the protocol's form."""
    if isinstance(message, Event):
        return {"type": message.type, **message.data}
    content: dict[str, Any] = json.loads(message)
    return content


@dataclass
class Case:
    """How a client of a protocol sends audio, and where its finals and errors are."""

    protocol: type[Protocol[Any]]
    audio: list[Any]
    final: Callable[[dict[str, Any]], str | None]
    error: Callable[[dict[str, Any]], str | None]
    invalid: Any = '{"type": "nonsense"}'
    query: str = ""
    setup: list[Any] = field(default_factory=list)


def text_if(name: str, value: Any, *path: Any) -> Callable[[dict[str, Any]], str | None]:
    """Find the text at a path in messages in which a field has a value."""

    def find(message: dict[str, Any]) -> str | None:
        if message.get(name) != value:
            return None
        found: Any = message
        for key in path:
            found = found[key]
        return str(found)

    return find


COMPLETED = "conversation.item.input_audio_transcription.completed"
ERROR = text_if("type", "error", "message")

CASES = [
    Case(Native, [PCM], text_if("is_final", True, "text"), ERROR),
    Case(
        NativeLines,
        [json.dumps({"type": "audio", "data": IN_BASE64})],
        text_if("is_final", True, "text"),
        ERROR,
        setup=['{"type": "authenticate", "key": "one"}'],
    ),
    Case(Ears, [FLOATS_24K], text_if("type", "final", "text"), ERROR),
    Case(
        Deepgram,
        [PCM],
        text_if("is_final", True, "channel", "alternatives", 0, "transcript"),
        text_if("type", "Error", "description"),
        query="encoding=linear16&sample_rate=16000&interim_results=true",
    ),
    Case(
        Realtime,
        [
            json.dumps({"type": "input_audio_buffer.append", "audio": IN_BASE64}),
            '{"type": "input_audio_buffer.commit"}',
        ],
        text_if("type", COMPLETED, "transcript"),
        text_if("type", "error", "error", "message"),
        setup=[
            json.dumps(
                {
                    "type": "session.update",
                    "session": {
                        "type": "transcription",
                        "audio": {
                            "input": {
                                "format": {"type": "audio/pcm", "rate": 16_000},
                                "turn_detection": None,
                            }
                        },
                    },
                }
            )
        ],
    ),
    Case(
        ParakeetFastAPI,
        [PCM],
        lambda message: message.get("text"),
        lambda message: message.get("error"),
    ),
    Case(
        Wyoming,
        [AudioChunk(16_000, 2, 1, PCM).event(), AudioStop().event()],
        text_if("type", "transcript", "text"),
        text_if("type", "error", "text"),
        invalid=Event("audio-chunk", {"rate": "fast"}),
    ),
]

every_protocol = pytest.mark.parametrize("case", CASES, ids=lambda case: case.protocol.name)


@every_protocol
async def test_audio_becomes_the_text_of_transcribe(server: Server, case: Case) -> None:
    client = Client(server, case.protocol, case.query)
    client.send(*case.setup, *case.audio)
    found = [case.final(plain(message)) for message in await client.finish()]
    texts = [text for text in found if text]
    if case.protocol is Ears:  # Its audio is resampled.
        assert len(texts) == 1
    else:
        assert " ".join(texts) == TEXT


@every_protocol
async def test_an_invalid_message_is_an_error_and_costs_no_audio(
    server: Server, case: Case
) -> None:
    client = Client(server, case.protocol, case.query)
    client.send(*case.setup, *case.audio[:1])
    errors = [case.error(plain(message)) for message in client.send(case.invalid)]
    assert len([error for error in errors if error]) == 1
    assert client.connection.ending is None
    client.send(*case.audio[1:])
    assert any(case.final(plain(message)) for message in await client.finish())


@every_protocol
async def test_a_segment_that_failed_is_an_error(server: Server, case: Case) -> None:
    client = Client(server, case.protocol, case.query)
    client.send(*case.setup, *case.audio[:1])
    await client.finish()
    client.protocol.on_event(Failed(ParakeetError("out of memory"), segment=0))
    messages = [plain(message) for message in client.connection.outbox.take()]
    assert any("out of memory" in json.dumps(message) for message in messages)


async def test_the_reason_is_sent_if_the_server_ends_the_stream(server: Server) -> None:
    for case in CASES:
        if case.protocol in (Deepgram, Realtime):  # Theirs is in the close code and reason.
            continue
        client = Client(server, case.protocol, case.query)
        client.send(*case.setup, *case.audio[:1])
        client.protocol.on_close(DRAINING)
        messages = client.connection.outbox.take()
        assert DRAINING.reason in [case.error(plain(message)) for message in messages]


@pytest.mark.parametrize(
    ("protocol", "query"),
    [
        (Native, "vad_stop_ms=1"),
        (Native, "boost=Ada:0"),
        (Deepgram, "encoding=opus"),
        (ParakeetFastAPI, "sample_rate=1"),
    ],
)
async def test_invalid_parameters_are_refused_before_the_session_is_opened(
    server: Server, protocol: type[Protocol[Message]], query: str
) -> None:
    with pytest.raises(ParakeetError, match=query.partition("=")[0]):
        Client(server, protocol, query)
    assert server.engine.sessions == frozenset()


# --- protocols in detail --------------------------------------------------------------------------


async def test_native_answers_pings_and_numbers_its_streams(server: Server) -> None:
    first, second = Client(server, Native), Client(server, Native)
    (pong,) = map(plain, first.send('{"type": "ping", "id": 7}')[1:])
    assert (pong["type"], pong["id"], pong["lag"]) == ("pong", 7, 0)
    (hello,) = map(plain, second.send())
    assert (hello["type"], hello["stream_id"]) == ("hello", pong["stream_id"] + 1)


async def test_native_sends_when_speech_starts_and_stops(server: Server) -> None:
    client = Client(server, Native, "vad=true")
    client.send()
    client.protocol.on_event(SpeechStarted(at=1.5, start=1.2))
    client.protocol.on_event(SpeechStopped(at=2.5))
    sent = [plain(message) for message in client.connection.outbox.take()]
    assert [(message["type"], message["time"]) for message in sent] == [
        ("speech_started", 1.5),
        ("speech_stopped", 2.5),
    ]


async def test_native_lines_need_the_key_first(server: Server) -> None:
    client = Client(server, NativeLines)
    client.send('{"type": "ping"}')
    assert client.connection.ending is not None
    assert client.connection.ending.code == 1008
    allowed = Client(server, NativeLines)
    sent = allowed.send('{"type": "authenticate", "key": "one"}')
    assert plain(sent[-1])["type"] == "authenticated"


async def test_deepgram_answers_a_close_with_metadata(server: Server) -> None:
    client = Client(server, Deepgram, "sample_rate=16000")
    client.send(PCM, '{"type": "CloseStream"}')
    assert client.connection.ending is DONE
    metadata = plain((await client.finish())[-1])
    assert metadata["type"] == "Metadata"
    assert metadata["request_id"] == client.protocol.response_headers["dg-request-id"]
    assert metadata["duration"] == pytest.approx(len(SAMPLES) / 16_000, abs=0.01)


async def test_realtime_answers_a_beta_client_in_the_beta_form(server: Server) -> None:
    for query, kind in (("", "session"), ("intent=transcription", "transcription_session")):
        client = Client(server, Realtime, query, openai_beta="realtime=v1")
        (created,) = map(plain, client.send())
        assert created["type"] == f"{kind}.created"


async def test_realtime_refuses_binary_messages(server: Server) -> None:
    client = Client(server, Realtime)
    with pytest.raises(BadMessageError, match=r"input_audio_buffer\.append"):
        client.protocol.on_message(b"audio")


async def test_ears_forwards_a_stream_to_listeners_until_they_stop_reading(
    server: Server,
) -> None:
    speaker, listener = Client(server, Ears), Client(server, Ears)
    (changed,) = map(plain, speaker.send('{"type": "resume"}'))
    assert changed["type"] == "enginechanged"
    listener.send('{"type": "authenticate", "token": "secret"}')
    (streams,) = map(plain, listener.send('{"type": "liststreams"}'))
    (stream,) = streams["stream_ids"]
    listener.send(json.dumps({"type": "subscribe", "stream_id": stream}))
    language = '{"type": "setlanguage", "lang": "en"}'
    assert speaker.send(language) == listener.send()
    speaker.send(*[language] * (server.settings.max_unsent + 1))
    ending = listener.connection.ending
    assert ending is not None
    assert (ending.code, ending.deliver) == (1008, False)
    assert speaker.connection.ending is None


async def test_wyoming_answers_pings_and_takes_other_audio_as_an_error(server: Server) -> None:
    client = Client(server, Wyoming)
    (pong,) = client.send(Ping(text="there?").event())
    assert Pong.from_event(pong).text == "there?"
    (error,) = client.send(AudioChunk(16_000, 4, 1, b"0000").event())
    assert Error.from_event(error).code == "unsupported-audio"


async def test_wyoming_transcribes_utterance_after_utterance(server: Server) -> None:
    client = Client(server, Wyoming)
    chunk, stop = AudioChunk(16_000, 2, 1, PCM).event(), AudioStop().event()
    client.send(chunk, stop, chunk, stop)
    events = await client.finish()
    texts = [Transcript.from_event(e).text for e in events if Transcript.is_type(e.type)]
    assert texts == [TEXT, TEXT]
