"""Audio that the service cannot use or keep, and frames that leave the process."""

from __future__ import annotations

import asyncio
import itertools
import threading

import numpy as np
import pytest
from pipecat.audio.vad.silero import SileroVADAnalyzer
from pipecat.bus.messages import BusFrameMessage
from pipecat.bus.serializers import JSONMessageSerializer
from pipecat.frames.frames import (
    ErrorFrame,
    InputAudioRawFrame,
    InterimTranscriptionFrame,
    ManuallySwitchServiceFrame,
    TranscriptionFrame,
)
from pipecat.pipeline.pipeline import Pipeline
from pipecat.pipeline.service_switcher import ServiceSwitcher
from pipecat.processors.audio.vad_processor import VADProcessor
from pipecat.processors.frame_processor import FrameDirection
from pipecat.tests.utils import SleepFrame, run_test

from parakeet_stt import Hypothesis, Transcript
from parakeet_stt.engine import session
from parakeet_stt.model import device
from parakeet_stt.pipecat import service as service_module
from tests.support.recordings import CLEAR
from tests.support.services import (
    START,
    STOP,
    Events,
    audio,
    finals,
    run,
    running,
    service,
    spoken,
)
from tests.support.serving import PATIENCE


async def test_audio_without_a_vad_is_warned_of_once(warnings: list[str]) -> None:
    await run(service(), audio(np.zeros(25 * 16_000, np.float32)))
    (line,) = [line for line in warnings if "VAD" in line]
    assert "SileroVADAnalyzer" in line


async def test_silence_with_a_vad_is_not_warned_of(warnings: list[str]) -> None:
    pipeline = Pipeline([VADProcessor(vad_analyzer=SileroVADAnalyzer()), service()])
    await run(pipeline, audio(np.zeros(25 * 16_000, np.float32)))
    assert not [line for line in warnings if "VAD" in line]


async def test_silence_after_a_switch_is_not_warned_of(warnings: list[str]) -> None:
    """The VAD has sent its parameters to the service that was active at the start."""
    one, two = service(), service()
    vad = VADProcessor(vad_analyzer=SileroVADAnalyzer())
    silence = audio(np.zeros(12 * 16_000, np.float32))
    frames = [ManuallySwitchServiceFrame(service=two), SleepFrame(sleep=0.3), *silence]
    await run(Pipeline([vad, ServiceSwitcher(services=[one, two])]), frames)
    assert not [line for line in warnings if "VAD" in line]


async def test_an_overflow_is_one_error_and_its_end_is_one_notice(
    warnings: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (session, service_module):
        monkeypatch.setattr(module, "MAX_BACKLOG_SECONDS", 40.0)
    stt = service()
    events = Events(stt)
    opened = threading.Event()
    speech = np.tile(CLEAR[0].samples(), 20)[: 45 * 16_000]
    async with running(stt) as (worker, tap):
        busy = device.submit(opened.wait)
        try:
            await worker.queue_frames([START(), *audio(speech)])
            async with asyncio.timeout(PATIENCE):
                await events.error.wait()
            assert "audio is not accepted" in events.errors[0].error
        finally:
            opened.set()
            busy.result()
        async with asyncio.timeout(PATIENCE):
            while not [line for line in warnings if "accepted again" in line]:
                await worker.queue_frames(audio(np.zeros(320, np.float32)))
                await asyncio.sleep(0.01)
            await worker.queue_frames([STOP(), *spoken(1)])
            assert len((await tap.finals.get()).text.split()) > 40
            assert (await tap.finals.get()).text == CLEAR[1].text
    assert len(events.errors) == 1
    assert len([line for line in warnings if "accepted again" in line]) == 1


async def test_an_end_during_an_overflow_brings_the_final_of_what_was_kept(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for module in (session, service_module):
        monkeypatch.setattr(module, "MAX_BACKLOG_SECONDS", 20.0)
    stt = service()
    events = Events(stt)
    opened = threading.Event()
    speech = np.tile(CLEAR[0].samples(), 9)
    async with running(stt) as (worker, tap):
        busy = device.submit(opened.wait)
        await worker.queue_frames([START(), *audio(speech, rate=8_000)])
        async with asyncio.timeout(PATIENCE):
            await events.error.wait()
        # The end comes first, in all likelihood; if not, the backlog is only a little smaller.
        asyncio.get_running_loop().call_later(0.5, opened.set)
    busy.result()
    assert len((await tap.finals.get()).text.split()) > 20
    assert len(events.errors) == 1


async def test_a_stretch_of_audio_that_cannot_be_used_is_one_error(warnings: list[str]) -> None:
    bad = [InputAudioRawFrame(b"\0\0", 100, 1)] * 50
    down, up = await run_test(service(), frames_to_send=[*bad, *spoken(0)], start_timeout=PATIENCE)
    (error,) = [frame for frame in up if isinstance(frame, ErrorFrame)]
    assert "sample rate 100 Hz" in error.error
    assert len([line for line in warnings if "accepted again" in line]) == 1
    assert [f.text for f in finals(down)] == [CLEAR[0].text]


async def test_frames_cross_pipecats_json_bus_whole(warnings: list[str]) -> None:
    async with running(service()) as (worker, tap), asyncio.timeout(PATIENCE):
        await worker.queue_frame(START())
        pieces = itertools.cycle(audio(CLEAR[0].samples()))
        while tap.interims.empty():
            await worker.queue_frame(next(pieces))
            await asyncio.sleep(0.02)
        await worker.queue_frame(STOP())
        interim, final = await tap.interims.get(), await tap.finals.get()
    serializer = JSONMessageSerializer()  # type: ignore[no-untyped-call]
    for frame in (interim, final):
        message = BusFrameMessage(source="here", frame=frame, direction=FrameDirection.DOWNSTREAM)
        arrived = serializer.deserialize(serializer.serialize(message))
        assert isinstance(arrived, BusFrameMessage)
        assert isinstance(arrived.frame, InterimTranscriptionFrame | TranscriptionFrame)
        assert arrived.frame.text == frame.text
        assert isinstance(arrived.frame.result, Hypothesis | Transcript)
        assert arrived.frame.result == frame.result
        assert arrived.frame.result.words == frame.result.words
    assert not warnings


@pytest.mark.parametrize(
    ("language", "warned"), [("de", True), ("de-AT", True), ("en", False), ("EN-gb", False)]
)
async def test_a_language_that_the_model_does_not_know_is_warned_of(
    warnings: list[str], language: str, warned: bool
) -> None:
    await run(service(language=language), [])
    lines = [line for line in warnings if "language" in line]
    assert len(lines) == warned
    assert all("tiny transcribes en only" in line for line in lines)
