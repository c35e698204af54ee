"""What runs next on the inference thread, what is encoded together, and where an error stays."""

from __future__ import annotations

import asyncio
import copy
import math
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import numpy as np
import pytest

from parakeet_stt import Engine, Model, Transcript, load_model
from parakeet_stt.engine.events import Event, Final, SegmentEnded
from parakeet_stt.engine.options import SessionOptions
from parakeet_stt.engine.scheduler import MAX_BATCH_SECONDS, RESERVE, Job, Priority, Scheduler
from parakeet_stt.engine.session import Session
from parakeet_stt.errors import ConfigurationError
from parakeet_stt.model import device
from parakeet_stt.model.encoder import Encoder, EncoderFrames, LocalAttention
from parakeet_stt.model.frontend import LogMel
from parakeet_stt.model.model import MAX_BATCH
from parakeet_stt.model.stream import EncoderJob, StreamOptions, Window
from parakeet_stt.transcript import Hypothesis
from tests.support.recordings import RECORDINGS
from tests.support.serving import PATIENCE
from tests.support.streams import Streams

SPEECH = [r.samples() for r in RECORDINGS if r.set == "known"]
FINAL, INTERIM, LOW, SPECULATION = Priority


class Watched:
    """An encoder that notes how long the windows of every batch are."""

    def __init__(self, encoder: Encoder) -> None:
        self.name, self.device, self.precision = encoder.name, encoder.device, encoder.precision
        self.has_local_attention = encoder.has_local_attention
        self.batches: list[list[int]] = []
        self._encoder = encoder

    def encode(
        self, windows: Sequence[LogMel], attention: LocalAttention | None
    ) -> list[EncoderFrames]:
        self.batches.append([len(window) for window in windows])
        return self._encoder.encode(windows, attention)


def watched(model: Model, batch: int = 8) -> tuple[Model, Watched]:
    """A model of its own, whose encoder is watched, on a device that likes batches."""
    encoder, model = Watched(model.encoder), copy.copy(model)
    model.encoder, model.batch = encoder, batch
    return model, encoder


class Outcomes:
    """Steps with names, and what became of each."""

    def __init__(self) -> None:
        self.order: list[str] = []
        self.results: dict[str, Any] = {}
        self.errors: dict[str, Exception] = {}

    def step(
        self,
        name: str,
        priority: Priority,
        model: Model,
        start: Callable[[], EncoderJob[Any] | None],
        max_batch: int = MAX_BATCH,
    ) -> Job:
        def done(result: Any, error: Exception | None) -> None:
            self.order.append(name)
            if error is None:
                self.results[name] = result
            else:
                self.errors[name] = error

        return Job(priority, model, start, done, max_batch)


@contextmanager
def busy_thread() -> Iterator[None]:
    """Inside, the inference thread is occupied; behind it, what was queued has been run."""
    gate = threading.Event()
    device.submit(gate.wait)
    try:
        yield
    finally:
        gate.set()
        device.run(lambda: None)


def transcription(
    model: Model, samples: np.ndarray, options: StreamOptions | None = None
) -> Callable[[], EncoderJob[Transcript]]:
    """The work of hearing samples and making their final."""

    def work() -> EncoderJob[Transcript]:
        stream = model.open_stream(options or StreamOptions())
        yield from stream.feed_job(samples)
        return (yield from stream.finish_job())

    return work


def nothing() -> EncoderJob[None]:
    """A work that is done at once."""
    yield from ()


def slow(seconds: float) -> Callable[[], EncoderJob[None]]:
    """A work that takes at least so long."""

    def work() -> EncoderJob[None]:
        end = time.perf_counter() + seconds
        while time.perf_counter() < end:
            pass
        yield from ()

    return work


def spoken(transcript: Transcript) -> list[tuple[int, float, float]]:
    return [(token.id, token.start, token.end) for token in transcript.tokens]


