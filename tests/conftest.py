"""What tests share: the bundled model on both encoders, and recordings that come with it."""

from __future__ import annotations

import shutil
import signal
from collections.abc import Iterator
from ctypes.util import find_library
from pathlib import Path

import pytest
import soundfile
from hypothesis import settings
from loguru import logger

from parakeet_stt import Model, load_model  # First, so that MLX gets a fast BLAS.
from tests.support.recordings import RECORDINGS, Recording, spoken
from tests.support.serving import EVERY_PORT, Served, serving

settings.register_profile("default", max_examples=10, derandomize=True, deadline=None)
settings.register_profile("nightly", max_examples=400, deadline=None, print_blob=True)
settings.load_profile("default")

INSTALLED = {
    "ffmpeg": shutil.which("ffmpeg") is not None,
    "OpenBLAS": find_library("openblas") is not None,
}
"""What a bare machine does not have, and whether this one does."""


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave ``nightly`` tests to the nightly profile, and start ``realtime`` tests first.

    A real-time test mostly waits. Workers take tests in order, so one of them waits while the
    others compute, and none is left waiting alone at the end.
    """
    if config.getoption("hypothesis_profile") != "nightly":
        nightly = [item for item in items if item.get_closest_marker("nightly")]
        items[:] = [item for item in items if item not in nightly]
        config.hook.pytest_deselected(items=nightly)
    items.sort(key=lambda item: item.get_closest_marker("realtime") is None)


def pytest_configure() -> None:
    """Let the processes that tests start receive SIGINT.

    A shell without job control ignores it for what it runs in the background, and so would they.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip a test whose ``needs`` marker names a program that is not installed."""
    for marker in item.iter_markers("needs"):
        (program,) = marker.args
        if not INSTALLED[program]:
            pytest.skip(f"{program} is not installed")


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests see the defaults, whatever the developer has set."""
    import os

    for name in list(os.environ):
        if name.startswith("PARAKEET_"):
            monkeypatch.delenv(name)


@pytest.fixture
def warnings() -> Iterator[list[str]]:
    """Warnings and errors in the log, as they come."""
    lines: list[str] = []
    sink = logger.add(lambda line: lines.append(str(line)), level="WARNING", format="{message}")
    yield lines
    logger.remove(sink)


@pytest.fixture(params=["mlx", "onnx"])
def backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def model(backend: str) -> Model:
    """The bundled model, on one encoder after the other."""
    return load_model("tiny", backend=backend)  # type: ignore[arg-type]


@pytest.fixture(scope="session")
def recordings() -> list[Recording]:
    return RECORDINGS


@pytest.fixture(scope="session")
def long_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Some minutes of speech."""
    path = tmp_path_factory.mktemp("long") / "long.flac"
    soundfile.write(path, spoken(40)[0], 16_000)
    return path


@pytest.fixture(scope="session")
def served() -> Iterator[Served]:
    """A server with every protocol, shared by the tests that leave it as they found it."""
    with serving(**EVERY_PORT) as served:
        yield served
