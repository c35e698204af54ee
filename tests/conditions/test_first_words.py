"""The VAD is behind the newest audio: no word is lost, none is used twice, and the order stays."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import numpy as np
import pytest
from pipecat.audio.vad.silero import SileroVADAnalyzer
from pipecat.frames.frames import (
    EndFrame,
    Frame,
    InputAudioRawFrame,
    InterimTranscriptionFrame,
    ManuallySwitchServiceFrame,
    STTMuteFrame,
    TranscriptionFrame,
    UserAudioRawFrame,
    VADUserStartedSpeakingFrame,
    VADUserStoppedSpeakingFrame,
)
from pipecat.pipeline.pipeline import Pipeline
from pipecat.pipeline.service_switcher import ServiceSwitcher
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
from parakeet_stt.audio import Samples
from parakeet_stt.model import device
from parakeet_stt.pipecat.player import Player
from parakeet_stt.pipecat.vad_progress import VAD_DELAY_SECONDS
from tests.support.recordings import CLEAR
from tests.support.serving import PATIENCE

SECONDS = 16_000
SILENCE = np.zeros(SECONDS, np.float32)


@pytest.fixture
async def engine() -> Engine:
    engine = Engine("tiny", backend="onnx")
    await engine.start()
    return engine


def frames(samples: Samples, seconds: float = 0.02, user: str | None = None) -> list[Frame]:
    """Frames of ``float32 [samples]``."""
    pcm = (np.clip(samples, -1, 1) * 32767).astype("<i2")
    size = int(seconds * SECONDS)
    pieces = [pcm[i : i + size].tobytes() for i in range(0, len(pcm), size)]
    if user is None:
        return [InputAudioRawFrame(piece, SECONDS, 1) for piece in pieces]
    return [UserAudioRawFrame(piece, SECONDS, 1, user_id=user) for piece in pieces]


def started() -> Frame:
    return VADUserStartedSpeakingFrame(start_secs=0.2)


def stopped() -> Frame:
    return VADUserStoppedSpeakingFrame(stop_secs=0.2)


def behind() -> list[FrameProcessor]:
    """Pipecat's default wiring: the VAD is in the user aggregator, behind the service."""
    user, _ = LLMContextAggregatorPair(
        LLMContext(), user_params=LLMUserAggregatorParams(vad_analyzer=SileroVADAnalyzer())
    )
    return [user]


