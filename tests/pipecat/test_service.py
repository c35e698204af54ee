"""The service in real pipelines: what goes in, what comes out, in which order."""

from __future__ import annotations

import asyncio
import itertools
import re
from collections.abc import Sequence
from typing import Any

import jiwer
import numpy as np
import pytest
from pipecat.audio.vad.silero import SileroVADAnalyzer
from pipecat.frames.frames import (
    CancelFrame,
    EndFrame,
    ErrorFrame,
    Frame,
    InputAudioRawFrame,
    InterimTranscriptionFrame,
    InterruptionFrame,
    ManuallySwitchServiceFrame,
    MetricsFrame,
    STTMetadataFrame,
    STTMuteFrame,
    STTUpdateSettingsFrame,
    UserAudioRawFrame,
    UserStoppedSpeakingFrame,
)
from pipecat.metrics.metrics import STTUsageMetricsData, TTFBMetricsData
from pipecat.pipeline.service_switcher import ServiceSwitcher
from pipecat.pipeline.worker import PipelineWorker
from pipecat.processors.aggregators.llm_context import LLMContext
from pipecat.processors.aggregators.llm_response_universal import (
    LLMContextAggregatorPair,
    LLMUserAggregatorParams,
)
from pipecat.tests.utils import SleepFrame, run_test
from pipecat.transcriptions.language import Language

from parakeet_stt import Engine, Hypothesis, ParakeetSTTService, Transcript
from parakeet_stt.bench.pipecat import hear
from parakeet_stt.errors import ConfigurationError
from parakeet_stt.pipecat import segments
from parakeet_stt.pipecat.player import Player
from parakeet_stt.pipecat.segments import STALL_SECONDS
from parakeet_stt.settings import PARAKEET_TTFS_P99
from tests.support.pipelines import Listener, drive
from tests.support.recordings import CLEAR, ROOT, normalised, read_turns
from tests.support.services import (
    START,
    STOP,
    Events,
    Settings,
    audio,
    finals,
    run,
    service,
    spoken,
)
from tests.support.serving import PATIENCE, eventually


def interims(frames: Sequence[Frame]) -> list[InterimTranscriptionFrame]:
    return [frame for frame in frames if isinstance(frame, InterimTranscriptionFrame)]


def wer(reference: str, text: str) -> float:
    return float(jiwer.wer(normalised(reference), normalised(text)))


@pytest.mark.realtime
async def test_a_segment_gives_interims_then_one_final(
    monkeypatch: pytest.MonkeyPatch, backend: str
) -> None:
    monkeypatch.setattr(segments, "STALL_SECONDS", PATIENCE)  # The pauses are no stalls.
    frames = spoken(0)

    async def speak(worker: PipelineWorker, listener: Listener) -> None:
        """Pause twice within the words, until an interim shows those before."""
        for part in (frames[:80], frames[80:105]):
            before = len(interims(listener.frames))
            await worker.queue_frames(part)
            await eventually(lambda before=before: len(interims(listener.frames)) > before)  # type: ignore[misc]
        await worker.queue_frames(frames[105:])
        await eventually(lambda: bool(finals(listener.frames)))

    out = (await drive(speak, service(backend))).frames
    (final,) = finals(out)
    assert final.text == CLEAR[0].text
    assert final.finalized
    assert not final.interruptible
    assert final.language == Language.EN
    assert isinstance(final.result, Transcript)
    assert [w.text for w in final.result.words] == final.text.split()
    assert all(w.start < w.end and 0 < w.confidence <= 1 for w in final.result.words)

    shown = interims(out)
    assert len(shown) >= 2
    assert all(isinstance(i.result, Hypothesis) and i.text for i in shown)
    assert all(a.text != b.text for a, b in itertools.pairwise(shown))
    assert out.index(final) > out.index(shown[-1])
    # The whole text of the segment, not what is new of it.
    assert wer(final.text, shown[-1].text) < 0.5


