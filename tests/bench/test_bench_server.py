"""The load client, against servers that behave, refuse, break off or say nothing."""

from __future__ import annotations

import asyncio
import csv
import json
import socket
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from websockets.asyncio.client import connect
from websockets.asyncio.server import ServerConnection, serve
from websockets.http11 import Request, Response

from parakeet_stt.audio import SAMPLE_RATE
from parakeet_stt.bench import DIALECTS
from parakeet_stt.bench.clips import STOP_SECONDS, Clip, recorded, spoken
from parakeet_stt.bench.dialects import Deepgram, Native, Realtime, VadSegments, find_dialect
from parakeet_stt.bench.gpu import GpuWatch, find_gpu
from parakeet_stt.bench.levels import Level, csv_row, level_figures
from parakeet_stt.bench.recordings import read_recordings, speech_bounds
from parakeet_stt.bench.scores import tail_word_recall, word_error_rate
from parakeet_stt.bench.server import levels_of
from parakeet_stt.bench.talker import Conversation, Line, ServerError, talk
from parakeet_stt.bench.utterance import Utterance
from parakeet_stt.errors import AudioError, ConfigurationError, ParakeetError
from tests.support.command import parakeet
from tests.support.recordings import RECORDINGS, ROOT
from tests.support.serving import PATIENCE, Served, eventually, serving

DATA = ROOT / "tests" / "data"
QUIET = Clip("one two", bytes(2 * SAMPLE_RATE), SAMPLE_RATE, 0.2, 0.8)  # A second.
Talk = Callable[[ServerConnection], Awaitable[None]]


@asynccontextmanager
async def server(
    behave: Talk, refuse: Callable[[ServerConnection, Request], Response | None] | None = None
) -> AsyncIterator[str]:
    """A WebSocket server that behaves as a test wants; gives its address."""
    async with serve(behave, "127.0.0.1", 0, process_request=refuse) as listening:
        port = next(iter(listening.sockets)).getsockname()[1]
        yield f"ws://127.0.0.1:{port}"


async def say(url: str, clip: Clip = QUIET, **options: Any) -> Utterance:
    dialect, url = find_dialect(url)
    conversation = await Conversation.open(Line(url, dialect, **options))
    try:
        return await conversation.say(clip)
    finally:
        await conversation.close()


async def hello(connection: ServerConnection) -> None:
    await connection.send('{"type": "hello", "stream_id": 1, "sample_rate": 16000}')


async def until_close(connection: ServerConnection) -> None:
    async for message in connection:
        if isinstance(message, str) and "close" in message:
            return


@pytest.mark.parametrize(
    ("url", "dialect", "called"),
    [
        ("ws://host:8000/ws", VadSegments, "ws://host:8000/ws"),
        ("ws://host:8000/stt/ws/", VadSegments, "ws://host:8000/stt/ws/"),
        ("ws://host:8000", Native, "ws://host:8000/"),
        ("http://host/v1/stream?vad=true", Native, "ws://host/v1/stream?vad=true"),
        ("https://host/v1/realtime", Realtime, "wss://host/v1/realtime?intent=transcription"),
    ],
)
def test_the_path_tells_the_dialect(url: str, dialect: type, called: str) -> None:
    assert find_dialect(url) == (dialect, called)


def test_parameters_of_the_url_win() -> None:
    dialect, url = find_dialect("ws://host/v1/listen?endpointing=300&model=tiny")
    assert dialect is Deepgram
    for parameter in ("encoding=linear16", "sample_rate=16000", "endpointing=300", "model=tiny"):
        assert parameter in url
    assert "endpointing=false" not in url


def test_a_dialect_can_be_named_whatever_the_path() -> None:
    assert [find_dialect("ws://host/asr", name)[0].path for name in DIALECTS] == [
        *("/ws", "/v1/stream", "/v1/listen", "/v1/realtime")
    ]


