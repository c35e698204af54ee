"""Recordings as users have them: no word is lost because of what is around it."""

from __future__ import annotations

from collections import Counter
from difflib import SequenceMatcher

import jiwer
import numpy as np
import pytest

from benchmarks.conditions.recordings import (
    Case,
    clicks,
    fading,
    gain,
    joined,
    long_silence,
    offset,
    silence,
    softer_speaker,
)
from benchmarks.conditions.reference import streamed, untrimmed
from parakeet_stt import Model, load_model
from parakeet_stt.audio import read_audio
from tests.support.recordings import RECORDINGS, ROOT, Recording, normalised

SINGLE = [r for r in RECORDINGS if r.set != "several"]


def cases(kind: str, every: int) -> list[Case]:
    kinds = {"click": clicks, "softer": softer_speaker, "fade": fading, "offset": offset}
    return list(kinds[kind](SINGLE[::every], np.random.default_rng(1)))


def word_errors(texts: list[str], heard: list[str]) -> float:
    return float(jiwer.wer([normalised(t) for t in texts], [normalised(h) for h in heard]))


def lost(before: str, after: str) -> Counter[str]:
    """Words that one text has and the other leaves out, rather than has otherwise."""
    old, new = normalised(before).split(), normalised(after).split()
    changes = SequenceMatcher(None, old, new, autojunk=False).get_opcodes()
    return Counter(w for kind, i, j, _, _ in changes if kind == "delete" for w in old[i:j])


@pytest.mark.parametrize("kind", ["click", "softer", "fade", "offset"])
@pytest.mark.parametrize(
    ("backend", "every"),
    [
        ("onnx", 10),
        pytest.param("onnx", 2, marks=pytest.mark.nightly),
        pytest.param("mlx", 20, marks=pytest.mark.nightly),
    ],
)
def test_words_beside_loud_sounds_are_as_right_as_with_nothing_left_out(
    kind: str, model: Model, every: int
) -> None:
    chosen = cases(kind, every)
    texts = [case.text for case in chosen]
    heard = [model.transcribe(case.samples).text for case in chosen]
    whole = [untrimmed(model, case.samples) for case in chosen]
    few = 2 / len(" ".join(texts).split())  # The statistics differ, so that a word or two may.
    assert word_errors(texts, heard) <= word_errors(texts, whole) + max(0.02, few)
    assert all(heard)


@pytest.mark.parametrize("kind", ["click", "softer", "fade", "offset"])
@pytest.mark.parametrize("every", [20, pytest.param(5, marks=pytest.mark.nightly)])
def test_the_final_has_the_words_of_the_newest_interim(kind: str, every: int) -> None:
    model = load_model("tiny", backend="onnx")
    for case in cases(kind, every):
        with model.transcribe_stream() as stream:
            for start in range(0, len(case.samples), 3_200):
                hypothesis = stream.add_audio(case.samples[start : start + 3_200])
            final = stream.finish()
        # What the model itself revises with the whole in view is its own affair.
        revised = lost(hypothesis.text, untrimmed(model, case.samples))
        assert not lost(hypothesis.text, final.text) - revised, case


def test_a_pop_before_soft_speech_does_not_empty_the_final(model: Model) -> None:
    speech = gain(read_audio(ROOT / "src/parakeet_stt/data/self_test.flac"), -20)
    pop = np.tile(np.array([0.9, -0.9], np.float32), 20)
    wanted = model.transcribe(speech).text
    assert model.transcribe(np.concatenate((pop, silence(0.1), speech))).text == wanted != ""


@pytest.mark.parametrize("level", ["silence", "noise at -60 dB"])
@pytest.mark.parametrize(
    ("backend", "count"),
    [("onnx", 16), pytest.param("mlx", 2, marks=pytest.mark.nightly)],
)
def test_long_silence_around_sentences_does_not_change_them(
    level: str, model: Model, count: int
) -> None:
    chosen = SINGLE[:count]
    alone: dict[str, list[tuple[str, str]]] = {"0": [], "40": []}
    for case in long_silence(chosen, np.random.default_rng(1), (0, 40)):
        if level in case.condition:
            alone[case.condition.split()[0]].append(
                (case.text, model.transcribe(case.samples).text)
            )
    without, around = (word_errors(*map(list, zip(*rows, strict=True))) for rows in alone.values())
    assert around <= without + 0.005


@pytest.mark.parametrize(
    ("backend", "recordings", "seconds"),
    [
        ("onnx", SINGLE[:24], (33, 34)),
        ("mlx", SINGLE[:4], (33, 34)),
        pytest.param("onnx", RECORDINGS, (30, 60), marks=pytest.mark.nightly),
        pytest.param("mlx", SINGLE[:24], (30, 60), marks=pytest.mark.nightly),
    ],
    ids=["onnx", "mlx", "onnx, all", "mlx, more"],
)
def test_a_final_is_offline_bit_for_bit_also_of_telephone_audio(
    model: Model, recordings: list[Recording], seconds: tuple[float, float]
) -> None:
    """Tokens, times, confidences and probabilities, of wide and narrow audio."""
    random = np.random.default_rng(4)
    for samples in joined(recordings, np.random.default_rng(3), seconds):
        assert streamed(model, samples, random) == model.transcribe(samples)


def test_a_final_without_a_word_is_empty(model: Model) -> None:
    """Scraps of speech, in which the model finds a full stop or a question mark at most."""
    random = np.random.default_rng(5)
    for recording in SINGLE[::4]:
        samples = recording.samples()
        start = int(random.integers(0, len(samples) - 6_400))
        with model.transcribe_stream() as stream:
            texts = [stream.add_audio(samples[start : start + 3_500]).text, stream.finish().text]
        assert all(not text or any(map(str.isalnum, text)) for text in texts), texts
