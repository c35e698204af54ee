"""The command line: ``parakeet-stt transcribe | listen | serve | models | doctor | bench``.

An adapter like the others: it reads arguments, calls the library, prints. Errors become one line
and exit code 1.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from loguru import logger
from rich.console import Console
from rich.live import Live
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

import parakeet_stt
from parakeet_stt.bench import DIALECTS, ENGINES, SECTIONS
from parakeet_stt.errors import AudioError, ConfigurationError, ParakeetError
from parakeet_stt.settings import ParakeetSettings, load_settings, variable_name
from parakeet_stt.transcript import Transcript

FORMATS: dict[str, Callable[[Transcript], str]] = {
    "text": lambda transcript: transcript.text,
    "json": Transcript.to_json,
    "srt": Transcript.to_srt,
    "vtt": Transcript.to_vtt,
}

_LONG_FILE_SECONDS = 30.0  # Files from here on get a progress bar.

_out = Console(highlight=False)
_err = Console(stderr=True, highlight=False)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; gives the exit code."""
    parser = _parser()
    arguments = parser.parse_args(argv)
    level = "DEBUG" if arguments.verbose else os.getenv("LOG_LEVEL", "WARNING").upper()
    try:
        _log_to_stderr(level)
    except ValueError:
        parser.error(f"LOG_LEVEL={level!r}: expected DEBUG, INFO, WARNING or ERROR")
    try:
        code: int = arguments.run(arguments)
    except ParakeetError as error:
        _err.print(f"[red]error:[/red] {escape(str(error))}", soft_wrap=True)
        return 1
    except KeyboardInterrupt:
        return 130
    return code


def _log_to_stderr(level: str) -> None:
    logger.remove()
    logger.add(sys.stderr, level=level, format="<level>{level: <7}</level> {message}")
    # A download is worth knowing about whatever the level.
    logger.add(sys.stderr, level="INFO", format="{message}", filter="parakeet_stt.model.hub")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="parakeet-stt", description="Speech-to-text with NVIDIA's Parakeet models."
    )
    parser.add_argument("--version", action="version", version=parakeet_stt.__version__)
    parser.add_argument("-v", "--verbose", action="store_true", help="say what is going on")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    command = commands.add_parser("transcribe", help="write down what recordings say")
    command.add_argument("files", nargs="+", type=Path, metavar="FILE")
    command.add_argument("--format", choices=FORMATS, default="text")
    _add_model_arguments(command)
    _add_boost_argument(command)
    command.set_defaults(run=_transcribe)

    command = commands.add_parser("listen", help="show what is said, as it is said")
    command.add_argument("--audio", type=Path, metavar="FILE", help="a recording, in real time")
    _add_model_arguments(command)
    _add_boost_argument(command)
    command.set_defaults(run=_listen)

    command = commands.add_parser("serve", help="a server that existing clients already speak to")
    _add_server_arguments(command)
    _add_model_arguments(command)
    _add_boost_argument(command)
    command.set_defaults(run=_serve)

    command = commands.add_parser("models", help="list what is bundled, cached and known")
    command.set_defaults(run=_models)

    command = commands.add_parser("doctor", help="say whether this machine is ready")
    command.set_defaults(run=_doctor)

    command = commands.add_parser("bench", help="measure accuracy and latency")
    benches = command.add_subparsers(required=True, metavar="WHAT")
    command = benches.add_parser("engine", help="the engine beside its peers: accuracy, cost, time")
    command.add_argument("--engines", nargs="+", choices=ENGINES, default=ENGINES)
    command.add_argument("--sections", nargs="+", choices=SECTIONS, default=SECTIONS)
    command.add_argument("--limit", type=int, metavar="N", help="so many recordings of each set")
    _add_bench_arguments(command, _bench_engine)
    _add_model_arguments(command, "--model")

    command = benches.add_parser("pipecat", help="the service in a real pipeline with a VAD")
    command.add_argument("--limit", type=int, metavar="N", help="so many utterances of each set")
    _add_bench_arguments(command, _bench_pipecat)
    _add_model_arguments(command)

    command = benches.add_parser("boost", help="what boosting names gains and what it costs")
    command.add_argument("--limit", type=int, metavar="N", help="so many recordings of each set")
    _add_bench_arguments(command, _bench_boost, plots=False)
    _add_model_arguments(command)

    command = benches.add_parser("load", help="how many people one process hears at once, in fp32")
    command.add_argument("--seconds", type=float, default=12, help="of each step's measurement")
    command.add_argument("--frame-ms", type=int, default=100, help="audio that is sent at a time")
    _add_bench_arguments(command, _bench_load)
    _add_model_arguments(command, "--model", "--backend")

    command = benches.add_parser("soak", help="memory and cost over an hour in one session")
    command.add_argument("--minutes", type=int, default=60, help="of audio, half of it speech")
    _add_bench_arguments(command, _bench_soak)
    _add_model_arguments(command)

    command = benches.add_parser("endurance", help="does a running server leave anything behind?")
    command.add_argument("--url", default="ws://localhost:8000/v1/stream")
    command.add_argument("--api-key", metavar="KEY")
    command.add_argument("--drop", type=int, default=500, help="sessions to open and drop")
    command.add_argument("--minutes", type=int, default=30, help="of audio through one session")
    _add_bench_arguments(command, _bench_endurance)

    command = benches.add_parser("server", help="a running server with ever more people at once")
    _add_bench_server_arguments(command)
    _add_bench_arguments(command, _bench_server)
    return parser