@pytest.mark.parametrize("url", ["ws://host/asr", "ftp://host/ws", "localhost:8000/ws", ""])
def test_a_url_that_tells_nothing_is_refused(url: str) -> None:
    with pytest.raises(ConfigurationError, match="expected"):
        find_dialect(url)


def test_levels_are_numbers_from_1() -> None:
    assert levels_of("1,5, 10") == [1, 5, 10]
    for wrong in ("", "0", "1,,2", "5,many", "-1"):
        with pytest.raises(ConfigurationError, match=f"--concurrency {wrong}: expected"):
            levels_of(wrong)


def test_nobody_there_is_one_line_and_exit_code_1() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))  # Bound and not listening: nobody else takes it.
        url = f"ws://127.0.0.1:{free.getsockname()[1]}/ws"
        for flag in ("--url", "--stt-url"):
            done = parakeet("bench", "server", flag, url)
            assert done.returncode == 1
            assert done.stderr.startswith(f"error: {url} cannot be reached")
            assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--url", "ws://localhost/nothing"), "the path /nothing tells no protocol"),
        (("--concurrency", "1,x"), "--concurrency 1,x: expected numbers"),
        (("--frame-ms", "5"), "expected 10 to 1000"),
        (("--seconds", "0"), "--seconds 0: expected more than 0"),
    ],
)
def test_arguments_are_checked_before_anybody_is_called(
    arguments: tuple[str, ...], message: str
) -> None:
    done = parakeet("bench", "server", *arguments)
    assert done.returncode == 1
    assert message in done.stderr


@pytest.mark.parametrize(
    ("status", "body", "message"),
    [
        (404, '{"detail": "Not Found"}', "answers 404 Not Found: Not Found; is the path right"),
        (401, '{"error": {"message": "no such key"}}', "401 Unauthorized: no such key; --api-key"),
        (503, '{"error": "at most 2 sessions"}', "Service Unavailable: at most 2 sessions"),
        (503, "full", "503 Service Unavailable: full"),
    ],
)
async def test_a_refusal_is_told_in_the_servers_words(status: int, body: str, message: str) -> None:
    def refuse(connection: ServerConnection, request: Request) -> Response:
        return connection.respond(HTTPStatus(status), body)

    async with server(hello, refuse) as address:
        with pytest.raises(ServerError) as caught:
            await say(f"{address}/ws?api_key=secret")
    assert f"{address}/ws " in str(caught.value)  # And no key.
    assert message in str(caught.value)


@pytest.mark.parametrize(("path", "header"), [("ws", "Bearer k"), ("v1/listen", "Token k")])
async def test_the_key_is_shown(path: str, header: str) -> None:
    shown: list[str | None] = []

    def refuse(connection: ServerConnection, request: Request) -> Response:
        shown.append(request.headers.get("Authorization"))
        return connection.respond(HTTPStatus.UNAUTHORIZED, "")

    async with server(hello, refuse) as address:
        with pytest.raises(ServerError):
            await say(f"{address}/{path}", key="k")
    assert shown == [header]


async def test_a_server_of_another_dialect_is_told_by_its_silence() -> None:
    async with server(lambda connection: connection.wait_closed()) as address:
        with pytest.raises(ServerError, match=r"no 'hello' within 2 s; does it speak /v1/str"):
            await say(f"{address}/v1/stream", timeout=2)


async def test_a_complaint_instead_of_a_greeting_is_told() -> None:
    async def busy(connection: ServerConnection) -> None:
        await connection.send('{"type": "error", "message": "No free streaming state available."}')

    async with server(busy) as address:
        with pytest.raises(ServerError, match=r"says: No free streaming state available\."):
            await say(f"{address}/")