@pytest.mark.parametrize("batch", [1, 8])
def test_finals_go_before_interims_and_speculation_goes_last(batch: int) -> None:
    """Within one priority, first come, first served; in batches as one by one."""
    model, _ = watched(load_model("tiny", backend="onnx"), batch)
    scheduler, outcomes = Scheduler(), Outcomes()
    with busy_thread():
        for number in range(3):
            for priority in (SPECULATION, LOW, INTERIM, FINAL):
                name = f"{priority.name} {number}"
                scheduler.add(outcomes.step(name, priority, model, nothing))
    assert outcomes.order == [
        f"{p.name} {n}" for p in (FINAL, INTERIM, LOW, SPECULATION) for n in (0, 1, 2)
    ]


async def test_recordings_let_people_who_speak_now_go_first() -> None:
    engine = Engine("tiny", backend="onnx")
    await engine.start()
    order: list[str] = []
    with busy_thread():
        futures = []
        for name, low_priority in (("one", True), ("other", True), ("live", False)):
            session = engine.open(SessionOptions(interval=None, low_priority=low_priority))
            session.send(SPEECH[0])
            future = session.flush()
            future.add_done_callback(lambda _, name=name: order.append(name))  # type: ignore[misc]
            futures.append(future)
    transcripts = await asyncio.gather(*futures)
    assert order == ["live", "one", "other"]
    assert transcripts[0].text == transcripts[2].text
    await engine.close()


def test_a_final_that_comes_while_an_interim_runs_goes_before_the_interims_that_wait() -> None:
    model, _ = watched(load_model("tiny", backend="onnx"), batch=1)
    scheduler, outcomes = Scheduler(), Outcomes()
    final = outcomes.step("final", FINAL, model, transcription(model, SPEECH[0]))

    def interim() -> EncoderJob[None]:
        scheduler.add(final)
        return nothing()

    with busy_thread():
        scheduler.add(outcomes.step("running", INTERIM, model, interim))
        scheduler.add(outcomes.step("waiting", INTERIM, model, nothing))
    device.run(lambda: None)  # For the final's own turn.
    assert outcomes.order == ["running", "final", "waiting"]


def test_steps_of_one_model_are_encoded_as_one_batch_and_say_what_they_say_alone(
    model: Model,
) -> None:
    model, encoder = watched(model)
    scheduler, outcomes = Scheduler(), Outcomes()
    speech = [samples[: 16_000 * 2 + 800 * i] for i, samples in enumerate(SPEECH[:6])]
    with busy_thread():
        for number, samples in enumerate(speech):
            step = outcomes.step(str(number), FINAL, model, transcription(model, samples))
            scheduler.add(step)
    assert list(map(len, encoder.batches)) == [6]
    for number, samples in enumerate(speech):
        assert spoken(outcomes.results[str(number)]) == spoken(model.transcribe(samples))
    assert any(transcript.text for transcript in outcomes.results.values())


def test_a_batch_is_as_large_as_the_model_likes_it() -> None:
    model, encoder = watched(load_model("tiny", backend="onnx"), batch=2)
    scheduler, outcomes = Scheduler(), Outcomes()
    with busy_thread():
        for number in range(5):
            work = transcription(model, SPEECH[number][:16_000])
            scheduler.add(outcomes.step(str(number), FINAL, model, work))
    assert list(map(len, encoder.batches)) == [2, 2, 1]
    assert outcomes.order == list("01234")


def test_a_batch_is_no_larger_than_any_of_its_steps_allows() -> None:
    model, encoder = watched(load_model("tiny", backend="onnx"))
    scheduler, outcomes = Scheduler(), Outcomes()
    work = transcription(model, SPEECH[0][:16_000])
    with busy_thread():
        for number, most in enumerate((4, 4, 2, 4, 2, 4)):
            scheduler.add(outcomes.step(str(number), FINAL, model, work, most))
    assert list(map(len, encoder.batches)) == [4, 2]
    assert outcomes.order == list("013524")


