"""The example bot, run as a newcomer runs it."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import re
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import soxr
import websockets

from tests.support.recordings import RECORDINGS, ROOT, normalised, read_turns
from tests.support.telephone import MULAW, compand

SAMPLE = "samples/spelling.flac"


def bot(
    *arguments: str, folder: Path = ROOT, **environment: str
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(ROOT / "examples" / "bot_v2.py"), *arguments],
        env={**os.environ, "HF_HUB_OFFLINE": "1", **environment},
        capture_output=True,
        text=True,
        check=False,
        cwd=folder,
        timeout=300,
    )


@pytest.mark.realtime
def test_a_recording_is_heard_turn_by_turn() -> None:
    turns, _ = read_turns(ROOT / "samples" / "conversation.json")
    done = bot("--audio", "samples/conversation.flac")
    assert done.returncode == 0, done.stderr
    finals = re.findall(r"^  heard (.*) \[(\d+) ms\]$", done.stdout, re.MULTILINE)
    assert normalised(" ".join(text for text, _ in finals)) == normalised(" ".join(turns))
    ended = re.findall(r"^- turn ends: (.*)$", done.stdout, re.MULTILINE)
    assert normalised(" ".join(ended)) == normalised(" ".join(turns))
    assert done.stdout.count("    ... ") > len(turns)
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("arguments", "environment", "message"),
    [
        (("--audio", "nothing.wav"), {}, "no such audio file: nothing.wav"),
        (("--audio", "samples"), {}, "samples is a folder or a device: expected an audio file"),
        (
            ("--audio", "samples/spelling.flac"),
            {"STT_BACKEND": "whisper-mlx"},
            "STT_BACKEND=whisper-mlx needs pipecat-ai[mlx-whisper]",
        ),
        (("-t", "daily"), {}, "-t daily: this bot has webrtc, twilio,"),
        (("-t", "twilio"), {}, "-t twilio needs TWILIO_ACCOUNT_SID, TWILIO_AUTH_TOKEN, -x HOST"),
        (("-t", "exotel", "--model", "nothing"), {}, "no such model: 'nothing'"),
        (
            ("-t", "exotel", "--model", "tiny"),
            {"TTS_BACKEND": "kokoro"},
            "TTS_BACKEND=kokoro needs pipecat-ai[kokoro]",
        ),
        (
            ("--audio", "samples/spelling.flac", "--model", "nothing"),
            {},
            "no such model: 'nothing'",
        ),
        (
            ("--audio", "samples/spelling.flac"),
            {"STT_BACKEND": "cloud"},
            "expected one of parakeet",
        ),
        (("--audio", "samples/spelling.flac"), {"PARAKEET_CHUNK_MS": "1"}, "PARAKEET_CHUNK_MS='1'"),
    ],
)
def test_what_is_missing_or_wrong_is_said(
    arguments: tuple[str, ...], environment: dict[str, Any], message: str
) -> None:
    done = bot(*arguments, **environment)
    assert done.returncode == 1
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert "ready" not in done.stdout


def test_a_package_that_is_missing_is_one_line() -> None:
    done = bot("--audio", SAMPLE, STT_BACKEND="whisper")
    lines = [line for line in done.stderr.splitlines() if "| INFO " not in line]
    assert len(lines) == 1
    assert "STT_BACKEND=whisper needs pipecat-ai[whisper], which is not installed" in lines[0]


def test_settings_in_a_file_are_read_for_a_recording(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("PARAKEET_CHUNK_MS=1\n")
    done = bot("--audio", str(ROOT / SAMPLE), folder=tmp_path)
    assert done.returncode == 1
    assert "PARAKEET_CHUNK_MS='1'" in done.stderr


def test_a_recording_without_speech_gets_a_message(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "silence.wav", np.zeros(8_000), 16_000)
    done = bot("--audio", str(tmp_path / "silence.wav"))
    assert done.returncode == 0, done.stderr
    assert "nothing was transcribed" in done.stdout


def test_help_has_the_options_of_the_bot_and_of_pipecats_runner() -> None:
    done = bot("--help")
    assert done.returncode == 0, done.stderr
    assert {"--audio", "--model", "--transport", "--port"} <= set(done.stdout.split())


@pytest.mark.realtime
async def test_a_telephone_call_is_transcribed() -> None:
    """A client that sends what Twilio sends: a start message, then 20 ms of mu-law at a time."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    recording = next(r for r in RECORDINGS if r.set == "known" and r.text.endswith("?"))
    speech = soxr.resample(recording.samples(), 16_000, 8_000)
    audio = np.concatenate((np.zeros(4_000), speech, np.zeros(16_000))).astype(np.float32)
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        str(ROOT / "examples" / "bot_v2.py"),
        *("-t", "twilio", "-x", "localhost", "--port", str(port), "--model", "tiny"),
        env={**os.environ, "TWILIO_ACCOUNT_SID": "AC0", "TWILIO_AUTH_TOKEN": "0"},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        cwd=ROOT,
    )
    assert process.stdout is not None
    try:
        async with asyncio.timeout(100):
            await _line_with(process.stdout, "Uvicorn running")
            async with websockets.connect(f"ws://127.0.0.1:{port}/ws") as call:
                await call.send(json.dumps({"event": "connected", "protocol": "Call"}))
                begin = {"streamSid": "MZ0", "callSid": "CA0", "customParameters": {}}
                await call.send(json.dumps({"event": "start", "start": begin}))
                sending = asyncio.create_task(_send_call(call, compand(audio, MULAW)))
                line = await _line_with(process.stdout, "  heard ")
                sending.cancel()
    finally:
        process.terminate()
        await process.wait()
    assert len(normalised(line).split()) >= 3


async def _send_call(call: websockets.ClientConnection, audio: bytes) -> None:
    for begin in range(0, len(audio), 160):
        payload = base64.b64encode(audio[begin : begin + 160]).decode()
        await call.send(json.dumps({"event": "media", "media": {"payload": payload}}))
        await asyncio.sleep(0.02)  # As a telephone does.


async def _line_with(stream: asyncio.StreamReader, text: str) -> str:
    lines: list[str] = []
    while line := (await stream.readline()).decode():
        lines.append(line)
        if text in line:
            return line
    raise AssertionError("the bot has ended:\n" + "".join(lines))


def test_without_pipecats_runner_the_bot_says_what_it_needs(tmp_path: Path) -> None:
    """Where the server's packages are there, so is the runner: they are hidden here."""
    missing = "raise ModuleNotFoundError(\"No module named 'fastapi'\", name='fastapi')\n"
    (tmp_path / "fastapi.py").write_text(missing)
    done = bot(PYTHONPATH=str(tmp_path))
    assert done.returncode == 1
    assert "needs Pipecat's runner" in done.stderr
    assert "Traceback" not in done.stderr