class Line(FrameProcessor):
    """The end of a service's line: keeps what passes, in both directions."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[Frame] = []
        self.heard = 0  # Frames of audio, which are not kept.
        self._changed = asyncio.Event()
        self.worker: PipelineWorker | None = None

    @property
    def finals(self) -> list[str]:
        return [frame.text for frame in self.seen if isinstance(frame, TranscriptionFrame)]

    @property
    def labels(self) -> list[tuple[str, str]]:
        """Each final's and interim's user and text."""
        kinds = TranscriptionFrame | InterimTranscriptionFrame
        return [(frame.user_id, frame.text) for frame in self.seen if isinstance(frame, kinds)]

    def count(self, kind: type[Frame]) -> int:
        return sum(isinstance(frame, kind) for frame in self.seen)

    async def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
        await super().process_frame(frame, direction)
        if isinstance(frame, InputAudioRawFrame):
            self.heard += 1
        else:
            self.seen.append(frame)
        self._changed.set()
        await self.push_frame(frame, direction)

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(PATIENCE):
            while not condition():
                self._changed.clear()
                await self._changed.wait()

    async def send(self, *sent: Frame) -> None:
        """Send frames, and wait until the audio in them has passed."""
        assert self.worker is not None
        heard = self.heard + sum(isinstance(frame, InputAudioRawFrame) for frame in sent)
        await self.worker.queue_frames(list(sent))
        await self.until(lambda: self.heard >= heard)

    @asynccontextmanager
    async def running(
        self, *before: FrameProcessor, after: Sequence[FrameProcessor] = ()
    ) -> AsyncIterator[None]:
        """Run a pipeline, and end it as a bot does: what was said still becomes a final."""
        self.worker = PipelineWorker(Pipeline([*before, self, *after]), enable_rtvi=False)
        runner = WorkerRunner(handle_sigint=False)
        await runner.add_workers(self.worker)
        running = asyncio.create_task(runner.run())
        try:
            yield
            await self.worker.queue_frame(EndFrame())
        except BaseException:
            await self.worker.cancel()
            raise
        finally:
            await running


async def test_speech_while_the_model_loads_keeps_its_first_words() -> None:
    said, line = CLEAR[0], Line()
    loading = threading.Event()
    holding = device.submit(loading.wait)  # Another model's load, say, holds the thread.
    service = ParakeetSTTService(engine=Engine("tiny", backend="onnx"))
    async with line.running(service, after=behind()):
        assert line.worker is not None
        await line.worker.queue_frames(frames(np.concatenate((said.samples(), SILENCE))))
        loading.set()
        await line.until(lambda: bool(line.finals))
    assert holding.result()
    assert line.finals == [said.text]


async def test_everything_that_comes_in_one_burst_is_transcribed_in_order(engine: Engine) -> None:
    said, line = CLEAR[:3], Line()
    pause = SILENCE[: SECONDS // 2]
    samples = np.concatenate([p for r in said for p in (r.samples(), pause)])
    async with line.running(ParakeetSTTService(engine=engine), after=behind()):
        await line.send(*frames(samples))
        await line.until(lambda: line.count(VADUserStoppedSpeakingFrame) == 3)
    assert " ".join(line.finals) == " ".join(recording.text for recording in said)


class _Blocking(FrameProcessor):
    """Blocks the event loop at a frame of audio, as a bot's own synchronous code does."""

    def __init__(self, at: int) -> None:
        super().__init__()
        self._until = at

    async def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
        await super().process_frame(frame, direction)
        if isinstance(frame, InputAudioRawFrame):
            self._until -= 1
            if self._until == 0:
                time.sleep(1.0)  # noqa: ASYNC251
        await self.push_frame(frame, direction)


@pytest.mark.realtime
async def test_an_event_loop_blocked_as_speech_starts_loses_nothing(engine: Engine) -> None:
    said, line = CLEAR[1], Line()
    player = Player(said.samples())
    blocking = _Blocking(at=int(said.start * 50) + 5)
    service = ParakeetSTTService(engine=engine)
    async with line.running(player, blocking, service, after=behind()):
        await line.until(lambda: bool(line.finals))
    assert line.finals == [said.text]


@pytest.mark.parametrize("seconds", [0.01, 0.1, 0.5, 1.0])
async def test_frames_of_every_length_keep_the_first_word(engine: Engine, seconds: float) -> None:
    said, line = CLEAR[2], Line()
    vad = VADProcessor(vad_analyzer=SileroVADAnalyzer())
    samples = np.concatenate((SILENCE, said.samples(), SILENCE))
    async with line.running(vad, ParakeetSTTService(engine=engine)):
        await line.send(*frames(samples, seconds))
        await line.until(lambda: bool(line.finals))
    assert line.finals == [said.text]


