"""Settings that belong to a segment: a final is judged by those of the time when it started."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import numpy as np
from pipecat.frames.frames import STTUpdateSettingsFrame, VADUserStoppedSpeakingFrame
from pipecat.pipeline.worker import PipelineWorker
from pipecat.transcriptions.language import Language

from parakeet_stt import Engine, ParakeetSTTService
from parakeet_stt.engine.options import SessionOptions
from parakeet_stt.pipecat.settings import ParakeetSTTSettings
from tests.support.pipelines import Listener, drive
from tests.support.recordings import CLEAR
from tests.support.services import START, STOP, Settings, audio, finals, run, service, spoken
from tests.support.serving import PATIENCE, eventually


def applied(stt: ParakeetSTTService) -> ParakeetSTTSettings:
    """The settings that the service has applied."""
    assert isinstance(stt.settings, ParakeetSTTSettings)
    return stt.settings


@asynccontextmanager
async def finals_held_back(engine: Engine) -> AsyncIterator[None]:
    """Another session is in the midst of speech: finals wait, to be batched with its final."""
    async with engine.open(SessionOptions(interval=None)) as other:
        other.send(np.zeros(1_600, np.float32))
        await other.wait_for_backlog(0)
        yield


async def test_a_late_final_is_judged_by_the_settings_of_its_segment() -> None:
    engine = Engine("tiny", backend="onnx", batch_window=PATIENCE)
    await engine.start()
    settings = Settings(min_confidence=0.0, emit_partial=False, language=Language.EN_GB)
    stt = ParakeetSTTService(engine=engine, settings=settings)
    first = CLEAR[0]
    # Without the pause behind it, in which the final would be computed early.
    speech = first.samples()[: int(first.end * 16_000)]

    async def speak(worker: PipelineWorker, out: Listener) -> None:
        async with finals_held_back(engine):
            await worker.queue_frames([START(), *audio(speech), STOP()])
            await eventually(lambda: bool(out.of(VADUserStoppedSpeakingFrame)))
            delta = Settings(min_confidence=1.0, language=Language.EN_US)
            await worker.queue_frame(STTUpdateSettingsFrame(delta=delta))
            await eventually(lambda: applied(stt).language == Language.EN_US)
            assert not finals(out.frames), "the final was not late"
        await eventually(lambda: bool(finals(out.frames)))
        await worker.queue_frames(spoken(1))

    out = await drive(speak, stt)
    (final,) = finals(out.frames)
    assert final.text == first.text
    assert final.language == Language.EN_GB


async def test_dropped_finals_are_one_warning_and_then_counted(warnings: list[str]) -> None:
    assert not finals(await run(service(min_confidence=1.0), [*spoken(0), *spoken(1), *spoken(2)]))
    first, count = [line for line in warnings if "confidence" in line]
    assert "PARAKEET_MIN_CONFIDENCE=1.0" in first
    assert "3 finals" in count
