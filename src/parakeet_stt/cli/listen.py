"""``parakeet-stt listen``: live transcription of the microphone, or of a recording in real time.

A session with endpointing finds the segments. Ctrl-C ends the audio; what was said until then still
gets its final.
"""

from __future__ import annotations

import argparse
import asyncio
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from parakeet_stt import Endpointing, Engine, Final, Hypothesis, Session, SessionOptions
from parakeet_stt.cli import console
from parakeet_stt.cli.arguments import add_boost_argument, add_model_arguments, settings_of
from parakeet_stt.cli.microphone import Microphone, Recording, Source
from parakeet_stt.cli.screen import Screen
from parakeet_stt.engine.events import Failed
from parakeet_stt.model.stream import StreamOptions
from parakeet_stt.settings import ParakeetSettings


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the source of the audio and the model."""
    parser.add_argument(
        "--audio", type=Path, metavar="FILE", help="a recording, in real time, not the microphone"
    )
    add_model_arguments(parser)
    add_boost_argument(parser)
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    settings = settings_of(arguments)
    # Before the model, which may have to be downloaded.
    source = Microphone() if arguments.audio is None else Recording(arguments.audio)
    asyncio.run(_listen(settings, source))
    return 0


async def _listen(settings: ParakeetSettings, source: Source) -> None:
    """Transcribe until the source ends or Ctrl-C.

    Raises:
        ParakeetError: The model cannot be loaded, or a segment cannot be transcribed.
    """
    engine = Engine.from_settings(settings)
    console.err.print(f"loading {settings.model} ...", style="dim", markup=False)
    await engine.check(StreamOptions.from_settings(settings))
    options = replace(SessionOptions.from_settings(settings), endpointing=Endpointing())
    console.err.print("listening; Ctrl-C ends", style="dim")
    with Screen(console.out) as screen, _stopped_by_interrupt(source):
        async with engine.open(options) as session:
            sending = asyncio.create_task(_send(source, session))
            async for event in session:
                match event:
                    case Hypothesis():
                        screen.show(event.committed, event.tentative)
                    case Final() if event.transcript.text:
                        screen.keep(event.transcript.start, event.transcript.text)
                    case Failed():
                        sending.cancel()
                        raise event.error
            await sending


async def _send(source: Source, session: Session) -> None:
    """Send a source's audio to the session."""
    try:
        async for block in source.blocks():
            session.send(block)
        await session.finish()
    finally:
        session.abort()


@contextmanager
def _stopped_by_interrupt(source: Source) -> Iterator[None]:
    """Let Ctrl-C stop the source. A second one ends the program."""
    loop = asyncio.get_running_loop()
    default = signal.getsignal(signal.SIGINT)

    def stop(*_: object) -> None:
        signal.signal(signal.SIGINT, default)
        loop.call_soon_threadsafe(source.stop)

    signal.signal(signal.SIGINT, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, default)
