"""``parakeet-stt transcribe``."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.command import parakeet
from tests.support.recordings import RECORDINGS

FIRST, SECOND = RECORDINGS[:2]


def transcribe(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    return parakeet("transcribe", *arguments, "--model", "tiny", **environment)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with two recordings, one of them in a folder inside it, and other files."""
    place = tmp_path / "recordings"
    (place / "monday").mkdir(parents=True)
    (place / ".hidden").mkdir()
    shutil.copy(FIRST.path, place / "first.flac")
    shutil.copy(SECOND.path, place / "monday" / "second.FLAC")
    shutil.copy(SECOND.path, place / ".hidden" / "third.flac")
    (place / "notes.txt").write_text("no audio")
    return place


def test_a_file_is_transcribed_in_every_format() -> None:
    done = transcribe(FIRST.path)
    assert (done.returncode, done.stdout) == (0, f"{FIRST.text}\n")
    assert json.loads(transcribe(FIRST.path, "--format", "json").stdout)["text"] == FIRST.text
    assert transcribe(FIRST.path, "-f", "srt").stdout.startswith("1\n00:00:0")
    assert transcribe(FIRST.path, "-f", "vtt").stdout.startswith("WEBVTT\n")
    heading, row = transcribe(FIRST.path, "-f", "tsv").stdout.splitlines()
    start, end, text = row.split("\t")
    assert heading == "start\tend\ttext"
    assert 0 <= int(start) < int(end)
    assert text == FIRST.text


def test_the_text_of_several_files_follows_their_names() -> None:
    done = transcribe(FIRST.path, SECOND.path)
    assert done.stdout == f"{FIRST.path}: {FIRST.text}\n{SECOND.path}: {SECOND.text}\n"


def test_the_json_of_several_files_is_a_line_for_each() -> None:
    done = transcribe(FIRST.path, SECOND.path, "--format", "json")
    documents = [json.loads(line) for line in done.stdout.splitlines()]
    assert [document["file"] for document in documents] == [str(FIRST.path), str(SECOND.path)]
    assert [document["text"] for document in documents] == [FIRST.text, SECOND.text]


@pytest.mark.parametrize("name", ["srt", "vtt", "tsv", "all"])
def test_what_would_run_together_needs_an_output_folder(name: str) -> None:
    done = transcribe(FIRST.path, SECOND.path, "--format", name)
    assert (done.returncode, done.stdout) == (1, "")
    assert "--output-dir" in done.stderr


def test_every_format_is_written_for_every_input(tmp_path: Path) -> None:
    output = tmp_path / "new" / "folder"
    done = transcribe(FIRST.path, SECOND.path, "--format", "all", "--output-dir", output)
    assert done.returncode == 0, done.stderr
    names = {f"{r.path.stem}.{s}" for r in (FIRST, SECOND) for s in "txt json srt vtt tsv".split()}
    assert {path.name for path in output.iterdir()} == names
    assert set(map(Path, done.stdout.splitlines())) == set(output.iterdir())
    assert (output / f"{SECOND.path.stem}.txt").read_text(encoding="utf-8") == f"{SECOND.text}\n"


def test_an_existing_output_is_overwritten(tmp_path: Path) -> None:
    old = tmp_path / f"{FIRST.path.stem}.txt"
    old.write_text("old")
    assert transcribe(FIRST.path, "-o", tmp_path).returncode == 0
    assert old.read_text(encoding="utf-8") == f"{FIRST.text}\n"


def test_every_audio_file_in_a_folder_is_transcribed(folder: Path) -> None:
    done = transcribe(folder)
    assert done.stdout == (
        f"{folder / 'first.flac'}: {FIRST.text}\n"
        f"{folder / 'monday' / 'second.FLAC'}: {SECOND.text}\n"
    )


def test_outputs_of_a_folder_are_laid_out_as_it_is(folder: Path, tmp_path: Path) -> None:
    output = tmp_path / "output"
    assert transcribe(folder, "-f", "srt", "-o", output).returncode == 0
    written = {path.relative_to(output) for path in output.rglob("*") if path.is_file()}
    assert written == {Path("first.srt"), Path("monday/second.srt")}


