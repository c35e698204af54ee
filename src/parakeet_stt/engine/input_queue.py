"""What was sent to a session, dealt with in order: audio by way of its endpointer, and requests.

Knows nothing of segments.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from parakeet_stt.audio import SAMPLE_RATE, Samples
from parakeet_stt.engine.scheduler import call_soon
from parakeet_stt.engine.vad import WINDOW, Change, Endpointer, Endpointing
from parakeet_stt.model import device

Request = Callable[[], None]
"""Something that was asked for: done once all audio sent before has been passed on."""

_JUDGED_AT_ONCE = SAMPLE_RATE  # Samples that the VAD looks at before another session's turn.

_judges: ThreadPoolExecutor


def _start_judges() -> None:
    global _judges
    _judges = ThreadPoolExecutor(1, thread_name_prefix="parakeet-vad")


_start_judges()
device.on_fork(_start_judges)


class Intake:
    """The order of what was sent. How audio was cut into pieces makes no difference to it.

    The endpointers of all sessions run on one thread; everything else belongs to the event loop.

    Attributes:
        endpointer: What finds speech in the audio; None where nothing does.
        position: Samples that have been passed on.

    Args:
        take: Called with audio, as it is passed on.
        change: Called with what the endpointer has noticed, between the audio before and after it.
        fail: Called where the endpointer fails; the audio is passed on all the same.
    """

    def __init__(
        self,
        take: Callable[[Samples], None],
        change: Callable[[Change], None],
        fail: Callable[[Exception], None],
    ) -> None:
        self._take = take
        self._change = change
        self._fail = fail
        self._loop = asyncio.get_running_loop()
        self._waiting: deque[Samples | Request] = deque()
        self._judging: Samples | None = None
        self.endpointer: Endpointer | None = None
        self.position = 0

    def listen(self, endpointing: Endpointing | None) -> None:
        """Find speech in the audio from here on, or no longer."""
        if endpointing is None:
            self.endpointer = None
        elif self.endpointer is not None:
            self.endpointer.options = endpointing
        else:
            position = self.position + (0 if self._judging is None else len(self._judging))
            self.endpointer = Endpointer(endpointing, position)

    def put(self, entry: Samples | Request) -> None:
        """Take audio or a request."""
        self._waiting.append(entry)
        self._advance()

    def close(self) -> None:
        """Forget what waits."""
        self._waiting.clear()
        self._judging = None

    def _advance(self) -> None:
        while self._waiting and self._judging is None:
            first = self._waiting[0]
            if callable(first):
                self._waiting.popleft()
                first()
            elif self.endpointer is None:
                self._waiting.popleft()
                self._pass_on(first)
            else:
                self._judging = self._next_piece()
                if self._judging is not None:
                    _judges.submit(self._judge, self.endpointer, self._judging)
                return

    def _next_piece(self) -> Samples | None:
        """Audio for the endpointer: a window at least, unless a request waits for it."""
        pieces: list[Samples] = []
        length = 0
        for entry in self._waiting:
            if callable(entry) or length >= _JUDGED_AT_ONCE:
                break
            pieces.append(entry)
            length += len(entry)
        if length < WINDOW and len(pieces) == len(self._waiting):
            return None
        for _ in pieces:
            self._waiting.popleft()
        return np.concatenate(pieces)

    def _judge(self, endpointer: Endpointer, piece: Samples) -> None:
        """On the endpointers' thread: find changes in a piece."""
        try:
            changes = endpointer(piece)
        except Exception as error:
            call_soon(self._loop, self._judged, endpointer, [], error)
        else:
            call_soon(self._loop, self._judged, endpointer, changes, None)

    def _judged(
        self, endpointer: Endpointer, changes: list[Change], error: Exception | None
    ) -> None:
        piece, self._judging = self._judging, None
        if piece is None:
            return  # Closed meanwhile.
        if error is not None:
            self._fail(error)
        if endpointer is not self.endpointer:
            changes = []  # It was replaced meanwhile.
        for change in changes:
            before = change.noticed - self.position
            self._pass_on(piece[:before])
            piece = piece[before:]
            self._change(change)
        self._pass_on(piece)
        self._advance()

    def _pass_on(self, audio: Samples) -> None:
        self.position += len(audio)
        self._take(audio)