async def test_audio_comes_in_real_time_and_whole() -> None:
    loop = asyncio.get_running_loop()
    came: list[tuple[float, bytes]] = []

    async def take(connection: ServerConnection) -> None:
        await hello(connection)
        async for message in connection:
            if isinstance(message, bytes):
                came.append((loop.time(), message))
            elif "flush" in message:
                await connection.send('{"type": "result", "text": "one", "is_final": true}')
                await connection.send(json.dumps({"type": "flushed", "id": 1}))
            else:
                return

    clip = recorded(DATA, SAMPLE_RATE, 5)[0]
    async with server(take) as address:
        utterance = await say(f"{address}/v1/stream", clip, frame_seconds=0.08)
    audio = b"".join(message for _, message in came)
    assert audio[: len(clip.pcm)] == clip.pcm
    assert not any(audio[len(clip.pcm) :])  # Then silence, until the final is there.
    assert {len(message) for _, message in came[:10]} == {2 * 1280}
    # No frame is sent before its last sample has been spoken.
    spoken = utterance.begun
    for at, message in came:
        spoken += len(message) / 2 / SAMPLE_RATE
        assert at > spoken - 0.001
    assert utterance.flush_due == pytest.approx(utterance.begun + clip.seconds)
    assert all(late > -0.001 for late in utterance.lateness)
    assert utterance.text == "one"
    assert utterance.flush_seconds is not None
    assert utterance.flush_seconds >= 0
    assert utterance.eos_seconds == pytest.approx(utterance.flush_seconds + STOP_SECONDS)


async def test_realtime_audio_is_24_khz_in_base64() -> None:
    heard = 0

    async def take(connection: ServerConnection) -> None:
        nonlocal heard
        await connection.send('{"type": "session.created"}')
        async for message in connection:
            event = json.loads(message)
            match event["type"]:
                case "session.update":
                    assert event["session"]["audio"]["input"]["turn_detection"] is None
                    await connection.send('{"type": "session.updated"}')
                case "input_audio_buffer.append":
                    heard += len(event["audio"]) * 3 // 4
                case "input_audio_buffer.commit":
                    kind = "conversation.item.input_audio_transcription"
                    await connection.send(json.dumps({"type": f"{kind}.delta", "delta": "one"}))
                    final = {"type": f"{kind}.completed", "transcript": "one two"}
                    await connection.send(json.dumps(final))

    clip = Clip("one two", bytes(48_000), 24_000, 0.2, 0.8)
    async with server(take) as address:
        utterance = await say(f"{address}/v1/realtime", clip)
    assert 48_000 <= heard <= 48_000 + 3 * 4_800
    assert utterance.text == "one two"
    assert utterance.first_interim_seconds is not None


async def test_every_announced_text_is_waited_for() -> None:
    loop = asyncio.get_running_loop()
    answered = 0.0

    async def answer(connection: ServerConnection) -> None:
        nonlocal answered
        heard = 0
        async for message in connection:
            heard += len(message) // 2
            if heard == SAMPLE_RATE // 2:  # In the middle of speech.
                await connection.send('{"status": "queued"}')
                await connection.send('{"text": "one"}')
            if heard == 2 * SAMPLE_RATE:
                await connection.send('{"status": "queued"}')
                await asyncio.sleep(0.3)
                answered = loop.time()
                await connection.send('{"text": "two"}')

    async with server(answer) as address:
        utterance = await say(f"{address}/ws")
    assert utterance.text == "one two"
    assert utterance.failure is None
    assert answered <= utterance.speech_end + utterance.eos_seconds <= loop.time()
    assert utterance.flush_seconds is None
    assert utterance.first_interim_seconds is None


async def break_off(connection: ServerConnection) -> None:
    await hello(connection)
    await connection.recv()
    await connection.close(1013, "too busy")


async def complain(connection: ServerConnection) -> None:
    await hello(connection)
    await connection.recv()
    await connection.send('{"type": "error", "message": "the model has failed"}')
    await until_close(connection)


async def talk_nonsense(connection: ServerConnection) -> None:
    await hello(connection)
    await connection.recv()
    await connection.send("Good afternoon.")
    await until_close(connection)


async def say_nothing(connection: ServerConnection) -> None:
    await hello(connection)
    await until_close(connection)


