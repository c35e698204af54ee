"""Tokens to words, sentences and subtitles."""

from __future__ import annotations

import json

import pytest

from parakeet_stt import Hypothesis, Token, Transcript
from parakeet_stt.transcript import joined, spelled

PIECES = [
    "\u2581He",
    "llo",
    ",",
    "\u2581wor",
    "ld",
    ".",
    "\u2581How",
    "\u2581are",
    "\u2581you",
    "?",
]
CONFIDENCES = [0.9, 0.8, 0.4, 1.0, 0.7, 0.9, 1.0, 1.0, 0.5, 0.9]


def transcript(start: float = 0.0) -> Transcript:
    tokens = [
        Token(i, piece, start + i * 0.4, start + i * 0.4 + 0.3, confidence)
        for i, (piece, confidence) in enumerate(zip(PIECES, CONFIDENCES, strict=True))
    ]
    return Transcript(tuple(tokens), start, start + 5, "en")


def test_words_are_tokens_with_their_punctuation() -> None:
    words = transcript().words
    assert [w.text for w in words] == ["Hello,", "world.", "How", "are", "you?"]
    assert [w.confidence for w in words] == [0.4, 0.7, 1.0, 1.0, 0.5]
    assert (words[1].start, round(words[1].end, 3)) == (1.2000000000000002, 2.3)


def test_segments_are_sentences() -> None:
    assert [s.text for s in transcript().sentences] == ["Hello, world.", "How are you?"]
    assert transcript().text == "Hello, world. How are you?"
    assert Transcript(()).sentences == ()


def test_json_holds_everything_in_seconds() -> None:
    value = json.loads(transcript().to_json())
    assert value["text"] == "Hello, world. How are you?"
    assert value["language"] == "en"
    assert value["segments"][1]["words"][2] == {
        "text": "you?",
        "start": 3.2,
        "end": 3.9,
        "confidence": 0.5,
    }


def test_subtitles_have_a_cue_for_every_sentence() -> None:
    late = transcript(3_599.5)
    assert late.to_srt() == (
        "1\n00:59:59,500 --> 01:00:01,800\nHello, world.\n\n"
        "2\n01:00:01,900 --> 01:00:03,400\nHow are you?\n"
    )
    assert late.to_vtt().startswith("WEBVTT\n\n00:59:59.500 --> 01:00:01.800\nHello, world.\n")


def test_sentences_that_do_not_end_are_cut_for_subtitles() -> None:
    tokens = [Token(i, f"\u2581word{i}", i * 0.5, i * 0.5 + 0.4, 1.0) for i in range(100)]
    cues = Transcript(tuple(tokens), 0, 50).cues
    assert len(Transcript(tuple(tokens), 0, 50).sentences) == 1
    assert " ".join(cue.text for cue in cues) == Transcript(tuple(tokens), 0, 50).text
    assert all(cue.end - cue.start <= 7 and len(cue.text) <= 84 for cue in cues)
    assert len(cues) <= 9


def test_transcripts_that_follow_each_other_are_joined() -> None:
    first, second = transcript(), transcript(5.0)
    nothing = Transcript((), 10.0, 12.0)
    whole = joined([first, second, nothing])
    assert whole.text == f"{first.text} {second.text}"
    assert whole.words == (*first.words, *second.words)
    assert (whole.start, whole.end, whole.language) == (0, 12, "en")
    assert joined([]) == Transcript(())
    # A segment may begin with a piece that begins no word.
    assert joined([first, Transcript(first.tokens[1:], 5, 10, "de")]).text.endswith(
        "How are you? llo, world. How are you?"
    )
    assert joined([first, Transcript(first.tokens[1:], 5, 10, "de")]).language is None


def test_words_and_sentences_know_their_tokens() -> None:
    found = transcript()
    assert tuple(t for word in found.words for t in word.tokens) == found.tokens
    assert tuple(t for segment in found.sentences for t in segment.tokens) == found.tokens


def test_a_hypothesis_is_committed_text_and_tentative_text() -> None:
    tokens = transcript().tokens
    hypothesis = Hypothesis(tokens[:4], tokens[4:6], 2.0)
    assert hypothesis.text == "Hello, world."
    assert hypothesis.committed == "Hello, wor"
    assert hypothesis.tentative == "ld."


def test_a_hypothesis_that_commits_more_says_the_same_as_one_made_at_once() -> None:
    tokens = transcript().tokens
    grown = Hypothesis().followed_by(tokens[:2], tokens[2:3], 1.0)
    grown = grown.followed_by((), tokens[2:4], 1.5).followed_by(tokens[2:4], tokens[4:6], 2.0)
    made = Hypothesis(tokens[:4], tokens[4:6], 2.0)
    assert grown == made
    assert (grown.text, grown.committed, grown.tentative) == (
        made.text,
        made.committed,
        made.tentative,
    )