async def test_there_are_no_interims_where_they_are_not_wanted() -> None:
    out = await run(service(emit_partial=False), spoken(0))
    assert not interims(out)
    assert finals(out)[0].text == CLEAR[0].text


async def test_finals_hold_their_own_segment_only() -> None:
    out = await run(service(), [*spoken(0), *spoken(1), *spoken(2)])
    assert [f.text for f in finals(out)] == [CLEAR[i].text for i in range(3)]


async def test_speech_that_resumes_before_the_flush_is_done_is_a_segment_of_its_own() -> None:
    """Nothing waits between the VAD's stop and its next start: both finals come, in order."""
    first, second = CLEAR[0].samples(), CLEAR[1].samples()
    frames = [START(), *audio(first), STOP(), START(), *audio(second), STOP()]
    out = await run(service(), frames)
    assert [f.text for f in finals(out)] == [CLEAR[0].text, CLEAR[1].text]
    for shown in interims(out):
        owner = 0 if out.index(shown) < out.index(finals(out)[0]) else 1
        assert wer(CLEAR[owner].text, shown.text) <= 1.0


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("rate", [8_000, 16_000, 24_000, 44_100, 48_000])
async def test_every_rate_and_number_of_channels_is_heard(rate: int, channels: int) -> None:
    out = await run(service(), spoken(0, rate=rate, channels=channels))
    assert wer(CLEAR[0].text, finals(out)[0].text) <= (0.35 if rate == 8_000 else 0.0)


@pytest.mark.parametrize("level", [0.0, 0.003, 0.05])
async def test_nothing_said_is_no_frame(level: float) -> None:
    noise = np.random.default_rng(1).normal(0, 1, 40_000).astype(np.float32) * level
    out = await run(service(), [START(), *audio(noise), STOP()], metrics=True)
    assert not finals(out)
    assert not interims(out)
    ttfb = [d for f in out if isinstance(f, MetricsFrame) for d in f.data]
    assert not [d for d in ttfb if isinstance(d, TTFBMetricsData) and d.value > 0]


async def test_muting_ends_the_segment_and_what_follows_is_not_heard() -> None:
    first, second = CLEAR[0].samples(), CLEAR[1].samples()
    frames = [
        START(),
        *audio(first),
        STTMuteFrame(mute=True),
        *audio(second),
        STOP(),
        STTMuteFrame(mute=False),
        *spoken(2),
    ]
    out = await run(service(), frames)
    assert [f.text for f in finals(out)] == [CLEAR[0].text, CLEAR[2].text]


async def test_speech_goes_on_being_heard_when_it_is_unmuted_in_its_midst() -> None:
    frames = [
        STTMuteFrame(mute=True),
        START(),
        *audio(CLEAR[0].samples()),
        STTMuteFrame(mute=False),
        *audio(CLEAR[1].samples()),
        STOP(),
    ]
    out = await run(service(), frames)
    assert [f.text for f in finals(out)] == [CLEAR[1].text]


async def test_an_interruption_at_the_start_of_a_turn_loses_nothing() -> None:
    frames = spoken(0)
    begun = next(i for i, frame in enumerate(frames) if isinstance(frame, START))
    frames.insert(begun + 1, InterruptionFrame())
    out = await run(service(), frames)
    assert [f.text for f in finals(out)] == [CLEAR[0].text]


async def test_an_end_in_mid_speech_brings_the_final_first() -> None:
    frames = [*spoken(0)[:-1], EndFrame()]
    out = await run(service(), frames, send_end_frame=False)
    (final,) = finals(out)
    assert final.text == CLEAR[0].text


async def test_a_cancel_in_mid_speech_ends_at_once_and_leaves_no_session_open() -> None:
    engine = Engine("tiny", backend="onnx")
    stt = ParakeetSTTService(engine=engine)
    out = await run(stt, [*spoken(0)[:-1], CancelFrame()], send_end_frame=False)
    assert not finals(out)
    assert not engine.sessions


async def test_cleanup_may_be_called_again() -> None:
    stt = service()
    await run(stt, spoken(0))
    await stt.cleanup()
    await stt.cleanup()


