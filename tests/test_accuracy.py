"""What the bundled model hears of its held-out recordings, on every encoder and precision.

The bounds are those that the model was made to; training/figures.json has the figures on larger
sets.
"""

from __future__ import annotations

import jiwer
import pytest

from parakeet_stt import load_model
from tests.support.recordings import RECORDINGS, normalised

BOUNDS = {"known": 0.02, "unknown": 0.05, "several": 0.04}


@pytest.mark.parametrize(
    ("backend", "precision"), [("onnx", "fp32"), ("mlx", "fp32"), ("mlx", "bf16")]
)
@pytest.mark.parametrize("name", BOUNDS)
def test_word_errors_are_within_the_bounds(name: str, backend: str, precision: str) -> None:
    model = load_model("tiny", backend=backend, precision=precision)  # type: ignore[arg-type]
    chosen = [r for r in RECORDINGS if r.set == name]
    heard = [normalised(model.transcribe(r.samples()).text) for r in chosen]
    assert jiwer.wer([normalised(r.text) for r in chosen], heard) <= BOUNDS[name]


def test_both_encoders_give_the_same_tokens() -> None:
    """With full attention, which is all that a graph knows: a band shows in windows over 20 s."""
    mlx, onnx = (
        load_model("tiny", backend="mlx", precision="fp32"),
        load_model("tiny", backend="onnx"),
    )
    for recording in RECORDINGS:
        samples = recording.samples()
        tokens = [
            [t.id for t in m.transcribe(samples, attention="full").tokens] for m in (mlx, onnx)
        ]
        assert tokens[0] == tokens[1], recording.path


def test_capitals_and_punctuation_are_written() -> None:
    model = load_model("tiny")
    heard = [model.transcribe(r.samples()).text for r in RECORDINGS if r.set == "known"]
    assert all(text[0].isupper() and text[-1] in ".?" for text in heard)
