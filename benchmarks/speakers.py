"""One step of ``bench load``: so many people speaking at once, in real time, in this process.

Speakers keep to absolute deadlines, and a final's latency counts from the moment at which its
flush was due, so that an event loop that is late makes the figures worse and not better. Runs in
the process of its candidate; knows nothing of bounds and of how many speakers come next.
"""

from __future__ import annotations

import asyncio
import functools
import itertools
import random
import sys
import time
from collections.abc import AsyncIterator, Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from loguru import logger

from benchmarks.naive import CONTEXT_SIZE, naive_server
from benchmarks.step import Candidate, Step
from parakeet_stt.audio import SAMPLE_RATE, Samples
from parakeet_stt.bench.looplag import LoopLag
from parakeet_stt.engine.engine import Engine
from parakeet_stt.errors import ConfigurationError
from parakeet_stt.model.hub import find_model
from parakeet_stt.settings import Backend
from parakeet_stt.transcript import Hypothesis
from tests.support.recordings import read_recordings

QUIET_SECONDS = 0.3
"""Quiet after each recording, at whose end comes the flush."""

SPREAD_SECONDS = 2.0
"""Within so long all speakers have begun."""

_GRACE_SECONDS = 5.0  # A final that is not there so long after the step is lost.


class Listener(Protocol):
    """What a speaker needs of a :class:`~parakeet_stt.engine.session.Session`."""

    @property
    def backlog(self) -> float: ...

    def send(self, samples: Samples) -> None: ...

    def flush(self) -> asyncio.Future[Any]: ...

    def abort(self) -> None: ...

    def __aiter__(self) -> AsyncIterator[Any]: ...


def prepare_process() -> None:
    """Keep a candidate's process quiet: its standard error belongs to the progress bar."""
    logger.remove()
    logger.add(sys.stderr, level="WARNING")


def measure(candidate: Candidate, sessions: int) -> Step:
    """Let so many people speak at once.

    Raises:
        ParakeetError: The model cannot be loaded, or there are no recordings.
    """
    turns = read_turns(candidate.data, candidate.seconds / 2, candidate.piece)
    if candidate.backend is None:
        return asyncio.run(_measure_naive(candidate, sessions, turns))
    return asyncio.run(_measure_ours(candidate, candidate.backend, sessions, turns))


@functools.cache
def read_turns(folder: Path, longest: float, piece: int) -> list[Samples]:
    """The audio of a folder's recordings with quiet after each, in whole pieces.

    Args:
        folder: The folder.
        longest: Recordings of more seconds are left out.
        piece: Samples that are sent at a time.

    Raises:
        ConfigurationError: There are no such recordings.
    """
    quiet = int(QUIET_SECONDS * SAMPLE_RATE)
    turns = [
        np.pad(samples, (0, quiet + -(len(samples) + quiet) % piece))
        for samples in (recording.samples() for recording in read_recordings(folder))
        if len(samples) <= longest * SAMPLE_RATE
    ]
    if not turns:
        raise ConfigurationError(
            f"{folder} has no recordings of at most {longest:g} s, so that a step holds some; "
            f"give more --seconds"
        )
    return turns


def step_seconds(candidate: Candidate) -> float:
    """About how long a step takes, with its warm-up."""
    return SPREAD_SECONDS + candidate.seconds * 1.5


async def _measure_ours(
    candidate: Candidate, backend: Backend, sessions: int, turns: list[Samples]
) -> Step:
    engine = Engine(candidate.model, backend=backend, precision="fp32")
    model = await engine.start()
    step = await _speak_all(engine.open, candidate, sessions, turns)
    step.about = repr(model)
    return step


async def _measure_naive(candidate: Candidate, sessions: int, turns: list[Samples]) -> Step:
    server = naive_server(find_model(candidate.model, "mlx", has_gpu=False).folder)
    await server.ready()
    busy, heard = server.busy, server.heard
    step = await _speak_all(server.open, candidate, sessions, turns)
    await server.ready()  # Its worker calls back to this loop, which is about to go.
    if server.heard > heard:
        step.real_time_factor = (server.busy - busy) / (server.heard - heard)
    step.about = f"parakeet-mlx {version('parakeet-mlx')}, transcribe_stream({CONTEXT_SIZE}), fp32"
    return step


async def _speak_all(
    open_session: Callable[[], Listener],
    candidate: Candidate,
    sessions: int,
    turns: list[Samples],
) -> Step:
    step = Step(sessions, seconds=candidate.seconds)
    speakers = [
        _Speaker(open_session(), random.Random(number).sample(turns, len(turns)), candidate.piece)
        for number in range(sessions)
    ]
    loop = asyncio.get_running_loop()
    begins = [loop.time() + SPREAD_SECONDS * number / sessions for number in range(sessions)]
    # Everybody's first words are the warm-up.
    warm = max(
        begin + speaker.first_turn_seconds for begin, speaker in zip(begins, speakers, strict=True)
    )
    until = warm + candidate.seconds
    speaking = [
        asyncio.create_task(speaker.speak(begin, warm, until, step))
        for begin, speaker in zip(begins, speakers, strict=True)
    ]
    listening = [asyncio.create_task(speaker.listen(warm, until, step)) for speaker in speakers]
    await asyncio.sleep(warm - loop.time())
    cpu = time.process_time()
    async with LoopLag() as watch:
        await asyncio.sleep(until - loop.time())
    step.cpu = time.process_time() - cpu
    step.loop_lags = watch.values
    awaited = [final for flushes in await asyncio.gather(*speaking) for final in flushes]
    if awaited:
        await asyncio.wait(awaited, timeout=_GRACE_SECONDS)
    step.lost = sum(not final.done() or final.exception() is not None for final in awaited)
    for speaker in speakers:
        speaker.session.abort()
    await asyncio.gather(*listening)
    return step


class _Speaker:
    """Somebody who plays recording after recording into a session, and reads what it says."""

    def __init__(self, session: Listener, turns: list[Samples], piece: int) -> None:
        self.session = session
        self._turns = turns
        self._piece = piece

    @property
    def first_turn_seconds(self) -> float:
        return len(self._turns[0]) / SAMPLE_RATE

    async def speak(
        self, begin: float, warm: float, until: float, step: Step
    ) -> list[asyncio.Future[Any]]:
        """Speak in real time; gives the finals that were flushed in the time that is measured."""
        loop = asyncio.get_running_loop()
        now = begin
        flushed: list[asyncio.Future[Any]] = []
        turns = itertools.cycle(self._turns)
        while True:
            turn = next(turns)
            for start in range(0, len(turn), self._piece):
                now += self._piece / SAMPLE_RATE  # A piece is there when its last sample is spoken.
                if now >= until:
                    return flushed
                await asyncio.sleep(now - loop.time())
                if now >= warm:
                    step.lag = max(step.lag, self.session.backlog)
                self.session.send(turn[start : start + self._piece])
            final = self.session.flush()
            if now > warm:
                flushed.append(final)
                final.add_done_callback(functools.partial(_note, loop, now, step))

    async def listen(self, warm: float, until: float, step: Step) -> None:
        """Read every event's text, as a client would."""
        loop = asyncio.get_running_loop()
        async for event in self.session:
            if isinstance(event, Hypothesis) and event.text and warm <= loop.time() < until:
                step.interims += 1


def _note(
    loop: asyncio.AbstractEventLoop, due: float, step: Step, final: asyncio.Future[Any]
) -> None:
    if not final.cancelled() and final.exception() is None:
        step.finals.append(loop.time() - due)
