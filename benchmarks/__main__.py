"""Run one of our own benchmarks: ``python -m benchmarks NAME``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

from rich.console import Console

from benchmarks import ENGINES, SECTIONS
from parakeet_stt.cli.arguments import add_model_arguments, settings_of
from parakeet_stt.errors import ParakeetError
from parakeet_stt.settings import load_settings

_err = Console(stderr=True, highlight=False)

_DATA = Path(__file__).parents[1] / "tests" / "data"


def main() -> int:
    """Run the benchmark that the command line names; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    names = parser.add_subparsers(required=True, metavar="NAME")

    command = names.add_parser("engine", help="accuracy, cost and latency beside other engines")
    command.add_argument("--engines", nargs="+", choices=ENGINES, default=ENGINES)
    command.add_argument("--sections", nargs="+", choices=SECTIONS, default=SECTIONS)
    command.add_argument("--limit", type=int, metavar="N", help="maximum recordings of each set")
    _add_arguments(command, _engine)
    add_model_arguments(command, "--model")

    command = names.add_parser("boost", help="names found with and without boosting")
    command.add_argument("--limit", type=int, metavar="N", help="maximum recordings of each set")
    _add_arguments(command, _boost, plots=False)
    add_model_arguments(command)

    command = names.add_parser("load", help="number of simultaneous speakers of one process")
    command.add_argument("--seconds", type=float, default=12, help="duration of each step")
    command.add_argument("--frame-ms", type=int, default=100, help="audio sent at a time")
    _add_arguments(command, _load)
    add_model_arguments(command, "--model", "--backend")

    command = names.add_parser("soak", help="memory and cost over an hour in one session")
    command.add_argument("--minutes", type=int, default=60, help="of audio, half of it speech")
    _add_arguments(command, _soak)
    add_model_arguments(command)

    command = names.add_parser("endurance", help="memory and files of a running server")
    command.add_argument("--url", default="ws://localhost:8000/v1/stream")
    command.add_argument("--api-key", metavar="KEY")
    command.add_argument("--drop", type=int, default=500, help="sessions to open and drop")
    command.add_argument("--minutes", type=int, default=30, help="of audio through one session")
    _add_arguments(command, _endurance)

    arguments = parser.parse_args()
    try:
        code: int = arguments.run(arguments)
    except ParakeetError as error:
        _err.print(f"error: {error}", markup=False)
        return 1
    return code


def _add_arguments(
    command: argparse.ArgumentParser,
    run: Callable[[argparse.Namespace], int],
    plots: bool = True,
) -> None:
    command.add_argument("--data", type=Path, default=_DATA, metavar="FOLDER")
    command.add_argument("--json", type=Path, metavar="FILE", help="write the figures to a file")
    if plots:
        command.add_argument("--plots", type=Path, metavar="FOLDER", help="draw the figures")
    command.set_defaults(run=run)


def _engine(arguments: argparse.Namespace) -> int:
    from benchmarks.engine import run

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


def _boost(arguments: argparse.Namespace) -> int:
    from benchmarks.boost import run

    return run(settings_of(arguments), arguments.data, arguments.limit, arguments.json, _err)


def _load(arguments: argparse.Namespace) -> int:
    from benchmarks.load import run

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


def _soak(arguments: argparse.Namespace) -> int:
    from benchmarks.soak import run

    return run(
        settings_of(arguments),
        arguments.data,
        arguments.minutes,
        arguments.json,
        arguments.plots,
        _err,
    )


def _endurance(arguments: argparse.Namespace) -> int:
    from benchmarks.endurance import run

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


if __name__ == "__main__":
    sys.exit(main())
