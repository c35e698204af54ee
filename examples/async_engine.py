"""Transcribe several recordings at the same time, in sessions that share one model.

uv run examples/async_engine.py samples/dictation.flac samples/spelling.flac
"""

import asyncio
import sys

import soundfile

from parakeet_stt import Engine, Final, Hypothesis, Session


async def transcribe(engine: Engine, path: str) -> None:
    async with engine.open() as session:
        session.start_segment()
        sending = asyncio.create_task(send(session, path))
        async for event in session:
            match event:
                case Hypothesis():
                    print(f"{path} ... {event.text}")
                case Final():
                    print(f"{path}: {event.transcript.text}")
        await sending


async def send(session: Session, path: str) -> None:
    for block in soundfile.blocks(path, 1_600, dtype="float32"):  # Mono, 16 kHz.
        session.send(block)
        await asyncio.sleep(0.02)  # Five times as fast as real time.
    await session.finish()


async def main(paths: list[str]) -> None:
    engine = Engine("tiny")  # For example: Engine("parakeet-tdt-0.6b-v2")
    await asyncio.gather(*(transcribe(engine, path) for path in paths))


asyncio.run(main(sys.argv[1:]))
