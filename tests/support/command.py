"""The command line in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys

from tests.support.recordings import ROOT


def parakeet(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run ``parakeet-stt`` with these arguments, offline, in the checkout."""
    return _run("parakeet_stt", *arguments, **environment)


def benchmark(*arguments: object) -> subprocess.CompletedProcess[str]:
    """Run ``python -m benchmarks`` with these arguments, offline, in the checkout."""
    return _run("benchmarks", *arguments)


def _run(module: str, *arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", module, *map(str, arguments)],
        env={**os.environ, "HF_HUB_OFFLINE": "1", "COLUMNS": "100", **environment},
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
    )
