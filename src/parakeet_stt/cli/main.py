"""The command line: ``parakeet-stt transcribe | listen | serve | models | doctor | bench``.

An adapter like the others: it reads arguments, calls the library, prints. Errors become one line
and exit code 1.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

from loguru import logger
from rich.console import Console
from rich.live import Live
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

import parakeet_stt
from parakeet_stt.bench.commands import add_benches
from parakeet_stt.cli.arguments import (
    add_boost_argument,
    add_model_arguments,
    needs_extra,
    settings_of,
)
from parakeet_stt.errors import AudioError, ParakeetError
from parakeet_stt.model import device
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


def entry() -> NoReturn:
    """Run the command line as a process, and end it even while a model is being loaded."""
    code = main()
    if device.native_calls.running:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


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
    logger.add(sys.stderr, level="INFO", format="{message}", filter="parakeet_stt.model.download")


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
    add_model_arguments(command)
    add_boost_argument(command)
    command.set_defaults(run=_transcribe)

    command = commands.add_parser("listen", help="show what is said, as it is said")
    command.add_argument("--audio", type=Path, metavar="FILE", help="a recording, in real time")
    add_model_arguments(command)
    add_boost_argument(command)
    command.set_defaults(run=_listen)

    command = commands.add_parser("serve", help="a server that existing clients already speak to")
    _add_server_arguments(command)
    add_model_arguments(command)
    add_boost_argument(command)
    command.set_defaults(run=_serve)

    command = commands.add_parser("models", help="list what is bundled, cached and known")
    command.set_defaults(run=_models)

    command = commands.add_parser("doctor", help="say whether this machine is ready")
    command.set_defaults(run=_doctor)

    command = commands.add_parser("bench", help="measure accuracy and latency")
    add_benches(command)
    return parser


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
    for flags, kind, unit, about in (
        (("--max-sessions", "--max-num-streams"), int, "N", "streaming clients at a time"),
        (("--max-session-seconds", "--max-stream-seconds"), float, "S", "longest of them"),
        (("--sample-rate",), int, "HZ", "of raw audio where nothing else says it"),
        (("--allowed-origins",), str, "URLS", "web pages that may use the server"),
        (("--tls-cert",), Path, "FILE", "certificate (PEM)"),
        (("--tls-key",), Path, "FILE", "its private key (PEM)"),
    ):
        command.add_argument(*flags, type=kind, metavar=unit, help=about)


def _transcribe(arguments: argparse.Namespace) -> int:
    from parakeet_stt.audio import AudioFile
    from parakeet_stt.model.loading import load_model

    settings = settings_of(arguments)
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
        try:
            length = AudioFile(file).duration()
            bar = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                TextColumn("{task.completed:.0f} of {task.total:.0f} s"),
                TimeRemainingColumn(),
                console=_err,
                transient=True,
                disable=not _err.is_terminal or (length or 0) < _LONG_FILE_SECONDS,
            )
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
    from parakeet_stt.cli.microphone import listen

    settings = settings_of(arguments)
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
    with needs_extra("server", "the server"):
        from parakeet_stt.server.serve import serve
        from parakeet_stt.server.settings import ServerSettings, load_server_settings
    given = vars(arguments)
    names = (name for name in ServerSettings.model_fields if name in given)
    settings = load_server_settings(**{name: given[name] for name in names})
    if not arguments.verbose and "LOG_LEVEL" not in os.environ:
        _log_to_stderr("INFO")  # Where it listens is worth a line.
    asyncio.run(serve(settings))
    return 0


def _models(arguments: argparse.Namespace) -> int:
    from parakeet_stt.model.catalog import BUNDLED, KNOWN
    from parakeet_stt.model.hub import is_cached

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
        "\nNVIDIA's ids (nvidia/parakeet-…) are names of the same models. Any other Hugging Face "
        "id, also owner/name@revision, or folder in parakeet-mlx's or onnx-asr's layout works.",
        soft_wrap=True,
    )
    return 0


def _doctor(arguments: argparse.Namespace) -> int:
    from parakeet_stt.cli.doctor import examine

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
