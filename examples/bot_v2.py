"""A voice bot that hears with Parakeet, on this machine.

    uv run examples/bot_v2.py --audio samples/conversation.flac
        plays a recording into the bot and shows what it hears; needs nothing else

    uv run --with "pipecat-ai[runner,webrtc]" examples/bot_v2.py
        serves the bot to a browser, through Pipecat's runner

The speech-to-text is chosen by STT_BACKEND (parakeet-mlx, whisper, whisper-mlx, moonshine). With
LLM_BASE_URL and LLM_MODEL (Ollama, LM Studio, any OpenAI-compatible server) and TTS_BACKEND
(kokoro or piper) the bot answers; without them it transcribes.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import time
from pathlib import Path

from loguru import logger
from pipecat.audio.vad.silero import SileroVADAnalyzer
from pipecat.frames.frames import (
    EndFrame,
    Frame,
    InterimTranscriptionFrame,
    LLMRunFrame,
    TranscriptionFrame,
    VADUserStoppedSpeakingFrame,
)
from pipecat.pipeline.pipeline import Pipeline
from pipecat.pipeline.worker import PipelineParams, PipelineWorker, ProcessorUnusablePolicy
from pipecat.processors.aggregators.llm_context import LLMContext
from pipecat.processors.aggregators.llm_response_universal import (
    LLMContextAggregatorPair,
    LLMUserAggregatorParams,
)
from pipecat.processors.frame_processor import FrameDirection, FrameProcessor
from pipecat.runner.types import RunnerArguments
from pipecat.transports.base_transport import BaseTransport, TransportParams
from pipecat.workers.runner import WorkerRunner

import parakeet_stt  # First: it loads a fast BLAS for MLX before anybody imports mlx.

STT_BACKENDS = ("parakeet-mlx", "whisper", "whisper-mlx", "moonshine")
SETUP_SECONDS = 120  # A first download takes longer than Pipecat's default patience of 20 s.
TURN_SECONDS = 5.0  # After a recording, how long the last turn may take to end.

PROMPT = "You are a friendly voice assistant. Answer in one or two short sentences, without lists."


class Screen(FrameProcessor):
    """Shows what is heard: interims as they change, finals with the time they took, turns."""

    def __init__(self) -> None:
        super().__init__()
        self._live = sys.stdout.isatty()
        self._speech_end = 0.0

    async def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
        await super().process_frame(frame, direction)
        match frame:
            case VADUserStoppedSpeakingFrame():
                self._speech_end = frame.timestamp - frame.stop_secs
            case InterimTranscriptionFrame():
                self._show(f"    ... {frame.text}", final=False)
            case TranscriptionFrame():
                late = (time.time() - self._speech_end) * 1000
                self._show(f"  heard {frame.text} [{late:.0f} ms]")
        await self.push_frame(frame, direction)

    def turn(self, text: str) -> None:
        self._show(text)

    def _show(self, text: str, final: bool = True) -> None:
        if self._live:
            width = os.get_terminal_size().columns
            shown = text if final or len(text) < width else "    ... " + text[-(width - 9) :]
            print(f"\r\033[K{shown}", end="\n" if final else "", flush=True)
        else:
            print(text, flush=True)


def create_stt(model: str | None) -> FrameProcessor:
    """The speech-to-text service that STT_BACKEND names."""
    backend = os.getenv("STT_BACKEND", "parakeet-mlx")
    match backend:
        case "parakeet-mlx":
            service = parakeet_stt.ParakeetMLXSTTService
            return service(settings=service.Settings(model=model) if model else None)
        case "whisper":
            from pipecat.services.whisper.stt import WhisperSTTService

            return WhisperSTTService()
        case "whisper-mlx":
            from pipecat.services.whisper.stt import WhisperSTTServiceMLX

            return WhisperSTTServiceMLX()
        case "moonshine":
            from pipecat.services.moonshine.stt import MoonshineSTTService

            return MoonshineSTTService()
    raise SystemExit(f"STT_BACKEND={backend!r}: expected one of {', '.join(STT_BACKENDS)}")


def create_llm() -> FrameProcessor | None:
    """A local language model, where one is configured."""
    url = os.getenv("LLM_BASE_URL")
    if not url:
        return None
    from pipecat.services.openai.llm import OpenAILLMService

    return OpenAILLMService(
        base_url=url,
        api_key=os.getenv("LLM_API_KEY", "not needed"),
        settings=OpenAILLMService.Settings(model=os.getenv("LLM_MODEL", "llama3.2")),
    )


def create_tts() -> FrameProcessor | None:
    """A local voice, where one is configured."""
    match os.getenv("TTS_BACKEND"):
        case None | "":
            return None
        case "kokoro":
            from pipecat.services.kokoro.tts import KokoroTTSService

            return KokoroTTSService(settings=KokoroTTSService.Settings(voice="af_heart"))
        case "piper":
            from pipecat.services.piper.tts import PiperTTSService

            voice = os.getenv("PIPER_VOICE", "en_US-ryan-high")
            return PiperTTSService(settings=PiperTTSService.Settings(voice=voice))
        case other:
            raise SystemExit(f"TTS_BACKEND={other!r}: expected kokoro or piper")


def build(
    source: FrameProcessor, sink: FrameProcessor | None, model: str | None
) -> tuple[PipelineWorker, Screen, asyncio.Event]:
    """Put the bot together between a source of audio and, where it can talk, a sink.

    Returns:
        The worker, the screen, and an event that is set while no turn is open.
    """
    screen, quiet = Screen(), asyncio.Event()
    quiet.set()
    context = LLMContext(messages=[{"role": "system", "content": PROMPT}])
    user, assistant = LLMContextAggregatorPair(
        context, user_params=LLMUserAggregatorParams(vad_analyzer=SileroVADAnalyzer())
    )
    llm, tts = create_llm(), create_tts() if sink else None
    if sink and not (llm and tts):
        missing = [n for n, s in (("LLM_BASE_URL", llm), ("TTS_BACKEND", tts)) if not s]
        print(f"not set: {' and '.join(missing)}; the bot transcribes and does not answer")
    answer = [llm, tts, sink] if sink and llm and tts else []
    worker = PipelineWorker(
        Pipeline([source, create_stt(model), screen, user, *answer, assistant]),
        params=PipelineParams(enable_metrics=True),
        processor_unusable_policy=ProcessorUnusablePolicy.END,
        setup_timeout_secs=SETUP_SECONDS,
    )

    @user.event_handler("on_user_turn_started")
    async def turn_started(*_: object) -> None:
        quiet.clear()
        screen.turn("- turn begins")

    @user.event_handler("on_user_turn_stopped")
    async def turn_stopped(_: object, __: object, message: object) -> None:
        screen.turn(f"- turn ends: {getattr(message, 'content', '')}\n")
        quiet.set()

    return worker, screen, quiet


async def play(path: Path, model: str) -> int:
    """Play a recording into the bot, in real time; gives the process's exit code."""
    from parakeet_stt.audio import read_audio
    from parakeet_stt.player import Player

    player = Player(await asyncio.to_thread(read_audio, path))
    print(f"{path}, in real time; behind each final: its time from the end of speech\n", flush=True)
    worker, _, quiet = build(player, None, model)
    failures: list[str] = []

    @worker.event_handler("on_pipeline_error")
    async def failed(_: object, frame: object) -> None:
        failures.append(str(getattr(frame, "error", frame)))

    async def end_after_the_recording() -> None:
        await player.played.wait()
        try:
            async with asyncio.timeout(TURN_SECONDS):
                await quiet.wait()
        except TimeoutError:
            logger.debug("the last turn did not end by itself")
        await worker.queue_frame(EndFrame())

    runner = WorkerRunner()
    await runner.add_workers(worker)
    ending = asyncio.create_task(end_after_the_recording())
    await runner.run()
    ending.cancel()
    for failure in failures:
        print(f"error: {failure}", file=sys.stderr)
    return 1 if failures else 0


