"""Measure which words clients lose when the server's encoder is slow, hangs, or is far behind.

``python -m benchmarks.conditions.slow_server`` starts a server with the bundled model in a process
of its own, slows its encoder down, and connects clients with the default settings of the
``websockets`` package: a ping every 20 s, and 20 s for its answer.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import multiprocessing
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import websockets
from loguru import logger
from websockets.asyncio.client import ClientConnection, connect

from parakeet_stt import load_model
from parakeet_stt.model.encoder import Encoder, EncoderFrames, LocalAttention
from parakeet_stt.model.frontend import LogMel
from parakeet_stt.server.serve import Running
from parakeet_stt.server.settings import ServerSettings, load_server_settings
from tests.support.recordings import read_recordings

RATE = 16_000
FRAME_BYTES = RATE // 10 * 2


@dataclass(frozen=True)
class Condition:
    """What the clients do and how slow the encoder is.

    Attributes:
        name: For the table.
        clients: Number of clients.
        seconds: Seconds of speech that each client sends, as fast as the server takes it.
        factor: How many times slower the encoder is.
        hangs: Seconds that the first call of the encoder takes longer.
        settings: Settings of the server; those that a version does not have are left out.
    """

    name: str
    clients: int
    seconds: float
    factor: float = 1
    hangs: float = 0
    settings: dict[str, Any] | None = None


CONDITIONS = (
    Condition("300 s at once, 10 times slower", 20, 300, factor=10),
    Condition("60 s at once, 50 times slower", 20, 60, factor=50),
    Condition("close with 28 s waiting, 50 times slower", 24, 28, factor=50),
    Condition("close, encoder hangs for 20 s", 24, 12, hangs=20),
    Condition("close, encoder hangs", 4, 12, hangs=1e6, settings={"stall_seconds": 10}),
)


@dataclass
class Row:
    """What became of the clients under a condition.

    Attributes:
        condition: Its name.
        clients: Number of clients.
        complete: Clients whose finals have every word of ``transcribe()``.
        errors: Clients without every word that got another close code than 1000.
        silent: Clients without every word, and code 1000.
        codes: Clients by close code.
        counted: Sessions by close code, by the server's own metrics.
        seconds: Until the last client was closed.
    """

    condition: str
    clients: int
    complete: int
    errors: int
    silent: int
    codes: dict[int, int]
    counted: dict[str, int]
    seconds: float


class SlowEncoder:
    """A real encoder that takes longer."""

    def __init__(self, encoder: Encoder, factor: float, hangs: float) -> None:
        self.name, self.device, self.precision = encoder.name, encoder.device, encoder.precision
        self.has_local_attention = encoder.has_local_attention
        self._encoder = encoder
        self._factor = factor
        self._hangs = hangs

    def encode(
        self, windows: Sequence[LogMel], attention: LocalAttention | None
    ) -> list[EncoderFrames]:
        """As the encoder."""
        begun = time.perf_counter()
        frames = self._encoder.encode(windows, attention)
        time.sleep((self._factor - 1) * (time.perf_counter() - begun))
        hangs, self._hangs = self._hangs, 0
        time.sleep(hangs)
        return list(frames)


def serve(pipe: Connection, condition: Condition) -> None:
    """Serve until told to stop; tell the port first and the counted close codes last."""
    _quiet()
    asyncio.run(_serve(pipe, condition))


async def _serve(pipe: Connection, condition: Condition) -> None:
    wanted = condition.settings or {}
    known = {name: wanted[name] for name in wanted if name in ServerSettings.model_fields}
    settings = load_server_settings({}, model="tiny", backend="onnx", port=0, **known)
    running = Running(settings)
    await running.open()
    model = running.server.model
    model.encoder = SlowEncoder(model.encoder, condition.factor, condition.hangs)
    pipe.send(running.ports["port"])
    await asyncio.to_thread(pipe.recv)
    samples = [s for m in running.server.metrics.endings.collect() for s in m.samples]
    counted: Counter[str] = Counter()
    for sample in samples:
        if sample.name.endswith("_total"):
            counted[sample.labels["code"]] += int(sample.value)
    pipe.send(dict(counted))


async def _client(url: str, audio: bytes) -> tuple[str, int]:
    """Send the audio, close, and return the finals and the close code."""
    texts: list[str] = []
    async with connect(url, max_size=None) as ws:
        listening = asyncio.create_task(_listen(ws, texts))
        with contextlib.suppress(websockets.ConnectionClosed):  # Its code is what is looked at.
            for start in range(0, len(audio), FRAME_BYTES):
                await ws.send(audio[start : start + FRAME_BYTES])
            await ws.send('{"type":"close"}')
        await listening
    return " ".join(filter(None, texts)), ws.close_code or 1006


async def _listen(ws: ClientConnection, texts: list[str]) -> None:
    with contextlib.suppress(websockets.ConnectionClosed):
        async for message in ws:
            told = json.loads(message)
            if told.get("is_final"):
                texts.append(told["text"])


async def _measure(condition: Condition, port: int) -> list[tuple[str, int]]:
    audio = speech(condition.seconds).tobytes()
    url = f"ws://127.0.0.1:{port}/v1/stream?interims=false"
    return await asyncio.gather(*(_client(url, audio) for _ in range(condition.clients)))


def _quiet() -> None:
    logger.remove()
    logger.add(sys.stderr, level="WARNING")


def speech(seconds: float) -> np.ndarray[Any, np.dtype[np.int16]]:
    """Held-out recordings one after the other, as 16-bit PCM."""
    pieces = [r.samples() for r in read_recordings() if r.set == "known"]
    joined = np.concatenate(pieces * (1 + int(seconds * RATE / sum(map(len, pieces)))))
    return (np.clip(joined[: int(seconds * RATE)], -1, 1) * 32767).astype("<i2")


def measure(condition: Condition) -> Row:
    """Run one condition with a server of its own."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    server = context.Process(target=serve, args=(theirs, condition), daemon=True)
    server.start()
    port = ours.recv()
    begun = time.perf_counter()
    told = asyncio.run(_measure(condition, port))
    seconds = time.perf_counter() - begun
    time.sleep(0.5)  # The server counts a session after it has closed it.
    ours.send("stop")
    counted = ours.recv()
    server.kill()
    server.join()
    samples = speech(condition.seconds).astype(np.float32) / np.float32(32768)
    whole = load_model("tiny", backend="onnx").transcribe(samples).text
    complete = sum(text == whole for text, _ in told)
    silent = sum(text != whole and code == 1000 for text, code in told)
    return Row(
        condition.name,
        condition.clients,
        complete,
        condition.clients - complete - silent,
        silent,
        dict(Counter(code for _, code in told)),
        counted,
        round(seconds, 1),
    )


def main() -> None:
    """Measure every condition, print a table, and write it as JSON if asked to."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows to a file")
    parser.add_argument("--only", help="conditions whose names contain this text")
    arguments = parser.parse_args()
    _quiet()
    print("| condition | clients | every word | error | silent loss | codes | counted | seconds |")
    print("|---|---|---|---|---|---|---|---|")
    rows = []
    for condition in CONDITIONS:
        if arguments.only and arguments.only not in condition.name:
            continue
        row = measure(condition)
        rows.append(row)
        print("| " + " | ".join(str(value) for value in asdict(row).values()) + " |", flush=True)
    if arguments.json:
        arguments.json.write_text(json.dumps([asdict(row) for row in rows], indent=2))


if __name__ == "__main__":
    main()
