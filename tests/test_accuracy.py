"""What the bundled model hears of its held-out recordings, on every encoder and precision.

The bounds are those that the model was made to; training/figures.json has the figures on larger
sets.
"""

from __future__ import annotations

import jiwer
import pytest

from parakeet_stt import load_model
from tests.support.recordings import CLEAR, RECORDINGS, normalised

BOUNDS = {"known": 0.02, "unknown": 0.05, "several": 0.04}


@pytest.mark.parametrize(
    ("backend", "precision"),
    [
        ("onnx", "fp32"),
        pytest.param("mlx", "fp32", marks=pytest.mark.nightly),  # It has the tokens of onnx.
        ("mlx", "bf16"),
    ],
)
@pytest.mark.parametrize("name", BOUNDS)
def test_word_errors_are_within_the_bounds(name: str, backend: str, precision: str) -> None:
    model = load_model("tiny", backend=backend, precision=precision)  # type: ignore[arg-type]
    chosen = [r for r in RECORDINGS if r.set == name]
    heard = [normalised(model.transcribe(r.samples()).text) for r in chosen]
    assert jiwer.wer([normalised(r.text) for r in chosen], heard) <= BOUNDS[name]


def test_clear_recordings_are_transcribed_without_an_error() -> None:
    """Other tests rely on it."""
    model = load_model("tiny", backend="onnx")
    heard = [model.transcribe(recording.samples()).text for recording in CLEAR]
    assert heard == [recording.text for recording in CLEAR]
    assert all(recording.end - recording.start < 4 for recording in CLEAR)


@pytest.mark.parametrize("every", [4, pytest.param(1, marks=pytest.mark.nightly)])
def test_both_encoders_give_the_same_tokens(every: int) -> None:
    """With full attention, which is all that a graph knows: a band shows in windows over 20 s."""
    mlx, onnx = (
        load_model("tiny", backend="mlx", precision="fp32"),
        load_model("tiny", backend="onnx"),
    )
    for recording in RECORDINGS[::every]:
        samples = recording.samples()
        tokens = [
            [t.id for t in m.transcribe(samples, attention="full").tokens] for m in (mlx, onnx)
        ]
        assert tokens[0] == tokens[1], recording.path


def test_capitals_and_punctuation_are_written() -> None:
    model = load_model("tiny")
    heard = [model.transcribe(r.samples()).text for r in RECORDINGS if r.set == "known"]
    assert all(text[0].isupper() and text[-1] in ".?" for text in heard)
