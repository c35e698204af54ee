"""The command line, as it is typed."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from tests.support.command import parakeet
from tests.support.recordings import RECORDINGS

RECORDING = RECORDINGS[0]


def test_help_names_every_command() -> None:
    done = parakeet("--help")
    assert done.returncode == 0
    for command in ("transcribe", "listen", "models", "doctor", "bench"):
        assert command in done.stdout


def test_a_file_is_written_down_in_every_format() -> None:
    done = parakeet("transcribe", RECORDING.path, "--model", "tiny")
    assert (done.returncode, done.stdout.strip()) == (0, RECORDING.text)
    done = parakeet("transcribe", RECORDING.path, "--model", "tiny", "--format", "json")
    assert json.loads(done.stdout)["text"] == RECORDING.text
    done = parakeet("transcribe", RECORDING.path, "--format", "srt", PARAKEET_MODEL="tiny")
    assert done.stdout.startswith("1\n00:00:0")
    done = parakeet("transcribe", RECORDING.path, "--model", "tiny", "--format", "vtt")
    assert done.stdout.startswith("WEBVTT\n")


def test_several_files_are_told_apart() -> None:
    paths = [r.path for r in RECORDINGS[:2]]
    done = parakeet("transcribe", *paths, "--model", "tiny", "--backend", "mlx")
    assert [line.split(": ")[0] for line in done.stdout.splitlines()] == [str(p) for p in paths]


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
        (("listen", "--audio", "nothing.wav", "--model", "tiny"), "no such audio file"),
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


def test_models_lists_what_is_bundled_and_known() -> None:
    done = parakeet("models")
    assert done.returncode == 0
    for name in ("tiny", "parakeet-tdt-0.6b-v3", "istupakov/parakeet-tdt-0.6b-v2-onnx"):
        assert name in done.stdout


def test_the_doctor_looks_at_everything_and_hears_the_self_test(tmp_path: Path) -> None:
    done = parakeet("doctor", PARAKEET_CHUNK_MS="80", PARAKEET_CACHE_DIR=str(tmp_path))
    assert done.returncode == 0, done.stdout
    for subject in ("python", "packages", "device", "BLAS", "onnx test", "mlx test", "microphone"):
        assert subject in done.stdout
    assert done.stdout.count("'Turn on the lamp in the kitchen, please.'") == 2
    assert "GFLOP/s" in done.stdout or sys.platform != "linux"
    assert "mlx-community/parakeet-tdt-0.6b-v2 is not downloaded yet" in done.stdout
    assert "HF_HUB_OFFLINE is set" in done.stdout
    assert "PARAKEET_CHUNK_MS=80" in done.stdout


@pytest.mark.parametrize(
    ("variables", "reason"),
    [
        ({"PARAKEET_MODEL": "/nope"}, "no such model: '/nope'"),
        ({"PARAKEET_MODEL": "tiny", "PARAKEET_BACKEND": "foo"}, "PARAKEET_BACKEND='foo'"),
    ],
)
def test_the_doctor_finds_a_model_or_setting_that_cannot_be_used(
    variables: dict[str, str], reason: str
) -> None:
    done = parakeet("doctor", **variables)
    assert done.returncode == 1
    (line,) = [line for line in done.stdout.splitlines() if reason in line]
    assert line.startswith("no ")


def test_listening_to_a_recording_prints_its_finals() -> None:
    done = parakeet("listen", "--audio", RECORDING.path, "--model", "tiny")
    assert done.returncode == 0, done.stderr
    assert RECORDING.text in done.stdout


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
