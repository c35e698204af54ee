"""``parakeet-stt doctor``: check this installation.

Tries every part that the engine needs, the configured model and every setting. Downloads nothing.
"""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from rich.markup import escape

from parakeet_stt import load_model
from parakeet_stt.audio import ffmpeg, read_audio
from parakeet_stt.cli import console
from parakeet_stt.errors import ParakeetError
from parakeet_stt.model import blas, hub
from parakeet_stt.model.catalog import BUNDLED, known_model
from parakeet_stt.model.download import Repository
from parakeet_stt.model.executors import missing_mlx, mlx_has_gpu
from parakeet_stt.server.settings import ALIASES, ServerSettings, load_server_settings
from parakeet_stt.settings import (
    Backend,
    ParakeetSettings,
    load_settings,
    unknown_variables,
    variable_name,
)

_PACKAGES = (
    "pipecat-parakeet-stt", "pipecat-ai", "parakeet-mlx", "mlx", "onnxruntime", "numpy", "soxr"
)  # fmt: skip

_SELF_TEST = Path(__file__).parents[1] / "data" / "self_test.flac"
_SELF_TEST_TEXT = "Turn on the lamp in the kitchen, please."

_MEASURE = """
import time
import parakeet_stt
import mlx.core as mx
a = mx.random.normal((768, 768))
mx.eval(a, a @ a)
begun = time.perf_counter()
mx.eval(a @ a)
print(2 * 768**3 / (time.perf_counter() - begun) / 1e9)
"""

_MARKS = {True: "[green]ok[/green]", False: "[red]no[/red]", None: "[yellow]--[/yellow]"}