def tokens_of(*pieces: str) -> tuple[Token, ...]:
    """Tokens of half a second each, the later the less certain."""
    return tuple(Token(i, piece, i / 2, i / 2 + 0.5, 1 - i / 100) for i, piece in enumerate(pieces))


@pytest.mark.parametrize(
    ("pieces", "text"),
    [
        (("\u2581caf", "<0xC3>", "<0xA9>", "s"), "cafés"),
        (("\u2581", "<0xC3>", "<0x89>", "t", "\u2581"), "Ét"),
        (("\u2581ok", "\u2581", "<0xF0>", "<0x9F>", "<0x98>", "<0x80>", "<0x21>"), "ok 😀!"),
        (("\u2581caf", "<0xC3>", "<|fr|>", "<unk>", "<0xA9>"), "café"),
        (("\u2581a", "<0xFF>", "b"), "a\ufffdb"),
        (("\u2581a", "<0xE2>", "<0x82>", "\u2581b"), "a\ufffd b"),
        (("\u2581a", "<0xC3>", "<0xC3>", "<0xA9>"), "a\ufffdé"),
        (("\u2581a", "<0xC3>"), "a\ufffd"),
        (("<|startoftranscript|>", "<|en|>", "\u2581yes", "<unk>", ".", "</s>", "<EOU>"), "yes."),
        (("\u2581a", "\u2581<", "\u25813", "\u2581>", "\u2581b"), "a < 3 > b"),
        (("<|nospeech|>",), ""),
    ],
)
def test_bytes_are_joined_to_characters_and_control_tokens_left_out(
    pieces: tuple[str, ...], text: str
) -> None:
    transcript = Transcript(tokens_of(*pieces))
    assert transcript.text == text
    assert " ".join(word.text for word in transcript.words) == text
    assert "".join(part for part, _ in spelled(transcript.tokens)).strip() == text
    hypothesis = Hypothesis(transcript.tokens[:1], transcript.tokens[1:])
    assert hypothesis.text == text.removesuffix("\ufffd"), "the next token may complete it"


def test_control_tokens_change_no_time_or_confidence_of_a_word() -> None:
    transcript = Transcript(tokens_of("<|en|>", "\u2581yes", "<unk>", "\u2581n", "o", "<|pnc|>"))
    yes, no = transcript.words
    assert (yes.start, yes.end, yes.confidence) == (0.5, 1.0, 0.99)
    assert (no.start, no.end, no.confidence) == (1.5, 2.5, 0.96)


def test_a_character_of_several_tokens_is_one_part() -> None:
    tokens = tokens_of("\u2581caf", "<0xC3>", "<|fr|>", "<0xA9>", "\u2581ok")
    assert list(spelled(tokens)) == [
        (" caf", (tokens[0],)),
        ("é", (tokens[1], tokens[3])),
        (" ok", (tokens[4],)),
    ]


def test_committed_text_has_no_part_of_a_character() -> None:
    pieces = ("\u2581caf", "<0xC3>", "<|fr|>", "<0xA9>", "\u2581", "<0xF0>", "<0x9F>", "<0x98>")
    tokens = (*tokens_of(*pieces, "<0x80>", "\u2581ok"),)
    texts = [
        "",
        "caf",
        "caf",
        "caf",
        "café",
        "café",
        "café",
        "café",
        "café",
        "café 😀",
        "café 😀 ok",
    ]
    hypothesis = Hypothesis()
    for count, committed in enumerate(texts):
        if count:
            hypothesis = hypothesis.followed_by(tokens[count - 1 : count], tokens[count:], 9.0)
        else:
            hypothesis = hypothesis.followed_by((), tokens, 9.0)
        assert hypothesis.committed == committed
        assert hypothesis.text == "café 😀 ok"
        assert f"{hypothesis.committed}{hypothesis.tentative}".replace(" ", "") == "café😀ok"
        assert [word.text for word in hypothesis.words] == ["café", "😀", "ok"]
    # What the next token may complete is not shown yet.
    assert Hypothesis((), tokens[:2]).text == "caf"


def test_transcripts_that_begin_with_a_byte_or_a_control_token_are_joined() -> None:
    first = Transcript(tokens_of("\u2581yes"))
    second = Transcript(tokens_of("<|en|>", "<0xC3>", "<0xA9>", "t"))
    assert joined([first, Transcript(tokens_of("<unk>")), second]).text == "yes ét"
    assert [word.text for word in joined([first, second]).words] == ["yes", "ét"]