def _add_bench_server_arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        *("--url", "--stt-url"),
        default="ws://localhost:8000/ws",
        help="the server's; its path tells the protocol (default: %(default)s)",
    )
    command.add_argument("--dialect", choices=DIALECTS, help="the protocol, whatever the path")
    command.add_argument("--api-key", metavar="KEY")
    command.add_argument(
        "--concurrency",
        default="1,5,10,20,30,40",
        metavar="N,N,...",
        help="how many people speak at once, level by level (default: %(default)s)",
    )
    command.add_argument(
        "--seconds", type=float, default=20, help="of each level, at least (default: %(default)s)"
    )
    command.add_argument("--frame-ms", type=int, default=100, help="audio that is sent at a time")
    command.add_argument(
        "--timeout", type=float, default=30, help="seconds for a connection, and for any answer"
    )
    command.add_argument(
        "--post-wait", type=float, default=30, help="seconds after speech until a final is lost"
    )
    command.add_argument(
        "--tts-url", metavar="URL", help="a TTS service that speaks, instead of recordings"
    )
    command.add_argument("--gpu-id", type=int, metavar="N", help="GPU to watch (default: found)")
    command.add_argument(
        "--output",
        type=Path,
        default=Path("benchmark_results.csv"),
        metavar="FILE",
        help="the figures as CSV (default: %(default)s)",
    )
    command.add_argument("--probe", action="store_true", help="speak once and show every message")
    # Without a default of its own, which would undo a -v before "bench".
    command.add_argument(
        *("-v", "--verbose"),
        action="store_true",
        default=argparse.SUPPRESS,
        help="show every session's messages",
    )


def _add_bench_arguments(
    command: argparse.ArgumentParser,
    run: Callable[[argparse.Namespace], int],
    plots: bool = True,
) -> None:
    command.add_argument("--data", type=Path, default=Path("tests/data"), metavar="FOLDER")
    command.add_argument("--json", type=Path, metavar="FILE", help="write the figures there too")
    if plots:
        command.add_argument("--plots", type=Path, metavar="FOLDER", help="draw the figures there")
    command.set_defaults(run=run)


_MODEL_ARGUMENTS = {
    "--model": {
        "help": "tiny, a known name, a Hugging Face id or a folder (PARAKEET_MODEL)",
    },
    "--backend": {"choices": ("auto", "mlx", "onnx"), "help": "PARAKEET_BACKEND"},
    "--device": {"choices": ("auto", "gpu", "cpu", "cuda", "mps"), "help": "PARAKEET_DEVICE"},
    "--precision": {"choices": ("auto", "bf16", "fp32"), "help": "PARAKEET_PRECISION"},
}


def _add_model_arguments(command: argparse.ArgumentParser, *names: str) -> None:
    """Add the arguments of these names; all by default."""
    for name in names or _MODEL_ARGUMENTS:
        command.add_argument(name, **_MODEL_ARGUMENTS[name])  # type: ignore[arg-type]


