"""A real server on real sockets, in a thread of this process, so that tests can look inside."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import numpy as np

from parakeet_stt import load_model
from parakeet_stt.audio import Samples
from parakeet_stt.server.serve import Running
from parakeet_stt.server.settings import load_server_settings
from parakeet_stt.server.state import Server

T = TypeVar("T")

PATIENCE = 120.0
"""Seconds after which a test gives up waiting. Only a hang takes that long, on any machine."""

EVERY_PORT = {f"{name}port": 0 for name in ("", "ws_", "ears_", "tcp_", "status_", "wyoming_")}
"""Each protocol on a port that is free."""


class Served:
    """A server that runs, and how to reach it."""

    def __init__(self, running: Running, loop: asyncio.AbstractEventLoop) -> None:
        self.running = running
        self._loop = loop

    @property
    def server(self) -> Server:
        return self.running.server

    @property
    def http(self) -> str:
        return f"http://127.0.0.1:{self.running.ports['port']}"

    @property
    def ws(self) -> str:
        return f"ws://127.0.0.1:{self.running.ports['port']}"

    def port(self, name: str) -> int:
        return self.running.ports[name]

    def metric(self, name: str, **labels: str) -> float:
        """The value of a metric; 0 if nothing has been counted under these labels."""
        return self.server.metrics.registry.get_sample_value(name, labels) or 0.0

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run something on the server's own loop and wait for it."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(PATIENCE)

    def start(self, work: Coroutine[Any, Any, T]) -> asyncio.Future[T]:
        """Start something on the server's own loop; await the result on the test's."""
        return asyncio.wrap_future(asyncio.run_coroutine_threadsafe(work, self._loop))

    async def settled(self) -> None:
        """Wait until no session is left, however it ended."""
        await self.start(self.server.admission.wait_until_idle())
        assert self.server.admission.sessions == 0
        assert self.server.engine.sessions == frozenset()
        assert self.server.conversations == set()


async def eventually(condition: Callable[[], bool]) -> None:
    """Wait for a condition that another thread or process brings about."""
    async with asyncio.timeout(PATIENCE):
        while not condition():  # noqa: ASYNC110 (there is no event for it)
            await asyncio.sleep(0.005)


@contextmanager
def serving(**settings: Any) -> Iterator[Served]:
    """Serve the bundled model with these settings."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="test-server", daemon=True)
    thread.start()
    given = {"model": "tiny", "backend": "onnx", "port": 0, **settings}

    async def make() -> Running:
        return Running(load_server_settings({}, **given))

    running = asyncio.run_coroutine_threadsafe(make(), loop).result()
    served = Served(running, loop)
    try:
        served.run(running.open())
        yield served
        served.run(running.drain())
    finally:
        asyncio.run_coroutine_threadsafe(running.close(), loop).result(PATIENCE)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


def pcm16(samples: Samples) -> bytes:
    """Samples as 16-bit PCM."""
    return (np.clip(samples, -1, 1) * 32767).astype("<i2").tobytes()


def in_frames(data: bytes, size: int) -> Iterator[bytes]:
    """Cut audio into 2,001 frames of a size, and the rest of it into larger ones.

    If a frame ends in the middle of a sample, all that follow begin there: more tiny frames would
    only take longer.
    """
    tiny, rest = data[: 2_001 * size], data[2_001 * size :]
    yield from (tiny[start : start + size] for start in range(0, len(tiny), size))
    yield from (rest[start : start + 3_201] for start in range(0, len(rest), 3_201))


def offline(data: bytes) -> str:
    """What ``transcribe()`` makes of 16-bit PCM at 16 kHz."""
    samples = np.frombuffer(data, "<i2").astype(np.float32) / np.float32(32768)
    return load_model("tiny", backend="onnx").transcribe(samples).text
