"""The command line, as it is typed."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

import parakeet_stt
from parakeet_stt.cli.main import COMMANDS
from tests.support.command import parakeet
from tests.support.recordings import RECORDINGS

RECORDING = RECORDINGS[0]


def test_help_names_every_command() -> None:
    done = parakeet("--help")
    assert done.returncode == 0
    for command in COMMANDS:
        assert command in done.stdout


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_without_project_internals(command: str) -> None:
    done = parakeet(command, "--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert COMMANDS[command].capitalize() in done.stdout
    assert "system 00" not in done.stdout


def test_help_imports_nothing_heavy() -> None:
    code = """
import sys
from parakeet_stt.cli.main import main
try:
    main(["--help"])
except SystemExit:
    pass
heavy = {"mlx", "onnxruntime", "pipecat", "fastapi", "numpy", "pydantic", "rich", "loguru"}
print("imported:", sorted(heavy & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "imported: []"


def test_the_version_is_that_of_the_package() -> None:
    done = parakeet("--version")
    assert (done.returncode, done.stdout) == (0, f"{parakeet_stt.__version__}\n")


@pytest.mark.parametrize("arguments", [("-v", "transcribe"), ("transcribe", "-v")])
def test_verbose_works_before_and_after_the_command(arguments: tuple[str, ...]) -> None:
    done = parakeet(*arguments, RECORDING.path, "--model", "tiny")
    assert done.returncode == 0
    assert "loaded" in done.stderr


@pytest.mark.parametrize(
    "arguments",
    [(), ("nothing",), ("transcribe",), ("transcribe", "a.wav", "--format", "doc"), ("-x", "demo")],
)
def test_a_wrong_usage_is_explained_with_exit_code_2(arguments: tuple[str, ...]) -> None:
    done = parakeet(*arguments)
    assert done.returncode == 2
    assert done.stderr.startswith("usage: parakeet-stt")
    assert "Traceback" not in done.stderr


def test_a_reader_that_has_enough_ends_the_command_quietly() -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "parakeet_stt", "models"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
    )
    assert process.stdout is not None
    process.stdout.close()
    assert process.stderr is not None
    with process.stderr:
        assert process.stderr.read() == b""
    assert process.wait() == 141


def test_a_command_with_a_closed_output_succeeds() -> None:
    command = f"{shlex.quote(sys.executable)} -m parakeet_stt models >&-"
    done = subprocess.run(command, shell=True, stderr=subprocess.PIPE, check=False)
    assert (done.returncode, done.stderr) == (0, b"")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("transcribe", "nothing.wav", "--model", "tiny"), "no such audio file: nothing.wav"),
        (("transcribe", "README.md", "--model", "tiny"), "README.md cannot be decoded"),
        (("transcribe", RECORDING.path, "--model", "nothing"), "no such model: 'nothing'"),
        (
            ("transcribe", RECORDING.path, "--model", "some/model"),
            "not completely cached and HF_HUB_OFFLINE",
        ),
        (("transcribe", "docs", "--model", "tiny"), "no audio file in folder docs"),
        (("listen", "--audio", "nothing.wav", "--model", "some/model"), "no such audio file"),
        (("listen", "--model", "some/model"), "microphone"),
        (("demo", "--audio", "nothing.wav"), "no such audio file: nothing.wav"),
        (("demo", "--model", "nothing"), "no such model: 'nothing'"),
        (("serve", "--model", "tiny", "--port", "99999"), "PARAKEET_PORT=99999"),
        (("bench", "pipecat", "--data", "src", "--model", "tiny"), "holds no utterances.jsonl"),
    ],
)
def test_what_cannot_be_done_is_one_line_and_exit_code_1(
    arguments: tuple[object, ...], message: str
) -> None:
    done = parakeet(*arguments)
    assert done.returncode == 1
    assert done.stderr.strip().splitlines()[-1].startswith("error: ")
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_a_wrong_variable_is_named() -> None:
    done = parakeet("transcribe", RECORDING.path, PARAKEET_CHUNK_MS="x")
    assert done.returncode == 1
    assert "PARAKEET_CHUNK_MS='x'" in done.stderr
    done = parakeet("models", LOG_LEVEL="LOUD")
    assert done.returncode == 2
    assert "LOG_LEVEL='LOUD'" in done.stderr


@pytest.mark.realtime
def test_the_benchmark_writes_what_it_measured(tmp_path: Path) -> None:
    report = tmp_path / "figures.json"
    plots = tmp_path / "plots"
    done = parakeet(
        *("bench", "pipecat", "--model", "tiny", "--limit", 1, "--json", report, "--plots", plots)
    )
    assert done.returncode == 0, done.stderr
    figures = json.loads(report.read_text())
    assert set(figures["sets"]) == {"recordings"}
    assert figures["speech_end_to_final_seconds"]["p50"] > 0.2
    assert figures["sets"]["recordings"]["interims_per_second"] > 1
    assert figures["loop_lag_seconds"]["max"] >= figures["loop_lag_seconds"]["p99"] >= 0
    assert "WER, pipeline" in done.stdout
    assert "ttfs_p99_latency=" in done.stdout
    assert (plots / "pipecat.svg").stat().st_size > 1000
