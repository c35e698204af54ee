"""``/v1/stream`` over WebSocket and TCP, and what parakeet-streaming's (004) clients rely on."""

from __future__ import annotations

import asyncio
import base64
import itertools
import json
from typing import Any

import pytest
import websockets
from websockets.asyncio.client import ClientConnection, connect

from tests.support.recordings import RECORDINGS
from tests.support.serving import Served, in_frames, offline, pcm16
from tests.support.telephone import MULAW, compand

RECORDING = next(recording for recording in RECORDINGS if recording.set == "known")
PCM = pcm16(RECORDING.samples())


async def ask(ws: ClientConnection, **message: Any) -> None:
    await ws.send(json.dumps(message))


async def until_closed(ws: ClientConnection) -> list[dict[str, Any]]:
    return [json.loads(message) async for message in ws]


def finals(messages: list[dict[str, Any]]) -> list[str]:
    return [m["text"] for m in messages if m["type"] == "result" and m["is_final"]]


@pytest.mark.parametrize("size", [1, 7, 333, 3200, 32_000])
async def test_binary_audio_of_any_frame_size_is_heard_whole(served: Served, size: int) -> None:
    async with connect(served.ws + "/v1/stream") as ws:
        for frame in in_frames(PCM, size):
            await ws.send(frame)
        await ask(ws, type="close")
        messages = await until_closed(ws)
        assert (ws.close_code, ws.close_reason) == (1000, "")
    assert messages[0]["type"] == "hello"
    assert messages[0]["sample_rate"] == 16_000
    assert finals(messages) == [offline(PCM)]
    await served.settled()


async def test_a_client_of_parakeet_streaming_is_understood(served: Served) -> None:
    """As 004 documents it: no path, audio in base64, ``final`` with the last of it."""
    for transport in ("websocket", "tcp"):
        messages = await stream_004(served, transport)
        assert messages[0]["type"] == "hello"
        assert isinstance(messages[0]["stream_id"], int)
        results = [message for message in messages if message["type"] == "result"]
        assert results[-1]["is_final"]
        assert results[-1]["text"] == offline(PCM)
        ids = [number for result in results for number in result["token_ids"]]
        scores = [score for result in results for score in result["confidence_scores"]]
        assert len(ids) == len(scores) > 0
        assert all(0 <= score <= 1 for score in scores)
    await served.settled()


async def stream_004(served: Served, transport: str) -> list[dict[str, Any]]:
    lines = []
    for start in range(0, len(PCM), 5120):
        piece = PCM[start : start + 5120]
        message = {"type": "audio", "data": base64.b64encode(piece).decode(), "encoding": "pcm16"}
        lines.append(json.dumps({**message, "final": start + 5120 >= len(PCM)}))
    if transport == "websocket":
        async with connect(f"ws://127.0.0.1:{served.port('ws_port')}") as ws:
            for line in lines:
                await ws.send(line)
            return await until_closed(ws)
    reader, writer = await asyncio.open_connection("127.0.0.1", served.port("tcp_port"))
    writer.write("\n".join(lines).encode() + b"\n")
    messages = [json.loads(line) async for line in reader]
    writer.close()
    return messages


async def test_a_tcp_client_that_only_stops_sending_gets_its_final(served: Served) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", served.port("tcp_port"))
    audio = {"type": "audio", "data": base64.b64encode(PCM).decode()}
    writer.write(json.dumps(audio).encode())  # Without a line's end.
    writer.write_eof()
    messages = [json.loads(line) async for line in reader]
    assert finals(messages) == [offline(PCM)]
    writer.close()
    await served.settled()


async def test_a_flush_is_acknowledged_after_its_final(served: Served) -> None:
    async with connect(served.ws + "/v1/stream") as ws:
        for number in range(2):
            await ws.send(PCM)
            await ask(ws, type="flush", id=number)
        await ask(ws, type="flush", id="nothing")
        await ask(ws, type="close")
        messages = [
            m for m in await until_closed(ws) if not (m["type"] == "result" and not m["is_final"])
        ]
    kinds = [(m["type"], m.get("id")) for m in messages]
    assert kinds == [
        ("hello", None),
        *[("result", None), ("flushed", 0), ("result", None), ("flushed", 1)],
        *[("result", None), ("flushed", "nothing"), ("result", None)],
    ]
    assert finals(messages) == [offline(PCM), offline(PCM), "", ""]


async def test_every_encoding_says_the_same(served: Served) -> None:
    samples = RECORDING.samples()
    texts = {}
    for encoding, data in (
        ("f32", samples.astype("<f4").tobytes()),
        ("pcm16", PCM),
    ):
        async with connect(f"{served.ws}/v1/stream?encoding={encoding}") as ws:
            await ws.send(data)
            await ask(ws, type="close")
            texts[encoding] = finals(await until_closed(ws))
    async with connect(served.ws + "/v1/stream") as ws:
        await ask(ws, type="audio", samples=samples.tolist(), final=True)
        texts["samples"] = finals(await until_closed(ws))
    assert texts["f32"] == texts["samples"] == texts["pcm16"] == [offline(PCM)]


