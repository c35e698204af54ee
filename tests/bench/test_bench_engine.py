"""The benchmark of the engine and its peers, on the real parts, with little to do."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path

import pytest

from benchmarks.jobs import Job, JobError, measure
from benchmarks.scores import prefix_fit, ratios
from benchmarks.tasks import pieces_of, whole_words
from tests.support.command import benchmark
from tests.support.recordings import ROOT

DATA = ROOT / "tests" / "data"
FOLDER = ROOT / "src" / "parakeet_stt" / "data" / "tiny"


@pytest.mark.nightly  # The tests below measure with the same parts.
def test_engines_are_measured_side_by_side(tmp_path: Path) -> None:
    report, plots = tmp_path / "figures.json", tmp_path / "plots"
    done = benchmark(
        *("engine", "--model", "tiny", "--limit", 1, "--json", report, "--plots", plots),
        *("--engines", "ours-onnx", "onnx-asr", "sherpa-onnx"),
        *("--sections", "offline", "exactness", "lengths"),
    )
    assert done.returncode == 0, done.stderr
    figures = json.loads(report.read_text())
    measured = {row["engine"] for row in figures["offline"]}
    assert "ours-onnx" in measured
    for row in figures["offline"]:
        assert row["wer"] < 0.1
        assert row["cpu_ms_per_second"] > 0
        assert row["peak_mb"] > 0
    (exact,) = figures["exactness"]
    assert exact["as_offline"] == 1
    assert exact["sample_by_sample_as_offline"]
    for row in figures["lengths"]:
        assert row["cpu_ms_per_second"]["5"] > 0
        assert len(row["interims_cpu_ms_by_position"]) == 32
    assert {row["engine"] for row in figures["ratios"]} == measured - {"ours-onnx"}
    assert (plots / "cost-by-length.svg").stat().st_size > 1000
    # A peer that is not there is named, with how to get it.
    for engine, package in (("onnx-asr", "onnx_asr"), ("sherpa-onnx", "sherpa_onnx")):
        absent = [row["why"] for row in figures["not_measured"] if row["what"] == engine]
        assert bool(absent) == (find_spec(package) is None)
        assert all(f"pip install {engine}" in why and why in done.stdout for why in absent)


def test_streams_of_others_are_measured_with_the_same_measure() -> None:
    job = Job("parakeet-mlx", "streaming", str(FOLDER), "tdt", str(DATA), 1, chunk_ms=1000)
    shares: list[float] = []
    rows = measure(job, shares.append)["rows"]
    assert len(rows) == 3
    assert all(row["last_interim"] and row["flush_ms"] is None for row in rows)
    assert shares == sorted(shares)


def test_finals_are_timed_through_a_session() -> None:
    job = Job("ours-onnx", "flush", str(FOLDER), "tdt", str(DATA), 1, segments=3)
    figures = measure(job, lambda share: None)
    assert len(figures["flush_ms"]) == figures["as_offline"] == 3
    assert 0 <= figures["speculated"] <= 3


def test_a_measurement_that_fails_says_why() -> None:
    job = Job("ours-onnx", "offline", "no/such/folder", "tdt", str(DATA), 1)
    with pytest.raises(JobError, match="no/such/folder"):
        measure(job, lambda share: None)


def test_words_are_compared_with_the_prefix_that_they_fit() -> None:
    text = "one two three four five".split()
    assert prefix_fit([], text) == (0, 0)
    assert prefix_fit("one two".split(), text) == (0, 2)
    assert prefix_fit("one too three".split(), text) == (1, 3)
    assert prefix_fit("one three four".split(), text) == (1, 4)
    assert prefix_fit("six seven".split(), []) == (2, 0)


def test_a_word_that_is_half_committed_does_not_count() -> None:
    assert whole_words("one two three", "one two") == "one two"
    assert whole_words("one two three", "one tw") == "one"
    assert whole_words("one two", "one two") == "one two"
    assert whole_words("one two, three", "one two") == "one"
    assert whole_words("one", "") == ""


def test_pieces_are_everything_in_order() -> None:
    assert [list(piece) for piece in pieces_of(list(range(5)), 2)] == [[0, 1], [2, 3], [4]]  # type: ignore[arg-type]


def test_ratios_are_of_the_same_audio_and_threads() -> None:
    figures = {
        "offline": [
            {"engine": "ours-onnx", "threads": 1, "cpu_ms_per_second": 2.0},
            {"engine": "onnx-asr", "threads": 1, "cpu_ms_per_second": 3.0},
            {"engine": "onnx-asr", "threads": "default", "cpu_ms_per_second": 9.0},
        ],
        "lengths": [],
    }
    assert ratios(figures) == [
        {"what": "offline", "threads": 1, "engine": "onnx-asr", "ours-onnx": 1.5},
        {"what": "offline", "threads": "default", "engine": "onnx-asr"},
    ]
