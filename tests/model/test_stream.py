"""What the streaming context promises, on both encoders."""

from __future__ import annotations

import tracemalloc
from difflib import SequenceMatcher
from pathlib import Path
from typing import TypeVar

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from loguru import logger

from parakeet_stt import Model, Transcript, load_model
from parakeet_stt.audio import SAMPLE_RATE
from parakeet_stt.errors import AudioError, ConfigurationError, SessionClosedError
from parakeet_stt.model.catalog import BUNDLED
from parakeet_stt.model.stream import EncoderJob, run_job
from parakeet_stt.model.windowed import (
    FRAME_SECONDS,
    HISTORY,
    MAX_TENTATIVE_AGE,
    REFRESH_INTERVAL_IN_PAUSE,
)
from parakeet_stt.settings import Attention, Backend
from tests.support.hub_server import onnx_export
from tests.support.markers import mlx_nightly
from tests.support.model_folders import copy_of
from tests.support.recordings import RECORDINGS, normalised

T = TypeVar("T")

SINGLE = [r for r in RECORDINGS if r.set != "several"]
SEVERAL = [r for r in RECORDINGS if r.set == "several"]
LONG = max(SEVERAL, key=lambda r: r.end)


def spoken(transcript: Transcript) -> list[tuple[int, float, float]]:
    return [(token.id, token.start, token.end) for token in transcript.tokens]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    recording=st.sampled_from(SINGLE),
    sizes=st.lists(st.integers(1, 16_000), min_size=1, max_size=60),
    interims=st.integers(0, 3),
)
def test_the_final_is_the_offline_transcript_whatever_the_chunks(
    model: Model, recording: object, sizes: list[int], interims: int
) -> None:
    samples = recording.samples()  # type: ignore[attr-defined]
    with model.transcribe_stream() as stream:
        place = 0
        for number, size in enumerate(sizes):
            stream.feed(samples[place : place + size])
            if number < interims:
                stream.hypothesis()
            place += size
        stream.feed(samples[place:])
        final = stream.finish()
    assert spoken(final) == spoken(model.transcribe(samples))


def test_one_sample_at_a_time_gives_the_offline_transcript(model: Model) -> None:
    recording = min(SINGLE, key=lambda r: r.end)
    samples = recording.samples()[:24_000]
    with model.transcribe_stream() as stream:
        for start in range(len(samples)):
            stream.feed(samples[start : start + 1])
        assert spoken(stream.finish()) == spoken(model.transcribe(samples))


def test_a_final_longer_than_the_window_is_the_offline_transcript_too(model: Model) -> None:
    samples = LONG.samples()
    assert LONG.end > 32, "the recording fits a window"
    offline = model.transcribe(samples)
    for size in (1_237, 50_000):
        with model.transcribe_stream() as stream:
            for start in range(0, len(samples), size):
                stream.feed(samples[start : start + size])
            assert spoken(stream.finish()) == spoken(offline)


@mlx_nightly
def test_memory_and_cost_stay_bounded_in_a_long_stream(model: Model) -> None:
    samples = LONG.samples()
    kept = []
    tracemalloc.start()
    with model.transcribe_stream() as stream:
        for _ in range(4):
            stream.feed(samples)
            kept.append(tracemalloc.get_traced_memory()[0])
        tracemalloc.stop()
        words = stream.finish().words
    # Tokens and the decoder's states are kept, neither audio nor features.
    assert kept[-1] - kept[0] < 3 * samples.nbytes / 2
    assert len(words) > 3 * len(LONG.text.split())
    starts = [word.start for word in words]
    assert starts == sorted(starts)
    assert starts[-1] > 3 * LONG.end


@pytest.mark.parametrize("recording", SINGLE[::8], ids=lambda r: f"{r.set}-{r.path.stem}")
def test_committed_text_is_never_taken_back(model: Model, recording: object) -> None:
    samples = recording.samples()  # type: ignore[attr-defined]
    committed = ""
    with model.transcribe_stream(context_size=(64, 12)) as stream:
        for start in range(0, len(samples), 1_600):
            hypothesis = stream.add_audio(samples[start : start + 1_600])
            assert hypothesis.committed.startswith(committed)
            assert hypothesis.text.startswith(hypothesis.committed)
            committed = hypothesis.committed
            for token in hypothesis.committed_tokens:
                assert token.start <= stream.seconds - 11 * FRAME_SECONDS
    assert committed


