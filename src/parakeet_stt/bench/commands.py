"""``parakeet-stt bench``: its commands and their arguments.

What a benchmark needs is imported when it is run.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

from rich.console import Console

from parakeet_stt.bench import DIALECTS, ENGINES, SECTIONS
from parakeet_stt.cli.arguments import add_model_arguments, needs_extra, settings_of
from parakeet_stt.settings import load_settings

_out = Console(highlight=False)
_err = Console(stderr=True, highlight=False)


def add_benches(parser: argparse.ArgumentParser) -> None:
    """Add the benchmarks to ``parakeet-stt bench``."""
    benches = parser.add_subparsers(required=True, metavar="WHAT")
    command = benches.add_parser("engine", help="the engine beside its peers: accuracy, cost, time")
    command.add_argument("--engines", nargs="+", choices=ENGINES, default=ENGINES)
    command.add_argument("--sections", nargs="+", choices=SECTIONS, default=SECTIONS)
    command.add_argument("--limit", type=int, metavar="N", help="so many recordings of each set")
    _add_bench_arguments(command, _bench_engine)
    add_model_arguments(command, "--model")

    command = benches.add_parser("pipecat", help="the service in a real pipeline with a VAD")
    command.add_argument("--limit", type=int, metavar="N", help="so many utterances of each set")
    _add_bench_arguments(command, _bench_pipecat)
    add_model_arguments(command)

    command = benches.add_parser("boost", help="what boosting names gains and what it costs")
    command.add_argument("--limit", type=int, metavar="N", help="so many recordings of each set")
    _add_bench_arguments(command, _bench_boost, plots=False)
    add_model_arguments(command)

    command = benches.add_parser("load", help="how many people one process hears at once, in fp32")
    command.add_argument("--seconds", type=float, default=12, help="of each step's measurement")
    command.add_argument("--frame-ms", type=int, default=100, help="audio that is sent at a time")
    _add_bench_arguments(command, _bench_load)
    add_model_arguments(command, "--model", "--backend")

    command = benches.add_parser("soak", help="memory and cost over an hour in one session")
    command.add_argument("--minutes", type=int, default=60, help="of audio, half of it speech")
    _add_bench_arguments(command, _bench_soak)
    add_model_arguments(command)

    command = benches.add_parser("endurance", help="does a running server leave anything behind?")
    command.add_argument("--url", default="ws://localhost:8000/v1/stream")
    command.add_argument("--api-key", metavar="KEY")
    command.add_argument("--drop", type=int, default=500, help="sessions to open and drop")
    command.add_argument("--minutes", type=int, default=30, help="of audio through one session")
    _add_bench_arguments(command, _bench_endurance)

    command = benches.add_parser("server", help="a running server with ever more people at once")
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
    command: argparse.ArgumentParser,
    run: Callable[[argparse.Namespace], int],
    plots: bool = True,
) -> None:
    command.add_argument("--data", type=Path, default=Path("tests/data"), metavar="FOLDER")
    command.add_argument("--json", type=Path, metavar="FILE", help="write the figures there too")
    if plots:
        command.add_argument("--plots", type=Path, metavar="FOLDER", help="draw the figures there")
    command.set_defaults(run=run)


def _bench_engine(arguments: argparse.Namespace) -> int:
    with needs_extra("bench", "the benchmark"):
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


def _bench_boost(arguments: argparse.Namespace) -> int:
    with needs_extra("bench", "the benchmark"):
        from parakeet_stt.bench.boost import run
    return run(settings_of(arguments), arguments.data, arguments.limit, arguments.json, _err)


def _bench_load(arguments: argparse.Namespace) -> int:
    with needs_extra("bench", "the benchmark"):
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
    with needs_extra("bench", "the benchmark"):
        from parakeet_stt.bench.soak import run
    return run(
        settings_of(arguments),
        arguments.data,
        arguments.minutes,
        arguments.json,
        arguments.plots,
        _err,
    )


def _bench_endurance(arguments: argparse.Namespace) -> int:
    with needs_extra("bench", "the benchmark"):
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