def test_steps_that_are_added_together_are_a_batch_on_a_thread_that_is_free() -> None:
    model, encoder = watched(load_model("tiny", backend="onnx"))
    scheduler, outcomes = Scheduler(), Outcomes()
    work = transcription(model, SPEECH[0][:16_000])
    scheduler.add(*(outcomes.step(str(number), FINAL, model, work) for number in range(5)))
    device.run(lambda: None)
    assert list(map(len, encoder.batches)) == [5]
    assert outcomes.order == list("01234")


@pytest.mark.parametrize(
    ("seconds", "found"),
    [
        (lambda windows: 0.05, {8: 8, 9: 16, 16: 16, 64: 64}),
        (lambda windows: 0.01 + 0.0005 * windows**2, {8: 8, 64: 8}),
        (lambda windows: 0.02 * windows**2, {8: 1, 64: 1}),
    ],
)
def test_warming_up_finds_how_many_windows_at_once_are_worth_it(
    seconds: Callable[[int], float], found: dict[int, int]
) -> None:
    class Costly(Watched):
        """Takes as long for a number of windows as some device might.

        The times are far enough apart that a busy machine does not change their order.
        """

        def encode(
            self, windows: Sequence[LogMel], attention: LocalAttention | None
        ) -> list[EncoderFrames]:
            frames = super().encode(windows[:1], attention) * len(windows)
            time.sleep(seconds(len(windows)))
            return frames

    shared = load_model("tiny", backend="onnx")
    for most, batch in found.items():
        model = copy.copy(shared)
        model.encoder, model.batch, model._measured_batch = Costly(shared.encoder), 1, 0
        device.run(model.warm_up, most)
        assert model.batch == batch
    # One who asks for more later has the rest tried.
    device.run(model.warm_up, 2 * most)
    assert model.batch == (batch if batch < most else 2 * most)


def test_a_batch_of_interims_is_no_longer_than_a_final_may_wait() -> None:
    model, encoder = watched(load_model("tiny", backend="onnx"))
    scheduler, outcomes = Scheduler(), Outcomes()
    scheduler.add(outcomes.step("slow", INTERIM, model, slow(MAX_BATCH_SECONDS)))
    device.run(lambda: None)  # Now a single one is known to take all the time that there is.
    with busy_thread():
        for number in range(3):
            for priority in (INTERIM, FINAL):
                work = transcription(model, SPEECH[number][:16_000])
                scheduler.add(outcomes.step(f"{priority.name} {number}", priority, model, work))
    assert list(map(len, encoder.batches)) == [3, 1, 1, 1]


def test_models_and_priorities_are_never_mixed_in_a_batch() -> None:
    shared = load_model("tiny", backend="onnx")
    (one, first), (two, second) = watched(shared), watched(shared)
    short, long = SPEECH[0][:32_000], SPEECH[0][:34_000]  # Near enough for a batch.
    scheduler, outcomes = Scheduler(), Outcomes()
    with busy_thread():
        for number, priority in enumerate((FINAL, SPECULATION, FINAL, SPECULATION)):
            for model, samples in ((one, short), (two, long)):
                name = f"{number} of {len(samples)}"
                work = transcription(model, samples)
                scheduler.add(outcomes.step(name, priority, model, work))
    (a, *_), (b, *_) = first.batches[0], second.batches[0]
    assert a != b
    assert first.batches == [[a, a], [a, a]]
    assert second.batches == [[b, b], [b, b]]
    assert len(outcomes.results) == 8


def test_only_windows_of_about_one_length_are_encoded_together(model: Model) -> None:
    model, encoder = watched(model)
    scheduler, outcomes = Scheduler(), Outcomes()
    seconds = (1.0, 4.0, 1.1, 36.0, 3.6)  # The longest has a window more than the others.
    speech = [np.resize(SPEECH[0], int(16_000 * length)) for length in seconds]
    with busy_thread():
        for number, samples in enumerate(speech):
            step = outcomes.step(str(number), FINAL, model, transcription(model, samples))
            scheduler.add(step)
    assert sum(map(len, encoder.batches)) == 6
    assert sorted(map(len, encoder.batches)) == [1, 1, 2, 2]
    for batch in encoder.batches:
        assert min(batch) >= 0.75 * max(batch)
    for number, samples in enumerate(speech):
        assert spoken(outcomes.results[str(number)]) == spoken(model.transcribe(samples))


