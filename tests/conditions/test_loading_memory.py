"""Memory while a large model is loaded, in fresh processes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.recordings import ROOT


@pytest.mark.skipif(sys.platform == "win32", reason="Windows reports memory in another way")
def test_loading_takes_little_more_memory_than_the_weights_and_returns_it(tmp_path: Path) -> None:
    figures = tmp_path / "figures.json"
    command = ("-m", "benchmarks.conditions.loading_memory", "--layers", "4", "--width", "512")
    subprocess.run([sys.executable, *command, "--json", str(figures)], cwd=ROOT, check=True)
    loadings = json.loads(figures.read_text())
    runs = [("mlx", "bf16"), ("mlx", "fp32"), ("onnx", "fp32"), ("onnx", "int8")]
    assert [(one["file"], one["backend"], one["precision"]) for one in loadings] == [
        (file, *run) for file in ("bf16", "fp32") for run in runs
    ]
    working = 64  # MB that encoding the first windows takes, whatever the size of the model.
    for one in loadings:
        assert one["peak_mb"] - one["before_mb"] <= 1.3 * one["weights_mb"] + working, one
        assert one["after_mb"] - one["before_mb"] <= 1.2 * one["weights_mb"] + working, one