async def test_committed_text_is_never_taken_back_and_interims_can_be_turned_off(
    served: Served,
) -> None:
    async with connect(served.ws + "/v1/stream") as ws:
        await ask(ws, type="configure", interims=False)
        await ws.send(PCM)
        await ask(ws, type="flush")
        await ask(ws, type="configure", interims=True)
        for start in range(0, len(PCM), 3200):
            await ws.send(PCM[start : start + 3200])
            await ask(ws, type="ping", id=start)
            while json.loads(await ws.recv())["type"] != "pong":
                pass
        await ask(ws, type="close")
        messages = await until_closed(ws)
    assert finals(messages)[-1] == offline(PCM)


async def test_the_vad_finds_segments_when_asked(served: Served) -> None:
    silence = bytes(2 * 16_000)
    async with connect(served.ws + "/v1/stream?vad=true&vad_stop_ms=300") as ws:
        await ws.send(PCM + silence + PCM + silence)
        await ask(ws, type="close")
        messages = await until_closed(ws)
    kinds = [m["type"] for m in messages if m["type"].startswith("speech")]
    assert kinds == ["speech_started", "speech_stopped"] * 2
    assert [text for text in finals(messages) if text] == [RECORDING.text] * 2


async def test_interims_come_when_there_is_something_new(served: Served) -> None:
    async with connect(served.ws + "/v1/stream") as ws:
        for piece in (bytes(32_000), PCM, bytes(96_000)):
            for start in range(0, len(piece), 3200):
                await ws.send(piece[start : start + 3200])
        await ask(ws, type="close")
        messages = await until_closed(ws)
    results = [message for message in messages if message["type"] == "result"]
    told = [(result["text"], result["committed"], result["is_final"]) for result in results]
    assert told[0][0]
    assert all(one != other for one, other in itertools.pairwise(told))


@pytest.mark.parametrize(
    ("message", "complaint"),
    [
        ("{", "Invalid JSON"),
        ('"text"', "object"),
        ('{"type":"shout"}', "'shout'"),
        ('{"type":"audio","data":"@@@"}', "base64"),
        ('{"type":"audio","data":7}', "data"),
        ('{"type":"audio","encoding":"mp3"}', "encoding"),
        ('{"type":"audio","samples":[1e300]}', "not finite"),
        ('{"type":"configure","boost":{"":3}}', "boost"),
        ('{"type":"configure","sample_rate":3}', "sample_rate"),
    ],
)
async def test_a_message_that_cannot_be_used_is_an_error_and_costs_nothing_heard(
    served: Served, message: str, complaint: str
) -> None:
    async with connect(served.ws + "/v1/stream") as ws:
        half = len(PCM) // 4 * 2
        await ws.send(PCM[:half])
        await ws.send(message)
        await ws.send(PCM[half:])
        await ask(ws, type="close")
        messages = await until_closed(ws)
    errors = [m["message"] for m in messages if m["type"] == "error"]
    assert len(errors) == 1
    assert complaint in errors[0]
    assert finals(messages)[-1] == offline(PCM)


@pytest.mark.parametrize("option", ["encoding=mp3", "boost=a:99", "boost=a:b", "vad=perhaps"])
async def test_options_that_cannot_be_are_refused_at_the_handshake(
    served: Served, option: str
) -> None:
    with pytest.raises(websockets.InvalidStatus) as refused:
        await connect(f"{served.ws}/v1/stream?{option}")
    assert refused.value.response.status_code == 400
    assert option.split("=")[0].encode() in refused.value.response.body


async def test_the_status_port_counts_the_streams(served: Served) -> None:
    async def status() -> Any:
        reader, writer = await asyncio.open_connection("127.0.0.1", served.port("status_port"))
        line = await reader.read()
        writer.close()
        return json.loads(line)

    async with connect(served.ws + "/v1/stream") as ws:
        await ws.recv()
        assert await status() == {"type": "status", "connected_streams": 1}
        await ask(ws, type="close")
        await until_closed(ws)
    await served.settled()
    assert await status() == {"type": "status", "connected_streams": 0}


async def test_mu_law_at_8_khz_is_heard(served: Served) -> None:
    import soxr

    narrow = soxr.resample(RECORDING.samples(), 16_000, 8_000)
    codes = compand(narrow, MULAW)
    async with connect(served.ws + "/v1/stream?encoding=mulaw&sample_rate=8000") as ws:
        await ws.send(codes)
        await ask(ws, type="close")
        messages = await until_closed(ws)
    assert len(finals(messages)[0].split()) == pytest.approx(len(RECORDING.text.split()), abs=3)


async def test_a_tcp_client_at_another_rate_is_heard_to_its_last_sample(served: Served) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", served.port("tcp_port"))
    for message in (
        {"type": "configure", "sample_rate": 48_000},
        {"type": "audio", "data": base64.b64encode(bytes(2 * 48_000)).decode()},
    ):
        writer.write(json.dumps(message).encode() + b"\n")
    writer.write_eof()
    messages = [json.loads(line) async for line in reader]
    writer.close()
    assert messages[-1]["is_final"]
    assert messages[-1]["end"] == pytest.approx(1.0, abs=0.001)