def test_windows_of_different_attention_are_not_encoded_together() -> None:
    model, encoder = watched(load_model("tiny", backend="mlx"))
    scheduler, outcomes = Scheduler(), Outcomes()
    chosen = [StreamOptions((16, 16)), StreamOptions((16, 16), "full")] * 2
    with busy_thread():
        for number, options in enumerate(chosen):
            work = transcription(model, SPEECH[0], options)
            scheduler.add(outcomes.step(str(number), FINAL, model, work))
    assert list(map(len, encoder.batches)) == [2, 2]
    for number, options in enumerate(chosen):
        alone = model.transcribe(SPEECH[0], options.context_size, options.attention)
        assert spoken(outcomes.results[str(number)]) == spoken(alone)


def test_whatever_fails_in_a_batch_leaves_the_others_right(model: Model) -> None:
    model, encoder = watched(model)
    scheduler, outcomes = Scheduler(), Outcomes()
    closed = threading.Event()
    mel = np.zeros((300, model.config.features), np.float32)

    def at_the_start() -> EncoderJob[None]:
        raise RuntimeError("not even begun")

    def before_its_first_window() -> EncoderJob[None]:
        raise RuntimeError("no window")
        yield

    def after_its_first_window() -> EncoderJob[None]:
        yield Window(mel, None)
        raise RuntimeError("one window")

    def in_the_encoder() -> EncoderJob[None]:
        try:
            yield Window(mel[:, :7], None)  # Too few bins: it fails, and every batch with it.
        finally:
            closed.set()

    ill = (at_the_start, before_its_first_window, after_its_first_window, in_the_encoder)
    speech = [samples[:48_000] for samples in SPEECH[: len(ill)]]
    options = StreamOptions(attention="full")
    with busy_thread():
        for number, (samples, fail) in enumerate(zip(speech, ill, strict=True)):
            scheduler.add(outcomes.step(fail.__name__, FINAL, model, fail))
            work = transcription(model, samples, options)
            scheduler.add(outcomes.step(str(number), FINAL, model, work))
    failed = encoder.batches[0]
    assert len(failed) >= 4
    assert encoder.batches[1 : 1 + len(failed)] == [[length] for length in failed]
    assert Counter(outcomes.order) == Counter([*"0123", *(fail.__name__ for fail in ill)])
    assert outcomes.errors.keys() == {fail.__name__ for fail in ill}
    assert [str(outcomes.errors[f.__name__]) for f in ill[:3]] == [
        "not even begun",
        "no window",
        "one window",
    ]
    assert closed.is_set()
    for number, samples in enumerate(speech):
        alone = model.transcribe(samples, attention="full")
        assert spoken(outcomes.results[str(number)]) == spoken(alone)


def test_the_thread_goes_on_after_a_batch_in_which_everything_failed() -> None:
    model, encoder = watched(load_model("tiny", backend="onnx"))
    scheduler, outcomes = Scheduler(), Outcomes()

    def fail() -> EncoderJob[None]:
        yield Window(np.zeros((100, 7), np.float32), None)

    with busy_thread():
        for number in range(3):
            scheduler.add(outcomes.step(f"ill {number}", FINAL, model, fail))
        work = transcription(model, SPEECH[0])
        scheduler.add(outcomes.step("interim", INTERIM, model, work))
    assert list(map(len, encoder.batches)) == [3, 1, 1, 1, 1]
    assert outcomes.order == ["ill 0", "ill 1", "ill 2", "interim"]
    assert spoken(outcomes.results["interim"]) == spoken(model.transcribe(SPEECH[0]))