def test_inputs_that_differ_in_their_suffix_only_get_two_outputs(tmp_path: Path) -> None:
    paths = [tmp_path / name for name in ("talk.flac", "talk.wav")]
    for path, recording in zip(paths, (FIRST, SECOND), strict=True):
        shutil.copy(recording.path, path)
    output = tmp_path / "output"
    assert transcribe(*paths, "-o", output).returncode == 0
    assert (output / "talk.flac.txt").read_text(encoding="utf-8") == f"{FIRST.text}\n"
    assert (output / "talk.wav.txt").read_text(encoding="utf-8") == f"{SECOND.text}\n"


def test_two_inputs_of_the_same_name_are_refused_for_one_output_folder(tmp_path: Path) -> None:
    paths = [tmp_path / name / "talk.flac" for name in "ab"]
    for path in paths:
        path.parent.mkdir()
        shutil.copy(FIRST.path, path)
    done = transcribe(*paths, "-o", tmp_path / "output")
    assert done.returncode == 1
    assert "would be written to the same file" in done.stderr


def test_an_input_is_never_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "talk.txt"  # The content decides what a file is.
    shutil.copy(FIRST.path, path)
    done = transcribe(path, "-o", tmp_path)
    assert done.returncode == 1
    assert f"would overwrite {path}" in done.stderr
    assert path.read_bytes() == FIRST.path.read_bytes()


def test_standard_input_is_transcribed(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "parakeet_stt", "transcribe", "-", "--model", "tiny"]
    with FIRST.path.open("rb") as audio:
        done = subprocess.run(command, stdin=audio, capture_output=True, check=False)
    assert (done.returncode, done.stdout.decode()) == (0, f"{FIRST.text}\n")
    with FIRST.path.open("rb") as audio:
        subprocess.run([*command, "-o", tmp_path], stdin=audio, check=True, capture_output=True)
    assert (tmp_path / "stdin.txt").read_text(encoding="utf-8") == f"{FIRST.text}\n"


def test_an_input_that_cannot_be_transcribed_does_not_stop_the_others(tmp_path: Path) -> None:
    empty = tmp_path / "empty.wav"
    empty.touch()
    done = transcribe("missing.wav", empty, FIRST.path)
    assert done.returncode == 1
    assert done.stdout == f"{FIRST.path}: {FIRST.text}\n"
    errors = done.stderr.splitlines()
    assert errors[0] == "error: no such audio file: missing.wav"
    assert errors[1].startswith(f"error: {empty}")


def test_the_output_folder_is_created_before_the_model_is_loaded(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    done = parakeet("transcribe", FIRST.path, "-o", tmp_path / "file", "--model", "not/cached")
    assert done.returncode == 1
    assert f"the output folder {tmp_path / 'file'} cannot be created" in done.stderr


@pytest.mark.skipif(sys.platform != "linux", reason="Names are text on macOS and Windows.")
def test_a_file_name_that_is_not_utf8_is_written_as_it_is(tmp_path: Path) -> None:
    names = [os.fsencode(tmp_path) + b"/" + name for name in (b"caf\xe9.flac", b"two.flac")]
    for name in names:
        shutil.copy(FIRST.path, os.fsdecode(name))
    options = [b"--model", b"tiny"]
    command = [os.fsencode(sys.executable), b"-m", b"parakeet_stt", b"transcribe", *names, *options]
    done = subprocess.run(command, capture_output=True, check=False)
    text = FIRST.text.encode()
    assert done.returncode == 0, done.stderr
    assert done.stdout == b"".join(name + b": " + text + b"\n" for name in names)


def test_every_precision_of_the_settings_can_be_given() -> None:
    done = parakeet("transcribe", FIRST.path, "--model", "tiny", "--precision", "INT8")
    assert (done.returncode, done.stdout.strip()) == (0, FIRST.text)
