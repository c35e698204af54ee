"""Nonsense of every kind, thousands of messages of it: clear errors, and nobody else is harmed."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Iterator
from functools import cache
from typing import Any

import pytest
import websockets
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from websockets.asyncio.client import ClientConnection, connect

from parakeet_stt.server.app import WEBSOCKET_PROTOCOLS
from tests.support.recordings import RECORDINGS
from tests.support.serving import EVERY_PORT, Served, offline, pcm16, serving

MESSAGES = 100
"""Messages on each connection. Hypothesis's profile says how many connections."""

PCM = pcm16(next(r for r in RECORDINGS if r.set == "known").samples())

VOCABULARY: dict[str, tuple[list[str], list[str]]] = {
    "/v1/stream": (
        ["audio", "configure", "flush", "ping", "authenticate"],
        ["data", "samples", "encoding", "final", "sample_rate", "channels", "interims", "vad"]
        + ["vad_threshold", "vad_stop_ms", "boost", "id", "key"],
    ),
    "/ws": (["flush", "finish", "stop"], ["text", "partial", "interims"]),
    "/v1/ears": (
        ["restart", "pause", "resume", "getstatus", "setlanguage", "setvadtimeout", "setengine"]
        + ["authenticate", "liststreams", "subscribe"],
        ["lang", "seconds", "engine", "token", "stream_id"],
    ),
    "/v1/listen": (["KeepAlive", "Finalize", "Configure"], ["features", "keyterms"]),
    "/v1/realtime": (
        ["session.update", "transcription_session.update", "input_audio_buffer.append"]
        + ["input_audio_buffer.commit", "input_audio_buffer.clear", "response.create"],
        ["session", "audio", "event_id", "input_audio_format", "turn_detection", "input"]
        + ["format", "transcription", "include", "rate", "threshold", "silence_duration_ms"],
    ),
}
"""Message types that do not end a session, and fields, for each path."""

WORDS = ["pcm16", "f32", "AAAA", "audio/pcm", "server_vad", "transcription", "en", "parakeet"]

NUMBERS = st.one_of(
    st.integers(-5, 50_000),
    st.sampled_from([0, -1, 2**31, 2**63, 10**40, 1e308, -1e308, 0.5, float("nan"), float("inf")]),
)


def values(fields: list[str]) -> st.SearchStrategy[Any]:
    """JSON of any shape, with the protocol's own names in it."""
    leaves = st.one_of(
        st.none(), st.booleans(), NUMBERS, st.sampled_from(WORDS), st.text(max_size=20)
    )
    return st.recursive(
        leaves,
        lambda inner: st.one_of(
            st.lists(inner, max_size=4),
            st.dictionaries(st.sampled_from(fields) | st.text(max_size=5), inner, max_size=4),
        ),
        max_leaves=6,
    )


def messages(path: str) -> st.SearchStrategy[str | bytes]:
    """Messages that are nearly right, half-written, of wrong types, or noise."""
    types, fields = VOCABULARY[path]
    anything = values(fields)
    like = st.builds(
        lambda kind, content: {"type": kind, **content},
        st.sampled_from(types) | anything,
        st.dictionaries(st.sampled_from(fields), anything, max_size=4),
    )
    whole = st.one_of(like, anything).map(json.dumps)
    cut = st.builds(lambda text, at: text[: at % (len(text) + 1)], whole, st.integers(0, 200))
    sound = st.integers(0, 3001).map(lambda size: PCM[:size])
    return st.one_of(whole, whole, whole, cut, st.text(max_size=50), st.binary(max_size=200), sound)


nonsense = settings(phases=[Phase.generate], suppress_health_check=list(HealthCheck))


@pytest.fixture(scope="module")
def attacked() -> Iterator[Served]:
    """A server of its own, so that what it counts is this module's."""
    with serving(**EVERY_PORT, idle_seconds=20) as served:
        yield served


@cache
def expected() -> str:
    """What is heard without an attack."""
    return offline(PCM)


def internal_errors(served: Served) -> float:
    """Defects of ours that the server has noticed."""
    metrics = served.server.metrics.registry.collect()
    return sum(
        sample.value
        for metric in metrics
        for sample in metric.samples
        if sample.name == "parakeet_errors_total" and sample.labels["type"] == "internal"
    )


