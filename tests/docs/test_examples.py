"""The short programs of examples/, run as a newcomer runs them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import soundfile

from tests.support.recordings import RECORDINGS, ROOT
from tests.support.serving import serving

EXAMPLES = {path.name for path in (ROOT / "examples").glob("*.py")} - {"bot_v2.py"}
RECORDING = min((r for r in RECORDINGS if r.set == "known"), key=lambda r: len(r.samples()))


def run(example: str, *arguments: str) -> str:
    """The output of an example; its log goes to stderr."""
    done = subprocess.run(
        [sys.executable, str(ROOT / "examples" / example), *arguments],
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def recording(tmp_path: Path) -> str:
    path = tmp_path / "speech.wav"
    soundfile.write(path, RECORDING.samples(), 16_000)
    return str(path)


def test_examples_have_at_most_40_lines() -> None:
    lines = {name: len((ROOT / "examples" / name).read_text().splitlines()) for name in EXAMPLES}
    assert len(lines) == 5
    assert max(lines.values()) <= 40, lines


def test_a_file_is_transcribed_as_a_whole_and_as_a_stream(recording: str) -> None:
    lines = run("transcribe_file.py", recording).splitlines()
    assert " to " in lines[0]
    assert "|" in lines[-1]


def test_several_recordings_share_an_engine(recording: str) -> None:
    output = run("async_engine.py", recording, recording)
    assert sum(line.startswith(f"{recording}: ") for line in output.splitlines()) == 2


def test_a_recording_takes_the_path_of_the_microphone(recording: str) -> None:
    final = run("microphone.py", "--audio", recording).splitlines()[-1]
    assert len(final.split()) >= 2


def test_a_client_streams_to_the_server(recording: str) -> None:
    with serving() as served:
        output = run(
            "websocket_client.py", recording, "--url", f"{served.ws}/v1/stream", "--speed", "4"
        )
    assert any(line.startswith("final: ") for line in output.splitlines())


def test_a_pipeline_prints_interims_and_finals() -> None:
    lines = run("pipecat_pipeline.py", str(ROOT / "samples" / "spelling.flac")).splitlines()
    assert sum(line.startswith("final: ") for line in lines) >= 3
    assert any(line.startswith("... ") for line in lines)
