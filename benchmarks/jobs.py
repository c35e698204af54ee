"""A measurement in a process of its own, so that its CPU time and memory are its own.

The parent's side. The child's is :mod:`benchmarks.candidates`, which reads the job as JSON
from its standard input and answers with lines of JSON: ``{"progress": 0.5}``, at last
``{"result": ...}``.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

_ONE_THREAD = dict.fromkeys(
    ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS"), "1"
)
"""What BLAS libraries read when they are loaded."""


class JobError(Exception):
    """A measurement that failed; the message is the process's last word."""


@dataclass(frozen=True)
class Job:
    """One measurement.

    Attributes:
        engine: What is measured, one of :data:`parakeet_stt.bench.ENGINES`.
        section: What is measured of it, one of :data:`parakeet_stt.bench.SECTIONS`.
        folder: The model's.
        kind: The model's: ``tdt``, ``rnnt`` or ``ctc``.
        data: Folder of the recordings.
        limit: At most so many recordings of each set.
        threads: One, or None for what the engine takes by itself.
        chunk_ms: Size of the pieces of a stream.
        segments: How many segments of each length, where segments are cut.
    """

    engine: str
    section: str
    folder: str
    kind: str
    data: str
    limit: int | None
    threads: int | None = 1
    chunk_ms: int = 100
    segments: int = 1

    def __str__(self) -> str:
        if self.section == "streaming":
            return f"streaming, {self.chunk_ms} ms"
        if self.section in ("offline", "lengths") and self.threads is None:
            return f"{self.section}, default threads"
        return self.section


def measure(job: Job, progress: Callable[[float], None]) -> dict[str, Any]:
    """Run a job in a fresh process of this interpreter.

    Args:
        job: The job.
        progress: Called with the share that is done, 0 to 1.

    Raises:
        JobError: The process ended without a result.
    """
    environment = {**os.environ, **(_ONE_THREAD if job.threads == 1 else {})}
    command = [sys.executable, "-m", "benchmarks.candidates"]
    result: dict[str, Any] | None = None
    with (
        tempfile.TemporaryFile("w+", encoding="utf-8") as complaints,
        subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=complaints,
            env=environment,
            encoding="utf-8",
        ) as process,
    ):
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            # A process that is gone already has said why.
            with contextlib.suppress(BrokenPipeError), process.stdin:
                json.dump(asdict(job), process.stdin)
            for line in process.stdout:
                message = json.loads(line)
                progress(message.get("progress", 1.0))
                result = message.get("result")
            code = process.wait()
        except BaseException:
            process.kill()
            raise
        if result is None:
            complaints.seek(0)
            lines = complaints.read().split("\n")
            last = [line.strip() for line in lines if line.strip()][-1:]
            raise JobError(last[0] if last else f"the process ended with code {code}")
    return result
