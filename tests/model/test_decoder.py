"""The numpy decoders against NeMo's greedy decoders, whole and in pieces."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from parakeet_stt import load_model
from parakeet_stt.model.catalog import BUNDLED
from parakeet_stt.model.decoder import GreedyTransducer, judge
from parakeet_stt.model.onnx.export import OnnxNetwork
from tests.support.features import log_mel, normalize
from tests.support.recordings import GOLDEN, RECORDINGS

ARRAYS = np.load(GOLDEN / "decoding.npz")
KINDS = ("tdt", "tdt2", "rnnt", "ctc")


def decoder_of(kind: str) -> Any:
    return load_model(GOLDEN / "models" / kind, backend="mlx", precision="fp32")._decoder


@pytest.mark.parametrize("kind", KINDS)
def test_tokens_are_nemos(kind: str) -> None:
    decoder = decoder_of(kind)
    emissions, state = decoder.decode(ARRAYS[f"{kind}.frames"], decoder.initial())
    assert [e.token for e in emissions] == ARRAYS[f"{kind}.tokens"].tolist()
    assert state.frame == len(ARRAYS[f"{kind}.frames"])
    if kind != "ctc":
        assert [e.frame for e in emissions] == ARRAYS[f"{kind}.starts"].tolist()
    if kind.startswith("tdt"):
        assert [e.duration for e in emissions] == ARRAYS[f"{kind}.durations"].tolist()


def test_the_golden_sequences_hold_what_is_hard() -> None:
    durations = ARRAYS["tdt.durations"]
    assert set(durations.tolist()) >= {0, 1, 2, 3, 4}
    starts = ARRAYS["rnnt.starts"].tolist()
    assert max(starts.count(frame) for frame in starts) > 1
    assert len(set(starts)) < len(ARRAYS["rnnt.frames"])


@given(kind=st.sampled_from(KINDS), cuts=st.lists(st.integers(0, 150), max_size=12))
def test_decoding_in_pieces_gives_the_same_tokens(kind: str, cuts: list[int]) -> None:
    frames, decoder = ARRAYS[f"{kind}.frames"], decoder_of(kind)
    whole, end = decoder.decode(frames, decoder.initial())
    state, found = decoder.initial(), []
    edges = [0, *sorted(cuts), len(frames)]
    for start, stop in itertools.pairwise(edges):
        emissions, state = decoder.decode(frames[start:stop], state)
        found += emissions
    assert [(e.token, e.frame) for e in found] == [(e.token, e.frame) for e in whole]
    assert state.frame == end.frame


def test_an_onnx_decoder_graph_gives_the_tokens_of_numpy() -> None:
    model = load_model("tiny", backend="onnx")
    network = OnnxNetwork(BUNDLED["tiny"] / "decoder_joint-model.onnx", model.config.blank, 5)
    theirs = GreedyTransducer(model.config, network)
    for recording in RECORDINGS[::15]:
        frames = model.encoder.encode([normalize(log_mel(recording.samples(), 80))], None)[0]
        ours, _ = model._decoder.decode(frames, model._decoder.initial())
        found, _ = theirs.decode(frames, theirs.initial())
        assert [(e.token, e.frame) for e in found] == [(e.token, e.frame) for e in ours]


def test_confidences_are_nemos() -> None:
    logits = ARRAYS["confidence.logits"]
    found, _ = judge(logits, logits.argmax(axis=-1))
    np.testing.assert_allclose(found, ARRAYS["confidence.values"], atol=1e-5)
    assert 0 <= found.min() < 0.01
    assert 0.5 < found.max() <= 1


def test_log_probabilities_are_those_of_a_softmax() -> None:
    logits = ARRAYS["confidence.logits"]
    tokens = np.arange(logits.shape[0]) % logits.shape[-1]
    _, found = judge(logits, tokens)
    probabilities = np.exp(logits.astype(np.float64))
    probabilities /= probabilities.sum(axis=-1, keepdims=True)
    np.testing.assert_allclose(np.exp(found), probabilities[np.arange(len(tokens)), tokens])
