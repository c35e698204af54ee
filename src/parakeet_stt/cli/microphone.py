"""Live transcription of a microphone or of a recording in real time.

Reads audio, sends it to a session that a Silero VAD opens and flushes, and calls back with what is
heard.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

from parakeet_stt.audio import SAMPLE_RATE, Samples, read_audio
from parakeet_stt.engine.engine import Engine
from parakeet_stt.engine.events import Failed, Final
from parakeet_stt.engine.options import SessionOptions
from parakeet_stt.engine.session import Session
from parakeet_stt.engine.vad import WINDOW, Endpointing
from parakeet_stt.errors import AudioError
from parakeet_stt.settings import ParakeetSettings
from parakeet_stt.transcript import Hypothesis, Transcript


async def listen(
    settings: ParakeetSettings,
    recording: Path | None,
    show: Callable[[str, str], None],
    keep: Callable[[Transcript], None],
) -> None:
    """Listen until the recording ends, or until cancelled.

    Args:
        settings: Model and options.
        recording: A file to play in real time; the default microphone if None.
        show: Called with the committed text and what follows it, as they change.
        keep: Called with each final that holds text.

    Raises:
        ParakeetError: The model cannot be loaded, or there is nothing to hear with.
    """
    blocks = _microphone() if recording is None else _recording(recording)
    engine = Engine.from_settings(settings)
    await engine.start()
    options = replace(SessionOptions.from_settings(settings), endpointing=Endpointing())
    async with engine.open(options) as session:
        reading = asyncio.create_task(_read(blocks, session))
        async for event in session:
            match event:
                case Hypothesis():
                    show(event.committed, event.text[len(event.committed) :])
                case Final() if event.transcript.text:
                    keep(event.transcript)
                case Failed():
                    reading.cancel()
                    raise event.error
        await reading


async def _read(blocks: AsyncIterator[Samples], session: Session) -> None:
    """Send audio to the session."""
    try:
        async for block in blocks:
            session.send(block)
        await session.finish()
    finally:
        session.abort()


async def _recording(path: Path) -> AsyncIterator[Samples]:
    samples = await asyncio.to_thread(read_audio, path)
    loop = asyncio.get_running_loop()
    begun = loop.time()
    for start in range(0, len(samples), WINDOW):
        yield samples[start : start + WINDOW]
        # The clock of real time, not a wait for something to have happened.
        await asyncio.sleep(begun + (start + WINDOW) / SAMPLE_RATE - loop.time())


async def _microphone() -> AsyncIterator[Samples]:
    try:
        import sounddevice
    except (ImportError, OSError) as error:
        raise AudioError(
            f"a microphone needs the sounddevice package and PortAudio ({error}): pip install "
            f"'pipecat-parakeet-stt[mic]' (Debian also: apt-get install libportaudio2); or hear a "
            f"recording: --audio FILE"
        ) from error
    loop = asyncio.get_running_loop()
    queue: asyncio.Queue[Samples] = asyncio.Queue()

    def heard(data: np.ndarray[tuple[int, int], np.dtype[np.float32]], *_: object) -> None:
        loop.call_soon_threadsafe(queue.put_nowait, data[:, 0].copy())

    try:
        stream = sounddevice.InputStream(
            samplerate=SAMPLE_RATE, channels=1, dtype="float32", blocksize=WINDOW, callback=heard
        )
    except sounddevice.PortAudioError as error:
        raise AudioError(
            f"no microphone can be opened: {error}. Hear a recording: --audio FILE"
        ) from error
    with stream:
        while True:
            yield await queue.get()
