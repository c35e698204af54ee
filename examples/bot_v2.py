"""A voice bot that transcribes with Parakeet, on this machine.

    uv run examples/bot_v2.py --audio samples/conversation.flac
        plays a recording into the bot and shows transcripts; needs nothing else

    uv run --with "pipecat-ai[runner,webrtc]" examples/bot_v2.py
        serves the bot to a browser, through Pipecat's runner

    uv run --with "pipecat-ai[runner]" examples/bot_v2.py -t twilio -x bot.example.com
        serves the bot to telephone calls (twilio, telnyx, plivo or exotel)

STT_BACKEND selects the speech-to-text (parakeet-mlx, whisper, whisper-mlx, moonshine). If
LLM_BASE_URL and LLM_MODEL (Ollama, LM Studio, any OpenAI-compatible server) and TTS_BACKEND
(kokoro or piper) are set, the bot answers; otherwise it only transcribes. The bot reads variables
from a .env file in the current folder or above it, too. As in Pipecat's runner, the file takes
precedence over the environment.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib
import os
import sys
import time
from pathlib import Path
from types import ModuleType

from dotenv import find_dotenv, load_dotenv
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

load_dotenv(find_dotenv(usecwd=True), override=True)  # Before parakeet_stt reads PARAKEET_BLAS.
import parakeet_stt  # noqa: E402  (before anything imports mlx, so that mlx gets a fast BLAS)

STT_BACKENDS = ("parakeet-mlx", "whisper", "whisper-mlx", "moonshine")
SETUP_SECONDS = 120  # A first download takes longer than Pipecat's default timeout of 20 s.
TURN_SECONDS = 5.0  # Maximum time for the last turn to end after a recording.

# Variables that Pipecat needs for a provider, for example to end a call.
TELEPHONY = {
    "twilio": ("TWILIO_ACCOUNT_SID", "TWILIO_AUTH_TOKEN"),
    "telnyx": ("TELNYX_API_KEY",),
    "plivo": ("PLIVO_AUTH_ID", "PLIVO_AUTH_TOKEN"),
    "exotel": (),
}

PROMPT = "You are a friendly voice assistant. Answer in one or two short sentences, without lists."


class Screen(FrameProcessor):
    """Prints interims as they change, finals with their latency, and turns."""

    def __init__(self) -> None:
        super().__init__()
        self._live = sys.stdout.isatty()
        self._speech_end = 0.0
        self.finals = 0

    async def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
        await super().process_frame(frame, direction)
        match frame:
            case VADUserStoppedSpeakingFrame():
                self._speech_end = frame.timestamp - frame.stop_secs
            case InterimTranscriptionFrame():
                self._show(f"    ... {frame.text}", final=False)
            case TranscriptionFrame():
                self.finals += 1
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


def load(module: str, extra: str, setting: str) -> ModuleType:
    """Import a module that needs an extra of Pipecat; exit with a message if it is missing."""
    logger.disable("pipecat")  # Pipecat logs the same error in several lines.
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise SystemExit(
            f"error: {setting} needs pipecat-ai[{extra}], which is not installed ({error}): "
            f'uv run --with "pipecat-ai[{extra}]" examples/bot_v2.py ...'
        ) from None
    finally:
        logger.enable("pipecat")


def create_stt(model: str | None) -> FrameProcessor:
    """Create the speech-to-text service that STT_BACKEND selects."""
    backend = os.getenv("STT_BACKEND") or "parakeet-mlx"
    setting = f"STT_BACKEND={backend}"
    match backend:
        case "parakeet-mlx":
            service = parakeet_stt.ParakeetSTTService
            return service(settings=service.Settings(model=model) if model else None)
        case "whisper":
            return load("pipecat.services.whisper.stt", "whisper", setting).WhisperSTTService()
        case "whisper-mlx":
            load("mlx_whisper", "mlx-whisper", setting)
            services = load("pipecat.services.whisper.stt", "whisper,mlx-whisper", setting)
            return services.WhisperSTTServiceMLX()
        case "moonshine":
            return load(
                "pipecat.services.moonshine.stt", "moonshine", setting
            ).MoonshineSTTService()
    raise SystemExit(f"STT_BACKEND={backend!r}: expected one of {', '.join(STT_BACKENDS)}")


def create_llm() -> FrameProcessor | None:
    """Create the language model service, if LLM_BASE_URL is set."""
    url = os.getenv("LLM_BASE_URL")
    if not url:
        return None
    service = load("pipecat.services.openai.llm", "openai", "LLM_BASE_URL").OpenAILLMService
    return service(
        base_url=url,
        api_key=os.getenv("LLM_API_KEY") or "not needed",
        settings=service.Settings(model=os.getenv("LLM_MODEL") or "llama3.2"),
    )


def create_tts() -> FrameProcessor | None:
    """Create the voice service, if TTS_BACKEND is set."""
    match os.getenv("TTS_BACKEND"):
        case None | "":
            return None
        case "kokoro":
            module = load("pipecat.services.kokoro.tts", "kokoro", "TTS_BACKEND=kokoro")
            service, voice = module.KokoroTTSService, "af_heart"
        case "piper":
            module = load("pipecat.services.piper.tts", "piper", "TTS_BACKEND=piper")
            service, voice = module.PiperTTSService, os.getenv("PIPER_VOICE") or "en_US-ryan-high"
        case other:
            raise SystemExit(f"TTS_BACKEND={other!r}: expected kokoro or piper")
    return service(settings=service.Settings(voice=voice))


def build(
    source: FrameProcessor, sink: FrameProcessor | None, model: str | None
) -> tuple[PipelineWorker, Screen, asyncio.Event]:
    """Build the bot's pipeline.

    Args:
        source: Input of audio.
        sink: Output of audio; None if the bot cannot answer.
        model: Model of the Parakeet service; None for PARAKEET_MODEL.

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
    """Play a recording into the bot, in real time; return the exit code."""
    from parakeet_stt.audio import read_audio
    from parakeet_stt.pipecat.player import Player

    player = Player(await asyncio.to_thread(read_audio, path))
    worker, screen, quiet = build(player, None, model)
    print(
        f"{path}, in real time; after each final: its latency from the end of speech\n", flush=True
    )
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
    if not failures and not screen.finals:
        print(f"nothing was transcribed: no words were found in {path}")
    return 1 if failures else 0


