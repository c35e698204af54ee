"""Phrase boosting: the choice of a token, decoding with it, and what it does to real recordings."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.boost import lists, measure, names
from parakeet_stt import Model, Transcript, load_model
from parakeet_stt.engine.engine import Engine
from parakeet_stt.engine.options import SessionOptions
from parakeet_stt.errors import ConfigurationError
from parakeet_stt.model.boost import Phrases, Place, phrases_of
from parakeet_stt.model.config import ModelConfig
from parakeet_stt.model.decoder import CTCState, Emission, GreedyCTC
from parakeet_stt.model.stream import StreamOptions
from parakeet_stt.settings import DEFAULT_BOOST, MOST_BOOST, load_settings
from tests.support.recordings import GOLDEN, RECORDINGS

PIECES = ("▁", "▁W", "▁w", "al", "ter", "t", "er", "▁water", "▁a", "n", "o", "▁York", "▁New", "r")
KINDS = ("tdt", "tdt2", "rnnt", "ctc")
# The model takes the name in it for water.
(NAMED,) = (r for r in RECORDINGS if r.set == "unknown" and r.path.stem == "004")
EXPECTED = {"Walter": 2 * DEFAULT_BOOST}
FOUND = "Hi my name is Walter, and I live in Phoenix."


def phrases(**weights: float) -> Phrases:
    return Phrases(PIECES, {name.replace("_", " "): weight for name, weight in weights.items()})


def logits(**values: float) -> Any:
    """Logits of PIECES: those given (`_` for the mark), and very little for the others."""
    given = {name.replace("_", "▁"): value for name, value in values.items()}
    return np.array([given.get(piece, -50.0) for piece in PIECES], np.float32)


def after(place: Place, *pieces: str) -> Place:
    """The place behind pieces that the model is sure of."""
    for piece in pieces:
        token, place = place.choose(logits(**{piece.replace("▁", "_"): 50.0}))
        assert PIECES[token] == piece
    return place


def chosen(place: Place, **values: float) -> str:
    return PIECES[place.choose(logits(**values))[0]]


@pytest.mark.parametrize("spelling", [("▁W", "al", "t"), ("▁w", "al", "t"), ("▁", "al", "t")])
def test_a_phrase_is_met_in_whatever_pieces_and_case(spelling: tuple[str, ...]) -> None:
    boosted = phrases(walter=3.0) if spelling[0] != "▁" else phrases(ALTer=3.0)
    place = after(boosted.start, *spelling)
    assert chosen(place, er=-2.9, n=0.0) == "er"
    assert chosen(place, er=-3.1, n=0.0) == "n"


def test_the_bonus_grows_with_what_is_there_of_the_phrase() -> None:
    start = phrases(Walter=6.0).start
    assert chosen(start, _W=-0.9, _a=0.0) == "▁W"
    assert chosen(start, _W=-1.1, _a=0.0) == "▁a"
    assert chosen(after(start, "▁W"), al=-2.9, o=0.0) == "al"
    assert chosen(after(start, "▁W"), al=-3.1, o=0.0) == "o"
    assert chosen(after(start, "▁W", "al"), ter=-5.9, o=0.0) == "ter"


def test_a_phrase_begins_at_a_word_and_is_left_with_the_first_other_letter() -> None:
    start = phrases(Walter=6.0, al=6.0).start
    assert chosen(after(start, "▁a"), al=-0.1, o=0.0) == "o"
    assert chosen(after(start, "▁W", "o"), al=-0.1, n=0.0) == "n"
    assert chosen(after(start, "▁W", "al", "ter"), er=-0.1, n=0.0) == "n"
    assert after(start, "▁W", "o").nodes == start.nodes


def test_a_phrase_may_begin_within_another() -> None:
    place = after(phrases(New_York=4.0, York_Alan=4.0).start, "▁New", "▁York")
    assert chosen(place, _a=-0.4, _W=0.0) == "▁a"
    assert chosen(after(place, "▁a"), al=-0.1, o=0.0) == "o"


def test_the_larger_weight_counts_where_phrases_share_a_beginning() -> None:
    start = phrases(Walter=1.0, Walt=8.0).start
    assert chosen(after(start, "▁W", "al"), t=-7.9, o=0.0) == "t"
    assert chosen(after(start, "▁W", "al", "t"), er=-1.1, o=0.0) == "o"


def test_a_phrase_that_the_model_cannot_write_is_left_out() -> None:
    start = Phrases(PIECES, {"Wałter": 5.0, "New": 5.0}).start
    assert chosen(start, _W=-0.1, _a=0.0) == "▁a"
    assert chosen(start, _New=-4.9, _a=0.0) == "▁New"


def test_the_models_own_choice_stands_where_no_phrase_is_in_reach() -> None:
    start = phrases(Walter=20.0).start
    for token, piece in enumerate(PIECES):
        if piece not in ("▁W", "▁w"):
            other = np.zeros(len(PIECES), np.float32)
            other[[1, 2]] = -50.0
            other[token] = 1.0
            assert start.choose(other)[0] == token


@pytest.fixture(scope="module")
def onnx() -> Model:
    return load_model("tiny", backend="onnx")


def test_streams_that_want_the_same_share_the_trie(onnx: Model) -> None:
    vocabulary = onnx.config.vocabulary
    one = phrases_of(vocabulary, frozenset({("Ada", 1.0), ("Ruth", 2.0)}))
    assert phrases_of(vocabulary, frozenset({("Ruth", 2.0), ("Ada", 1.0)})) is one
    assert phrases_of(vocabulary, frozenset({("Ruth", 2.0)})) is not one


def spoken(transcript: Transcript) -> list[tuple[int, float, float]]:
    return [(token.id, token.start, token.end) for token in transcript.tokens]


def stream(model: Model, samples: Any, boost: Mapping[str, float]) -> Any:
    with model.transcribe_stream(boost=boost) as stream:
        for start in range(0, len(samples), 1_600):
            stream.add_audio(samples[start : start + 1_600])
        return stream.finish()


def test_an_expected_word_is_found_that_was_missed(model: Model) -> None:
    samples = NAMED.samples()
    without = model.transcribe(samples)
    assert "Walter" not in without.text
    boosted = model.transcribe(samples, boost=EXPECTED)
    assert boosted.text == FOUND
    assert spoken(stream(model, samples, EXPECTED)) == spoken(boosted)
    assert spoken(model.transcribe(samples)) == spoken(without)


def test_an_interim_is_boosted_as_the_final_is(onnx: Model) -> None:
    with onnx.transcribe_stream(boost=EXPECTED) as stream:
        assert "Walter" in stream.add_audio(NAMED.samples()).text


async def test_a_session_expects_other_phrases_from_its_next_segment_on() -> None:
    engine = Engine("tiny", backend="onnx")
    await engine.start()
    async with engine.open() as session:
        finals = []
        for boost in ({}, EXPECTED, {}):
            session.configure(SessionOptions(stream=StreamOptions(boost=boost), interval=None))
            session.send(NAMED.samples())
            finals.append(await session.flush())
    assert finals[1].text == FOUND
    assert "Walter" not in finals[0].text + finals[2].text


def test_words_that_nobody_says_change_nothing(onnx: Model) -> None:
    absent = dict.fromkeys(("Kubernetes", "Ljubljana", "Grafana", "Ada Lovelace"), DEFAULT_BOOST)
    for recording in RECORDINGS[::8]:
        samples = recording.samples()
        without = onnx.transcribe(samples)
        assert onnx.transcribe(samples, boost=absent).tokens == without.tokens
    assert stream(onnx, NAMED.samples(), absent).text == onnx.transcribe(NAMED.samples()).text


def test_confidence_is_the_models_own(onnx: Model) -> None:
    samples = NAMED.samples()
    without = onnx.transcribe(samples).tokens
    boosted = onnx.transcribe(samples, boost=EXPECTED).tokens
    pairs = zip(without, boosted, strict=False)
    common = list(itertools.takewhile(lambda pair: pair[0].id == pair[1].id, pairs))
    assert [a.confidence for a, _ in common] == [b.confidence for _, b in common]
    # Where they part the network has heard the same so far, and was as unsure.
    assert boosted[len(common)].confidence == without[len(common)].confidence < 0.9


def test_names_are_found_more_often_in_noise_and_the_rest_is_no_worse(onnx: Model) -> None:
    some = [r for r in RECORDINGS if r.set != "several" and names(r.text)]
    kinds = {kind: made for kind, made in lists(some).items() if kind in ("none", "said")}  # type: ignore[arg-type]
    without, boosted = measure(onnx, some, kinds, 2 * DEFAULT_BOOST, 0.005, 2)  # type: ignore[arg-type]
    assert without.found < without.said
    assert boosted.found > without.found
    # 4 names more and no other error; one either way is a processor's rounding.
    assert boosted.errors <= without.errors + 1


GOLDEN_ARRAYS = np.load(GOLDEN / "decoding.npz")
# The golden models' pieces are ▁w0 p1 p2 ▁w3 p4 p5 and so on.
GOLDEN_WEIGHTS = {f"w{n}p{m}": 10.0 for n in range(0, 40, 6) for m in (1, 5, 13, 28)}


def decoder_of(kind: str) -> tuple[Any, Phrases]:
    model = load_model(GOLDEN / "models" / kind, backend="mlx", precision="fp32")
    return model._decoder, phrases_of(model.config.vocabulary, frozenset(GOLDEN_WEIGHTS.items()))


@pytest.mark.parametrize("kind", KINDS)
def test_boosting_changes_tokens_and_neither_where_they_are_nor_what_is_blank(kind: str) -> None:
    decoder, expected = decoder_of(kind)
    frames = GOLDEN_ARRAYS[f"{kind}.frames"][:1]
    (without, _), (boosted, _) = (
        decoder.decode(frames, decoder.initial(phrases)) for phrases in (None, expected)
    )
    assert [(e.frame, e.duration, e.confidence) for e in boosted[:1]] == [
        (e.frame, e.duration, e.confidence) for e in without[:1]
    ]
    whole = GOLDEN_ARRAYS[f"{kind}.frames"]
    tokens = [e.token for e in decoder.decode(whole, decoder.initial(expected))[0]]
    assert tokens != GOLDEN_ARRAYS[f"{kind}.tokens"].tolist()


@given(kind=st.sampled_from(KINDS), cuts=st.lists(st.integers(0, 150), max_size=12))
def test_boosted_decoding_in_pieces_gives_the_same_tokens(kind: str, cuts: list[int]) -> None:
    frames, (decoder, expected) = GOLDEN_ARRAYS[f"{kind}.frames"], decoder_of(kind)
    whole, end = decoder.decode(frames, decoder.initial(expected))
    state, found = decoder.initial(expected), []
    for start, stop in itertools.pairwise([0, *sorted(cuts), len(frames)]):
        emissions, state = decoder.decode(frames[start:stop], state)
        found += emissions
    assert [(e.token, e.frame) for e in found] == [(e.token, e.frame) for e in whole]
    assert state.place == end.place


def test_a_phrase_that_is_cut_in_two_is_found_as_in_one(onnx: Model) -> None:
    decoder = onnx._decoder
    with onnx.transcribe_stream() as stream:
        stream.feed(NAMED.samples())
        window = next(stream.finish_job())
    (frames,) = onnx.encoder.encode([window.mel], None)
    start = decoder.initial(phrases_of(onnx.config.vocabulary, frozenset(EXPECTED.items())))
    whole, _ = decoder.decode(frames, start)
    assert whole != decoder.decode(frames, decoder.initial())[0]
    for cut in range(len(frames)):
        first, state = decoder.decode(frames[:cut], start)
        second, _ = decoder.decode(frames[cut:], state)
        assert [e.token for e in first + second] == [e.token for e in whole]


# A CTC model of PIECES whose frames are its logits.
CTC = GreedyCTC(ModelConfig("ctc", 80, PIECES), None)


def ctc(*rows: dict[str, float], boosted: Phrases | None = None) -> tuple[list[Emission], CTCState]:
    """Decode frames, each the logits of some pieces; `blank` is blank."""
    frames = np.array(
        [np.append(logits(**row), row.get("blank", -50.0)) for row in rows], np.float32
    )
    return CTC.decode(frames, CTC.initial(boosted))


def spelt(emissions: list[Emission]) -> list[tuple[str, int]]:
    return [(PIECES[e.token], e.duration) for e in emissions]


def test_ctc_takes_a_token_that_goes_on_for_one() -> None:
    heard = ({"_a": 1.0, "_W": 0.0}, {"_a": 1.0}, {"_W": 1.0}, {"blank": 1.0}, {"al": 1.0})
    assert spelt(ctc(*heard)[0]) == [("▁a", 2), ("▁W", 1), ("al", 1)]
    assert spelt(ctc(*heard, boosted=phrases(Walter=12.0))[0]) == [("▁W", 3), ("al", 1)]


def test_ctc_does_not_repeat_a_token_without_a_blank_between() -> None:
    heard = ({"t": 1.0}, {"er": 1.0, "t": 0.9})
    expected = Phrases(PIECES, {"Walttt": 12.0})
    place = after(expected.start, "▁W", "al")
    state = CTCState(len(PIECES), len(PIECES), place=place)
    frames = np.array([np.append(logits(**row), -50.0) for row in heard], np.float32)
    assert spelt(CTC.decode(frames, state)[0]) == [("t", 1), ("er", 1)]
    blank = np.append(np.full(len(PIECES), -50.0), 0.0)[None].astype(np.float32)
    frames = np.concatenate((frames[:1], blank, frames[1:]))
    assert spelt(CTC.decode(frames, state)[0]) == [("t", 1), ("t", 1)]


def test_ctc_leaves_blanks_alone() -> None:
    heard = ({"blank": 0.1, "_W": 0.0}, {"_W": 1.0}, {"blank": 0.1, "al": 0.0})
    assert spelt(ctc(*heard, boosted=phrases(Walter=20.0))[0]) == [("▁W", 1)]


def test_the_environment_gives_phrases_to_the_command_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from parakeet_stt.cli.main import main

    command = ["transcribe", str(NAMED.path), "--model", "tiny", "--backend", "onnx"]
    assert main(command) == 0
    assert capsys.readouterr().out.strip() != FOUND
    assert main([*command, "--boost", "Ada, Walter:6"]) == 0
    assert capsys.readouterr().out.strip() == FOUND
    monkeypatch.setenv("PARAKEET_BOOST", "Walter:6, Ada")
    assert main(command) == 0
    assert capsys.readouterr().out.strip() == FOUND


@pytest.mark.parametrize(
    ("boost", "message"),
    [
        ({"Ada": 0.0}, "'Ada' with weight 0.0"),
        ({"Ada": -1.0}, "'Ada' with weight -1.0"),
        ({"Ada": float("nan")}, "'Ada' with weight nan"),
        ({"Ada": MOST_BOOST + 1}, f"up to {MOST_BOOST:g}"),
        ({" ": 1.0}, "expected some text"),
        ({"Ada": "loud"}, "(?i)boost.*loud"),
        ("Ada, Ruth", "expected phrases and their weights"),
    ],
)
def test_what_cannot_be_boosted_is_refused(onnx: Model, boost: Any, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        StreamOptions(boost=boost)
    with pytest.raises(ConfigurationError, match=message):
        onnx.transcribe_stream(boost=boost)
    if not isinstance(boost, str):
        with pytest.raises(ConfigurationError, match=message):
            load_settings(boost=boost)
