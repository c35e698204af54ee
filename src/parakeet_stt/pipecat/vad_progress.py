"""How far a VAD behind the service has come with the audio that the service passed on."""

from __future__ import annotations

import time
import weakref
from collections import deque

VAD_DELAY_SECONDS = 3.0
"""Time that a VAD may take to judge audio. What was received earlier the VAD has judged, unless
frames of it still exist."""

MAX_VAD_DELAY_SECONDS = 15.0
"""The same if frames still exist: something else may keep them."""

_SMOOTHING_SECONDS = 1.0  # Audio that a VAD may need besides its start time: volume is smoothed.


class VADProgress:
    """What a VAD had judged when it made a report.

    Pipecat drops a frame when the last processor has dealt with it: audio whose frames no longer
    exist has been judged. Times are those of the clock that VAD frames are stamped with.
    """

    def __init__(self) -> None:
        self._received: deque[tuple[float, float]] = deque()
        self._dropped: deque[tuple[float, float]] = deque()

    def receive(self, frame: object, end: float) -> None:
        """Note that a frame has been received and is passed on.

        Args:
            frame: The frame.
            end: Seconds of audio up to its end.
        """
        self._note(self._received, end)
        weakref.finalize(frame, self._note, self._dropped, end).atexit = False

    def judged(self, reported: float) -> float:
        """Seconds of audio that the VAD had judged at the time of a report."""
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