def _add_server_arguments(command: argparse.ArgumentParser) -> None:
    """Add the ports and limits; what is not here is an environment variable only."""
    command.add_argument("--host", help="address to listen on (PARAKEET_HOST, 127.0.0.1)")
    command.add_argument("--port", type=int, help="of HTTP and WebSocket (PARAKEET_PORT, 8000)")
    for name, about in (
        ("ws", "another port with /v1/stream at its root"),
        ("ears", "another port with eaRS at its root"),
        ("tcp", "/v1/stream as lines of JSON (system 004: 8765)"),
        ("status", "the number of sessions as a line of JSON (system 004: 8050)"),
        ("wyoming", "Wyoming (Home Assistant: 10300)"),
    ):
        command.add_argument(f"--{name}-port", type=int, metavar="PORT", help=about)
    for flags, kind, about in (
        (("--max-sessions", "--max-num-streams"), int, "streaming clients at a time"),
        (("--max-session-seconds", "--max-stream-seconds"), float, "longest streaming session"),
        (("--sample-rate",), int, "Hz, of raw audio where nothing else says it"),
        (("--allowed-origins",), str, "web pages that may use the server"),
        (("--tls-cert",), Path, "certificate (PEM)"),
        (("--tls-key",), Path, "its private key (PEM)"),
    ):
        command.add_argument(*flags, type=kind, help=about)


def _add_boost_argument(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--boost", metavar="PHRASES", help="'Ada Lovelace, Kubernetes:5' (PARAKEET_BOOST)"
    )


def _settings(arguments: argparse.Namespace) -> ParakeetSettings:
    """The settings, where arguments of the same name win over the environment."""
    given = vars(arguments)
    return load_settings(**{name: given.get(name) for name in ParakeetSettings.model_fields})


def _transcribe(arguments: argparse.Namespace) -> int:
    from parakeet_stt.audio import duration_of
    from parakeet_stt.model.parakeet import load_model

    settings = _settings(arguments)
    for file in arguments.files:
        if not file.is_file():
            raise AudioError(f"no such audio file: {file}")
    model = load_model(
        settings.model,
        backend=settings.backend,
        precision=settings.precision,
        device=settings.device,
    )
    failed = 0
    for file in arguments.files:
        length = duration_of(file)
        bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.completed:.0f} of {task.total:.0f} s"),
            TimeRemainingColumn(),
            console=_err,
            transient=True,
            disable=not _err.is_terminal or (length or 0) < _LONG_FILE_SECONDS,
        )
        try:
            with bar:
                task = bar.add_task(file.name, total=length)
                transcript = model.transcribe(
                    file,
                    settings.context_size,
                    settings.attention_mode,
                    settings.boost,
                    progress=lambda heard, bar=bar, task=task: bar.update(task, completed=heard),  # type: ignore[misc]
                )
        except ParakeetError as error:
            _err.print(f"[red]error:[/red] {escape(str(error))}", soft_wrap=True)
            failed += 1
            continue
        if len(arguments.files) > 1 and arguments.format == "text":
            print(f"{file}: ", end="")
        print(FORMATS[arguments.format](transcript))
    return 1 if failed else 0


def _listen(arguments: argparse.Namespace) -> int:
    from parakeet_stt.listen import listen

    settings = _settings(arguments)
    with Live(console=_out, auto_refresh=False) as live:

        def show(committed: str, tentative: str) -> None:
            live.update(Text.assemble(committed, (tentative, "dim")), refresh=True)

        def keep(transcript: Transcript) -> None:
            live.update(Text(""), refresh=True)
            clock = f"{int(transcript.start // 60):02}:{transcript.start % 60:04.1f}"
            live.console.print(Text.assemble((clock, "cyan"), "  ", transcript.text))

        asyncio.run(listen(settings, arguments.audio, show, keep))
    return 0


def _serve(arguments: argparse.Namespace) -> int:
    with _extra("server", "the server"):
        from parakeet_stt.server.run import serve
        from parakeet_stt.server.settings import ServerSettings, load_server_settings
    given = vars(arguments)
    names = (name for name in ServerSettings.model_fields if name in given)
    settings = load_server_settings(**{name: given[name] for name in names})
    if not arguments.verbose and "LOG_LEVEL" not in os.environ:
        _log_to_stderr("INFO")  # Where it listens is worth a line.
    asyncio.run(serve(settings))
    return 0


