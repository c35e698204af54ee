"""``parakeet-stt demo``: a recording through a real Pipecat pipeline, shown as it is transcribed.

Silero VAD and the service, as in a bot. The packaged recording and the bundled model need neither a
network nor a microphone.
"""

from __future__ import annotations

import argparse
import asyncio
from pathlib import Path

from parakeet_stt.cli import console
from parakeet_stt.cli.arguments import add_model_arguments

RECORDING = Path(__file__).parents[1] / "data" / "demo.flac"
"""The packaged recording: synthetic speech that the bundled model transcribes."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the recording and the model."""
    parser.add_argument(
        "--audio", type=Path, metavar="FILE", help="a recording of yours (with a --model for it)"
    )
    add_model_arguments(parser)
    parser.set_defaults(run=_run, model="tiny")


def _run(arguments: argparse.Namespace) -> int:
    # Pipecat takes seconds to import, and announces itself if it is imported before logging is set
    # up.
    from parakeet_stt import Engine
    from parakeet_stt.audio import SAMPLE_RATE, read_audio
    from parakeet_stt.cli.pipeline import STOP_SECONDS, play
    from parakeet_stt.settings import load_settings

    samples = read_audio(arguments.audio or RECORDING)
    settings = load_settings(
        model=arguments.model,
        backend=arguments.backend,
        device=arguments.device,
        precision=arguments.precision,
    )
    engine = Engine.from_settings(settings)

    async def load_and_play() -> None:
        console.err.print(f"loading {settings.model} ...", style="dim", markup=False)
        model = await engine.start()
        name = arguments.audio or "a packaged recording of synthetic speech"
        console.out.print(
            f"Playing {name} ({len(samples) / SAMPLE_RATE:.0f} s) in real time through a Pipecat "
            f"pipeline: Silero VAD, then ParakeetSTTService with {settings.model} "
            f"({model.encoder.precision} on {model.encoder.device}).\n"
            f"In brackets: the time from the end of speech to the final, of which the VAD waits "
            f"{STOP_SECONDS * 1000:.0f} ms for silence.\n",
            markup=False,
            soft_wrap=True,
        )
        await play(samples, engine)

    asyncio.run(load_and_play())
    return 0