def test_a_step_with_nothing_left_to_do_is_not_reported() -> None:
    model, encoder = watched(load_model("tiny", backend="onnx"))
    scheduler, outcomes = Scheduler(), Outcomes()
    with busy_thread():
        scheduler.add(outcomes.step("flushed meanwhile", FINAL, model, lambda: None))
        work = transcription(model, SPEECH[0])
        scheduler.add(outcomes.step("final", FINAL, model, work))
    assert outcomes.order == ["final"]
    assert list(map(len, encoder.batches)) == [1]


def test_interims_come_so_rarely_that_finals_find_the_thread_free() -> None:
    model, _ = watched(load_model("tiny", backend="onnx"), batch=1)
    scheduler, outcomes = Scheduler(), Outcomes()
    assert scheduler.cadence(4) == 0, "nothing has been measured"

    def run(priority: Priority, seconds: float) -> float:
        scheduler.add(outcomes.step("", priority, model, slow(seconds)))
        device.run(lambda: None)
        return scheduler.cadence(4)

    # At least: how long the thread was kept from working is not known.
    cadence = run(INTERIM, 0.02)
    assert cadence >= 4 * 0.02 / (1 - RESERVE)
    assert run(FINAL, 0.1) == run(SPECULATION, 0.1) == cadence, "they are no interims"
    assert run(INTERIM, 0.1) >= 0.9 * cadence + 0.1 * 4 * 0.1 / (1 - RESERVE)
    cadence = scheduler.cadence(4)
    for speakers in (8, 16, 0):
        assert scheduler.cadence(speakers) == pytest.approx(speakers / 4 * cadence)


class Table:
    """Speakers of one engine, and what its encoder gets."""

    def __init__(self, engine: Engine, encoder: Watched, streams: Streams) -> None:
        self.engine = engine
        self.encoder = encoder
        self.streams = streams

    def sit_down(self, *, interval: float | None = None) -> Session:
        """Somebody who speaks: a segment is open."""
        session = self.engine.open(SessionOptions(interval=interval))
        session.send(SPEECH[0])
        return session

    async def at_rest(self) -> None:
        """Wait until everything that may be done has been done."""
        await asyncio.wrap_future(device.submit(lambda: None))
        await asyncio.sleep(0)


@asynccontextmanager
async def table(
    batch_window: float, batch_size: int = MAX_BATCH, batch: int = 8
) -> AsyncIterator[Table]:
    """An engine of its own; whoever waits for nothing fails after a while."""
    engine = Engine("tiny", backend="onnx", batch_size=batch_size, batch_window=batch_window)
    model, encoder = watched(await engine.start(), batch)
    engine.runtime._model = model
    try:
        with pytest.MonkeyPatch.context() as patch:
            async with asyncio.timeout(PATIENCE):
                yield Table(engine, encoder, Streams(patch, model))
    finally:
        await engine.close()


LONG = 3600.0
"""A window that no test waits for."""


async def test_a_lone_final_never_waits() -> None:
    expected = load_model("tiny", backend="onnx").transcribe(SPEECH[0]).text
    async with table(LONG) as here:
        here.engine.open()  # Is there, and silent.
        await here.sit_down().finish()
        alone = here.sit_down()
        for _ in range(2):
            final = alone.flush()
            alone.send(SPEECH[0])  # Its own next segment is no company.
            assert (await final).text == expected
    assert list(map(len, here.encoder.batches)) == [1, 1, 1]


async def test_finals_of_several_speakers_are_encoded_together() -> None:
    expected = spoken(load_model("tiny", backend="onnx").transcribe(SPEECH[0]))
    async with table(LONG) as here:
        speakers = [here.sit_down() for _ in range(3)]
        finals = []
        for speaker in speakers:
            finals.append(speaker.flush())
            if speaker is not speakers[-1]:
                await here.at_rest()
                assert not any(final.done() for final in finals)
        assert [spoken(final) for final in await asyncio.gather(*finals)] == [expected] * 3
    assert list(map(len, here.encoder.batches)) == [3]