@mlx_nightly
def test_the_newest_interim_says_nearly_what_the_final_says(model: Model) -> None:
    same = 0
    for recording in SINGLE[::4]:
        with model.transcribe_stream() as stream:
            samples = recording.samples()
            for start in range(0, len(samples), 6_400):
                hypothesis = stream.add_audio(samples[start : start + 6_400])
            same += hypothesis.text == stream.finish().text
    assert same >= 0.8 * len(SINGLE[::4])


@mlx_nightly
def test_an_interim_encodes_a_bounded_window(model: Model) -> None:
    """However long the segment and whatever its context, a few seconds at most."""
    longest = (
        HISTORY + MAX_TENTATIVE_AGE + REFRESH_INTERVAL_IN_PAUSE + 1
    ) * 8 + 100  # And what came since.
    pause = np.zeros(10 * SAMPLE_RATE, np.float32)
    samples = np.concatenate((LONG.samples(), pause, LONG.samples()))
    with model.transcribe_stream() as stream:
        for start in range(0, len(samples), 16_000):
            stream.feed(samples[start : start + 16_000])
            lengths, _ = encoded(stream.hypothesis_job(), model)
            assert all(length <= longest for length in lengths)


def encoded(work: EncoderJob[T], model: Model) -> tuple[list[int], T]:
    """Runs a work to its end; gives the lengths of the windows that it encoded, and its result."""
    lengths = []
    try:
        window = next(work)
        while True:
            lengths.append(len(window.mel))
            window = work.send(*model.encoder.encode([window.mel], window.attention))
    except StopIteration as end:
        return lengths, end.value


