"""Detection of a pipeline without a VAD, which would transcribe nothing."""

from __future__ import annotations

from pipecat.frames.frames import (
    Frame,
    ServiceSwitcherRequestMetadataFrame,
    SpeechControlParamsFrame,
    VADUserStartedSpeakingFrame,
    VADUserStoppedSpeakingFrame,
)

VAD_EXPECTED_SECONDS = 10.0
"""Seconds of audio without a frame from any VAD after which there is probably none."""


class VADPresence:
    """Counts audio until a frame shows that the pipeline has a VAD."""

    def __init__(self) -> None:
        # None once a VAD has been seen, or its absence has been reported.
        self._seconds: float | None = 0.0

    def receive_frame(self, frame: Frame) -> None:
        """Look for a VAD's frame, or for a switch: the VAD may have sent its frames to another
        service of the switcher. Before anybody speaks, a VAD sends its parameters only."""
        match frame:
            case SpeechControlParamsFrame():
                seen = frame.vad_params is not None
            case VADUserStartedSpeakingFrame() | VADUserStoppedSpeakingFrame():
                seen = True
            case _:
                seen = isinstance(frame, ServiceSwitcherRequestMetadataFrame)
        if seen:
            self._seconds = None

    def receive_audio(self, seconds: float) -> bool:
        """Count audio. Return whether it is now clear that there is no VAD; that is so once."""
        if self._seconds is None:
            return False
        self._seconds += seconds
        if self._seconds < VAD_EXPECTED_SECONDS:
            return False
        self._seconds = None
        return True
