"""Audio of a session that may belong to its next segment, and where in it that segment starts.

Positions are samples since the session opened.
"""

from __future__ import annotations

from collections import deque

import numpy as np

from parakeet_stt.audio import SAMPLE_RATE, Samples
from parakeet_stt.engine.locator import VAD_START_SECONDS, Locator
from parakeet_stt.engine.vad import Change, Endpointer

HISTORY_SECONDS = 30.0
"""Maximum audio, in seconds, that a segment can include from before its start was reported."""

_OPENING_SECONDS = 2.0
"""If speech starts within the first 2 s, the first segment starts at 0 regardless of the pre-roll.
A recording that is sent from its beginning then has the text that ``transcribe()`` gives it."""


class Preroll:
    """The newest audio of a session, and the boundaries of segments in it.

    If a VAD elsewhere starts and flushes segments, a :class:`Locator` finds where its reports
    belong; otherwise the caller knows where speech starts.
    """

    def __init__(self) -> None:
        self._audio = RecentAudio(int(HISTORY_SECONDS * SAMPLE_RATE))
        self._length = 0
        self._taken = 0  # Audio before it belongs to segments, or was discarded.
        self._locator: Locator | None = None

    def configure(self, length: int, locate: bool) -> None:
        """Set the length of the pre-roll.

        Args:
            length: In samples, before speech.
            locate: Whether the reports of a VAD elsewhere must be located.
        """
        self._length = length
        self._locator = (self._locator or Locator()) if locate else None

    @property
    def length(self) -> int:
        """Length of the pre-roll, in samples."""
        return self._length

    @property
    def locates(self) -> bool:
        """Whether the reports of a VAD elsewhere are located."""
        return self._locator is not None

    def add(self, audio: Samples, end: int) -> None:
        """Keep audio that ends at a position."""
        self._audio.add(audio, end)

    def note(self, change: Change) -> None:
        """Note speech that has started or stopped, for locating reports."""
        assert self._locator is not None
        self._locator.note(change)

    def stop_locating(self) -> None:
        """Forget the speech noted so far: no more will be noted."""
        assert self._locator is not None
        self._locator.clear()

    def start_before(self, speech: int) -> int:
        """Return where a segment starts whose speech starts at a position."""
        return 0 if speech <= _OPENING_SECONDS * SAMPLE_RATE else speech - self._length

    def start_reported(self, now: int, lookback: int, judged: int) -> tuple[int, int | None]:
        """Return where a segment starts that a VAD elsewhere reports, and its speech if known.

        Args:
            now: Position of the newest audio.
            lookback: Samples before ``now`` that belong to the segment in any case.
            judged: Position up to which the VAD had judged everything before.
        """
        start = now - lookback
        if self._locator is None:
            return start, None
        # The pre-roll counts back from where an up-to-date VAD reports speech.
        lead = self._length - int(VAD_START_SECONDS * SAMPLE_RATE)
        speech = self._locator.first(self._taken, lookback - lead, judged)
        return (start if speech is None else min(start, speech - lead)), speech

    def end_reported(self, endpointer: Endpointer, stop: int, judged: int) -> int | None:
        """Return where a segment ends whose end a VAD elsewhere reports; None for now.

        Args:
            endpointer: The session's own.
            stop: Samples of silence after which the VAD reports an end.
            judged: Position up to which the VAD had judged everything before.
        """
        if self._locator is None:
            return None
        return self._locator.end_of_first(stop, judged, endpointer.starting)

    def take(self, start: int, now: int) -> tuple[int, Samples]:
        """Take the audio of a segment that starts now.

        Args:
            start: Where it should start; it starts later if the audio before belongs to an earlier
                segment, was discarded, or is not kept any more.
            now: Position of the newest audio.

        Returns:
            Where it starts, and its audio up to ``now``.
        """
        start = min(max(start, self._taken, self._audio.start), now)
        audio = self._audio.between(start, now)
        if self._locator is None:
            self._audio.clear(now)
        else:
            self._locator.take(start)  # Speech before it was none to the VAD.
        return start, audio

    def between(self, start: int, end: int) -> Samples | None:
        """Return the audio between two positions; None unless ``start < end`` and all is kept."""
        return self._audio.between(start, end) if self._audio.start <= start < end else None

    def end_segment(self, end: int) -> None:
        """Note that audio before a position belongs to a segment that has ended."""
        self._taken = end
        if self._locator is not None:
            self._locator.take(end)

    def clear(self, now: int) -> None:
        """Forget everything up to the newest audio."""
        self._taken = now
        if self._locator is not None:
            self._locator.clear()
        self._audio.clear(now)


class RecentAudio:
    """The newest audio of a session, without gaps.

    Args:
        size: Minimum number of samples to keep; whole pieces are kept.
    """

    def __init__(self, size: int) -> None:
        self._start = 0
        self._end = 0
        self._size = size
        self._pieces: deque[Samples] = deque()

    @property
    def start(self) -> int:
        """Position of the first sample."""
        return self._start

    def add(self, audio: Samples, end: int) -> None:
        """Keep audio that ends at a position; if some before it is missing, forget the rest."""
        if end - len(audio) != self._end:
            self.clear(end - len(audio))
        self._pieces.append(audio)
        self._end = end
        while self._end - self._start - len(self._pieces[0]) >= self._size:
            self._start += len(self._pieces.popleft())

    def clear(self, position: int) -> None:
        """Forget everything; the next audio starts at a position."""
        self._pieces.clear()
        self._start = self._end = position

    def between(self, start: int, end: int) -> Samples:
        """Return the audio between two positions, as far as it is kept."""
        audio = np.concatenate((np.zeros(0, np.float32), *self._pieces))
        return audio[max(0, start - self._start) : max(0, end - self._start)]
