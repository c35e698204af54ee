"""How busy this machine's GPU is while a server is measured, as ``nvidia-smi`` tells it."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import subprocess
from types import TracebackType

import numpy as np

from parakeet_stt.bench.report import percentiles
from parakeet_stt.errors import ConfigurationError

_INTERVAL_MS = 500
_OURS = ("parakeet", "uvicorn", "nemo", "python")
"""What the process that is measured may be called, the likeliest first."""


class GpuWatch:
    """Reads one GPU's use while its ``async with`` block runs.

    Args:
        gpu: Its index.

    Raises:
        ConfigurationError: On entering: there is no ``nvidia-smi``.
    """

    def __init__(self, gpu: int) -> None:
        self.gpu = gpu
        self._percent: list[float] = []
        self._mib: list[float] = []

    async def __aenter__(self) -> GpuWatch:
        try:
            self._process = await asyncio.create_subprocess_exec(
                "nvidia-smi",
                "--query-gpu=utilization.gpu,memory.used",
                "--format=csv,noheader,nounits",
                f"--id={self.gpu}",
                f"--loop-ms={_INTERVAL_MS}",
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.DEVNULL,
            )
        except OSError as error:
            raise ConfigurationError(f"nvidia-smi cannot be run: {error}") from error
        self._reading = asyncio.create_task(self._read())
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with contextlib.suppress(ProcessLookupError):
            self._process.terminate()
        await self._process.wait()
        await self._reading

    def take(self) -> dict[str, float]:
        """Figures of the time since the last call; empty where nothing was read."""
        percent, mib = self._percent[:], self._mib[:]
        self._percent.clear()
        self._mib.clear()
        figures: dict[str, float] = {}
        if percent:
            figures["percent_p95"] = percentiles(percent)["p95"]
            figures["percent_mean"] = float(np.mean(percent))
        if mib:
            figures["mib_peak"] = max(mib)
            figures["mib_mean"] = float(np.mean(mib))
        return figures

    async def _read(self) -> None:
        assert self._process.stdout is not None
        async for line in self._process.stdout:
            percent, _, mib = line.decode().partition(",")
            # "[N/A]" where the driver does not tell, as under MIG.
            for values, text in ((self._percent, percent), (self._mib, mib)):
                with contextlib.suppress(ValueError):
                    values.append(float(text))


def find_gpu() -> int | None:
    """The GPU on which a server of ours runs, or else the first; None without ``nvidia-smi``."""
    if shutil.which("nvidia-smi") is None:
        return None
    gpus = dict(_query("--query-gpu=uuid,index"))
    running = _query("--query-compute-apps=gpu_uuid,process_name")
    for name in _OURS:
        for uuid, process in running:
            if name in process.lower() and uuid in gpus:
                return int(gpus[uuid])
    return 0 if gpus else None


def _query(what: str) -> list[tuple[str, str]]:
    try:
        answer = subprocess.run(
            ["nvidia-smi", what, "--format=csv,noheader"],
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return []
    pairs = (line.partition(",") for line in answer.stdout.splitlines())
    return [(first.strip(), second.strip()) for first, _, second in pairs]
