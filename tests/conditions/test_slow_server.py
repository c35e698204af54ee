"""A server whose encoder is slow, hangs or fails: no final is lost without an error."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import socket
import struct
import threading
import urllib.request
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import soxr
import websockets
from loguru import logger
from websockets.asyncio.client import ClientConnection, connect
from wyoming.audio import AudioChunk

from parakeet_stt.model.encoder import Encoder, EncoderFrames, LocalAttention
from parakeet_stt.model.frontend import LogMel
from parakeet_stt.server.queues import Inbox
from tests.support.recordings import RECORDINGS
from tests.support.serving import EVERY_PORT, Served, offline, pcm16, serving

RECORDING = next(r for r in RECORDINGS if r.set == "known")
PCM = pcm16(RECORDING.samples())
LONG = PCM * (640_000 // len(PCM))
"""About 20 s: more than the server takes at once below."""


class HeldEncoder:
    """A real encoder that waits for :meth:`release` before it encodes."""

    def __init__(self, encoder: Encoder) -> None:
        self.name, self.device, self.precision = encoder.name, encoder.device, encoder.precision
        self.has_local_attention = encoder.has_local_attention
        self._encoder = encoder
        self.called = threading.Event()
        self._released = threading.Event()
        self.release = self._released.set

    def encode(
        self, windows: Sequence[LogMel], attention: LocalAttention | None
    ) -> list[EncoderFrames]:
        self.called.set()
        self._released.wait()
        return list(self._encoder.encode(windows, attention))


class FailingEncoder(HeldEncoder):
    """An encoder that fails as ONNX Runtime does when memory is short."""

    def encode(
        self, windows: Sequence[LogMel], attention: LocalAttention | None
    ) -> list[EncoderFrames]:
        raise RuntimeError("out of memory")


class OnceFailingEncoder(HeldEncoder):
    """An encoder that fails once, when it is released."""

    failed = False

    def encode(
        self, windows: Sequence[LogMel], attention: LocalAttention | None
    ) -> list[EncoderFrames]:
        frames = super().encode(windows, attention)
        if not self.failed:
            self.failed = True
            raise RuntimeError("out of memory")
        return frames


@contextmanager
def serving_with(kind: type[HeldEncoder], **settings: Any) -> Iterator[tuple[Served, HeldEncoder]]:
    """Serve with an encoder of this kind, released at the end."""
    with serving(**{**EVERY_PORT, **settings}) as served:
        model = served.server.model
        encoder = kind(model.encoder)
        with pytest.MonkeyPatch.context() as patch:  # Other servers have the same model.
            patch.setattr(model, "encoder", encoder)
            try:
                yield served, encoder
            finally:
                encoder.release()


@contextmanager
def log_lines() -> Iterator[list[str]]:
    """What is logged meanwhile, from the level WARNING on."""
    lines: list[str] = []
    sink = logger.add(lambda line: lines.append(str(line)), level="WARNING")
    try:
        yield lines
    finally:
        logger.remove(sink)


def counted(served: Served) -> dict[str, float]:
    """The server's metrics."""
    with urllib.request.urlopen(served.http + "/metrics") as answer:
        lines = answer.read().decode().splitlines()
    return {
        name: float(value)
        for name, value in (line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
    }


def ends(served: Served, protocol: str) -> dict[str, float]:
    """Sessions of a protocol by the close code that was counted."""
    start, end = 'parakeet_session_ends_total{code="', f'",protocol="{protocol}"}}'
    return {
        name.removeprefix(start).removesuffix(end): value
        for name, value in counted(served).items()
        if name.startswith(start) and name.endswith(end)
    }


# --- one client of every protocol that has an end -------------------------------------------------


@dataclass
class Answer:
    """What a client got after it had ended its stream.

    Attributes:
        text: The words of its finals.
        errors: The messages that are errors.
        code: The close code; None on TCP.
    """

    text: str
    errors: list[str]
    code: int | None


class Client:
    """A client that sends audio and the protocol's end, and reads until the server closes."""

    def __init__(self, served: Served, protocol: str) -> None:
        self._served = served
        self._protocol = protocol
        self._ws: ClientConnection | None = None
        self._writer: asyncio.StreamWriter | None = None

    async def __aenter__(self) -> Client:
        if self._protocol in ("tcp", "wyoming"):
            port = self._served.port(f"{self._protocol}_port")
            self._reader, self._writer = await asyncio.open_connection("127.0.0.1", port)
        else:
            self._ws = await connect(self._served.ws + PATHS[self._protocol])
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._ws is not None:
            await self._ws.close()
        if self._writer is not None:
            self._writer.close()

    async def send(self, pcm: bytes) -> None:
        """Send 16-bit PCM at 16 kHz, as the protocol has it."""
        if self._ws is not None:
            await self._ws.send(floats_at_24_khz(pcm) if self._protocol == "ears" else pcm)
            return
        assert self._writer is not None
        if self._protocol == "tcp":
            data = base64.b64encode(pcm).decode()
            line = json.dumps({"type": "audio", "data": data}).encode() + b"\n"
            self._writer.write(line)
        else:
            for start in range(0, len(pcm), 32_000):
                chunk = AudioChunk(16_000, 2, 1, pcm[start : start + 32_000]).event()
                head: dict[str, Any] = {"type": chunk.type, "data": chunk.data}
                payload = chunk.payload or b""
                head["payload_length"] = len(payload)
                self._writer.write(json.dumps(head).encode() + b"\n" + payload)
        await self._writer.drain()

    async def end(self) -> None:
        """End the stream in the protocol's way."""
        if self._ws is not None:
            await self._ws.send(GOODBYES[self._protocol])
            return
        assert self._writer is not None
        self._writer.write_eof()

    async def answer(self) -> Answer:
        """Everything until the server closes."""
        messages: list[dict[str, Any]] = []
        if self._ws is None:
            while line := await self._reader.readline():
                event = json.loads(line)
                event["data"] = json.loads(
                    await self._reader.readexactly(event.pop("data_length", 0)) or "{}"
                )
                messages.append(event)
        else:
            with contextlib.suppress(websockets.ConnectionClosed):
                while True:
                    messages.append(json.loads(await self._ws.recv()))
        return Answer(
            " ".join(filter(None, map(final_text, messages))),
            [json.dumps(m) for m in messages if is_error(m)],
            self._ws.close_code if self._ws else None,
        )


PATHS = {
    "stream": "/v1/stream",
    "ws": "/ws",
    "ears": "/v1/ears",
    "deepgram": "/v1/listen?encoding=linear16&sample_rate=16000&endpointing=false",
}
GOODBYES = {
    "stream": '{"type":"close"}',
    "ws": '{"type":"finish"}',
    "ears": '{"type":"stop"}',
    "deepgram": '{"type":"CloseStream"}',
}
PROTOCOLS = (*PATHS, "tcp", "wyoming")


def floats_at_24_khz(pcm: bytes) -> bytes:
    samples = np.frombuffer(pcm, "<i2").astype(np.float32) / 32768
    return bytes(soxr.resample(samples, 16_000, 24_000).astype("<f4").tobytes())


def is_error(message: dict[str, Any]) -> bool:
    return message.get("type") in ("error", "Error") or "error" in message


def final_text(message: dict[str, Any]) -> str:
    """The words of a message, if it is a final of any of the protocols."""
    match message:
        case {"type": "result", "is_final": True, "text": text}:
            return str(text)
        case {
            "type": "Results",
            "is_final": True,
            "channel": {"alternatives": [{"transcript": t}]},
        }:
            return str(t)
        case {"type": "transcript", "data": {"text": text}}:
            return str(text)
        case {"type": "final", "text": text}:
            return str(text)
        case {"text": text, "confidence": _} if "type" not in message:
            return str(text)
    return ""


@pytest.mark.parametrize("protocol", PROTOCOLS)
async def test_a_client_that_ends_its_stream_gets_its_words_however_late(protocol: str) -> None:
    with serving_with(HeldEncoder, drain_seconds=0.1) as (served, encoder):
        async with Client(served, protocol) as client:
            await client.send(PCM)
            await client.end()
            answering = asyncio.create_task(client.answer())
            # Longer than the server waits for finals when it shuts down.
            await asyncio.wait([answering], timeout=0.5)
            assert not answering.done()
            encoder.release()
            answer = await answering
        assert answer.errors == []
        assert answer.text == RECORDING.text
        assert answer.code in (1000, None)


@pytest.mark.parametrize("protocol", PROTOCOLS)
async def test_a_final_that_cannot_be_made_is_an_error_and_no_normal_closure(protocol: str) -> None:
    with serving_with(FailingEncoder) as (served, _), log_lines() as lines:
        async with Client(served, protocol) as client:
            await client.send(PCM)
            await client.end()
            answer = await client.answer()
        assert "out of memory" in " ".join(answer.errors)
        assert answer.text == ""
        assert answer.code in (1011, None)
        await served.settled()
        assert ends(served, protocol) == {"1011": 1}
        assert any(f"{protocol}: closed with 1011" in line for line in lines)


@pytest.mark.parametrize("protocol", PROTOCOLS)
async def test_a_hung_encoder_is_an_error_and_no_normal_closure(protocol: str) -> None:
    with serving_with(HeldEncoder, stall_seconds=0.3) as (served, _), log_lines() as lines:
        async with Client(served, protocol) as client:
            await client.send(PCM)
            await client.end()
            answer = await client.answer()
        assert "no progress" in " ".join(answer.errors)
        assert answer.text == ""
        assert answer.code in (1013, None)
        await served.settled()
        assert ends(served, protocol) == {"1013": 1}
        assert any("segments without a final: 1" in line for line in lines)


@pytest.mark.parametrize("protocol", PROTOCOLS)
async def test_a_hung_encoder_is_an_error_when_the_server_shuts_down(protocol: str) -> None:
    with serving_with(HeldEncoder, drain_seconds=0.3) as (served, _), log_lines() as lines:
        async with Client(served, protocol) as client:
            await client.send(PCM)
            await received(served, len(PCM) / 32_000)
            served.run(served.server.drain())
            answer = await client.answer()
        assert "the server has shut down" in " ".join(answer.errors)
        assert answer.code in (1001, None)
        assert any("segments without a final: 1" in line for line in lines)


async def received(served: Served, seconds: float) -> None:
    """Wait until a session has received this much audio."""
    while not any(s.seconds >= seconds - 0.1 for s in served.server.engine.sessions):  # noqa: ASYNC110
        await asyncio.sleep(0.01)


async def test_an_item_whose_encoder_hangs_has_failed() -> None:
    with serving_with(HeldEncoder, stall_seconds=0.3, idle_seconds=0.3) as (served, _):
        async with connect(served.ws + "/v1/realtime") as ws:
            audio = base64.b64encode(floats_to_24_khz_pcm(PCM)).decode()
            await ws.send(json.dumps({"type": "input_audio_buffer.append", "audio": audio}))
            await ws.send('{"type":"input_audio_buffer.commit"}')
            messages = []
            with contextlib.suppress(websockets.ConnectionClosed):
                while True:
                    messages.append(json.loads(await ws.recv()))
        failed = [m for m in messages if m["type"].endswith(".failed")]
        assert ["no progress" in m["error"]["message"] for m in failed] == [True]
        assert ws.close_code == 1008


def floats_to_24_khz_pcm(pcm: bytes) -> bytes:
    return pcm16(np.frombuffer(floats_at_24_khz(pcm), "<f4"))


# --- while audio is held back ---------------------------------------------------------------------


async def test_a_client_gets_answers_to_its_pings_while_its_audio_is_held_back() -> None:
    with serving_with(HeldEncoder, max_backlog_seconds=1) as (served, encoder):
        async with connect(served.ws + PATHS["stream"]) as ws:
            await ws.send(LONG)
            for start in range(0, len(LONG), 64_000):
                await ws.send(LONG[start : start + 64_000])
            await asyncio.wait_for(await ws.ping(), 20)  # The default timeout of the library.
            encoder.release()
            await ws.send(GOODBYES["stream"])
            messages = [json.loads(message) async for message in ws]
        assert "".join(map(final_text, messages)) == offline(LONG * 2)


@pytest.mark.realtime
async def test_the_keepalive_spares_clients_whose_pong_is_behind_audio_that_is_held_back() -> None:
    settings = {"max_backlog_seconds": 1, "max_unread_kb": 64}
    with serving_with(HeldEncoder, **settings) as (served, encoder):
        config = served.running._web[0][0].config
        config.ws_ping_interval, config.ws_ping_timeout = 0.2, 2
        async with connect(served.ws + PATHS["stream"], ping_interval=None) as ws:
            pieces = [LONG[start : start + 64_000] for start in range(0, len(LONG), 64_000)]
            sending = asyncio.create_task(send_all(ws, pieces))
            for _ in range(2):
                async with silent_client(served) as reader:
                    # It has been pinged and given up, and so would be whoever came before it.
                    assert close_code(await reader.read()) == 1011
            encoder.release()
            await sending
            await ws.send(GOODBYES["stream"])
            messages = [json.loads(message) async for message in ws]
        assert "".join(map(final_text, messages)) == offline(LONG)
        assert ws.close_code == 1000
        await served.settled()
        assert ends(served, "stream") == {"1000": 1, "1011": 2}


async def send_all(ws: ClientConnection, pieces: list[bytes]) -> None:
    for piece in pieces:
        await ws.send(piece)


HANDSHAKE = (
    b"GET /v1/stream HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)


@asynccontextmanager
async def silent_client(served: Served) -> AsyncIterator[asyncio.StreamReader]:
    """A WebSocket that is open, and of which nothing more comes: not even a pong."""
    reader, writer = await asyncio.open_connection("127.0.0.1", served.port("port"))
    writer.write(HANDSHAKE)
    await reader.readuntil(b"\r\n\r\n")
    try:
        yield reader
    finally:
        writer.close()


def close_code(frames: bytes) -> int:
    """The code of the close frame at the end of a server's frames."""
    start = frames.rindex(b"\x88")
    return int.from_bytes(frames[start + 2 : start + 4], "big")


async def test_pings_of_a_client_that_does_not_read_take_no_memory() -> None:
    with serving() as served:
        reader, writer = await asyncio.open_connection("127.0.0.1", served.port("port"))
        writer.write(HANDSHAKE)
        await reader.readuntil(b"\r\n\r\n")
        writer.transport.pause_reading()  # type: ignore[attr-defined]
        ping = b"\x89\xfd" + bytes(4) + b"p" * 125
        for _ in range(500):
            writer.write(ping * 200)
            await writer.drain()
        writer.write(b"\x82\xfe\x7d\x00" + bytes(4 + 32_000))  # Audio: all pings are before it.
        await received(served, 1)
        (connection,) = served.running._web[0][0].server_state.connections
        assert connection.transport.get_write_buffer_size() < 2**20
        writer.transport.abort()
        await served.settled()


async def test_a_client_that_vanishes_while_its_audio_is_held_back_is_let_go() -> None:
    with serving_with(HeldEncoder, max_backlog_seconds=1) as (served, _):
        ws = await connect(served.ws + PATHS["stream"])
        await ws.send(LONG)
        await ws.send(LONG)
        await received(served, len(LONG) / 32_000)
        ws.transport.abort()
        await served.settled()
        assert ends(served, "stream") == {"1006": 1}


async def test_what_a_draining_server_has_received_is_transcribed_though_it_was_held_back() -> None:
    with serving_with(HeldEncoder, max_backlog_seconds=1) as (served, encoder):
        async with connect(served.ws + PATHS["stream"]) as ws:
            for start in range(0, len(LONG), 64_000):
                await ws.send(LONG[start : start + 64_000])
            await (await ws.ping())  # All of it has been received.
            draining = served.start(served.server.drain())
            # Longer than a draining server listens for messages on their way.
            await asyncio.wait([draining], timeout=0.5)
            encoder.release()
            messages = []
            with contextlib.suppress(websockets.ConnectionClosed):
                while True:
                    messages.append(json.loads(await ws.recv()))
            await draining
        assert "".join(map(final_text, messages)) == offline(LONG)
        assert ws.close_code == 1001


async def test_an_interim_that_fails_does_not_hold_audio_back_for_ever() -> None:
    with serving_with(OnceFailingEncoder, max_backlog_seconds=1) as (served, encoder):
        async with Client(served, "stream") as client:
            await client.send(LONG[:16_000])
            await asyncio.to_thread(encoder.called.wait)
            await client.send(LONG[16_000:])  # It waits behind what is in the encoder.
            await received(served, len(LONG) / 32_000)
            encoder.release()
            await client.end()
            answer = await client.answer()
        assert answer.text == offline(LONG)
        assert answer.code == 1000


async def test_a_client_that_goes_on_sending_to_a_hung_encoder_gets_an_error() -> None:
    settings = {"max_backlog_seconds": 1, "stall_seconds": 0.3}
    with serving_with(HeldEncoder, **settings) as (served, _):
        async with Client(served, "stream") as client:
            await client.send(LONG)
            await client.send(LONG)  # The first is in the encoder, and this one waits.
            answer = await client.answer()
        assert "no progress" in " ".join(answer.errors)
        assert answer.code == 1013


# --- what is counted ------------------------------------------------------------------------------


async def test_the_codes_that_are_counted_are_those_of_the_close_frames() -> None:
    with serving(**EVERY_PORT) as served:
        for code in (1000, 4321):
            ws = await connect(served.ws + PATHS["stream"])
            await ws.close(code)
        vanished = await connect(served.ws + PATHS["stream"])
        vanished.transport.abort()
        _, writer = await asyncio.open_connection("127.0.0.1", served.port("tcp_port"))
        await until_sessions(served, "tcp")
        reset = writer.get_extra_info("socket")
        reset.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        writer.close()
        await served.settled()
        assert ends(served, "stream") == {"1000": 1, "4321": 1, "1006": 1}
        assert ends(served, "tcp") == {"1006": 1}


async def until_sessions(served: Served, protocol: str) -> None:
    while not counted(served).get(f'parakeet_sessions_active{{protocol="{protocol}"}}'):  # noqa: ASYNC110
        await asyncio.sleep(0.01)


# --- the queue ------------------------------------------------------------------------------------


async def test_an_inbox_keeps_the_order_and_holds_no_more_than_it_may() -> None:
    inbox: Inbox[bytes] = Inbox(1000)
    await inbox.put(b"first", 600)
    putting = asyncio.create_task(inbox.put(b"second", 600))
    assert await inbox.get() == b"first"
    await putting
    full = asyncio.create_task(inbox.put(b"third", 600))
    await asyncio.sleep(0)
    assert not full.done()
    inbox.close()
    await full
    await inbox.put(b"late", 1)
    assert [await inbox.get() for _ in range(3)] == [b"second", b"third", None]


async def test_empty_messages_fill_an_inbox_too() -> None:
    inbox: Inbox[bytes] = Inbox(1000)
    flood = asyncio.create_task(flood_of_empty_messages(inbox))
    await asyncio.sleep(0)
    assert not flood.done()
    flood.cancel()


async def flood_of_empty_messages(inbox: Inbox[bytes]) -> None:
    for _ in range(1000):
        await inbox.put(b"")
