"""``parakeet-stt listen``."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys

import pytest
from rich.console import Console

from parakeet_stt.cli.screen import Screen
from tests.support.command import parakeet
from tests.support.recordings import RECORDINGS, ROOT

RECORDING = RECORDINGS[0]


@pytest.mark.realtime
def test_listening_to_a_recording_prints_its_finals() -> None:
    done = parakeet("listen", "--audio", RECORDING.path, "--model", "tiny")
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"00:00.0  {RECORDING.text}\n"
    assert done.stderr == "loading tiny ...\nlistening; Ctrl-C ends\n"


@pytest.mark.skipif(sys.platform == "win32", reason="A process cannot be sent Ctrl-C alone.")
@pytest.mark.realtime
def test_an_interrupt_ends_the_audio_and_brings_the_final_of_what_was_said() -> None:
    audio = ROOT / "samples" / "dictation.flac"
    process = subprocess.Popen(
        [sys.executable, "-m", "parakeet_stt", "listen", "--audio", audio, "--model", "tiny"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=os.environ,
        text=True,
    )
    assert process.stdout is not None
    first = process.stdout.readline()
    assert first == "00:00.0  Write a message to my colleague.\n"
    process.send_signal(signal.SIGINT)
    rest, messages = process.communicate()
    assert process.returncode == 0
    assert len(rest.splitlines()) <= 1
    assert messages == "loading tiny ...\nlistening; Ctrl-C ends\n"


def test_of_a_segment_higher_than_the_terminal_the_newest_words_are_shown() -> None:
    shown = io.StringIO()
    console = Console(file=shown, force_terminal=True, width=20, height=5, legacy_windows=False)
    words = [f"word{number:02}" for number in range(60)]
    with Screen(console) as screen:
        screen.show(" ".join(words[:50]), " ".join(words[50:]))
    output = shown.getvalue()
    assert "word59" in output
    assert "word40" not in output


def test_finals_of_a_pipe_are_not_wrapped() -> None:
    shown = io.StringIO()
    text = "word " * 60
    with Screen(Console(file=shown, width=80)) as screen:
        screen.show("not shown", "")
        screen.keep(61.5, text.strip())
    assert shown.getvalue() == f"01:01.5  {text.strip()}\n"
