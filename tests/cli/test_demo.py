"""``parakeet-stt demo``."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.support.command import parakeet
from tests.support.recordings import RECORDINGS

SENTENCES = (
    "Hello, this is Hannah Parker from Boston.",
    "Turn on the lamp in the kitchen, please.",
    "What is the weather like in Seattle today?",
)


@pytest.mark.realtime
def test_the_demo_shows_every_sentence_and_its_time_to_the_final() -> None:
    done = parakeet("demo", PARAKEET_MODEL="not/cached")
    assert done.returncode == 0, done.stderr
    assert done.stderr == "loading tiny ...\n"
    finals = re.findall(r"^\d\d:\d\d\.\d  (.*)  \[(\d+) ms\]$", done.stdout, re.MULTILINE)
    assert tuple(text for text, _ in finals) == SENTENCES
    assert all(int(delay) >= 200 for _, delay in finals)  # The VAD waits for that long.
    (interims,) = re.findall(r"3 finals, (\d+) interims; median time", done.stdout)
    assert int(interims) > 3


@pytest.mark.realtime
def test_the_demo_plays_a_recording_of_the_user() -> None:
    done = parakeet("demo", "--audio", RECORDINGS[0].path)
    assert done.returncode == 0, done.stderr
    assert f"Playing {RECORDINGS[0].path}" in done.stdout
    assert RECORDINGS[0].text in done.stdout


def test_the_demo_refuses_what_is_no_recording(tmp_path: Path) -> None:
    empty = tmp_path / "empty.wav"
    empty.touch()
    done = parakeet("demo", "--audio", empty)
    assert done.returncode == 1
    assert done.stderr.startswith(f"error: {empty}")
