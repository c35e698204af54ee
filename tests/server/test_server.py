"""What is the same for every protocol: who may come in, limits, health, and the end."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import websockets
from starlette.testclient import TestClient, WebSocketDenialResponse
from websockets.asyncio.client import ClientConnection, connect

from parakeet_stt.errors import ConfigurationError
from parakeet_stt.model.catalog import BUNDLED
from parakeet_stt.server.app import WEBSOCKET_PROTOCOLS, make_app
from parakeet_stt.server.settings import ALIASES, load_server_settings
from parakeet_stt.server.state import Server
from tests.support.recordings import RECORDINGS
from tests.support.serving import EVERY_PORT, PATIENCE, Served, eventually, offline, pcm16, serving

SINGLE = [recording for recording in RECORDINGS if recording.set == "known"]
PCM = pcm16(SINGLE[0].samples())


def get(url: str, **headers: str) -> tuple[int, Any, Any]:
    """Status, body and headers of a GET request, whatever the status."""
    request = urllib.request.Request(
        url, headers={k.replace("_", "-"): v for k, v in headers.items()}
    )
    try:
        with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
            status, body, found = answer.status, answer.read(), answer.headers
    except urllib.error.HTTPError as error:
        status, body, found = error.code, error.read(), error.headers
    return status, json.loads(body) if body[:1] == b"{" else body.decode(), found


async def final_of(ws: ClientConnection) -> str:
    """Close a native stream and give the text of its last final."""
    await ws.send('{"type":"close"}')
    messages = [json.loads(message) async for message in ws]
    return str([m["text"] for m in messages if m.get("is_final")][-1])


async def until_closed(ws: ClientConnection) -> list[dict[str, Any]]:
    """Every message until the server closes, however it does."""
    messages = []
    with contextlib.suppress(websockets.ConnectionClosed):
        while True:
            messages.append(json.loads(await ws.recv()))
    return messages


async def refusal(url: str, **options: Any) -> websockets.Response:
    with pytest.raises(websockets.InvalidStatus) as refused:
        await connect(url, **options)
    return refused.value.response


# --- health ---------------------------------------------------------------------------------------


async def test_health_tells_alive_from_ready(served: Served) -> None:
    for path in ("/healthz", "/v1/health/live"):
        assert get(served.http + path)[:2] == (200, {"status": "ok"})
    status, body, _ = get(served.http + "/v1/health/ready")
    assert (status, body["status"]) == (200, "ready")


async def test_a_server_that_loads_its_model_is_alive_and_refuses_work() -> None:
    app = make_app(Server(load_server_settings({}, model="tiny")))  # Not started.
    client = TestClient(app)
    response = client.get("/v1/health/ready")
    assert (response.status_code, response.json()["status"]) == (503, "loading")
    assert response.headers["Retry-After"] == "5"
    assert client.get("/healthz").status_code == 200
    with pytest.raises(WebSocketDenialResponse) as refused, client.websocket_connect("/v1/stream"):
        pass
    assert (refused.value.status_code, refused.value.headers["Retry-After"]) == (503, "5")


async def test_the_configuration_is_shown_without_secrets() -> None:
    with serving(api_keys="hidden-key-1,hidden-key-2") as served:
        status, body, _ = get(served.http + "/config", authorization="Bearer hidden-key-1")
    assert status == 200
    assert "hidden" not in json.dumps(body)
    assert body["settings"]["api_keys"] == 2
    assert body["settings"]["model"] == "tiny"
    assert body["running"]["backend"] == "onnx"


async def test_a_models_folder_is_nowhere_shown(tmp_path: Path) -> None:
    folder = tmp_path / "my-parakeet"
    folder.symlink_to(BUNDLED["tiny"])
    with serving(**EVERY_PORT, model=str(folder)) as served:
        _, body, _ = get(served.http + "/config")
        told = [json.dumps(body)]
        for path in ("/v1/stream", "/v1/realtime"):
            async with connect(served.ws + path) as ws:
                told.append(str(await ws.recv()))
        reader, writer = await asyncio.open_connection("127.0.0.1", served.port("wyoming_port"))
        writer.write(b'{"type":"describe"}\n')
        writer.write_eof()
        told.append((await reader.read()).decode())
        writer.close()
    for text in told:
        assert "my-parakeet" in text
        assert str(tmp_path) not in text


async def test_metrics_count_what_happened() -> None:
    with serving() as served:
        async with connect(served.ws + "/v1/stream") as ws:
            await ws.send(PCM)
            await final_of(ws)
        await served.settled()
        get(served.http + "/healthz")
        _, text, headers = get(served.http + "/metrics")
    assert headers["content-type"].startswith("text/plain")
    lines = dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
    assert lines['parakeet_sessions_total{protocol="stream"}'] == "1.0"
    assert lines['parakeet_sessions_active{protocol="stream"}'] == "0.0"
    assert lines['parakeet_segments_total{protocol="stream"}'] == "1.0"
    assert float(lines['parakeet_audio_seconds_total{protocol="stream"}']) == pytest.approx(
        len(PCM) / 32_000
    )
    assert lines['parakeet_session_ends_total{code="1000",protocol="stream"}'] == "1.0"
    assert lines['parakeet_requests_total{endpoint="/healthz",status="200"}'] == "1.0"
    assert lines["parakeet_ready"] == "1.0"


# --- keys and origins -----------------------------------------------------------------------------


async def test_without_a_key_nothing_but_health_is_there() -> None:
    with serving(api_keys="right, other") as served:
        assert get(served.http + "/v1/health/ready")[0] == 200
        for headers in ({}, {"authorization": "Bearer wrong"}, {"x_api_key": "righ"}):
            status, body, found = get(served.http + "/config", **headers)
            assert status == 401
            assert "key" in body["detail"]
            assert found["WWW-Authenticate"] == "Bearer"
        for headers in (
            {"authorization": "Bearer right"},
            {"authorization": "Token other"},
            {"x_api_key": "right"},
        ):
            assert get(served.http + "/config", **headers)[0] == 200
        assert get(served.http + "/config?api_key=right")[0] == 401  # It would be in every log.


async def test_a_websocket_without_a_key_is_refused_before_it_is_accepted() -> None:
    with serving(api_keys="right") as served:
        for path in WEBSOCKET_PROTOCOLS:
            assert (await refusal(served.ws + path)).status_code == 401
            assert (await refusal(f"{served.ws}{path}?api_key=wrong")).status_code == 401
        assert served.server.admission.sessions == 0
        url = served.ws + "/v1/stream"
        for options in (
            {"uri": url + "?api_key=right"},
            {"uri": url, "additional_headers": {"Authorization": "Bearer right"}},
            {"uri": url, "additional_headers": {"x-api-key": "right"}},
            {"uri": url, "subprotocols": ["token", "right"]},
        ):
            async with connect(**options) as ws:  # type: ignore[arg-type]
                assert json.loads(await ws.recv())["type"] == "hello"


async def test_tcp_asks_for_the_key_in_its_first_line() -> None:
    with serving(api_keys="right", tcp_port=0) as served:
        for first, told in (
            ({"type": "ping"}, "a valid API key is needed"),
            ({"type": "authenticate", "key": "wrong"}, "a valid API key is needed"),
            ({"type": "authenticate", "key": "right"}, None),
        ):
            reader, writer = await asyncio.open_connection("127.0.0.1", served.port("tcp_port"))
            writer.write(json.dumps(first).encode() + b"\n")
            writer.write_eof()
            messages = [json.loads(line) async for line in reader]
            writer.close()
            errors = [m["message"] for m in messages if m["type"] == "error"]
            assert errors == ([told] if told else [])


async def test_web_pages_may_connect_only_where_they_are_allowed(served: Served) -> None:
    page = websockets.Origin("https://page.example")
    assert (await refusal(served.ws + "/v1/stream", origin=page)).status_code == 403
    with serving(allowed_origins="https://page.example") as open_to_page:
        async with connect(open_to_page.ws + "/v1/stream", origin=page) as ws:
            assert json.loads(await ws.recv())["type"] == "hello"
        other = websockets.Origin("https://other.example")
        assert (await refusal(open_to_page.ws + "/v1/stream", origin=other)).status_code == 403
        _, _, headers = get(open_to_page.http + "/healthz", origin=page)
        assert headers["access-control-allow-origin"] == page
        _, _, headers = get(open_to_page.http + "/healthz", origin=other)
        assert headers["access-control-allow-origin"] is None


@pytest.fixture
def certificate(tmp_path: Path) -> tuple[Path, Path]:
    """A certificate for this machine, and its key."""
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=localhost"]
        + ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", key, "-out", cert, "-days", "1"],
        check=True,
        capture_output=True,
    )
    return cert, key


async def test_tls_with_certificate_and_key(certificate: tuple[Path, Path]) -> None:
    cert, key = certificate
    context = ssl.create_default_context(cafile=cert)
    with serving(tls_cert=cert, tls_key=key, tcp_port=0) as served:
        async with connect(served.ws.replace("ws:", "wss:") + "/", ssl=context) as ws:
            await ws.send(PCM)
            assert await final_of(ws) == offline(PCM)
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", served.port("tcp_port"), ssl=context
        )
        assert json.loads(await reader.readline())["type"] == "hello"
        writer.close()


# --- limits ---------------------------------------------------------------------------------------


@asynccontextmanager
async def speaking(served: Served, number: int) -> AsyncIterator[list[ClientConnection]]:
    """Clients in mid-sentence."""
    sockets = [await connect(served.ws + "/v1/stream?interims=false") for _ in range(number)]
    try:
        for ws in sockets:
            await ws.recv()
            await ws.send(PCM)
        yield sockets
    finally:
        for ws in sockets:
            await ws.close()


async def test_a_session_too_many_is_refused_and_the_others_are_untouched() -> None:
    with serving(max_sessions=2, tcp_port=0) as served:
        async with speaking(served, 2) as inside:
            response = await refusal(served.ws + "/v1/stream")
            assert response.status_code == 503
            assert response.headers["Retry-After"] == "5"
            assert b"2 sessions" in response.body
            reader, writer = await asyncio.open_connection("127.0.0.1", served.port("tcp_port"))
            assert json.loads(await reader.read()) == {
                "type": "error",
                "message": "No free streaming state available.",
            }
            writer.close()
            assert [await final_of(ws) for ws in inside] == [offline(PCM)] * 2
        await served.settled()
        async with connect(served.ws + "/v1/stream") as ws:
            assert json.loads(await ws.recv())["type"] == "hello"


async def test_a_message_too_large_is_told_and_what_was_heard_before_is_not_lost() -> None:
    with serving(max_message_kb=128, tcp_port=0) as served:
        async with connect(served.ws + "/v1/stream") as ws:
            await ws.send(bytes(129 * 1024))
            await until_closed(ws)
            assert ws.close_code == 1009
        reader, writer = await asyncio.open_connection("127.0.0.1", served.port("tcp_port"))
        writer.write(json.dumps({"type": "audio", "samples": [0.0] * 8000}).encode() + b"\n")
        writer.write(b"x" * 200 * 1024)
        messages = [json.loads(line) async for line in reader]
        writer.close()
        assert [m["type"] for m in messages][-2:] == ["result", "error"]
        assert "bytes" in messages[-1]["message"]
        await served.settled()


async def test_an_idle_client_is_closed_with_its_final() -> None:
    with serving(idle_seconds=1.5) as served:
        async with connect(served.ws + "/v1/stream?interims=false") as ws:
            await ws.send(PCM)
            messages = await until_closed(ws)
            assert (ws.close_code, ws.close_reason) == (
                1008,
                "nothing was received for 1.5 seconds",
            )
        assert messages[-2]["text"] == offline(PCM)
        assert messages[-1] == {**messages[-1], "type": "error", "message": ws.close_reason}
        await served.settled()


async def test_a_session_ends_in_time_with_its_final() -> None:
    with serving(max_session_seconds=1.5) as served:
        async with connect(served.ws + "/v1/stream?interims=false") as ws:
            await ws.send(PCM)
            messages = await until_closed(ws)
            assert ws.close_code == 1008
        assert messages[-2]["text"] == offline(PCM)
        await served.settled()


async def test_a_backlog_holds_up_the_client_and_loses_nothing() -> None:
    long = PCM * 40
    with serving(max_backlog_seconds=1) as served:
        async with connect(served.ws + "/v1/stream?interims=false") as ws:
            for start in range(0, len(long), 64_000):
                await ws.send(long[start : start + 64_000])
                most = max((s.backlog for s in served.server.engine.sessions), default=0)
                assert most <= 1 + 2
            text = await final_of(ws)
        assert text == offline(long)


@pytest.mark.realtime
async def test_a_client_that_does_not_read_is_closed_and_disturbs_nobody() -> None:
    """It loses interims first, and is closed when finals and answers fill its queue."""
    with serving(max_unsent=16) as served:
        async with speaking(served, 1) as (other,):
            reader, writer = await asyncio.open_connection("127.0.0.1", served.port("port"))
            raw = writer.get_extra_info("socket")
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            writer.write(
                b"GET /v1/stream HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\n"
                b"Connection: Upgrade\r\n"
                b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
            )
            await reader.readuntil(b"\r\n\r\n")
            writer.transport.pause_reading()  # type: ignore[attr-defined]
            ping = json.dumps({"type": "ping", "id": "p" * 60_000}).encode()
            frame = b"\x81\xff" + len(ping).to_bytes(8, "big") + bytes(4) + ping
            with contextlib.suppress(ConnectionError):
                while True:
                    writer.write(frame)
                    await writer.drain()
            writer.transport.abort()
            assert await final_of(other) == offline(PCM)
        await served.settled()
        _, text, _ = get(served.http + "/metrics")
        assert 'parakeet_session_ends_total{code="1006",protocol="stream"} 1.0' in text


async def test_a_burst_of_a_client_that_reads_is_answered_whole() -> None:
    with serving(max_unsent=16) as served:
        async with connect(served.ws + "/v1/stream") as ws:
            sending = asyncio.gather(*[ws.send(f'{{"type":"flush","id":{n}}}') for n in range(500)])
            numbers = []
            while len(numbers) < 500:
                told = json.loads(await ws.recv())
                if told["type"] == "flushed":
                    numbers.append(told["id"])
            await sending
        assert numbers == list(range(500))


# --- disconnects and the end ----------------------------------------------------------------------


@pytest.mark.parametrize("path", sorted(WEBSOCKET_PROTOCOLS))
async def test_clients_that_vanish_leave_nothing_behind(served: Served, path: str) -> None:
    for number in range(20):
        ws = await connect(f"{served.ws}{path}?sample_rate=16000")
        if number % 2:
            await ws.send(PCM[: number * 1001])
        ws.transport.abort()
    await served.settled()
    most = 3 * len(served.running.ports) + 4
    await eventually(lambda: served.metric("parakeet_tasks") <= most)


async def test_drained_sessions_get_their_finals() -> None:
    with serving() as served:
        async with speaking(served, 3) as sockets:
            served.run(served.running.server.drain())
            for ws in sockets:
                messages = [json.loads(message) async for message in ws]
                assert ws.close_code == 1001
                assert [m["text"] for m in messages if m.get("is_final")] == [offline(PCM)]
            assert get(served.http + "/v1/health/ready")[0] == 503
            assert get(served.http + "/v1/health/live")[0] == 200
            assert (await refusal(served.ws + "/v1/stream")).status_code == 503


@pytest.fixture
def process() -> Iterator[tuple[subprocess.Popen[str], int]]:
    """``parakeet-stt serve`` as a process that is ready, and its port."""
    port = free_port()
    process = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "parakeet_stt",
            "serve",
            "--model",
            "tiny",
            "--port",
            str(port),
        ],
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PARAKEET_BACKEND": "onnx"},
    )
    try:
        assert process.stderr is not None
        said = ""
        while "ready: " not in said:
            line = process.stderr.readline()
            assert line, said
            said += line
        assert f"http://127.0.0.1:{port}" in said
        yield process, port
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_ends_the_process_after_the_finals(
    number: int, process: tuple[subprocess.Popen[str], int]
) -> None:
    running, port = process
    sockets = [await connect(f"ws://127.0.0.1:{port}/v1/stream") for _ in range(8)]
    for ws in sockets:
        for start in range(0, len(PCM), 3200):
            await ws.send(PCM[start : start + 3200])
        # The pong comes when the audio before it has been received.
        await ws.send('{"type":"ping"}')
        while json.loads(await ws.recv())["type"] != "pong":
            pass
    running.send_signal(number)
    for ws in sockets:
        messages = [json.loads(message) async for message in ws]
        finals = [m["text"] for m in messages if m.get("is_final")]
        assert finals == [offline(PCM)]
        assert ws.close_code == 1001
    assert await asyncio.to_thread(running.wait, PATIENCE) == 0


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


# --- settings -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("alias", "value", "name", "meant"),
    [
        ("MODEL_PRECISION", "fp16", "precision", "bf16"),
        ("MODEL_PRECISION", "fp32", "precision", "fp32"),
        ("DEVICE", "cuda", "device", "gpu"),
        ("BATCH_SIZE", "16", "batch_size", 16),
        ("BATCH_WINDOW_MS", "100", "batch_window_ms", 100),
        ("TARGET_SR", "24000", "sample_rate", 24_000),
        ("TARGET_SAMPLE_RATE", "8000", "sample_rate", 8_000),
        ("MAX_AUDIO_DURATION", "30", "max_file_seconds", 30),
        ("VAD_THRESHOLD", "0.6", "vad_threshold", 0.6),
        ("PROCESSING_TIMEOUT", "120", "request_seconds", 120),
    ],
)
def test_the_other_systems_variables_mean_the_same_here(
    alias: str, value: str, name: str, meant: Any
) -> None:
    assert alias in ALIASES
    assert getattr(load_server_settings({alias: value}), name) == meant
    own = f"PARAKEET_{name.upper()}"
    assert getattr(load_server_settings({alias: value, own: "x"}), name) != meant


def test_a_value_that_cannot_be_names_the_variable_that_was_set() -> None:
    with pytest.raises(ConfigurationError, match="BATCH_SIZE='many'"):
        load_server_settings({"BATCH_SIZE": "many"})
    with pytest.raises(ConfigurationError, match="PARAKEET_PORT=70000"):
        load_server_settings({}, port=70_000)
    with pytest.raises(ConfigurationError, match="certificate and its key"):
        load_server_settings({}, tls_cert=Path(__file__))


def test_a_port_in_use_is_one_line(capfd: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        for name in ("port", "tcp_port"):
            with (
                pytest.raises(ConfigurationError, match=f"{name} {port}"),
                serving(**{name: port}),
            ):
                pass


def test_every_port_serves(served: Served) -> None:
    assert set(served.running.ports) == set(EVERY_PORT)
