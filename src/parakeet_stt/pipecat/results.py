"""Pipecat's frames of hypotheses and transcripts."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any, TypeVar

from pipecat.frames.frames import InterimTranscriptionFrame, TranscriptionFrame
from pipecat.transcriptions.language import Language
from pipecat.utils.time import time_now_iso8601

from parakeet_stt.transcript import Hypothesis, Transcript

_Result = TypeVar("_Result", Hypothesis, Transcript)


def interim_frame(
    hypothesis: Hypothesis, user_id: str, language: Language | None
) -> InterimTranscriptionFrame:
    """Return the frame of a hypothesis: the whole text of the segment so far."""
    return InterimTranscriptionFrame(
        hypothesis.text, user_id, time_now_iso8601(), language, _with_lists(hypothesis)
    )


def final_frame(
    transcript: Transcript, user_id: str, language: Language | None
) -> TranscriptionFrame:
    """Return the frame of a final.

    An interruption does not drop it: the words before the interruption were spoken all the same.
    """
    frame = TranscriptionFrame(
        transcript.text,
        user_id,
        time_now_iso8601(),
        language,
        _with_lists(transcript),
        finalized=True,
    )
    frame.interruptible = False
    return frame


def _with_lists(result: _Result) -> _Result:
    """Copy with lists for tuples: Pipecat's JSON bus drops tuples, with a warning for each."""
    lists: Any = {
        f.name: list(value)
        for f in fields(result)
        if isinstance(value := getattr(result, f.name), tuple)
    }
    return replace(result, **lists)
