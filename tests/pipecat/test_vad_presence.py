"""When a pipeline counts as one without a VAD."""

from __future__ import annotations

import pytest
from pipecat.audio.vad.vad_analyzer import VADParams
from pipecat.frames.frames import (
    Frame,
    SpeechControlParamsFrame,
    VADUserStartedSpeakingFrame,
    VADUserStoppedSpeakingFrame,
)

from parakeet_stt.pipecat.vad_presence import VAD_EXPECTED_SECONDS, VADPresence


def test_the_absence_of_a_vad_is_reported_once() -> None:
    presence = VADPresence()
    reports = [presence.receive_audio(1.0) for _ in range(30)]
    assert reports.index(True) + 1 == VAD_EXPECTED_SECONDS
    assert sum(reports) == 1


@pytest.mark.parametrize(
    "frame",
    [
        SpeechControlParamsFrame(vad_params=VADParams()),
        VADUserStartedSpeakingFrame(),
        VADUserStoppedSpeakingFrame(),
    ],
)
def test_a_frame_of_a_vad_shows_that_there_is_one(frame: Frame) -> None:
    presence = VADPresence()
    presence.receive_frame(frame)
    assert not any(presence.receive_audio(1.0) for _ in range(30))


def test_parameters_of_turns_alone_do_not_show_a_vad() -> None:
    presence = VADPresence()
    presence.receive_frame(SpeechControlParamsFrame())
    assert any(presence.receive_audio(1.0) for _ in range(30))
