"""``/ws``: what clients of the Parakeet FastAPI services rely on, and additions for new ones."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from typing import Any

import numpy as np
import pytest
import soxr
import websockets
from websockets.asyncio.client import ClientConnection, connect

from parakeet_stt.audio import Samples
from parakeet_stt.errors import ParakeetError
from parakeet_stt.model.model import Model
from tests.support.recordings import RECORDINGS
from tests.support.serving import Served, in_frames, offline, pcm16, serving

SINGLE = [recording for recording in RECORDINGS if recording.set == "known"]
PCM = pcm16(SINGLE[0].samples())
SILENCE = bytes(2 * 16_000)
FINISH = '{"type":"finish"}'


async def until_closed(ws: ClientConnection) -> list[dict[str, Any]]:
    return [json.loads(message) async for message in ws]


async def converse(url: str, *messages: str | bytes) -> list[dict[str, Any]]:
    """Send all of it, finish, and give what came."""
    async with connect(url) as ws:
        for message in (*messages, FINISH):
            await ws.send(message)
        answers = await until_closed(ws)
        assert (ws.close_code, ws.close_reason) == (1000, "")
    return answers


def texts(messages: list[dict[str, Any]]) -> list[str]:
    return [message["text"] for message in messages if "text" in message]


def assert_promises_kept(messages: list[dict[str, Any]]) -> None:
    """Every result was promised before, and every promise kept."""
    owed = 0
    for message in messages:
        owed += message.get("status") == "queued"
        owed -= "text" in message
        assert owed >= 0
    assert owed == 0


async def benchmark(url: str, samples: Samples) -> list[str]:
    """The service's benchmark, as its documents describe a session: frames of 100 ms at the pace of
    speech, a second of silence, and gone as soon as there are as many texts as were queued."""
    speech = np.pad(samples, (0, -len(samples) % 1600))
    frames = np.concatenate((speech, np.zeros(16_000, np.float32))).reshape(-1, 1600)
    async with connect(url, ping_interval=None) as ws:
        sent = asyncio.Event()

        async def send() -> None:
            loop = asyncio.get_running_loop()
            begun = loop.time()
            for number, frame in enumerate(frames, start=1):
                await ws.send(pcm16(frame))
                await asyncio.sleep(begun + number * 0.1 - loop.time())
            sent.set()

        sending = asyncio.create_task(send())
        queued, found = 0, []
        while not sent.is_set() or not len(found) >= queued > 0:
            receiving = asyncio.ensure_future(ws.recv())
            waiting = asyncio.ensure_future(sent.wait())
            first = {receiving} if sent.is_set() else {receiving, waiting}
            await asyncio.wait(first, return_when=asyncio.FIRST_COMPLETED)
            waiting.cancel()
            if not receiving.done():
                receiving.cancel()
                continue
            message = json.loads(receiving.result())
            queued += message.get("status") == "queued"
            found += [message["text"]] if "text" in message else []
        await sending
    return [text for text in found if text.strip()]


@pytest.mark.realtime
async def test_a_session_of_002s_benchmark_gets_every_text(served: Served) -> None:
    sample = SINGLE[2]
    assert await benchmark(served.ws + "/ws", sample.samples()) == [sample.text]
    await served.settled()


async def test_001s_example_in_the_browser_gets_its_texts(served: Served) -> None:
    """It sends what a script processor gives, 1024 samples at a time, and reads ``text`` only."""
    audio = PCM + SILENCE
    shown = []
    async with connect(served.ws + "/ws") as ws:
        for start in range(0, len(audio), 2048):
            await ws.send(audio[start : start + 2048])
        while not shown:
            data = json.loads(await ws.recv())
            if data.get("text") is not None:
                shown.append(data["text"])
    assert shown == [SINGLE[0].text]
    await served.settled()


@pytest.mark.parametrize("size", [1, 7, 333, 640, 3200, 32_000])
async def test_frames_of_any_size_give_the_same(served: Served, size: int) -> None:
    audio = SILENCE[:9600] + PCM + SILENCE + pcm16(SINGLE[1].samples())
    messages = await converse(served.ws + "/ws", *in_frames(audio, size))
    assert texts(messages) == [SINGLE[0].text, SINGLE[1].text]
    assert_promises_kept(messages)
    await served.settled()


async def test_a_result_has_a_confidence_for_each_word(served: Served) -> None:
    queued, result = await converse(served.ws + "/ws", PCM)
    assert queued == {"status": "queued"}
    assert set(result) == {"text", "confidence", "words"}
    assert len(result["words"]) == len(result["text"].split())
    assert all(0 < score <= 1 for score in result["words"])
    assert result["confidence"] == pytest.approx(np.mean(result["words"]), abs=1e-3)


async def test_the_last_word_is_there_however_early_the_end_comes(served: Served) -> None:
    """Without any silence behind it, in the middle of a word, and before the VAD is sure."""
    for end in (len(PCM), len(PCM) // 2, len(PCM) // 3):
        whole = PCM[: end // 2 * 2]
        messages = await converse(served.ws + "/ws", whole)
        assert texts(messages) == [offline(whole)]
        assert_promises_kept(messages)


async def test_silence_and_nothing_at_all_are_not_queued(served: Served) -> None:
    assert await converse(served.ws + "/ws") == []
    assert await converse(served.ws + "/ws", SILENCE * 3) == []


async def test_a_segment_that_turns_out_empty_is_answered_nevertheless(served: Served) -> None:
    """What the VAD takes for speech and the model does not: the benchmark waits for a result."""
    rng = np.random.default_rng(5)
    tone = np.sin(2 * np.pi * np.cumsum(rng.uniform(120, 260, 16_000)) / 16_000)
    with serving(vad_threshold=0.02) as touchy:
        messages = await converse(touchy.ws + "/ws", pcm16(0.3 * tone.astype(np.float32)), SILENCE)
    assert {"text": "", "confidence": 0.0, "words": []} in messages
    assert_promises_kept(messages)


async def test_interims_come_when_asked_for_and_never_count_as_results(served: Served) -> None:
    messages: list[dict[str, Any]] = []
    async with connect(served.ws + "/ws?interims=true") as ws:
        for start in range(0, len(PCM), 3200):
            await ws.send(PCM[start : start + 3200])
        while not messages or "partial" not in messages[-1]:
            messages.append(json.loads(await ws.recv()))
        await ws.send(FINISH)
        messages += await until_closed(ws)
    partials = [message for message in messages if "partial" in message]
    assert all(set(message) == {"partial"} and message["partial"] for message in partials)
    assert texts(messages) == [SINGLE[0].text]
    assert_promises_kept(messages)
    assert not any("partial" in m for m in await converse(served.ws + "/ws", PCM, SILENCE))


async def test_a_flush_ends_the_segment_and_is_always_answered(served: Served) -> None:
    flush = '{"type":"flush"}'
    messages = await converse(served.ws + "/ws", PCM, flush, flush, pcm16(SINGLE[1].samples()))
    assert texts(messages) == [SINGLE[0].text, "", SINGLE[1].text]
    assert_promises_kept(messages)


async def test_the_rate_can_be_that_of_a_browser(served: Served) -> None:
    audio = pcm16(soxr.resample(SINGLE[0].samples(), 16_000, 48_000))
    messages = await converse(served.ws + "/ws?sample_rate=48000", audio)
    assert texts(messages) == [SINGLE[0].text]


async def test_the_servers_rate_goes_where_the_client_says_none() -> None:
    audio = pcm16(soxr.resample(SINGLE[0].samples(), 16_000, 24_000))
    with serving(sample_rate=24_000) as served:
        assert texts(await converse(served.ws + "/ws", audio)) == [SINGLE[0].text]


@pytest.mark.parametrize(
    ("message", "complaint"),
    [
        ("{", "Invalid JSON"),
        ("stop", "Invalid JSON"),
        ("[]", "object"),
        ("{}", "type"),
        ('{"type":"shout"}', "flush"),
        ('{"type":["finish"]}', "type"),
    ],
)
async def test_a_text_that_cannot_be_used_is_an_error_and_costs_nothing_heard(
    served: Served, message: str, complaint: str
) -> None:
    half = len(PCM) // 2 - 1  # In the middle of a sample.
    messages = await converse(served.ws + "/ws", PCM[:half], message, PCM[half:])
    errors = [message["error"] for message in messages if "error" in message]
    assert len(errors) == 1
    assert complaint in errors[0]
    assert texts(messages) == [offline(PCM)]


@pytest.mark.parametrize("query", ["interims=perhaps", "sample_rate=1", "sample_rate=nan"])
async def test_options_that_cannot_be_are_refused_at_the_handshake(
    served: Served, query: str
) -> None:
    with pytest.raises(websockets.InvalidStatus) as refused:
        await connect(f"{served.ws}/ws?{query}")
    assert refused.value.response.status_code == 400
    assert query.split("=")[0].encode() in refused.value.response.body


async def test_a_segment_that_fails_keeps_its_promise_and_says_why(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any) -> Any:
        raise ParakeetError("no stream to be had")

    async with connect(served.ws + "/ws") as ws:
        monkeypatch.setattr(Model, "open_stream", broken)
        await ws.send(PCM + SILENCE)
        messages = [json.loads(await ws.recv()) for _ in range(2)]
        monkeypatch.undo()
        await ws.send(PCM)
        await ws.send(FINISH)
        with contextlib.suppress(websockets.ConnectionClosed):
            while True:
                messages.append(json.loads(await ws.recv()))
    assert ws.close_code == 1011  # 1000 would mean that all finals were sent.
    assert messages[1]["text"] == ""
    assert "no stream to be had" in messages[1]["error"]
    assert texts(messages) == ["", SINGLE[0].text]
    assert_promises_kept(messages)


async def test_a_second_small_message_does_not_wait_for_the_firsts_receipt(served: Served) -> None:
    """``queued`` and an empty text within one packet's round trip, for instance."""
    async with connect(served.ws + "/ws"):
        web = served.running._web[0][0]
        sockets = [c.transport.get_extra_info("socket") for c in web.server_state.connections]  # type: ignore[union-attr]
        assert sockets
        assert all(s.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) for s in sockets)