@pytest.mark.parametrize(
    ("behave", "post_wait", "failure", "reason"),
    [
        (break_off, PATIENCE, "closed", "1013 too busy"),
        (complain, PATIENCE, "error", "the model has failed"),
        (talk_nonsense, PATIENCE, "error", "Good afternoon."),
        (say_nothing, 0.3, "no final", "no final 0.3 s after speech"),
    ],
)
async def test_failures_are_told_apart(
    behave: Talk, post_wait: float, failure: str, reason: str
) -> None:
    async with server(behave) as address:
        utterance = await say(f"{address}/v1/stream", post_wait=post_wait)
    assert utterance.failure == failure
    assert reason in utterance.reason


async def test_after_a_failure_the_next_clip_is_said_on_a_new_connection_in_its_time() -> None:
    calls = 0

    async def answer(connection: ServerConnection) -> None:
        nonlocal calls
        calls += 1
        await (break_off if calls == 1 else say_nothing)(connection)

    said: list[Utterance] = []
    enough = asyncio.Event()

    def note(utterance: Utterance) -> None:
        said.append(utterance)
        if len(said) == 2:
            enough.set()

    async with server(answer) as address:
        line = Line(f"{address}/", Native, post_wait=0.2)
        talking = asyncio.create_task(talk(line, [QUIET], 0, note))
        await asyncio.wait_for(enough.wait(), PATIENCE)
        talking.cancel()
        await asyncio.wait([talking])
    assert [utterance.failure for utterance in said] == ["closed", "no final"]
    assert said[1].begun - said[0].begun > QUIET.seconds - 0.001


async def test_where_nobody_answers_attempts_take_their_time() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        line = Line(f"ws://127.0.0.1:{free.getsockname()[1]}/ws", VadSegments)
        said: list[Utterance] = []
        talking = asyncio.create_task(talk(line, [QUIET], 0, said.append))
        await eventually(lambda: len(said) == 2)
        talking.cancel()
    assert [utterance.failure for utterance in said] == ["connect", "connect"]
    assert said[1].begun - said[0].begun > QUIET.seconds - 0.001


def heard(text: str, final: float, begun: float = 10.0) -> Utterance:
    return Utterance(QUIET, begun, last_final=final, last_text=final, texts=[text], lateness=[0.0])


def test_figures_are_of_what_has_a_final_and_failures_are_counted_beside() -> None:
    level = Level(3, warm=10.0)
    level.note(0, heard("one two", 11.0, begun=9.0))  # Over before everybody had begun.
    assert not level.utterances
    level.note(0, heard("one two", 11.0))
    level.note(1, heard("One, too!", 11.4))
    assert not level.everybody.is_set()
    lost = Utterance(QUIET, 12.0, lateness=[0.1])
    lost.fail("no final", "no final 30 s after speech")
    lost.fail("closed", "and then it hung up")
    level.note(2, lost)
    assert level.everybody.is_set()
    figures = level_figures(level, {"percent_p95": 90.0, "mib_peak": 5169.0})
    assert figures["finals"] == 2
    assert figures["fails"] == {"no final": 1}
    assert figures["eos_seconds"]["mean"] == pytest.approx(0.4)
    assert figures["wer"] == 0.25
    assert figures["tail_word_recall"] == 0.5
    assert figures["client_late_seconds"]["max"] == 0.1
    row = csv_row(figures)
    assert row["concurrency"] == 3
    assert row["eos_p50"] == 0.4
    assert row["wer_pct"] == 25.0
    assert (row["cancelled"], row["total"], row["failed_no_final"]) == (1, 3, 1)
    assert (row["gpu_util_p95"], row["vram_peak_mib"]) == (90.0, 5169.0)
    assert row["flush_p99"] is None
    assert not any(isinstance(value, dict) for value in row.values())


def test_the_last_word_counts_where_it_belongs() -> None:
    said = ["turn on the lamp", "stop", "yes, please"]
    assert tail_word_recall(said, ["turn on the Lamp.", "stop it", "yes"]) == pytest.approx(2 / 3)
    assert word_error_rate(said, ["turn on the lamp", "", "yes please"]) == pytest.approx(1 / 7)


