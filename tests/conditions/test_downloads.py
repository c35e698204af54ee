"""Downloads that are broken off: by signals, a full disk, the network, or a hub that is wrong."""

from __future__ import annotations

import os
import resource
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import constants

from tests.support.hub_server import TINY, Hold, Hub, files_of, hub_server, large_onnx_export
from tests.support.recordings import RECORDINGS
from tests.support.serving import PATIENCE

RECORDING = RECORDINGS[0]
DATA = "encoder-model.onnx.data"
CHUNK = constants.DOWNLOAD_CHUNK_SIZE
"""Bytes that the hub's client writes at once."""
HALF = CHUNK + 1_000_000
NEVER: dict[str, Any] = {"HF_HUB_ETAG_TIMEOUT": "86400", "HF_HUB_DOWNLOAD_TIMEOUT": "86400"}
"""The client gives up a request by itself after a day."""


@pytest.fixture(scope="module")
def export(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return large_onnx_export(tmp_path_factory.mktemp("export") / "model")


@pytest.fixture
def hub(export: Path) -> Iterator[Hub]:
    with hub_server() as hub:
        hub.repositories = {
            "somebody/mlx": files_of(TINY, "config.json", "model.safetensors"),
            "somebody/onnx": files_of(export),
        }
        yield hub


class Machine:
    """A machine with a cache, on which the command line runs."""

    def __init__(self, hub: Hub, cache: Path) -> None:
        self._cache = cache
        self._environment = {
            **os.environ,
            "HF_ENDPOINT": hub.address,
            "PARAKEET_CACHE_DIR": str(cache),
            "PARAKEET_BACKEND": "onnx",
        }

    def start(
        self, *arguments: object, preexec: Callable[[], None] | None = None, **environment: str
    ) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "parakeet_stt", *map(str, arguments)],
            env=self._environment | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            preexec_fn=preexec,
        )

    def transcribe(
        self, model: str, preexec: Callable[[], None] | None = None, **environment: str
    ) -> tuple[int, str, str]:
        """Transcribe a recording: the exit code, the text and what is on stderr."""
        command = ("transcribe", RECORDING.path, "--model", model)
        process = self.start(*command, preexec=preexec, **environment)
        out, err = process.communicate(timeout=PATIENCE)
        return process.returncode, out.strip(), err

    def cached_bytes(self) -> int:
        files = (path for path in self._cache.rglob("*") if not path.is_symlink())
        return sum(path.stat().st_size for path in files if path.is_file())


@pytest.fixture
def machine(hub: Hub, tmp_path: Path) -> Machine:
    return Machine(hub, tmp_path / "cache")


STAGES = {
    "before the first byte": (signal.SIGINT, Hold("GET", "list")),
    "during config.json": (signal.SIGTERM, Hold("GET", "config.json", bytes=20)),
    "between files": (signal.SIGINT, Hold("HEAD", DATA)),
    "in the middle of the large file": (signal.SIGTERM, Hold("GET", DATA, bytes=HALF)),
    "before the link in the snapshot": (signal.SIGINT, Hold("HEAD", DATA, number=2)),
}


@pytest.mark.parametrize(
    "stage",
    [
        pytest.param("before the first byte", marks=pytest.mark.nightly),
        pytest.param("during config.json", marks=pytest.mark.nightly),
        "between files",
        "in the middle of the large file",
        "before the link in the snapshot",
    ],
)
def test_a_signal_ends_a_download_and_the_next_start_completes_it(
    hub: Hub, machine: Machine, stage: str
) -> None:
    number, hub.hold = STAGES[stage]
    process = machine.start("transcribe", RECORDING.path, "--model", "somebody/onnx", **NEVER)
    assert hub.held.wait(PATIENCE)
    while stage == "in the middle of the large file" and machine.cached_bytes() < CHUNK:
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(number)
    _, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == (130 if number == signal.SIGINT else -number)
    assert "Traceback" not in err
    hub.release()

    code, text, err = machine.transcribe("somebody/onnx")
    assert (code, text) == (0, RECORDING.text), err
    continued = [request.range for request in hub.transfers(DATA)]
    if stage == "before the link in the snapshot":
        assert continued == [], "the file had arrived"
    elif stage == "in the middle of the large file":
        assert continued == [f"bytes={CHUNK}-"]
    else:
        assert continued == [""]


@pytest.mark.parametrize(
    ("number", "backend", "file"),
    [(signal.SIGTERM, "onnx", DATA), (signal.SIGINT, "mlx", "model.safetensors")],
)
def test_a_signal_ends_a_server_that_downloads_its_model_and_the_next_start_completes_it(
    hub: Hub, machine: Machine, number: signal.Signals, backend: str, file: str
) -> None:
    model = f"somebody/{backend}"
    hub.hold = Hold("GET", file, bytes=1_000_000)
    command = ("serve", "--port", 0, "--model", model, "--backend", backend)
    process = machine.start(*command, **NEVER)
    assert hub.held.wait(PATIENCE)
    process.send_signal(number)
    _, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, err
    assert "Traceback" not in err
    hub.release()
    code, text, err = machine.transcribe(model, PARAKEET_BACKEND=backend)
    assert (code, text) == (0, RECORDING.text), err


def test_a_disk_that_fills_up_is_explained_and_the_next_start_continues(
    hub: Hub, machine: Machine
) -> None:
    def quota() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (HALF, HALF))

    code, _, err = machine.transcribe("somebody/onnx", preexec=quota)
    assert code == 1
    assert "error: somebody/onnx does not fit into" in err
    assert "PARAKEET_CACHE_DIR" in err
    hub.requests.clear()
    assert machine.transcribe("somebody/onnx")[:2] == (0, RECORDING.text)
    assert [request.range for request in hub.transfers(DATA)] == [f"bytes={HALF}-"]
    hub.requests.clear()
    assert machine.transcribe("somebody/onnx")[:2] == (0, RECORDING.text)
    assert hub.requests == [], "the hub was asked for a model that is cached"


def test_without_a_network_the_error_is_all_that_is_printed(machine: Machine) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = f"http://127.0.0.1:{free.getsockname()[1]}"
    code, _, err = machine.transcribe("somebody/onnx", HF_ENDPOINT=address)
    assert code == 1
    (line,) = err.splitlines()
    assert line.startswith(
        "error: somebody/onnx is not completely cached and cannot be downloaded: "
    )
