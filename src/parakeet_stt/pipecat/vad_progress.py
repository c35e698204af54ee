"""Estimation of how much audio a VAD behind the service has processed."""

from __future__ import annotations

import time
import weakref
from collections import deque

VAD_DELAY_SECONDS = 3.0
"""Maximum time that a VAD takes to process audio. Audio that was received earlier has been
processed, unless frames of it still exist."""

MAX_VAD_DELAY_SECONDS = 15.0
"""The same for audio whose frames still exist: something else may hold them."""

_SMOOTHING_SECONDS = 1.0  # Audio that a VAD may need beyond its start time: it smooths the volume.


class VADProgress:
    """Estimates how much audio a VAD had processed when it sent a frame.

    Pipecat drops a frame after the last processor: audio whose frames no longer exist has been
    processed. Times are those of the clock of VAD frames' timestamps.
    """

    def __init__(self) -> None:
        self._received: deque[tuple[float, float]] = deque()
        self._dropped: deque[tuple[float, float]] = deque()

    def receive(self, frame: object, end: float) -> None:
        """Record that a frame has been received and is passed on.

        Args:
            frame: The frame.
            end: Seconds of audio received up to the frame's end.
        """
        self._note(self._received, end)
        weakref.finalize(frame, self._note, self._dropped, end).atexit = False

    def judged(self, reported: float) -> float:
        """Return the seconds of audio that the VAD had processed at the time of its frame."""
        known = min(
            _newest(self._dropped, reported) - _SMOOTHING_SECONDS,
            _newest(self._received, reported - VAD_DELAY_SECONDS),
        )
        return max(known, _newest(self._received, reported - MAX_VAD_DELAY_SECONDS))

    @staticmethod
    def _note(log: deque[tuple[float, float]], end: float) -> None:
        now = time.time()
        log.append((now, end))
        while len(log) > 1 and log[1][0] < now - 2 * MAX_VAD_DELAY_SECONDS:
            log.popleft()


def _newest(log: deque[tuple[float, float]], moment: float) -> float:
    return max((end for at, end in log if at <= moment), default=0.0)