def test_speech_is_where_the_energy_is() -> None:
    bounds = [speech_bounds(recording.samples()) for recording in RECORDINGS]
    off = [abs(end - r.end) for (_, end), r in zip(bounds, RECORDINGS, strict=True)]
    assert np.percentile(off, [50, 90]) == pytest.approx([0, 0], abs=0.1)
    assert all(start < end for start, end in bounds)
    with pytest.raises(AudioError, match=r"1\.0 s of silence"):
        speech_bounds(RECORDINGS[0].samples()[:SAMPLE_RATE] * 0)


def test_recordings_are_cut_after_their_last_word() -> None:
    clips = recorded(DATA, 24_000, 3)
    assert 0 < len(clips) < len(RECORDINGS)
    for clip in clips:
        assert clip.end <= 3
        assert clip.seconds == pytest.approx(clip.end + STOP_SECONDS, abs=1e-3)
    with pytest.raises(ConfigurationError, match=r"at most 0\.1 s; give more --seconds"):
        recorded(DATA, SAMPLE_RATE, 0.1)


@contextmanager
def tts(answer: bytes, status: int = 200) -> Iterator[tuple[str, list[str]]]:
    """A TTS service that always says the same; gives its address and what it is asked."""
    asked: list[str] = []

    class Voice(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            asked.append(json.loads(self.rfile.read(int(self.headers["Content-Length"])))["text"])
            self.send_response(status)
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Voice) as service:
        thread = threading.Thread(target=service.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{service.server_port}/tts", asked
        finally:
            service.shutdown()
            thread.join()


def test_a_tts_service_is_asked_once_for_each_text(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with tts(RECORDINGS[0].path.read_bytes()) as (url, asked):
        clips = spoken(url, 3, SAMPLE_RATE)
        assert sorted(clip.text for clip in clips) == sorted(asked)
        assert len(set(asked)) == 3
        assert clips[0].end == pytest.approx(RECORDINGS[0].end, abs=0.15)
        assert spoken(url, 3, SAMPLE_RATE) == clips
        assert len(asked) == 3
    assert len(list((tmp_path / ".benchmark_cache").iterdir())) == 3


def test_a_tts_service_that_has_no_speech_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with tts(b"no audio") as (url, _), pytest.raises(AudioError, match="answers no audio"):
        spoken(url, 1, SAMPLE_RATE)
    with tts(b"no voice", 400) as (url, _), pytest.raises(ParakeetError, match=r"400.*no voice"):
        spoken(url, 1, SAMPLE_RATE)
    with pytest.raises(ParakeetError, match="cannot be asked"):
        spoken(url, 1, SAMPLE_RATE)  # It has gone.
    assert not list(Path(".benchmark_cache").iterdir())


async def test_the_gpu_is_read_where_there_is_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert find_gpu() is None
    with pytest.raises(ConfigurationError, match="nvidia-smi cannot be run"):
        async with GpuWatch(0):
            pass
    tool = tmp_path / "nvidia-smi"
    tool.write_text(
        "#!/bin/sh\n"
        'case "$1" in\n'
        '*uuid,index) echo "GPU-a, 0"; echo "GPU-b, 1";;\n'
        '*compute-apps*) echo "GPU-a, /usr/bin/Xorg"; echo "GPU-b, /venv/bin/python3";;\n'
        '*) echo "20, 5000"; echo "[N/A], 5200"; exec /bin/sleep 60;;\n'
        "esac\n"
    )
    tool.chmod(0o755)
    assert find_gpu() == 1
    async with GpuWatch(1) as watch:
        async with asyncio.timeout(PATIENCE):
            while not (figures := watch.take()).get("mib_peak"):  # noqa: ASYNC110
                await asyncio.sleep(0.01)
    assert figures["mib_peak"] in (5000, 5200)
    watch.take()
    assert watch.take() == {}


COLUMNS_OF_002 = (
    *("concurrency", "eos_p50", "eos_p95", "eos_mean", "audio_duration_s", "wer_pct"),
    *("cancelled", "total", "gpu_util_p95", "gpu_util_mean", "vram_peak_mib", "vram_mean_mib"),
)


@pytest.mark.realtime
def test_a_real_server_is_measured_level_by_level(served: Served, tmp_path: Path) -> None:
    table, report, plots = tmp_path / "new" / "table.csv", tmp_path / "figures.json", tmp_path
    done = parakeet(
        *("-v", "bench", "server", "--url", f"{served.ws}/v1/stream", "--concurrency", "1,3"),
        *("--seconds", 5, "--output", table, "--json", report, "--plots", plots),
    )
    assert done.returncode == 0, done.stderr
    figures = json.loads(report.read_text())
    assert [level["sessions"] for level in figures["levels"]] == [1, 3]
    for level in figures["levels"]:
        assert level["finals"] == level["utterances"] >= level["sessions"]
        assert not level["fails"]
        assert level["wer"] < 0.2
        assert level["tail_word_recall"] > 0.7
        assert level["flush_to_final_seconds"]["p50"] > 0
        assert level["eos_seconds"]["p50"] > STOP_SECONDS
        assert level["first_interim_seconds"]["p50"] > 0
        assert level["lag_seconds"]["max"] >= 0
    with table.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert tuple(rows[0])[: len(COLUMNS_OF_002)] == COLUMNS_OF_002
    assert [row["concurrency"] for row in rows] == ["1", "3"]
    assert float(rows[1]["eos_p50"]) > STOP_SECONDS
    assert rows[0]["cancelled"] == "0"
    for header in ("EOS to final, ms", "flush to final, ms", "WER", "fails", "0/"):
        assert header in done.stdout
    assert (plots / "server.svg").stat().st_size > 1000
    for number in range(3):
        assert f"session {number}: [" in done.stderr  # As "-v" asks.


@pytest.mark.parametrize(
    ("path", "messages"),
    [("/v1/stream", ('< {"type":"hello"', '> {"type": "flush"', '"flushed"', "closed: 1000"))],
)
def test_a_probe_shows_every_message_of_one_session(
    served: Served, path: str, messages: tuple[str, ...]
) -> None:
    done = parakeet("bench", "server", "--url", served.ws + path, "--probe")
    assert done.returncode == 0, done.stderr
    assert f"heard: {read_recordings()[0].text}" in done.stdout
    assert "WER 0.0%" in done.stdout
    assert "end of speech to final: " in done.stdout
    for message in messages:
        assert message in done.stdout


def test_verbose_may_come_last(served: Served, tmp_path: Path) -> None:
    done = parakeet(
        *("bench", "server", "--url", f"{served.ws}/v1/stream", "--concurrency", "1"),
        *("--seconds", 2.5, "--output", tmp_path / "table.csv", "-v"),
    )
    assert done.returncode == 0, done.stderr
    assert "session 0: [" in done.stderr


async def test_a_path_that_the_server_does_not_have_is_said(served: Served) -> None:
    with pytest.raises(ServerError, match=r"/no/ws answers 40[34] "):
        await say(f"{served.ws}/no/ws")


async def test_a_key_that_is_missing_is_said_in_the_servers_words() -> None:
    with serving(api_keys="secret") as served:
        with pytest.raises(ServerError, match=r"401 Unauthorized: .*--api-key gives one"):
            await say(f"{served.ws}/v1/stream")
        utterance = await say(f"{served.ws}/v1/stream", key="secret")
        assert utterance.failure is None


async def test_a_server_that_is_full_says_so() -> None:
    with serving(max_sessions=1) as served:
        async with connect(f"{served.ws}/v1/stream") as first:
            await first.recv()
            with pytest.raises(ServerError, match="503 Service Unavailable: "):
                await say(f"{served.ws}/v1/stream")
