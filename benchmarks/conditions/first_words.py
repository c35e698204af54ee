"""The first word of a turn when the VAD is behind the newest audio.

    python -m benchmarks.conditions.first_words [CONDITION …] [--json FILE]

Plays recordings in real time into Pipecat pipelines with the bundled model, with the VAD in front
of the service and in the user aggregator behind it, under each condition, and compares the first
word of the finals with the first word that is said. Only recordings count whose first word is right
in a quiet run with the same VAD. A condition takes 10 to 20 s per group of recordings.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from loguru import logger
from pipecat.audio.vad.silero import SileroVADAnalyzer
from pipecat.audio.vad.vad_analyzer import VADParams
from pipecat.frames.frames import (
    EndFrame,
    Frame,
    InputAudioRawFrame,
    TranscriptionFrame,
    VADUserStartedSpeakingFrame,
    VADUserStoppedSpeakingFrame,
)
from pipecat.pipeline.pipeline import Pipeline
from pipecat.pipeline.worker import PipelineWorker
from pipecat.processors.aggregators.llm_context import LLMContext
from pipecat.processors.aggregators.llm_response_universal import (
    LLMContextAggregatorPair,
    LLMUserAggregatorParams,
)
from pipecat.processors.audio.vad_processor import VADProcessor
from pipecat.processors.frame_processor import FrameDirection, FrameProcessor
from pipecat.workers.runner import WorkerRunner

from parakeet_stt import Engine, ParakeetSTTService
from parakeet_stt.audio import SAMPLE_RATE, Samples
from parakeet_stt.bench.scores import word_error_rate
from parakeet_stt.model import device
from parakeet_stt.pipecat.player import Player
from tests.support.recordings import Recording, normalised, read_recordings

VADS = ("before", "behind")

_LEAD_SECONDS = 0.3  # Of silence before speech.
_QUIET_SECONDS = 1.5  # Without an event after the last sample, a call is over.
_MAX_SECONDS = 30.0  # After the last sample, a call is over in any case.


@dataclass(frozen=True)
class Condition:
    """How a group of recordings is played.

    Attributes:
        name: The table's row.
        bots: Pipelines at once, in one process.
        frame_seconds: Audio in a frame.
        burst_seconds: Audio that the transport gets at once.
        load_seconds: Time for which the model's load is delayed; callers speak meanwhile.
        block_seconds: Time for which the event loop is blocked as speech starts.
        busy: Busy processes beside this one.
    """

    name: str
    bots: int = 4
    frame_seconds: float = 0.02
    burst_seconds: float = 0.0
    load_seconds: float = 0.0
    block_seconds: float = 0.0
    busy: int = 0


CONDITIONS = [
    Condition("quiet"),
    *(Condition(f"load {s} s", load_seconds=s) for s in (1, 2, 3, 4)),
    *(Condition(f"blocked {s} s", block_seconds=s) for s in (0.5, 1, 2)),
    *(Condition(f"burst {s} s", burst_seconds=s) for s in (0.2, 0.5, 1, 2)),
    *(Condition(f"frame {s} s", frame_seconds=s) for s in (0.01, 0.1, 0.2, 0.5, 1)),
    *(
        Condition(f"bots {bots} busy {busy}", bots=bots, busy=busy)
        for busy in (0, 4, 10)
        for bots in (1, 3, 6)
    ),
]


@dataclass
class Call:
    """A recording that was played, and what came of it.

    Attributes:
        text: What is said.
        finals: Texts of the finals.
        vad_delay: Seconds from when the service passed on 0.2 s of speech to the VAD's start.
    """

    text: str
    finals: list[str] = field(default_factory=list)
    vad_delay: float | None = None

    @property
    def heard(self) -> str:
        """All finals."""
        return normalised(" ".join(self.finals))

    @property
    def first_is_right(self) -> bool:
        """Whether the first word is the one that is said."""
        return self.heard.split()[:1] == normalised(self.text).split()[:1]


class Caller(Player):
    """Plays samples in real time as a condition says, then silence."""

    def __init__(self, samples: Samples, condition: Condition) -> None:
        super().__init__(samples)
        self._condition = condition

    async def _play(self) -> None:
        condition, loop = self._condition, asyncio.get_running_loop()
        size = round(condition.frame_seconds * SAMPLE_RATE)
        frames_at_once = max(1, round(condition.burst_seconds / condition.frame_seconds))
        pcm = (np.clip(self._samples, -1, 1) * 32767).astype("<i2")
        started, sent = loop.time(), 0
        if condition.block_seconds:
            loop.call_later(_LEAD_SECONDS + 0.1, time.sleep, condition.block_seconds)
        while True:
            # A frame or burst comes when all of it has been spoken.
            due = started + (sent + frames_at_once) * condition.frame_seconds
            await asyncio.sleep(due - loop.time())
            for _ in range(frames_at_once):
                piece = pcm[sent * size : (sent + 1) * size]
                if len(piece) < size:
                    self.played.set()
                    piece = np.concatenate((piece, np.zeros(size - len(piece), "<i2")))
                await self.push_audio_frame(InputAudioRawFrame(piece.tobytes(), SAMPLE_RATE, 1))
                sent += 1


class Tap(FrameProcessor):
    """Notes what passes behind the service."""

    def __init__(self, call: Call) -> None:
        super().__init__()
        self._call = call
        self._seconds = 0.0
        self._onset_passed: float | None = None
        self.speaking = False
        self.stops = 0
        self.newest = time.monotonic()

    async def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
        await super().process_frame(frame, direction)
        match frame:
            case InputAudioRawFrame():
                self._seconds += frame.num_frames / frame.sample_rate
                if self._onset_passed is None and self._seconds >= _LEAD_SECONDS + 0.2:
                    self._onset_passed = time.monotonic()
            case VADUserStartedSpeakingFrame():
                self.speaking = True
                if self._call.vad_delay is None and self._onset_passed is not None:
                    self._call.vad_delay = time.monotonic() - self._onset_passed
            case VADUserStoppedSpeakingFrame():
                self.speaking = False
                self.stops += 1
            case TranscriptionFrame():
                self._call.finals.append(frame.text)
        if not isinstance(frame, InputAudioRawFrame):
            self.newest = time.monotonic()
        await self.push_frame(frame, direction)


async def call(recording: Recording, condition: Condition, vad: str, engine: Engine) -> Call:
    """Play a recording into a fresh pipeline."""
    result = Call(recording.text)
    start, end = int(recording.start * SAMPLE_RATE), int(recording.end * SAMPLE_RATE)
    speech = recording.samples()[max(0, start - int(_LEAD_SECONDS * SAMPLE_RATE)) : end]
    lead = np.zeros(max(0, int(_LEAD_SECONDS * SAMPLE_RATE) - start), np.float32)
    caller, tap = Caller(np.concatenate((lead, speech)), condition), Tap(result)
    service = ParakeetSTTService(engine=engine)
    analyzer = SileroVADAnalyzer(params=VADParams(stop_secs=0.2))
    if vad == "before":
        processors = [caller, VADProcessor(vad_analyzer=analyzer), service, tap]
    else:
        user, _ = LLMContextAggregatorPair(
            LLMContext(), user_params=LLMUserAggregatorParams(vad_analyzer=analyzer)
        )
        processors = [caller, service, tap, user]
    worker = PipelineWorker(Pipeline(processors), enable_rtvi=False)

    async def hang_up() -> None:
        await caller.played.wait()
        played = time.monotonic()
        while time.monotonic() - played < _MAX_SECONDS:
            await asyncio.sleep(0.1)
            quiet = time.monotonic() - max(played, tap.newest)
            if tap.stops and not tap.speaking and quiet > _QUIET_SECONDS:
                break
        await worker.queue_frame(EndFrame())

    runner = WorkerRunner(handle_sigint=False)
    await runner.add_workers(worker)
    hanging_up = asyncio.create_task(hang_up())
    await runner.run()
    await hanging_up
    return result


async def measure(condition: Condition, vad: str, recordings: list[Recording]) -> list[Call]:
    """Play every recording under a condition, ``condition.bots`` at once."""
    command = (sys.executable, "-c", "while True: pass")
    busy = [await asyncio.create_subprocess_exec(*command) for _ in range(condition.busy)]
    calls: list[Call] = []
    try:
        for first in range(0, len(recordings), condition.bots):
            engine = Engine("tiny", backend="onnx")
            if condition.load_seconds:
                # The thread that the model is warmed up on is busy, as if with a larger model.
                device.submit(time.sleep, condition.load_seconds)
            else:
                await engine.start()
            group = recordings[first : first + condition.bots]
            calls += await asyncio.gather(*(call(r, condition, vad, engine) for r in group))
    finally:
        for process in busy:
            process.kill()
            await process.wait()
    return calls


def rows(results: dict[tuple[str, str], list[Call]]) -> Iterable[dict[str, Any]]:
    """The table's rows."""
    for (name, vad), calls in results.items():
        quiet = results["quiet", vad]
        counted = [
            (call, before)
            for call, before in zip(calls, quiet, strict=True)
            if before.first_is_right
        ]
        delays = [call.vad_delay for call, _ in counted if call.vad_delay is not None]
        yield {
            "condition": name,
            "vad": vad,
            "recordings": len(counted),
            "first_word_right": sum(call.first_is_right for call, _ in counted),
            "wer_percent": 100
            * word_error_rate([call.text for call, _ in counted], [c.heard for c, _ in counted]),
            "finals": sum(len(call.finals) for call, _ in counted),
            "vad_delay_median_s": median(delays) if delays else None,
            "vad_delay_max_s": max(delays, default=None),
        }


