"""The service while its model loads, loads late, or cannot be loaded."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from huggingface_hub import constants
from pipecat.frames.frames import (
    ErrorFrame,
    ManuallySwitchServiceFrame,
    STTUpdateSettingsFrame,
)
from pipecat.pipeline.pipeline import Pipeline
from pipecat.pipeline.service_switcher import ServiceSwitcher, ServiceSwitcherStrategyFailover
from pipecat.pipeline.worker import PipelineWorker, ProcessorUnusablePolicy
from pipecat.tests.utils import run_test
from pipecat.workers.runner import WorkerRunner

from parakeet_stt import ParakeetSTTService
from parakeet_stt.model import device
from parakeet_stt.pipecat import service as service_module
from tests.support.recordings import CLEAR
from tests.support.services import Events, Settings, finals, running, service, spoken
from tests.support.serving import PATIENCE


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """The inference thread is busy until the event is set, so that no model becomes ready."""
    monkeypatch.setattr(service_module, "SETUP_SECONDS", 0.1)
    opened = threading.Event()
    busy = device.submit(opened.wait)
    yield opened
    opened.set()
    busy.result()


@pytest.fixture
def download(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[threading.Event]:
    """A hub that answers every request when the event is set: there is no such repository."""
    monkeypatch.setattr(service_module, "SETUP_SECONDS", 0.1)
    answer = threading.Event()

    class Hub(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            answer.wait()
            self.send_response(404)
            self.send_header("X-Error-Code", "RepoNotFound")
            self.send_header("Content-Length", "0")
            self.end_headers()

        do_GET = do_HEAD

        def log_message(self, *_: object) -> None:
            """Nothing."""

    http = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=http.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{http.server_port}"
    monkeypatch.setattr(constants, "ENDPOINT", address)
    template = address + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setenv("PARAKEET_CACHE_DIR", str(tmp_path))
    yield answer
    answer.set()
    http.shutdown()
    http.server_close()


@pytest.fixture
def broken(tmp_path: Path) -> str:
    """A folder with a configuration that is not JSON."""
    folder = tmp_path / "broken"
    folder.mkdir()
    (folder / "config.json").write_text("<html>")
    return str(folder)


async def test_a_missing_model_is_a_permanent_error_before_anybody_speaks() -> None:
    stt = ParakeetSTTService(settings=Settings(model="./nowhere"))
    events = Events(stt)
    _, up = await run_test(stt, frames_to_send=[], start_timeout=PATIENCE)
    (error,) = [frame for frame in up if isinstance(frame, ErrorFrame)]
    assert "the model cannot be loaded: no such model: './nowhere'" in error.error
    assert not stt.is_usable
    assert events.failed.is_set()
    assert not events.connected.is_set()


async def test_a_model_that_cannot_be_read_ends_the_pipeline_before_anybody_speaks(
    broken: str,
) -> None:
    worker = PipelineWorker(
        Pipeline([ParakeetSTTService(settings=Settings(model=broken))]),
        enable_rtvi=False,
        cancel_on_idle_timeout=False,
        processor_unusable_policy=ProcessorUnusablePolicy.END,
    )
    runner = WorkerRunner(handle_sigint=False)
    await runner.add_workers(worker)
    run = asyncio.create_task(runner.run())
    ended, _ = await asyncio.wait([run], timeout=PATIENCE)
    await runner.cancel()
    assert ended, "the pipeline does not end"


async def test_a_switcher_fails_over_and_the_backup_transcribes_the_first_utterance() -> None:
    backup = service()
    switcher = ServiceSwitcher(
        services=[ParakeetSTTService(settings=Settings(model="./nowhere")), backup],
        strategy_type=ServiceSwitcherStrategyFailover,
    )
    down, up = await run_test(switcher, frames_to_send=spoken(0), start_timeout=PATIENCE)
    assert switcher.strategy.active_service is backup
    assert [f.text for f in finals(down)] == [CLEAR[0].text]
    assert not [frame for frame in up if isinstance(frame, ErrorFrame)]


async def test_after_a_switch_finals_do_not_wait_for_the_model_of_the_other_service(
    download: threading.Event,
) -> None:
    loading, ready = ParakeetSTTService(settings=Settings(model="somebody/nothing")), service()
    events = Events(loading)
    switcher, switched = ServiceSwitcher(services=[loading, ready]), asyncio.Event()

    @switcher.strategy.event_handler("on_service_switched")
    async def on_switched(*_: object) -> None:
        switched.set()

    async with running(switcher) as (worker, tap), asyncio.timeout(PATIENCE):
        await worker.queue_frames(spoken(0)[:-1])
        await worker.queue_frame(ManuallySwitchServiceFrame(service=ready))
        await switched.wait()
        await worker.queue_frames(spoken(1))
        assert (await tap.finals.get()).text == CLEAR[1].text
        assert not events.failed.is_set(), "it waited until the download had failed"


async def test_a_model_that_failed_is_reported_once_however_often_somebody_speaks() -> None:
    stt = ParakeetSTTService(settings=Settings(model="./nowhere"))
    events = Events(stt)
    await run_test(stt, frames_to_send=[*spoken(0), *spoken(1)], start_timeout=PATIENCE)
    assert len(events.errors) == 1


async def test_a_download_that_fails_after_setup_is_a_permanent_error(
    download: threading.Event,
) -> None:
    stt = ParakeetSTTService(settings=Settings(model="somebody/nothing"))
    events = Events(stt)
    async with running(stt):
        assert stt.is_usable
        download.set()
        async with asyncio.timeout(PATIENCE):
            await events.failed.wait()
        assert not stt.is_usable
    assert ["no such repository" in error.error for error in events.errors] == [True]
    assert not events.connected.is_set()


async def test_a_model_that_is_late_is_announced_and_what_was_said_is_transcribed(
    gate: threading.Event,
) -> None:
    stt = service()
    events = Events(stt)
    async with running(stt) as (worker, tap):
        await worker.queue_frames(spoken(0))
        assert not events.connected.is_set()
        gate.set()
        async with asyncio.timeout(PATIENCE):
            await events.connected.wait()
            assert (await tap.finals.get()).text == CLEAR[0].text
    assert not events.errors


async def test_another_model_replaces_one_whose_download_fails_later(
    download: threading.Event,
) -> None:
    stt = ParakeetSTTService(settings=Settings(model="somebody/nothing"))
    events = Events(stt)
    async with running(stt) as (worker, tap):
        delta = Settings(model="tiny", backend="onnx")
        await worker.queue_frame(STTUpdateSettingsFrame(delta=delta))
        async with asyncio.timeout(PATIENCE):
            await events.connected.wait()
            download.set()
            await worker.queue_frames(spoken(0))
            assert (await tap.finals.get()).text == CLEAR[0].text
    assert stt.is_usable
    assert not events.errors


async def test_an_end_while_the_model_loads_names_the_speech_that_is_lost(
    gate: threading.Event,
) -> None:
    stt = service()
    events = Events(stt)
    async with running(stt) as (worker, _):
        await worker.queue_frames(spoken(0)[:-1])
    assert not gate.is_set()
    (error,) = events.errors
    assert "s of speech were waiting for the model" in error.error


async def test_settings_change_while_the_model_loads_and_the_end_does_not_wait_for_it(
    gate: threading.Event,
) -> None:
    stt = service()
    events = Events(stt)
    async with running(stt) as (worker, _):
        await worker.queue_frame(STTUpdateSettingsFrame(delta=Settings(chunk_ms=50)))
    assert not gate.is_set()
    assert stt.settings.chunk_ms == 50  # type: ignore[attr-defined]
    assert not events.errors
