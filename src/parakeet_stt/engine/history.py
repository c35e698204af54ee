"""The newest audio of a session."""

from __future__ import annotations

from collections import deque

import numpy as np

from parakeet_stt.audio import Samples


class History:
    """The newest audio of a session, without gaps. Positions are samples since it opened.

    Args:
        size: Samples that are kept, rounded up to whole pieces.

    Attributes:
        start: Position of the first sample.
        end: Position behind the last sample.
    """

    def __init__(self, size: int) -> None:
        self.start = 0
        self.end = 0
        self._size = size
        self._pieces: deque[Samples] = deque()

    def add(self, audio: Samples, end: int) -> None:
        """Keep audio that ends at a position; if some before it is missing, forget the rest."""
        if end - len(audio) != self.end:
            self.clear(end - len(audio))
        self._pieces.append(audio)
        self.end = end
        while self.end - self.start - len(self._pieces[0]) >= self._size:
            self.start += len(self._pieces.popleft())

    def clear(self, position: int) -> None:
        """Forget everything; what is added next begins at a position."""
        self._pieces.clear()
        self.start = self.end = position

    def between(self, start: int, end: int) -> Samples:
        """Audio from one position to another, of what is kept."""
        audio = np.concatenate((np.zeros(0, np.float32), *self._pieces))
        return audio[max(0, start - self.start) : max(0, end - self.start)]