def _models(arguments: argparse.Namespace) -> int:
    from parakeet_stt.model.hub import BUNDLED, KNOWN, is_cached

    cache = load_settings().cache_dir
    table = Table("name", "encoder", "here", box=None, pad_edge=False)
    table.add_column("source, or what it knows", overflow="fold")
    for name in BUNDLED:
        table.add_row(name, "mlx, onnx", "bundled", "English, a small vocabulary; for trying")
    for name, known in KNOWN.items():
        sources = [("mlx", known.mlx)] + ([("onnx", known.onnx)] if known.onnx else [])
        table.add_row(name, "", "", known.about)
        for encoder, repository in sources:
            table.add_row("", encoder, "cached" if is_cached(repository, cache) else "", repository)
    _out.print(table)
    _out.print(
        "\nAny other Hugging Face id or folder in parakeet-mlx's or onnx-asr's layout works."
    )
    return 0


def _doctor(arguments: argparse.Namespace) -> int:
    from parakeet_stt.doctor import examine

    healthy = True
    for check in examine():
        mark = {True: "[green]ok[/green]", False: "[red]no[/red]", None: "[yellow]--[/yellow]"}
        _out.print(f"{mark[check.good]}  {check.subject:<12} {check.finding}", soft_wrap=True)
        healthy &= check.good is not False
    changed = [
        f"{variable_name(name)}={os.environ[variable_name(name)]}"
        for name in ParakeetSettings.model_fields
        if variable_name(name) in os.environ
    ]
    _out.print(f"\nset in the environment: {', '.join(changed) or 'nothing'}")
    return 0 if healthy else 1


def _bench_engine(arguments: argparse.Namespace) -> int:
    with _extra("bench", "the benchmark"):
        from parakeet_stt.bench.engine import run
    return run(
        load_settings(model=arguments.model),
        arguments.data,
        arguments.limit,
        arguments.engines,
        arguments.sections,
        arguments.json,
        arguments.plots,
        _err,
    )


def _bench_pipecat(arguments: argparse.Namespace) -> int:
    with _extra("bench", "the benchmark"):
        from parakeet_stt.bench.pipecat import run
    return run(
        _settings(arguments),
        arguments.data,
        arguments.limit,
        arguments.json,
        arguments.plots,
        _err,
    )


def _bench_boost(arguments: argparse.Namespace) -> int:
    with _extra("bench", "the benchmark"):
        from parakeet_stt.bench.boost import run
    return run(_settings(arguments), arguments.data, arguments.limit, arguments.json, _err)


def _bench_load(arguments: argparse.Namespace) -> int:
    with _extra("bench", "the benchmark"):
        from parakeet_stt.bench.load import run
    return run(
        load_settings(model=arguments.model).model,
        arguments.backend,
        arguments.data,
        arguments.seconds,
        arguments.frame_ms,
        arguments.json,
        arguments.plots,
        _err,
    )


def _bench_soak(arguments: argparse.Namespace) -> int:
    with _extra("bench", "the benchmark"):
        from parakeet_stt.bench.soak import run
    return run(
        _settings(arguments),
        arguments.data,
        arguments.minutes,
        arguments.json,
        arguments.plots,
        _err,
    )


def _bench_endurance(arguments: argparse.Namespace) -> int:
    with _extra("bench", "the benchmark"):
        from parakeet_stt.bench.endurance import run
    return run(
        arguments.url,
        arguments.api_key,
        arguments.data,
        arguments.drop,
        arguments.minutes,
        arguments.json,
        arguments.plots,
        _err,
    )


def _bench_server(arguments: argparse.Namespace) -> int:
    with _extra("bench", "the benchmark"):
        from parakeet_stt.bench.server import Options, probe, run
    options = Options(
        url=arguments.url,
        dialect=arguments.dialect,
        key=arguments.api_key,
        concurrency=arguments.concurrency,
        seconds=arguments.seconds,
        frame_ms=arguments.frame_ms,
        timeout=arguments.timeout,
        post_wait=arguments.post_wait,
        data=arguments.data,
        tts_url=arguments.tts_url,
        gpu=arguments.gpu_id,
    )
    if arguments.probe:
        return probe(options, _out)
    return run(options, arguments.output, arguments.json, arguments.plots, _err)


@contextmanager
def _extra(name: str, who: str) -> Iterator[None]:
    """Say which extra is missing."""
    try:
        yield
    except ImportError as error:
        raise ConfigurationError(
            f"{who} needs {error.name}: pip install 'pipecat-parakeet-stt[{name}]'"
        ) from error


if __name__ == "__main__":
    raise SystemExit(main())
