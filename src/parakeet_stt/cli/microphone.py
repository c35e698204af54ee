"""Sources of live audio: the microphone, and a recording in real time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from parakeet_stt.audio import SAMPLE_RATE, Samples, read_audio
from parakeet_stt.engine.vad import WINDOW
from parakeet_stt.errors import AudioError

_ADVICE = "To transcribe a recording as if it were live: --audio FILE"


class Source(Protocol):
    """Live audio."""

    def blocks(self) -> AsyncIterator[Samples]:
        """Return blocks of ``float32 [samples]``, mono, 16 kHz, as time passes."""

    def stop(self) -> None:
        """End the blocks."""


class Microphone:
    """The default microphone. It is opened at once, and records once its blocks are read.

    Raises:
        AudioError: The package or library for microphones is missing, or there is no microphone.
    """

    def __init__(self) -> None:
        try:
            import sounddevice
        except (ImportError, OSError) as error:
            raise AudioError(
                f"the microphone needs the sounddevice package and PortAudio ({error}): pip "
                f"install 'pipecat-parakeet-stt[mic]' (Debian also: apt-get install "
                f"libportaudio2). {_ADVICE}"
            ) from error
        self._queue: asyncio.Queue[Samples | None] = asyncio.Queue()
        self._loop: asyncio.AbstractEventLoop | None = None
        try:
            self._stream = sounddevice.InputStream(
                samplerate=SAMPLE_RATE,
                channels=1,
                dtype="float32",
                blocksize=WINDOW,
                callback=self._receive,
            )
        except sounddevice.PortAudioError as error:
            raise AudioError(f"no microphone can be opened: {error}. {_ADVICE}") from error

    async def blocks(self) -> AsyncIterator[Samples]:
        """Record until :meth:`stop`."""
        self._loop = asyncio.get_running_loop()
        with self._stream:
            while (block := await self._queue.get()) is not None:
                yield block

    def stop(self) -> None:
        """End the blocks, after those that were recorded."""
        self._queue.put_nowait(None)

    def _receive(self, data: np.ndarray[Any, np.dtype[np.float32]], *_: object) -> None:
        assert self._loop is not None
        self._loop.call_soon_threadsafe(self._queue.put_nowait, data[:, 0].copy())


class Recording:
    """A recording, played in real time.

    Args:
        path: The file, which is decoded at once.

    Raises:
        AudioError: There is no such file, or it cannot be decoded.
    """

    def __init__(self, path: Path) -> None:
        self._samples = read_audio(path)
        self._stopped = False

    async def blocks(self) -> AsyncIterator[Samples]:
        """Play to the end, or until :meth:`stop`."""
        loop = asyncio.get_running_loop()
        started = loop.time()
        for start in range(0, len(self._samples), WINDOW):
            if self._stopped:
                return
            yield self._samples[start : start + WINDOW]
            # The clock of real time, not a wait for something to have happened.
            await asyncio.sleep(started + (start + WINDOW) / SAMPLE_RATE - loop.time())

    def stop(self) -> None:
        """End the blocks."""
        self._stopped = True
