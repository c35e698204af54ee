"""What works where only the package itself and what it depends on everywhere is installed."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

from tests.support.recordings import RECORDINGS, ROOT

pytestmark = pytest.mark.skipif(os.name != "posix", reason="the environment is made of symlinks")

RECORDING = RECORDINGS[0]


@pytest.fixture(scope="module")
def core(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of an environment with every package of this one except MLX's."""
    folder = tmp_path_factory.mktemp("core")
    venv.create(folder, symlinks=True)
    (packages,) = folder.glob("lib/python*/site-packages")
    for package in Path(sysconfig.get_path("purelib")).iterdir():
        if not package.name.startswith(("mlx", "parakeet_mlx")):
            (packages / package.name).symlink_to(package)
    return folder / "bin" / "python"


def run(*command: object, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        list(map(str, command)),
        env={**os.environ, "HF_HUB_OFFLINE": "1", "COLUMNS": "200", **environment},
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
    )


def test_without_mlx_the_doctor_finds_nothing_wrong(core: Path) -> None:
    done = run(core, "-m", "parakeet_stt", "doctor")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "MLX cannot be imported: No module named 'mlx'" in done.stdout
    assert "onnx test" in done.stdout
    assert "mlx test" not in done.stdout


def test_without_mlx_the_command_line_and_the_bot_transcribe(core: Path) -> None:
    environment = {"PARAKEET_BACKEND": "onnx", "PARAKEET_MODEL": "tiny"}
    done = run(core, "-m", "parakeet_stt", "transcribe", RECORDING.path, **environment)
    assert (done.returncode, done.stdout.strip()) == (0, RECORDING.text), done.stderr
    done = run(core, "examples/bot_v2.py", "--audio", RECORDING.path, **environment)
    assert done.returncode == 0, done.stderr
    assert "  heard " in done.stdout


IMPORT_EVERYTHING = """
import importlib, pkgutil, sys
for name in ("fcntl", "grp", "pwd", "resource", "termios"):
    sys.modules[name] = None  # As on Windows: importing it is a ModuleNotFoundError.
import parakeet_stt
for module in pkgutil.walk_packages(parakeet_stt.__path__, "parakeet_stt."):
    importlib.import_module(module.name)
"""


def test_no_module_needs_a_posix_system_to_be_imported() -> None:
    done = run(sys.executable, "-c", IMPORT_EVERYTHING)
    assert done.returncode == 0, done.stderr