async def test_audio_that_stays_away_in_mid_speech_makes_a_final() -> None:
    frames = [*spoken(0)[:-1], SleepFrame(sleep=STALL_SECONDS + 0.5)]
    out = await run(service(), [*frames, *audio(CLEAR[1].samples()), STOP()])
    assert [f.text for f in finals(out)] == [CLEAR[0].text, CLEAR[1].text]


@pytest.mark.realtime
async def test_a_service_switched_in_mid_speech_loses_and_doubles_no_word() -> None:
    engine = Engine("tiny", backend="onnx")
    one, two = (ParakeetSTTService(engine=engine) for _ in range(2))
    switcher = ServiceSwitcher(services=[one, two])
    first, second = CLEAR[0].samples(), CLEAR[1].samples()
    frames = [
        START(),
        *audio(first),
        SleepFrame(sleep=0.3),
        ManuallySwitchServiceFrame(service=two),
        SleepFrame(sleep=0.3),
        *audio(second),
        STOP(),
        SleepFrame(sleep=STALL_SECONDS + 0.5),
    ]
    out = await run(switcher, frames)
    assert sorted(f.text for f in finals(out)) == sorted([CLEAR[0].text, CLEAR[1].text])


async def test_the_users_id_is_passed_on() -> None:
    frames = [
        UserAudioRawFrame(audio=f.audio, sample_rate=16_000, num_channels=1, user_id="ada")
        if isinstance(f, InputAudioRawFrame)
        else f
        for f in spoken(0)
    ]
    (final,) = finals(await run(service(), frames))
    assert final.user_id == "ada"


async def test_a_language_that_is_set_is_passed_on() -> None:
    (final,) = finals(await run(service(language=Language.EN_GB), spoken(0)))
    assert final.language == Language.EN_GB


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("rate", [8_000, 16_000, 48_000])
async def test_time_to_the_final_and_usage_are_reported_before_the_final(
    rate: int, channels: int
) -> None:
    out = await run(service(), spoken(0, rate=rate, channels=channels), metrics=True)
    (final,) = finals(out)
    data = [d for f in out[: out.index(final)] if isinstance(f, MetricsFrame) for d in f.data]
    assert [d for d in data if isinstance(d, TTFBMetricsData) and d.value > 0.2]
    (usage,) = [d for d in data if isinstance(d, STTUsageMetricsData)]
    assert usage.value.audio_seconds == pytest.approx(len(CLEAR[0].samples()) / 16_000, abs=0.1)


@pytest.mark.parametrize(
    ("variable", "arguments", "announced"),
    [
        ("", {}, PARAKEET_TTFS_P99),
        ("0.5", {}, 0.5),
        ("0.5", {"ttfs_p99_latency": 0.2}, 0.2),
    ],
)
async def test_the_measured_latency_is_announced(
    monkeypatch: pytest.MonkeyPatch, variable: str, arguments: dict[str, Any], announced: float
) -> None:
    monkeypatch.setenv("PARAKEET_TTFS_P99", variable)
    stt = ParakeetSTTService(settings=Settings(model="tiny", backend="onnx"), **arguments)
    out = await run(stt, [], ignore_start=False)
    (metadata,) = [frame for frame in out if isinstance(frame, STTMetadataFrame)]
    assert metadata.ttfs_p99_latency == announced


async def test_finals_of_low_confidence_are_dropped() -> None:
    assert not finals(await run(service(min_confidence=1.0), spoken(0)))
    assert finals(await run(service(min_confidence=0.0), spoken(0)))


async def test_settings_change_at_run_time_from_the_next_segment_on() -> None:
    stt = service(emit_partial=False)

    async def speak(worker: PipelineWorker, out: Listener) -> None:
        await worker.queue_frames(spoken(0))
        await eventually(lambda: bool(finals(out.frames)))
        await worker.queue_frame(STTUpdateSettingsFrame(delta=Settings(min_confidence=1.0)))
        await eventually(lambda: stt.settings.min_confidence == 1.0)  # type: ignore[attr-defined]
        await worker.queue_frames(spoken(1))

    out = await drive(speak, stt)
    assert [f.text for f in finals(out.frames)] == [CLEAR[0].text]


