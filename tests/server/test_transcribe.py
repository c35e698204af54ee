"""``POST /transcribe``, as the services that it takes the place of document it."""

from __future__ import annotations

import json
import subprocess
from typing import Any

import pytest

from parakeet_stt import load_model
from tests.support.recordings import RECORDINGS, ROOT
from tests.support.serving import Served

FILE = ROOT / "samples" / "dictation.flac"
TIMED = next(r for r in RECORDINGS if r.set == "known" and r.words and len(r.words) > 6)


def curl(served: Served, *fields: str) -> tuple[int, Any]:
    """What their READMEs say to type."""
    forms = [part for field in fields for part in ("-F", field)]
    done = subprocess.run(
        ["curl", "-s", "-w", "\n%{http_code}", "-X", "POST", served.http + "/transcribe", *forms],
        capture_output=True,
        text=True,
        check=True,
    )
    body, _, status = done.stdout.rpartition("\n")
    return int(status), json.loads(body)


def test_the_text_and_how_sure_it_is(served: Served) -> None:
    transcript = load_model("tiny", backend="onnx").transcribe(FILE)
    status, answer = curl(served, f"file=@{FILE}")
    assert status == 200
    assert answer == {"text": transcript.text, "confidence": round(transcript.confidence, 4)}


def test_timestamps_of_words_segments_and_characters(served: Served) -> None:
    transcript = load_model("tiny", backend="onnx").transcribe(FILE)
    status, answer = curl(served, f"file=@{FILE}", "include_timestamps=true", "should_chunk=true")
    assert status == 200
    assert set(answer) == {"text", "confidence", "timestamps"}
    timestamps = answer["timestamps"]
    assert set(timestamps) == {"words", "segments", "chars"}
    assert timestamps["words"] == [
        {
            "text": word.text,
            "start": round(word.start, 3),
            "end": round(word.end, 3),
            "confidence": round(word.confidence, 4),
        }
        for word in transcript.words
    ]
    assert " ".join(segment["text"] for segment in timestamps["segments"]) == answer["text"]
    assert all(segment["text"].endswith(".") for segment in timestamps["segments"])
    assert "".join(char["text"] for char in timestamps["chars"]) == answer["text"].replace(" ", "")


def test_times_are_those_of_the_recording(served: Served) -> None:
    assert TIMED.words
    _, answer = curl(served, f"file=@{TIMED.path}", "include_timestamps=true")
    words = answer["timestamps"]["words"]
    assert [word["text"] for word in words] == [word["text"] for word in TIMED.words]
    for found, said in zip(words, TIMED.words, strict=True):
        assert abs(found["start"] - said["start"]) < 0.3
    chars = iter(answer["timestamps"]["chars"])
    for word in words:
        own = [next(chars) for _ in word["text"]]
        assert "".join(char["text"] for char in own) == word["text"]
        assert own[0]["start"] == word["start"]
        assert own[-1]["end"] == pytest.approx(word["end"], abs=0.002)


@pytest.mark.parametrize(
    ("fields", "status", "complaint"),
    [
        ([], 422, "file: "),
        (["file=no file"], 422, "file: "),
        ([f"file=@{FILE}", "include_timestamps=perhaps"], 422, "include_timestamps: "),
        ([f"file=@{__file__}"], 415, "test_transcribe.py cannot be decoded: "),
    ],
)
def test_what_is_wrong_is_said(
    served: Served, fields: list[str], status: int, complaint: str
) -> None:
    found, answer = curl(served, *fields)
    assert found == status
    assert answer["detail"].startswith(complaint)