async def run_bot(transport: BaseTransport, arguments: RunnerArguments) -> None:
    """Run the bot on a live transport until the client leaves."""
    worker, _, _ = build(transport.input(), transport.output(), arguments.cli_args.model)

    @transport.event_handler("on_client_connected")
    async def connected(*_: object) -> None:
        await worker.queue_frames([LLMRunFrame()])

    runner = WorkerRunner(handle_sigint=arguments.handle_sigint)

    @transport.event_handler("on_client_disconnected")
    async def disconnected(*_: object) -> None:
        await runner.cancel()

    await runner.add_workers(worker)
    await runner.run()


async def bot(runner_args: RunnerArguments) -> None:
    """Pipecat's runner starts a bot here, for each client."""
    from pipecat.runner.utils import create_transport

    audio = TransportParams(audio_in_enabled=True, audio_out_enabled=True)
    transport = await create_transport(runner_args, {"webrtc": lambda: audio})
    await run_bot(transport, runner_args)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--audio", type=Path, metavar="FILE", help="a recording to play to the bot")
    parser.add_argument(
        "--model",
        help="tiny, a known name, a Hugging Face id or a folder (PARAKEET_MODEL)",
    )
    known, _ = parser.parse_known_args()
    logger.remove()
    logger.add(sys.stderr, level=os.getenv("LOG_LEVEL", "WARNING").upper())
    if known.audio:
        arguments = parser.parse_args()
        # A recording is for trying things out, and needs no download.
        model = arguments.model or os.getenv("PARAKEET_MODEL") or "tiny"
        try:
            raise SystemExit(asyncio.run(play(arguments.audio, model)))
        except parakeet_stt.ParakeetError as error:
            raise SystemExit(f"error: {error}") from None
    try:
        from pipecat.runner.run import main as serve
    except ImportError:
        raise SystemExit(
            "a live bot needs Pipecat's runner: uv run --with 'pipecat-ai[runner,webrtc]' "
            "examples/bot_v2.py; or play a recording: --audio samples/conversation.flac"
        ) from None
    logger.add(sys.stderr, level="INFO", filter="parakeet_stt")
    serve(parser)


if __name__ == "__main__":
    main()