def main() -> None:
    """Measure, and print a markdown table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("conditions", nargs="*", help="beginnings of their names; all by default")
    parser.add_argument("--vad", choices=VADS, action="append", help="both by default")
    parser.add_argument("--recordings", type=int, default=12, help="how many (default: 12)")
    parser.add_argument("--json", type=Path, help="write every call to a file")
    arguments = parser.parse_args()
    logger.remove()
    recordings = [r for r in read_recordings() if r.set != "several"]
    step = max(1, len(recordings) // arguments.recordings)
    recordings = recordings[::step][: arguments.recordings]
    wanted = tuple(arguments.conditions)
    conditions = [c for c in CONDITIONS if c.name == "quiet" or c.name.startswith(wanted or "")]
    results: dict[tuple[str, str], list[Call]] = {}
    for vad in arguments.vad or VADS:
        for condition in conditions:
            calls = asyncio.run(measure(condition, vad, recordings))
            results[condition.name, vad] = calls
            print(f"{condition.name}, VAD {vad}: done", file=sys.stderr)
    table = list(rows(results))
    print("| condition | VAD | first word right | WER | finals | VAD late by (median, max) |")
    print("|---|---|---|---|---|---|")
    for row in table:
        delays = [row["vad_delay_median_s"], row["vad_delay_max_s"]]
        late = ", ".join("-" if delay is None else f"{delay:.2f} s" for delay in delays)
        print(
            f"| {row['condition']} | {row['vad']} | {row['first_word_right']} of "
            f"{row['recordings']} | {row['wer_percent']:.1f} % | {row['finals']} | {late} |"
        )
    if arguments.json:
        details = [
            {"condition": name, "vad": vad, "calls": [asdict(call) for call in calls]}
            for (name, vad), calls in results.items()
        ]
        arguments.json.write_text(json.dumps({"rows": table, "details": details}, indent=1))


if __name__ == "__main__":
    main()