@dataclass(frozen=True)
class _Check:
    """One finding.

    Attributes:
        subject: What was checked.
        finding: What was found, and what to do if that is not good.
        good: Whether it is as it should be; None if it does not have to be.
    """

    subject: str
    finding: str
    good: bool | None


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add nothing: the command has no arguments."""
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    healthy = True
    for check in _checks():
        finding = escape(check.finding)
        console.out.print(f"{_MARKS[check.good]}  {check.subject:<12} {finding}", soft_wrap=True)
        healthy &= check.good is not False
    return 0 if healthy else 1


def _checks() -> Iterator[_Check]:
    """Check everything, in the order in which it is needed."""
    yield _Check("python", f"{platform.python_version()} on {platform.platform()}", True)
    yield _Check("packages", ", ".join(_version(name) for name in _PACKAGES), True)
    settings, *checks = _settings()
    yield from checks
    yield _environment()
    problem = missing_mlx()
    yield _device(problem)
    if problem is None:
        yield _blas()
    yield from _backends(("onnx",) if problem else ("onnx", "mlx"))
    if settings is None:
        yield _Check("model", "not checked: the settings cannot be used", None)
    else:
        yield _model(settings, "onnx" if problem else settings.backend)
        yield _disk(settings)
    yield _microphone()
    yield _ffmpeg()
    yield _hub()


def _version(package: str) -> str:
    try:
        return f"{package} {version(package)}"
    except PackageNotFoundError:
        return f"{package} (not installed)"


def _settings() -> tuple[ParakeetSettings | None, *tuple[_Check, ...]]:
    """Read the settings, for a bot and for the server, and find misspelt variables."""
    settings = None
    checks = []
    try:
        settings = load_settings()
        load_server_settings()
        checks.append(_Check("settings", "every value can be used", True))
    except ParakeetError as error:
        subject = "settings" if settings is None else "server"
        checks.append(_Check(subject, str(error), False))
    for name, advice in unknown_variables().items():
        checks.append(_Check("settings", f"there is no setting {name}: {advice}", False))
    return settings, *checks


def _environment() -> _Check:
    """List the variables that are set, without the values of secrets."""
    fields = {variable_name(name): field for name, field in ServerSettings.model_fields.items()}
    shown = [
        f"{name}={os.environ[name] if field.repr else '(hidden)'}"
        for name, field in fields.items()
        if os.environ.get(name)
    ]
    shown += [
        f"{alias}={os.environ[alias]} (serve: {variable_name(name)})"
        for alias, name in ALIASES.items()
        if os.environ.get(alias) and not os.environ.get(variable_name(name))
    ]
    return _Check("environment", ", ".join(shown) or "no variable is set", True)


def _device(mlx_problem: str | None) -> _Check:
    nvidia = shutil.which("nvidia-smi") is not None
    advice = "; for the NVIDIA GPU: pip install 'pipecat-parakeet-stt[cuda]'" if nvidia else ""
    if mlx_problem is not None:
        return _Check("device", f"CPU, through ONNX Runtime. {mlx_problem}", None)
    from parakeet_stt.model.mlx.encoder import device_name, has_gpu

    if has_gpu():
        return _Check("device", f"{device_name()}, through MLX, in bf16", True)
    return _Check(
        "device",
        f"CPU, through ONNX Runtime{advice}",
        None if nvidia else True,
    )


def _blas() -> _Check:
    found = blas.prepare()
    if found.status == "not needed":
        return _Check("BLAS", str(found), True)
    fast = _matrix_speed({})
    if found.status != "loaded":
        return _Check("BLAS", f"{found} ({fast:.0f} GFLOP/s now)", None)
    plain = _matrix_speed({blas.VARIABLE: "off"})
    return _Check(
        "BLAS", f"{found}: MLX multiplies at {fast:.0f} GFLOP/s, without it at {plain:.0f}", True
    )


def _matrix_speed(environment: dict[str, str]) -> float:
    """Measure GFLOP/s of a matrix product in MLX, in a fresh process."""
    done = subprocess.run(
        [sys.executable, "-c", _MEASURE],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=True,
    )
    return float(done.stdout)


def _backends(backends: tuple[Backend, ...]) -> Iterator[_Check]:
    """Transcribe the bundled recording on these encoders."""
    samples = read_audio(_SELF_TEST)
    for backend in backends:
        try:
            model = load_model(BUNDLED["tiny"], backend=backend)
        except ParakeetError as error:
            yield _Check(f"{backend} test", str(error), False)
            continue
        model.warm_up()
        started = time.perf_counter()
        text = model.transcribe(samples).text
        took = time.perf_counter() - started
        yield _Check(
            f"{backend} test",
            f"transcribed {text!r} in {took * 1000:.0f} ms ({model.encoder.device}, "
            f"{model.encoder.precision})",
            text == _SELF_TEST_TEXT,
        )


def _model(settings: ParakeetSettings, backend: Backend) -> _Check:
    """Load the configured model and transcribe with it, if it is on this machine."""
    try:
        gpu = backend != "onnx" and mlx_has_gpu(settings.device)
        int8 = settings.precision == "int8"
        found = hub.cached_model(settings.model, backend, gpu, settings.cache_dir, int8)
        if found is None:
            return _Check(
                "model", f"{settings.model} is not downloaded yet; the first start does that", None
            )
        # By its folder: nothing is downloaded then.
        model = load_model(found.folder, backend=found.executor)
        started = time.perf_counter()
        text = model.transcribe(read_audio(_SELF_TEST)).text
        took = time.perf_counter() - started
    except ParakeetError as error:
        return _Check("model", str(error), False)
    return _Check(
        "model",
        f"{settings.model}: transcribed {text!r} in {took * 1000:.0f} ms ({found.executor}, "
        f"{model.encoder.device}, {model.encoder.precision})",
        True,
    )


def _disk(settings: ParakeetSettings) -> _Check:
    """Compare the free space for downloads with the size of the configured model."""
    cache = Repository("", cache_dir=settings.cache_dir).cache.absolute()
    place = next(folder for folder in (cache, *cache.parents) if folder.is_dir())
    free = shutil.disk_usage(place).free / 1e9
    finding = f"{free:.1f} GB free for models in {cache}"
    known = known_model(settings.model)
    cached = known is None or any(hub.is_cached(r, settings.cache_dir) for r in known.repositories)
    if known is not None and free < (known.download_gb or 0) and not cached:
        return _Check(
            "disk",
            f"{finding}: {settings.model} needs {known.download_gb:g} GB. Set PARAKEET_CACHE_DIR "
            f"to a folder on another disk",
            False,
        )
    if not os.access(place, os.W_OK):
        return _Check("disk", f"{finding}, which cannot be written to", None)
    return _Check("disk", finding, True)


def _microphone() -> _Check:
    try:
        import sounddevice

        device = sounddevice.query_devices(kind="input")
    except (ImportError, OSError) as error:
        return _Check("microphone", f"not checked: {error} (extra 'mic' and PortAudio)", None)
    except (ValueError, sounddevice.PortAudioError) as error:
        return _Check("microphone", f"none: {error}", None)
    return _Check("microphone", str(device["name"]), True)


def _ffmpeg() -> _Check:
    if ffmpeg.is_installed():
        return _Check("ffmpeg", "installed: M4A, MP4, WebM and other formats can be read", True)
    return _Check("ffmpeg", "not installed: WAV, FLAC, Ogg and MP3 can be read, not M4A", None)


def _hub() -> _Check:
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return _Check("hub", "HF_HUB_OFFLINE is set: only cached models can be used", None)
    try:
        urllib.request.urlopen(constants.ENDPOINT, timeout=5).close()
    except OSError as error:
        return _Check(
            "hub", f"{constants.ENDPOINT} cannot be reached ({error}); cached models work", None
        )
    return _Check("hub", f"{constants.ENDPOINT} can be reached", True)