def test_a_pause_costs_little(model: Model) -> None:
    speech = SINGLE[0].samples()[: int(SINGLE[0].end * SAMPLE_RATE)]
    lengths: list[int] = []
    texts: set[str] = set()
    with model.transcribe_stream() as stream:
        stream.feed(speech)
        stream.feed(np.zeros(SAMPLE_RATE // 2, np.float32))
        stream.hypothesis()
        for _ in range(50):
            stream.feed(np.zeros(1_600, np.float32))
            more, hypothesis = encoded(stream.hypothesis_job(), model)
            lengths += more
            texts.add(hypothesis.text)
        final = stream.finish()
    assert 3 <= len(lengths) <= 8
    assert texts == {final.text}


@mlx_nightly
def test_tokens_are_decoded_and_committed_once_where_windows_meet(model: Model) -> None:
    """Committed text of unbroken speech: nothing twice, nothing lost at a seam."""
    chosen = [r for r in SEVERAL if r.end < 25][:4]
    samples = np.concatenate([r.samples() for r in chosen])
    with model.transcribe_stream() as stream:
        for start in range(0, len(samples), 6_400):
            hypothesis = stream.add_audio(samples[start : start + 6_400])
        final = stream.finish()
    starts = [token.start for token in hypothesis.committed_tokens]
    assert starts == sorted(starts)
    said, wanted = normalised(hypothesis.committed).split(), normalised(final.text).split()
    errors = 1 - SequenceMatcher(None, said, wanted[: len(said)]).ratio()
    assert len(said) > 0.8 * len(wanted)
    assert errors < 0.05


@mlx_nightly
def test_the_first_hypothesis_may_come_late(model: Model) -> None:
    samples = np.tile(LONG.samples(), 2)
    with model.transcribe_stream() as stream:
        stream.feed(samples)
        late = stream.hypothesis()
        final = stream.finish()
    assert [t.id for t in late.committed_tokens] == [t.id for t in final.tokens][
        : len(late.committed_tokens)
    ]
    assert len(late.words) > 0.9 * len(final.words)


@mlx_nightly
@pytest.mark.parametrize("quiet", [0.0, 0.003], ids=["silence", "noise"])
def test_a_final_made_in_a_pause_is_the_final(model: Model, quiet: float) -> None:
    random = np.random.default_rng(2)
    used = 0
    for recording in SINGLE[::10]:
        spoken_part = recording.samples()[: int(recording.end * 16_000)]
        samples = np.concatenate((spoken_part, np.zeros(8_000, np.float32)))
        samples += random.normal(0, quiet, len(samples)).astype(np.float32)
        with model.transcribe_stream() as stream:
            for start in range(0, len(samples) - 3_600, 3_200):
                stream.add_audio(samples[start : start + 3_200])
                if stream.paused:
                    run_job(stream.speculate_job(), model.encoder)
                    assert not stream.paused
            heard = int(stream.seconds * 16_000)
            stream.feed(samples[heard:])
            final = stream.finish()
            used += stream.speculated
        assert spoken(final) == spoken(model.transcribe(samples))
    assert used >= 0.7 * len(SINGLE[::10])


def test_a_final_made_in_a_pause_is_dropped_when_speech_goes_on(model: Model) -> None:
    first, second = SINGLE[0], SINGLE[1]
    pause = np.zeros(6_400, np.float32)
    samples = np.concatenate((first.samples(), pause, second.samples()))
    with model.transcribe_stream() as stream:
        stream.add_audio(samples[: len(first.samples()) + len(pause)])
        assert stream.paused
        run_job(stream.speculate_job(), model.encoder)
        stream.feed(samples[int(stream.seconds * 16_000) :][:32_000])
        assert not stream.speculated
        stream.feed(samples[int(stream.seconds * 16_000) :])
        assert spoken(stream.finish()) == spoken(model.transcribe(samples))


@mlx_nightly
@pytest.mark.parametrize("times", [1, 2], ids=["once", "in the midst of a long piece"])
def test_nothing_heard_is_lost_when_a_window_fails_to_be_encoded(
    monkeypatch: pytest.MonkeyPatch, model: Model, times: int
) -> None:
    samples = np.tile(LONG.samples(), times)
    encode = model.encoder.encode
    with model.transcribe_stream() as stream:
        stream.feed(samples[:160_000])
        monkeypatch.setattr(model.encoder, "encode", lambda *_: 1 / 0)
        for call in (lambda: stream.feed(samples[160_000:]), stream.hypothesis):
            with pytest.raises(ZeroDivisionError):
                call()
        monkeypatch.setattr(model.encoder, "encode", encode)
        assert spoken(stream.finish()) == spoken(model.transcribe(samples))


def test_nothing_is_heard_in_silence_and_noise(model: Model) -> None:
    random = np.random.default_rng(5)
    for seconds in (0.3, 1.0, 4.0, 12.0):
        count = int(16_000 * seconds)
        white = random.normal(0, 1, count).astype(np.float32)
        hum = np.sin(2 * np.pi * 50 * np.arange(count) / 16_000).astype(np.float32)
        for name, signal in {
            "silence": np.zeros(count, np.float32),
            "dither": white * 1e-5,
            "quiet noise": white * 0.003,
            "loud noise": white * 0.2,
            "hum": hum * 0.1 + white * 0.001,
        }.items():
            assert model.transcribe(signal).text == "", f"{name}, {seconds} s"


@pytest.mark.parametrize("count", [0, 1, 159, 1_600])
def test_next_to_nothing_gives_an_empty_final(model: Model, count: int) -> None:
    with model.transcribe_stream() as stream:
        assert stream.add_audio(np.zeros(count, np.float32)).text == ""
        final = stream.finish()
    assert final.text == ""
    assert final.words == ()
    assert final.confidence == 0


def test_words_have_times_within_the_speech_and_confidences(model: Model) -> None:
    timed = [r for r in SINGLE if r.words]
    errors = []
    for recording in timed[:12]:
        assert recording.words is not None
        transcript = model.transcribe(recording.samples())
        for word in transcript.words:
            assert recording.start - 0.3 <= word.start <= word.end <= transcript.end
            assert 0 <= word.confidence <= 1
        if transcript.text == recording.text:
            truth = [word["start"] for word in recording.words]
            errors += [abs(w.start - t) for w, t in zip(transcript.words, truth, strict=True)]
    assert np.median(errors) < 0.2


def test_a_finished_stream_refuses_more() -> None:
    stream = load_model("tiny").transcribe_stream()
    stream.finish()
    some = np.zeros(10, np.float32)
    for call in (
        lambda: stream.add_audio(some),
        lambda: stream.feed(some),
        stream.hypothesis,
        stream.finish,
        stream.speculate_job,
    ):
        with pytest.raises(SessionClosedError, match="finished"):
            call()


@pytest.mark.parametrize(
    ("samples", "message"),
    [
        (np.zeros((2, 100), np.float32), r"shape \[samples\], got shape \(2, 100\)"),
        (None, r"got shape \(\)"),
        (b"\0\0", r"got shape \(\)"),
        ([[0.1], [0.1, 0.2]], "shape \\[samples\\], got .*inhomogeneous"),
        (np.zeros(100, np.uint32), "int32 or uint8, got uint32"),
        ([1, 2, 3], "int32 or uint8, got int64"),
        (np.zeros(100, bool), "int32 or uint8, got bool"),
        (np.zeros(100, np.complex64), "int32 or uint8, got complex64"),
        (["0.1", "0.2"], "int32 or uint8, got <U3"),
        ([0.1, None], "int32 or uint8, got object"),
        (np.array([0.1, np.nan], np.float32), "not finite numbers, the first of them at 1 of 2"),
        (np.array([0.1, 0.2, -np.inf], np.float32), "not finite numbers, the first of them at 2"),
        (np.array([1e300, 0.1]), "not finite numbers"),
        (np.array([0.1, -1e20], np.float32), "within -1 to 1, got one of 1e\\+20"),
    ],
)
def test_bad_samples_are_refused_and_what_was_heard_is_kept(samples: object, message: str) -> None:
    model, recording = load_model("tiny"), SINGLE[0]
    with model.transcribe_stream() as stream:
        stream.feed(recording.samples()[:24_000])
        for call in (stream.add_audio, stream.feed):
            with pytest.raises(AudioError, match=message):
                call(samples)
        assert stream.seconds == 1.5
        stream.feed(recording.samples()[24_000:])
        assert spoken(stream.finish()) == spoken(model.transcribe(recording.samples()))


def test_samples_that_were_not_scaled_are_heard(model: Model) -> None:
    """Loudness is normalised away, so floats of 16 bits do no harm."""
    samples = SINGLE[0].samples()
    assert model.transcribe(samples * 32768).text == model.transcribe(samples).text != ""


@pytest.mark.parametrize("context", [(0, 256), (256, 0), (256,), ("a", "b")])
def test_a_context_below_one_frame_is_refused(context: object) -> None:
    with pytest.raises(ConfigurationError, match="context_size"):
        load_model("tiny").transcribe_stream(context_size=context)  # type: ignore[arg-type]


def test_another_attention_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="'auto', 'local' or 'full'"):
        load_model("tiny").transcribe_stream(attention="global")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("backend", "attention", "warnings"),
    [("onnx", "local", 1), ("onnx", "auto", 0), ("onnx", "full", 0), ("mlx", "local", 0)],
)
def test_local_attention_is_warned_of_once_if_the_encoder_does_not_support_it(
    tmp_path: Path, backend: Backend, attention: Attention, warnings: int
) -> None:
    # A model of its own: other tests may have caused the warning of the shared one.
    folder = tmp_path / "fresh"
    source = onnx_export(folder) if backend == "onnx" else copy_of(BUNDLED["tiny"], folder)
    model = load_model(source, backend=backend)
    logged: list[str] = []
    sink = logger.add(logged.append, level="WARNING")  # type: ignore[arg-type]
    for _ in range(2):
        model.transcribe_stream(attention=attention)
    logger.remove(sink)
    assert len(logged) == warnings
    assert all("attention 'local' has no effect" in line for line in logged)


def test_streams_on_one_model_do_not_touch_each_other(model: Model) -> None:
    first, second = SINGLE[0].samples(), SINGLE[1].samples()
    with (
        model.transcribe_stream() as one,
        model.transcribe_stream((16, 16), "local") as two,
    ):
        for start in range(0, max(len(first), len(second)), 4_000):
            one.add_audio(first[start : start + 4_000])
            two.add_audio(second[start : start + 4_000])
        assert spoken(one.finish()) == spoken(model.transcribe(first))
        assert spoken(two.finish()) == spoken(model.transcribe(second, (16, 16), "local"))
