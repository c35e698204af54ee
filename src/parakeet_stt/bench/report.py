"""What benchmarks share: the machine, percentiles, JSON and plots in one style."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

PERCENTILES = (50, 95, 99)

_PACKAGES = {
    "parakeet-stt": "pipecat-parakeet-stt",
    "mlx": "mlx",
    "onnxruntime": "onnxruntime",
    "parakeet-mlx": "parakeet-mlx",
    "onnx-asr": "onnx-asr",
    "sherpa-onnx": "sherpa-onnx",
    "numpy": "numpy",
}
"""Names in the report, and the distributions that are meant."""


def machine() -> dict[str, Any]:
    """What figures were measured on: platform, processor, cores, Python, versions."""
    return {
        "platform": platform.platform(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "versions": {name: _version(package) for name, package in _PACKAGES.items()},
    }


def percentiles(values: Sequence[float]) -> dict[str, float]:
    """``p50``, ``p95`` and ``p99``; empty where there are no values."""
    if len(values) == 0:
        return {}
    return {f"p{p}": float(np.percentile(values, p)) for p in PERCENTILES}


def write_json(path: Path, figures: dict[str, Any]) -> None:
    """Write figures as indented JSON; the folder is made where it does not exist."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(figures, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def new_plot() -> tuple[Figure, Axes]:
    """An empty plot in the house style, drawn off screen."""
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color="0.9")
    axes.set_axisbelow(True)
    return figure, axes


def save_plot(figure: Figure, path: Path) -> None:
    """Write a plot in the format that its name ends in; the folder is made if need be."""
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)


def _processor() -> str:
    if platform.system() == "Darwin":
        command = ["sysctl", "-n", "machdep.cpu.brand_string"]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