@pytest.mark.parametrize("late", [0.3, 1.0, 2.0])
async def test_a_late_vad_cuts_no_utterance(engine: Engine, late: float) -> None:
    """Its start and stop come while the next utterance goes on, which is the next segment's."""
    first, second, line = CLEAR[0], CLEAR[3], Line()
    pause = SILENCE[: SECONDS // 2]
    before = np.concatenate((first.samples()[: int(first.end * SECONDS)], pause))
    begins = len(before) + int(second.start * SECONDS)
    whole = np.concatenate((before, second.samples(), pause))
    cut = begins + int(late * SECONDS)
    async with line.running(ParakeetSTTService(engine=engine)):
        await line.send(*frames(whole[:cut]), started(), stopped())
        await line.until(lambda: line.count(VADUserStoppedSpeakingFrame) == 1)
        await line.send(*frames(whole[cut:]), started(), stopped())
        await line.until(lambda: len(line.finals) == 2)
    assert line.finals == [first.text, second.text]


@pytest.mark.realtime
async def test_a_voice_that_the_vad_ignored_some_time_ago_is_no_part_of_a_segment(
    engine: Engine,
) -> None:
    said, line = CLEAR[1], Line()
    far = CLEAR[0].samples() * 0.02  # Below the VAD's minimum volume.
    pause = np.zeros(int((VAD_DELAY_SECONDS + 0.5) * SECONDS), np.float32)
    player = Player(np.concatenate((far, pause, said.samples())))
    async with line.running(player, ParakeetSTTService(engine=engine), after=behind()):
        await line.until(lambda: bool(line.finals))
    assert line.finals == [said.text]


async def test_finals_come_in_the_order_of_speech_across_switches(engine: Engine) -> None:
    one, two = (ParakeetSTTService(engine=engine) for _ in range(2))
    switcher, line = ServiceSwitcher(services=[one, two]), Line()
    said = CLEAR[:3]
    switched = asyncio.Event()

    @switcher.strategy.event_handler("on_service_switched")
    async def on_switched(_: Any, __: Any) -> None:
        switched.set()

    async with line.running(switcher):
        await line.send(started())
        for recording, following in zip(said, (two, one, None), strict=True):
            await line.send(*frames(recording.samples()))
            if following is not None:
                switched.clear()
                await line.send(ManuallySwitchServiceFrame(service=following))
                await switched.wait()
        await line.send(stopped())
        await line.until(lambda: len(line.finals) == 3)
    assert line.finals == [recording.text for recording in said]


async def test_nothing_from_before_a_switch_is_used_after_it(engine: Engine) -> None:
    one, two = (ParakeetSTTService(engine=engine) for _ in range(2))
    switcher, line = ServiceSwitcher(services=[one, two]), Line()
    switched = asyncio.Event()

    @switcher.strategy.event_handler("on_service_switched")
    async def on_switched(_: Any, __: Any) -> None:
        switched.set()

    async with line.running(switcher):
        # The VAD says nothing yet: what comes before its start is only kept.
        await line.send(*frames(CLEAR[0].samples()))
        for service in (two, one):
            switched.clear()
            await line.send(ManuallySwitchServiceFrame(service=service))
            await switched.wait()
        await line.send(*frames(CLEAR[1].samples()), stopped())
        await line.until(lambda: bool(line.finals))
    assert line.finals == [CLEAR[1].text]


async def test_nothing_from_before_a_mute_is_used_after_it(engine: Engine) -> None:
    line = Line()
    before = frames(CLEAR[0].samples())
    muted = [STTMuteFrame(mute=True), started(), STTMuteFrame(mute=False), stopped()]
    async with line.running(ParakeetSTTService(engine=engine)):
        await line.send(*before, *muted)
        await line.send(started(), *frames(CLEAR[1].samples()), stopped())
        await line.until(lambda: bool(line.finals))
    assert line.finals == [CLEAR[1].text]


async def test_a_transcript_has_the_user_who_spoke_when_it_started(engine: Engine) -> None:
    line = Line()
    ada, bob = (
        frames(recording.samples(), user=user)
        for recording, user in ((CLEAR[0], "ada"), (CLEAR[1], "bob"))
    )
    async with line.running(ParakeetSTTService(engine=engine)):
        await line.send(started(), *ada, stopped(), started(), *bob, stopped())
        await line.until(lambda: len(line.finals) == 2)
    assert [label for label in line.labels if label[1] in line.finals] == [
        ("ada", CLEAR[0].text),
        ("bob", CLEAR[1].text),
    ]