async def test_the_encoder_changes_at_run_time() -> None:
    stt = service()
    events = Events(stt)

    async def speak(worker: PipelineWorker, out: Listener) -> None:
        await events.connected.wait()
        events.connected.clear()
        delta = Settings(backend="mlx", context_size=(64, 64))
        await worker.queue_frame(STTUpdateSettingsFrame(delta=delta))
        await events.connected.wait()  # That is, the model of another engine is ready.
        await worker.queue_frames(spoken(2))

    out = await drive(speak, stt)
    assert [f.text for f in finals(out.frames)] == [CLEAR[2].text]


@pytest.mark.parametrize(
    ("delta", "message"),
    [
        (Settings(model="./nowhere"), "no such model"),
        (Settings(precision="fp7"), "PARAKEET_PRECISION"),
        (Settings(context_size="0,5"), "at least 1 encoder frame"),
        (Settings(language="klingon"), "language='klingon': expected a BCP 47 code"),
        (Settings(extra={"chunk": 80}), "no such setting: chunk; expected model, "),
        (Settings(streaming="upstream"), "with PARAKEET_BACKEND='onnx'"),
    ],
)
async def test_settings_that_cannot_be_had_change_nothing(delta: Any, message: str) -> None:
    stt = service()
    before = stt.settings
    frames = [STTUpdateSettingsFrame(delta=delta), SleepFrame(sleep=0.3), *spoken(0)]
    down, up = await run_test(stt, frames_to_send=frames, start_timeout=PATIENCE)
    (error,) = [frame for frame in up if isinstance(frame, ErrorFrame)]
    assert message in error.error
    assert stt.is_usable
    assert stt.settings == before
    assert stt.settings.model == "tiny"
    assert [f.text for f in finals(down)] == [CLEAR[0].text]


async def test_a_model_that_cannot_be_loaded_makes_the_service_unusable() -> None:
    stt = ParakeetSTTService(settings=Settings(model="./nowhere"))
    errors: list[ErrorFrame] = []

    @stt.event_handler("on_error")
    async def failed(_: object, error: ErrorFrame) -> None:
        errors.append(error)

    await run_test(stt, frames_to_send=spoken(0), start_timeout=PATIENCE)
    assert not stt.is_usable
    assert "no such model: './nowhere'" in errors[0].error


@pytest.mark.parametrize(
    ("audio", "rate", "message"),
    [(b"\0\0\0", 16_000, "3 bytes"), (b"\0\0", 100, "sample rate 100 Hz: expected 4000 to")],
)
async def test_audio_that_is_no_audio_is_an_error_and_the_rest_is_heard(
    audio: bytes, rate: int, message: str
) -> None:
    frames = spoken(0)
    frames.insert(30, InputAudioRawFrame(audio, rate, 1))
    down, up = await run_test(service(), frames_to_send=frames, start_timeout=PATIENCE)
    (error,) = [frame for frame in up if isinstance(frame, ErrorFrame)]
    assert message in error.error
    assert [f.text for f in finals(down)] == [CLEAR[0].text]


def test_without_arguments_it_is_configured_from_the_environment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stt = ParakeetSTTService()
    assert stt.settings.model == "mlx-community/parakeet-tdt-0.6b-v2"
    monkeypatch.setenv("PARAKEET_MODEL", "tiny")
    monkeypatch.setenv("PARAKEET_CHUNK_MS", "50")
    monkeypatch.setenv("PARAKEET_CONTEXT_SIZE", "128,128")
    stt = ParakeetSTTService(settings=Settings(chunk_ms=80))
    settings = stt.settings
    assert isinstance(settings, Settings)
    assert (settings.model, settings.chunk_ms) == ("tiny", 80)
    assert settings.context_size == (128, 128)
    assert stt.can_generate_metrics()


