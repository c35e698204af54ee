"""What a session has received, in order: audio by way of its endpointer, and requests."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from parakeet_stt.audio import SAMPLE_RATE, Samples
from parakeet_stt.engine.event_loop import call_soon
from parakeet_stt.engine.vad import WINDOW, Change, Endpointer, Endpointing
from parakeet_stt.model import device

Request = Callable[[], None]
"""Called once all audio that was received before has been passed on."""

_PIECE_SAMPLES = SAMPLE_RATE  # Audio that the VAD processes before another session's turn.

_vad_thread: ThreadPoolExecutor


def _start_vad_thread() -> None:
    global _vad_thread
    _vad_thread = ThreadPoolExecutor(1, thread_name_prefix="parakeet-vad")


_start_vad_thread()
device.on_fork(_start_vad_thread)


class InputQueue:
    """Passes on audio and requests in order. How the audio is divided into pieces does not matter.

    The endpointers of all sessions run on one thread; everything else runs on the event loop.

    Args:
        on_audio: Called with audio, after the endpointer has processed it.
        on_change: Called with each change that the endpointer finds, between the audio before and
            after it.
        on_error: Called if the endpointer fails; the audio is passed on all the same.
    """

    def __init__(
        self,
        on_audio: Callable[[Samples], None],
        on_change: Callable[[Change], None],
        on_error: Callable[[Exception], None],
    ) -> None:
        self._on_audio = on_audio
        self._on_change = on_change
        self._on_error = on_error
        self._loop = asyncio.get_running_loop()
        self._waiting: deque[Samples | Request] = deque()
        self._in_vad: Samples | None = None  # The piece that the endpointer is processing.
        self._endpointer: Endpointer | None = None
        self._position = 0

    @property
    def endpointer(self) -> Endpointer | None:
        """Finds speech in the audio; None if nothing does."""
        return self._endpointer

    @property
    def position(self) -> int:
        """Samples that have been passed on."""
        return self._position

    def configure(self, endpointing: Endpointing | None) -> None:
        """Find speech in the audio from here on; if None, no longer."""
        if endpointing is None:
            self._endpointer = None
        elif self._endpointer is not None:
            self._endpointer.configure(endpointing)
        else:
            position = self._position + (0 if self._in_vad is None else len(self._in_vad))
            self._endpointer = Endpointer(endpointing, position)

    def put(self, entry: Samples | Request) -> None:
        """Append audio or a request."""
        self._waiting.append(entry)
        self._advance()

    def close(self) -> None:
        """Drop what waits."""
        self._waiting.clear()
        self._in_vad = None

    def _advance(self) -> None:
        while self._waiting and self._in_vad is None:
            first = self._waiting[0]
            if callable(first):
                self._waiting.popleft()
                first()
            elif self._endpointer is None:
                self._waiting.popleft()
                self._pass_on(first)
            else:
                self._in_vad = self._next_piece()
                if self._in_vad is not None:
                    _vad_thread.submit(self._find_changes, self._endpointer, self._in_vad)
                return

    def _next_piece(self) -> Samples | None:
        """Return audio for the endpointer: at least a window, unless a request follows."""
        pieces: list[Samples] = []
        length = 0
        for entry in self._waiting:
            if callable(entry) or length >= _PIECE_SAMPLES:
                break
            pieces.append(entry)
            length += len(entry)
        if length < WINDOW and len(pieces) == len(self._waiting):
            return None
        for _ in pieces:
            self._waiting.popleft()
        return np.concatenate(pieces)

    def _find_changes(self, endpointer: Endpointer, piece: Samples) -> None:
        """Find changes in a piece; on the VAD thread."""
        try:
            changes = endpointer(piece)
        except Exception as error:
            call_soon(self._loop, self._vad_done, endpointer, [], error)
        else:
            call_soon(self._loop, self._vad_done, endpointer, changes, None)

    def _vad_done(
        self, endpointer: Endpointer, changes: list[Change], error: Exception | None
    ) -> None:
        piece, self._in_vad = self._in_vad, None
        if piece is None:
            return  # The queue was closed.
        if error is not None:
            self._on_error(error)
        if endpointer is not self._endpointer:
            changes = []  # The endpointer was replaced.
        for change in changes:
            before = change.noticed - self._position
            self._pass_on(piece[:before])
            piece = piece[before:]
            self._on_change(change)
        self._pass_on(piece)
        self._advance()

    def _pass_on(self, audio: Samples) -> None:
        self._position += len(audio)
        self._on_audio(audio)