async def test_by_default_a_final_waits_for_nobody() -> None:
    async with table(0.0) as here:
        one, _ = here.sit_down(), here.sit_down()
        await one.flush()
    assert list(map(len, here.encoder.batches)) == [1]


@pytest.mark.parametrize(("batch_size", "batch", "together"), [(2, 8, 2), (8, 2, 2), (8, 1, 1)])
async def test_a_full_batch_never_waits(batch_size: int, batch: int, together: int) -> None:
    async with table(LONG, batch_size, batch) as here:
        speakers = [here.sit_down() for _ in range(4)]
        await asyncio.gather(*(speaker.flush() for speaker in speakers[:2]))
        assert list(map(len, here.encoder.batches)) == [together] * (2 // together)


async def test_a_final_waits_no_longer_than_the_window() -> None:
    async with table(0.05) as here:
        one, _ = here.sit_down(), here.sit_down()
        await one.flush()
    assert list(map(len, here.encoder.batches)) == [1]


@pytest.mark.parametrize("leave", [Session.abort, Session.discard])
async def test_whoever_leaves_is_not_waited_for(leave: Callable[[Session], None]) -> None:
    async with table(LONG) as here:
        one, two, other = (here.sit_down() for _ in range(3))
        finals = [one.flush(), two.flush()]
        one.send(SPEECH[0])  # The next segment of somebody who waits keeps nobody waiting.
        await here.at_rest()
        assert not any(final.done() for final in finals)
        leave(other)
        await asyncio.gather(*finals)
    assert list(map(len, here.encoder.batches)) == [2]


async def test_interims_go_on_while_a_final_is_held_back_and_come_in_their_order() -> None:
    async with table(LONG) as here:
        one, other = here.sit_down(interval=0.1), here.sit_down(interval=0.1)
        final = one.flush("first")
        assert isinstance(await anext(aiter(other)), Hypothesis)
        opened = len(here.streams.opened)
        one.send(SPEECH[1])
        while not set(here.streams.opened[opened:]) & set(here.streams.hypotheses):
            await here.at_rest()
        assert not final.done()
        other.flush()
        events: list[Event] = []
        async for event in one:
            events.append(event)
            if isinstance(event, Hypothesis) and any(isinstance(e, Final) for e in events):
                break
    *before, ended, answer, after = events
    assert all(isinstance(event, Hypothesis) for event in before)
    assert isinstance(ended, SegmentEnded)
    assert isinstance(answer, Final)
    assert answer.tag == "first"
    assert isinstance(after, Hypothesis)
    assert after.end > answer.transcript.end


async def test_a_final_that_is_ready_already_is_not_held_back_and_not_waited_for() -> None:
    async with table(LONG) as here:
        one, other, third = here.engine.open(), here.sit_down(), here.sit_down()
        await until_ready(here, one)
        held = other.flush()
        await one.flush()
        await here.at_rest()
        assert not held.done(), "the third may still bring one"
        third.abort()
        await held
        await until_ready(here, one)
        other.send(SPEECH[0])
        held = other.flush()
        await here.at_rest()
        assert not held.done(), "the first may bring one"
        await one.flush()
        await held


async def until_ready(here: Table, speaker: Session) -> None:
    """Speak and fall silent, until the final has been made in case nothing follows."""
    audio = np.concatenate([SPEECH[0], np.zeros(16_000, np.float32)])
    for start in range(0, len(audio), 1600):
        speaker.send(audio[start : start + 1600])
        await speaker.wait_for_backlog(0.0)  # However rare interims are on a busy machine.
        await here.at_rest()
    while not here.streams.opened[-1].speculated:
        await here.at_rest()
    await here.at_rest()


@pytest.mark.parametrize(
    "wrong",
    [{"batch_size": 0}, {"batch_window": -1}, {"batch_window": math.nan}, {"batch_window": 1e999}],
)
def test_a_batch_that_cannot_be_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match=next(iter(wrong))):
        Engine("tiny", **wrong)
