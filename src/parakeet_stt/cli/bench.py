"""``parakeet-stt bench``: its commands and their arguments.

What a benchmark needs is imported when it is run.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

from rich.console import Console

from parakeet_stt.bench import DIALECTS
from parakeet_stt.cli.arguments import add_model_arguments, needs_extra, settings_of

_out = Console(highlight=False)
_err = Console(stderr=True, highlight=False)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add a command for each benchmark."""
    benches = parser.add_subparsers(required=True, metavar="WHAT")
    command = benches.add_parser(
        "pipecat", help="measure the service in a Pipecat pipeline with a VAD"
    )
    command.add_argument("--limit", type=int, metavar="N", help="maximum utterances of each set")
    _add_bench_arguments(command, _bench_pipecat)
    add_model_arguments(command)

    command = benches.add_parser("server", help="measure a running server under increasing load")
    _add_bench_server_arguments(command)
    _add_bench_arguments(command, _bench_server)


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
    command: argparse.ArgumentParser, run: Callable[[argparse.Namespace], int]
) -> None:
    command.add_argument(
        "--data",
        type=Path,
        metavar="FOLDER",
        help="recordings listed in utterances.jsonl (default: ten that the package contains)",
    )
    command.add_argument("--json", type=Path, metavar="FILE", help="write the figures to a file")
    command.add_argument("--plots", type=Path, metavar="FOLDER", help="draw the figures")
    command.set_defaults(run=run)


def _bench_pipecat(arguments: argparse.Namespace) -> int:
    with needs_extra("bench", "the benchmark"):
        from parakeet_stt.bench.pipecat import run
    return run(
        settings_of(arguments),
        arguments.data,
        arguments.limit,
        arguments.json,
        arguments.plots,
        _err,
    )


def _bench_server(arguments: argparse.Namespace) -> int:
    with needs_extra("bench", "the benchmark"):
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