@pytest.mark.parametrize(("name", "value"), [("CHUNK_MS", "0"), ("BACKEND", "tpu")])
def test_a_variable_that_cannot_be_used_is_named(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(f"PARAKEET_{name}", value)
    with pytest.raises(ConfigurationError, match=f"PARAKEET_{name}='{value}'"):
        ParakeetSTTService()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"model": "tiny"}, "settings=ParakeetSTTService.Settings(model=...)"),
        ({"chunk_mss": 80}, "settings=ParakeetSTTService.Settings(chunk_ms=...)"),
        ({"setting": Settings()}, "no argument 'setting': did you mean 'settings'?"),
        ({"audio_passthru": True}, "did you mean 'audio_passthrough'?"),
        ({"xyz": 1}, "ParakeetSTTService.Settings(model=...)"),
        ({"settings": {"model": "tiny"}}, "expected ParakeetSTTService.Settings"),
        ({"engine": "tiny"}, "expected a parakeet_stt.Engine"),
        ({"settings": Settings(language="klingon")}, "language='klingon': expected a BCP 47"),
        (
            {"settings": Settings(streaming="upstream", backend="onnx")},
            "PARAKEET_STREAMING='upstream' with PARAKEET_BACKEND='onnx'",
        ),
        ({"settings": Settings(streaming="upstream", boost={"Ada": 3})}, "cannot boost phrases"),
        (
            {"engine": Engine("tiny"), "settings": Settings(model="./elsewhere")},
            "Settings(model='./elsewhere') has no effect with engine=...",
        ),
        (
            {"engine": Engine("tiny"), "settings": Settings(backend="onnx")},
            "Settings(backend='onnx') has no effect with engine=...",
        ),
    ],
)
def test_an_argument_that_would_be_ignored_or_cannot_be_used_is_refused(
    arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigurationError, match=re.escape(message)):
        ParakeetSTTService(**arguments)


def test_pipecats_own_arguments_are_accepted() -> None:
    stt = ParakeetSTTService(name="ears", audio_passthrough=False, settings=Settings())
    assert stt.name == "ears"


async def test_eight_services_on_one_model_hear_what_one_alone_hears(backend: str) -> None:
    engine = Engine("tiny", backend=backend)  # type: ignore[arg-type]
    outs = await asyncio.gather(
        *(run(ParakeetSTTService(engine=engine), spoken(i)) for i in range(8))
    )
    alone = [await run(ParakeetSTTService(engine=engine), spoken(i)) for i in range(8)]
    assert [finals(out)[0].text for out in outs] == [finals(out)[0].text for out in alone]


@pytest.mark.realtime
async def test_a_real_vad_in_front_hears_every_turn_of_the_sample() -> None:
    turns, samples = read_turns(ROOT / "samples" / "conversation.json")
    heard = await hear(samples, service())
    assert normalised(" ".join(heard.finals)) == normalised(" ".join(turns))
    assert heard.interims > len(turns)
    assert len(heard.latencies) == len(heard.finals) >= len(turns)


@pytest.mark.realtime
async def test_a_vad_in_the_aggregator_behind_it_ends_the_turn_with_the_final() -> None:
    """Pipecat's default wiring: VAD frames come from downstream, smart-turn waits for the final."""
    recording = next(r for r in CLEAR if r.text.endswith("?"))
    player, heard = Player(recording.samples()), Listener()
    user, _ = LLMContextAggregatorPair(
        LLMContext(), user_params=LLMUserAggregatorParams(vad_analyzer=SileroVADAnalyzer())
    )

    async def wait(*_: object) -> None:
        await eventually(lambda: bool(heard.of(UserStoppedSpeakingFrame)))

    await drive(wait, player, service(), heard, user)
    (final,) = finals(heard.frames)
    assert final.text == recording.text
    (over,) = heard.of(UserStoppedSpeakingFrame)
    assert heard.frames.index(final) < heard.frames.index(over)