async def run_bot(transport: BaseTransport, arguments: RunnerArguments) -> None:
    """Run the bot on a live transport until the client disconnects."""
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
    """Entry point of Pipecat's runner, called for each client."""
    from pipecat.runner.utils import create_transport

    def telephone() -> TransportParams:
        from pipecat.transports.websocket.fastapi import FastAPIWebsocketParams

        return FastAPIWebsocketParams(audio_in_enabled=True, audio_out_enabled=True)

    def browser() -> TransportParams:
        return TransportParams(audio_in_enabled=True, audio_out_enabled=True)

    transports = {"webrtc": browser, **dict.fromkeys(TELEPHONY, telephone)}
    await run_bot(await create_transport(runner_args, transports), runner_args)


def check(transport: str, proxy: str | None, model: str | None) -> None:
    """Exit with a message, before the bot announces that it is ready, if it could not take a call.

    Raises:
        ParakeetError: The model cannot be loaded.
    """
    if transport == "webrtc":
        load("pipecat.transports.smallwebrtc.transport", "runner,webrtc", "-t webrtc")
    elif transport in TELEPHONY:
        missing = [name for name in TELEPHONY[transport] if not os.getenv(name)]
        if transport != "exotel" and not proxy:
            missing.append("-x HOST (the name under which the provider reaches this bot)")
        if missing:
            raise SystemExit(f"error: -t {transport} needs {', '.join(missing)}")
    else:
        expected = ", ".join(("webrtc", *TELEPHONY))
        raise SystemExit(f"error: -t {transport}: this bot has {expected}")
    if isinstance(create_stt(model), parakeet_stt.ParakeetSTTService):
        parakeet_stt.load_model(model)  # All clients share it.
    create_llm()
    create_tts()


def main() -> None:
    """Run the command line."""
    options = argparse.ArgumentParser(add_help=False)
    options.add_argument(
        "--audio", type=Path, metavar="FILE", help="recording to play into the bot"
    )
    options.add_argument(
        "--model",
        help="tiny, a known name, a Hugging Face id or a folder (PARAKEET_MODEL)",
    )
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        parents=[options],
    )
    # The runner adds its own options to the parser, and shows all of them with --help.
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False, parents=[options])
    first.add_argument("-h", "--help", action="store_true")
    first.add_argument("-t", "--transport")
    first.add_argument("-x", "--proxy")
    known, _ = first.parse_known_args()
    logger.remove()
    logger.add(sys.stderr, level=(os.getenv("LOG_LEVEL") or "WARNING").upper())
    try:
        if known.audio and not known.help:
            arguments = parser.parse_args()
            # Without a download, so that a recording works at once.
            model = arguments.model or os.getenv("PARAKEET_MODEL") or "tiny"
            raise SystemExit(asyncio.run(play(arguments.audio, model)))
        try:
            from pipecat.runner.run import main as serve
        except ImportError:
            parser.parse_args()
            raise SystemExit(
                "a live bot needs Pipecat's runner: uv run --with 'pipecat-ai[runner,webrtc]' "
                "examples/bot_v2.py; or play a recording: --audio samples/conversation.flac"
            ) from None
        if not known.help:
            logger.add(sys.stderr, level="INFO", filter="parakeet_stt")
            if known.transport is None:
                known.transport = "webrtc"
                sys.argv[1:1] = ["-t", "webrtc"]  # Otherwise the runner announces every transport.
            check(known.transport, known.proxy, known.model)
    except parakeet_stt.ParakeetError as error:
        raise SystemExit(f"error: {error}") from None
    serve(parser)


if __name__ == "__main__":
    main()