async def while_somebody_speaks(served: Served, attack: Any) -> None:
    """Attack while another session is in the midst of its sentence; its final is as ever."""
    async with connect(served.ws + "/v1/stream?interims=false") as other:
        await other.recv()
        await other.send(PCM[: len(PCM) // 2])
        await attack
        await other.send(PCM[len(PCM) // 2 :])
        await other.send('{"type":"close"}')
        answers = [json.loads(message) async for message in other]
    assert [answer["text"] for answer in answers if answer.get("is_final")] == [expected()]


@pytest.mark.parametrize("path", sorted(set(WEBSOCKET_PROTOCOLS) - {"/"}))
def test_nonsense_on_a_websocket(attacked: Served, path: str) -> None:
    url = f"{attacked.ws}{path}?sample_rate=16000"
    sent = 0

    @nonsense
    @given(st.lists(messages(path), min_size=MESSAGES, max_size=MESSAGES))
    def attack(unsent: list[str | bytes]) -> None:
        nonlocal sent
        sent += len(unsent)
        asyncio.run(while_somebody_speaks(attacked, send(unsent)))

    async def send(unsent: list[str | bytes]) -> None:
        while unsent:
            ws = await connect(url)
            reading = asyncio.create_task(read(ws))
            with contextlib.suppress(websockets.ConnectionClosed):
                while unsent:
                    await ws.send(unsent.pop())
            await ws.close()
            for answer in await reading:
                told = answer if isinstance(answer, str) else answer.decode()
                assert "Traceback" not in told
            assert ws.close_code in (1000, 1003, 1005, 1006, 1007, 1008, 1009), ws.close_reason

    async def read(ws: ClientConnection) -> list[str | bytes]:
        answers = []
        with contextlib.suppress(websockets.ConnectionClosed):
            while True:
                answers.append(await ws.recv())
        return answers

    attack()
    asyncio.run(attacked.settled())
    assert sent >= settings().max_examples * MESSAGES
    assert internal_errors(attacked) == 0


HEADERS = st.fixed_dictionaries(
    {
        "type": st.sampled_from(
            ["describe", "transcribe", "audio-start", "audio-chunk", "audio-stop", "ping", "noise"]
        )
        | values(["type"]),
    },
    optional={
        "data": values(["rate", "width", "channels", "language", "transcript_names", "text"]),
        "data_length": st.integers(-1, 40) | NUMBERS,
        "payload_length": st.integers(-1, 4000) | NUMBERS,
        "version": st.text(max_size=5),
    },
)
"""Wyoming's headers, whose lengths are mostly wrong."""

SOUND = {"type": "audio-chunk", "data": {"rate": 16_000, "width": 2, "channels": 1}}


def frames() -> st.SearchStrategy[bytes]:
    """Events of Wyoming that are right, of wrong types or lengths, or noise."""
    wrong = st.builds(
        lambda header, rest: json.dumps(header).encode() + b"\n" + rest,
        HEADERS,
        st.binary(max_size=60),
    )
    right = st.integers(0, 3001).map(
        lambda size: json.dumps({**SOUND, "payload_length": size}).encode() + b"\n" + PCM[:size]
    )
    stop = st.just(b'{"type":"audio-stop"}\n')
    return st.one_of(right, right, stop, wrong, st.binary(max_size=60))


def test_nonsense_on_wyoming(attacked: Served) -> None:
    """Most of it ends the connection, so that it takes thousands of them."""
    port = attacked.port("wyoming_port")

    @nonsense
    @given(st.lists(st.lists(frames(), min_size=4, max_size=6), min_size=20, max_size=25))
    def attack(connections: list[list[bytes]]) -> None:
        asyncio.run(while_somebody_speaks(attacked, send(connections)))

    async def send(connections: list[list[bytes]]) -> None:
        for events in connections:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"".join(events))
            writer.write_eof()
            for line in (await reader.read()).splitlines():
                assert b"Traceback" not in line
            writer.close()

    attack()
    asyncio.run(attacked.settled())
    assert internal_errors(attacked) == 0


def test_nonsense_on_lines(attacked: Served) -> None:
    port = attacked.port("tcp_port")

    @nonsense
    @given(st.lists(messages("/v1/stream"), min_size=MESSAGES, max_size=MESSAGES), st.booleans())
    def attack(lines: list[str | bytes], whole: bool) -> None:
        data = [line.encode(errors="replace") if isinstance(line, str) else line for line in lines]
        asyncio.run(while_somebody_speaks(attacked, send(b"\n".join(data), whole)))

    async def send(data: bytes, whole: bool) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        reading = asyncio.create_task(reader.read())
        writer.write(data)
        if whole:
            writer.write_eof()
            for line in (await reading).splitlines():
                assert "type" in json.loads(line)
        else:
            reading.cancel()
            writer.transport.abort()
        writer.close()

    attack()
    asyncio.run(attacked.settled())
    assert internal_errors(attacked) == 0
