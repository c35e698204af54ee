"""The same recordings through every protocol, cut into pieces of any size: the same text."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import random
import urllib.request
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import soundfile
import soxr
from websockets.asyncio.client import connect
from wyoming.asr import Transcript
from wyoming.audio import AudioChunk, AudioStart, AudioStop
from wyoming.client import AsyncTcpClient

from parakeet_stt.audio import AudioDecoder, Samples
from tests.support.recordings import RECORDINGS
from tests.support.serving import Served, offline, pcm16

SINGLE = [recording for recording in RECORDINGS if recording.set != "several"][::8]
PIECES = (333, 640, 3201, 32_000)


def pieces(data: bytes, seed: int) -> list[bytes]:
    """Data in pieces of one size, odd or even, up to a second."""
    size = random.Random(seed).choice(PIECES)
    return [data[start : start + size] for start in range(0, len(data), size)]


async def talk(url: str, messages: list[Any], last: dict[str, str] | str) -> list[dict[str, Any]]:
    """Send audio and the protocol's end; everything that the server says until it closes."""
    async with connect(url, max_size=None) as ws:

        async def send() -> None:
            for message in messages:
                await ws.send(message)
            await ws.send(last if isinstance(last, str) else json.dumps(last))

        sending = asyncio.create_task(send())
        answers = [json.loads(answer) async for answer in ws]
        await sending
    return answers


def joined(texts: list[str]) -> str:
    return " ".join(text for text in texts if text)


async def native(served: Served, audio: list[bytes], query: str = "") -> str:
    answers = await talk(f"{served.ws}/v1/stream{query}", audio, {"type": "close"})
    return joined([answer["text"] for answer in answers if answer.get("is_final")])


async def native_vad(served: Served, audio: list[bytes]) -> str:
    return await native(served, audio, "?vad=true")


async def lines(served: Served, audio: list[bytes]) -> str:
    reader, writer = await asyncio.open_connection("127.0.0.1", served.port("tcp_port"))
    for piece in audio:
        message = {"type": "audio", "data": base64.b64encode(piece).decode()}
        writer.write(json.dumps(message).encode() + b"\n")
    writer.write_eof()
    answers = [json.loads(line) async for line in reader]
    writer.close()
    return joined([answer["text"] for answer in answers if answer.get("is_final")])


async def ws(served: Served, audio: list[bytes]) -> str:
    answers = await talk(served.ws + "/ws", audio, {"type": "finish"})
    return joined([answer["text"] for answer in answers if "text" in answer])


async def deepgram(served: Served, audio: list[bytes]) -> str:
    url = served.ws + "/v1/listen?encoding=linear16&sample_rate=16000"
    answers = await talk(url, audio, {"type": "CloseStream"})
    finals = [answer for answer in answers if answer.get("is_final")]
    return joined([final["channel"]["alternatives"][0]["transcript"] for final in finals])


async def realtime(served: Served, audio: list[bytes]) -> str:
    listening = {"format": {"type": "audio/pcm", "rate": 16_000}, "turn_detection": None}
    session = {"type": "transcription", "audio": {"input": listening}}
    async with connect(served.ws + "/v1/realtime?intent=transcription") as connection:
        await connection.send(json.dumps({"type": "session.update", "session": session}))
        for piece in audio:
            append = {
                "type": "input_audio_buffer.append",
                "audio": base64.b64encode(piece).decode(),
            }
            await connection.send(json.dumps(append))
        await connection.send('{"type":"input_audio_buffer.commit"}')
        async for message in connection:
            event = json.loads(message)
            if event["type"].endswith("transcription.completed"):
                return str(event["transcript"])
    raise AssertionError("the item got no transcript")


async def wyoming(served: Served, audio: list[bytes]) -> str:
    async with AsyncTcpClient("127.0.0.1", served.port("wyoming_port")) as client:
        await client.write_event(AudioStart(16_000, 2, 1).event())
        for piece in audio:
            await client.write_event(AudioChunk(16_000, 2, 1, piece).event())
        await client.write_event(AudioStop().event())
        while (event := await client.read_event()) is not None:
            if Transcript.is_type(event.type):
                return Transcript.from_event(event).text
    raise AssertionError("the utterance got no transcript")


async def post(served: Served, path: str, data: bytes, kind: str) -> Any:
    request = urllib.request.Request(served.http + path, data, {"Content-Type": kind})

    def ask() -> Any:
        with urllib.request.urlopen(request) as answer:
            return json.load(answer)

    return await asyncio.to_thread(ask)


def wav(audio: list[bytes]) -> bytes:
    file = io.BytesIO()
    pcm = b"".join(audio)
    soundfile.write(file, memoryview(pcm).cast("h"), 16_000, format="WAV", subtype="PCM_16")
    return file.getvalue()


def form(audio: list[bytes]) -> bytes:
    head = b'--x\r\nContent-Disposition: form-data; name="file"; filename="a.wav"\r\n\r\n'
    return head + wav(audio) + b"\r\n--x--\r\n"


async def openai(served: Served, audio: list[bytes]) -> str:
    kind = "multipart/form-data; boundary=x"
    return str((await post(served, "/v1/audio/transcriptions", form(audio), kind))["text"])


async def transcribe(served: Served, audio: list[bytes]) -> str:
    kind = "multipart/form-data; boundary=x"
    return str((await post(served, "/transcribe", form(audio), kind))["text"])


async def deepgram_file(served: Served, audio: list[bytes]) -> str:
    answer = await post(served, "/v1/listen", wav(audio), "audio/wav")
    return str(answer["results"]["channels"][0]["alternatives"][0]["transcript"])


Speak = Callable[[Served, list[bytes]], Awaitable[str]]

EVERY: list[Speak] = [
    *(native, native_vad, lines, ws, deepgram, realtime, wyoming),
    *(openai, transcribe, deepgram_file),
]


@pytest.mark.parametrize("speak", EVERY, ids=lambda speak: speak.__name__)
async def test_every_protocol_says_what_transcribe_says(served: Served, speak: Speak) -> None:
    for seed, recording in enumerate(SINGLE):
        data = pcm16(recording.samples())
        assert await speak(served, pieces(data, seed)) == offline(data)
    await served.settled()


async def test_ears_says_what_transcribe_says_of_its_24_khz(served: Served) -> None:
    for seed, recording in enumerate(SINGLE):
        data = soxr.resample(recording.samples(), 16_000, 24_000).astype("<f4").tobytes()
        answers = await talk(served.ws + "/v1/ears", pieces(data, seed), "stop")
        (final,) = [answer for answer in answers if answer["type"] == "final"]
        assert final["text"] == offline(heard(data))


def heard(data: bytes) -> bytes:
    """24 kHz floats at 16 kHz, as the server hears them, but in 16 bits."""
    decode = AudioDecoder("f32", 24_000)
    samples: list[Samples] = [decode(data), decode.flush()]
    return b"".join(pcm16(part) for part in samples)
