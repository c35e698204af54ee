"""The example bot, run as a newcomer runs it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT

from parakeet_stt.bench.recordings import normalised, read_turns

SAMPLE = "samples/spelling.flac"


def bot(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "examples/bot_v2.py", *arguments],
        env={**os.environ, "HF_HUB_OFFLINE": "1", **environment},
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        timeout=300,
    )


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
    arguments: tuple[str, ...], environment: dict[str, str], message: str
) -> None:
    done = bot(*arguments, **environment)
    assert done.returncode == 1
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_without_pipecats_runner_the_bot_says_what_it_needs(tmp_path: Path) -> None:
    """Where the server's packages are there, so is the runner: they are hidden here."""
    missing = "raise ModuleNotFoundError(\"No module named 'fastapi'\", name='fastapi')\n"
    (tmp_path / "fastapi.py").write_text(missing)
    done = bot(PYTHONPATH=str(tmp_path))
    assert done.returncode == 1
    assert "needs Pipecat's runner" in done.stderr
    assert "Traceback" not in done.stderr
