"""Is this machine ready: every part that the engine needs, looked at and tried."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from parakeet_stt.errors import ParakeetError
from parakeet_stt.model import blas
from parakeet_stt.settings import Backend, load_settings

_PACKAGES = ("pipecat-ai", "parakeet-mlx", "mlx", "onnxruntime", "numpy", "soxr")

SELF_TEST = Path(__file__).parents[1] / "data" / "self_test.flac"
SELF_TEST_TEXT = "Turn on the lamp in the kitchen, please."

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


@dataclass(frozen=True)
class Check:
    """One finding.

    Attributes:
        subject: What was looked at.
        finding: What was found, and what to do where that is not good.
        good: Whether it is as it should be; None where it does not have to be.
    """

    subject: str
    finding: str
    good: bool | None


def examine() -> Iterator[Check]:
    """Look at everything, in the order in which it is needed."""
    yield Check("python", f"{platform.python_version()} on {platform.platform()}", True)
    yield Check("packages", ", ".join(_version(name) for name in _PACKAGES), True)
    from parakeet_stt.model.executors import missing_mlx

    problem = missing_mlx()
    yield _device(problem)
    if problem is None:
        yield _blas()
    yield from _backends(("onnx",) if problem else ("onnx", "mlx"))
    yield _model()
    yield _microphone()
    yield _hub()


def _version(package: str) -> str:
    try:
        return f"{package} {version(package)}"
    except PackageNotFoundError:
        return f"{package} (not installed)"


def _device(mlx_problem: str | None) -> Check:
    if mlx_problem is not None:
        return Check("device", f"CPU, through ONNX Runtime. {mlx_problem}", None)
    from parakeet_stt.model.mlx.encoder import device_name, has_gpu

    if has_gpu():
        return Check("device", f"{device_name()}, through MLX, in bf16", True)
    return Check("device", "CPU: ONNX Runtime where the model has an ONNX encoder, else MLX", True)


def _blas() -> Check:
    found = blas.prepare()
    if found.status == "not needed":
        return Check("BLAS", str(found), True)
    fast = _matrix_speed({})
    if found.status != "loaded":
        return Check("BLAS", f"{found} ({fast:.0f} GFLOP/s now)", None)
    plain = _matrix_speed({blas.VARIABLE: "off"})
    return Check(
        "BLAS", f"{found}: MLX multiplies at {fast:.0f} GFLOP/s, without it at {plain:.0f}", True
    )


def _matrix_speed(environment: dict[str, str]) -> float:
    """Billions of operations a second of a matrix product in MLX, in a fresh process."""
    done = subprocess.run(
        [sys.executable, "-c", _MEASURE],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=True,
    )
    return float(done.stdout)


def _backends(backends: tuple[Backend, ...]) -> Iterator[Check]:
    """Transcribe the bundled recording on these encoders."""
    from parakeet_stt.audio import read_audio
    from parakeet_stt.model.loading import load_model

    samples = read_audio(SELF_TEST)
    for backend in backends:
        try:
            model = load_model("tiny", backend=backend)
        except ParakeetError as error:
            yield Check(f"{backend} test", str(error), False)
            continue
        model.warm_up()
        begun = time.perf_counter()
        text = model.transcribe(samples).text
        took = time.perf_counter() - begun
        yield Check(
            f"{backend} test",
            f"heard {text!r} in {took * 1000:.0f} ms ({model.encoder.device}, "
            f"{model.encoder.precision})",
            text == SELF_TEST_TEXT,
        )


def _model() -> Check:
    """Load the configured model, unless it would have to be downloaded, and transcribe."""
    from parakeet_stt.audio import read_audio
    from parakeet_stt.model import hub
    from parakeet_stt.model.loading import load_model

    try:
        settings = load_settings()
        gpu = settings.backend != "onnx" and settings.device != "cpu" and _mlx_has_gpu()
        found = hub.cached_model(settings.model, settings.backend, gpu, settings.cache_dir)
        if found is None:
            return Check(
                "model", f"{settings.model} is not downloaded yet; the first start does that", None
            )
        model = load_model()
        text = model.transcribe(read_audio(SELF_TEST)).text
    except (ParakeetError, ImportError) as error:
        return Check("model", str(error), False)
    return Check("model", f"{settings.model}: {model!r} heard {text!r}", True)


def _mlx_has_gpu() -> bool:
    try:
        from parakeet_stt.model.mlx.encoder import has_gpu
    except ImportError:
        return False
    return has_gpu()


def _microphone() -> Check:
    try:
        import sounddevice

        device = sounddevice.query_devices(kind="input")
    except (ImportError, OSError) as error:
        return Check("microphone", f"not looked for: {error} (extra 'mic' and PortAudio)", None)
    except (ValueError, sounddevice.PortAudioError) as error:
        return Check("microphone", f"none: {error}", None)
    return Check("microphone", str(device["name"]), True)


def _hub() -> Check:
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return Check("hub", "HF_HUB_OFFLINE is set: only cached models can be used", None)
    try:
        urllib.request.urlopen(constants.ENDPOINT, timeout=5).close()
    except OSError as error:
        return Check(
            "hub", f"{constants.ENDPOINT} cannot be reached ({error}); cached models work", None
        )
    return Check("hub", f"{constants.ENDPOINT} can be reached", True)
