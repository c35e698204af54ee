"""``parakeet-stt doctor``."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.support.command import parakeet

SUBJECTS = (
    "python packages settings environment device BLAS model disk microphone ffmpeg hub"
).split()


def test_the_doctor_checks_everything_and_transcribes_the_self_test(tmp_path: Path) -> None:
    done = parakeet("doctor", PARAKEET_CHUNK_MS="80", PARAKEET_CACHE_DIR=str(tmp_path))
    assert done.returncode == 0, done.stdout
    for subject in (*SUBJECTS, "onnx test", "mlx test"):
        assert f"  {subject} " in done.stdout
    assert done.stdout.count("'Turn on the lamp in the kitchen, please.'") == 2
    assert "GFLOP/s" in done.stdout or sys.platform != "linux"
    assert "mlx-community/parakeet-tdt-0.6b-v2 is not downloaded yet" in done.stdout
    assert f"GB free for models in {tmp_path}" in done.stdout
    assert "HF_HUB_OFFLINE is set" in done.stdout
    assert "PARAKEET_CHUNK_MS=80" in done.stdout


def test_the_doctor_transcribes_with_the_configured_model() -> None:
    done = parakeet("doctor", PARAKEET_MODEL="tiny", PARAKEET_BACKEND="onnx")
    assert done.returncode == 0, done.stdout
    (line,) = [line for line in done.stdout.splitlines() if "  model " in line]
    assert line.startswith("ok")
    assert "tiny: transcribed 'Turn on the lamp in the kitchen, please.'" in line
    assert "onnx" in line


@pytest.mark.parametrize(
    ("variables", "subject", "reason"),
    [
        ({"PARAKEET_MODEL": "/nope"}, "model", "no such model: '/nope'"),
        ({"PARAKEET_BACKEND": "foo"}, "settings", "PARAKEET_BACKEND='foo'"),
        ({"PARAKEET_PORT": "no"}, "server", "PARAKEET_PORT='no'"),
        ({"PARAKEET_TLS_CERT": "x.pem"}, "server", "certificate and its key"),
        ({"PARAKEET_MODLE": "tiny"}, "settings", "PARAKEET_MODLE: did you mean PARAKEET_MODEL?"),
    ],
)
def test_the_doctor_finds_a_model_or_setting_that_cannot_be_used(
    variables: dict[str, str], subject: str, reason: str
) -> None:
    done = parakeet("doctor", **variables)
    assert done.returncode == 1
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("no ")]
    assert line.startswith(f"no  {subject} ")
    assert reason in line


def test_the_doctor_shows_no_secrets() -> None:
    done = parakeet("doctor", PARAKEET_API_KEYS="open-sesame")
    assert "PARAKEET_API_KEYS=(hidden)" in done.stdout
    assert "open-sesame" not in done.stdout + done.stderr
