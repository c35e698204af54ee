"""The command line: its parser and what all commands share.

A command is a module of this package with a function ``add_arguments(parser)``, which also sets
``run`` to the function that runs it. It is imported when the command is used, so that
``parakeet-stt --help`` imports nothing else.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Any, NoReturn

from parakeet_stt.errors import ParakeetError

COMMANDS = {
    "demo": "play a recording through a Pipecat pipeline",
    "transcribe": "transcribe audio files",
    "listen": "transcribe the microphone live",
    "serve": "start a server for existing speech-to-text clients",
    "models": "list models: which to use, what they need, which are cached",
    "doctor": "check this installation",
    "bench": "measure accuracy and latency",
}
"""Every command, which is a module of this package, and its line in ``--help``."""

_INTERRUPTED = 130  # 128 + SIGINT, as a shell reports it.
_BROKEN_PIPE = 141  # 128 + SIGPIPE.


def entry() -> NoReturn:
    """Run the command line as a process. The process ends even while a model is being loaded."""
    code = main()
    from parakeet_stt.model import device

    if device.native_calls.running:
        os._exit(code)
    sys.exit(code)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit code. An error is one line on stderr and code 1."""
    parser = _parser()
    arguments = parser.parse_args(argv)
    from parakeet_stt.cli import console

    level = "DEBUG" if arguments.verbose else (os.getenv("LOG_LEVEL") or "WARNING").upper()
    try:
        console.log_to_stderr(level)
    except ValueError:
        parser.error(f"LOG_LEVEL={level!r}: expected DEBUG, INFO, WARNING or ERROR")
    console.accept_every_character()
    try:
        code: int = arguments.run(arguments)
        console.flush()
    except ParakeetError as error:
        console.report(error)
        code = 1
    except KeyboardInterrupt:
        code = _INTERRUPTED
    except BrokenPipeError:  # The reader, such as `head`, has what it wanted.
        console.drop_output()
        return _BROKEN_PIPE
    return code


class _Parser(argparse.ArgumentParser):
    """A parser of a command or of a part of it, which takes ``-v`` as the whole command line does.

    Args:
        command: The module that adds the arguments, imported when the parser is first used.
        **kwargs: Arguments of :class:`argparse.ArgumentParser`.
    """

    def __init__(self, *, command: str | None = None, **kwargs: Any) -> None:
        # A command may describe its own `--verbose`.
        super().__init__(conflict_handler="resolve", **kwargs)
        self._command = command
        self.add_argument(
            *("-v", "--verbose"),
            action="store_true",
            default=argparse.SUPPRESS,  # False would undo a -v in front of the command.
            help="show what is happening",
        )

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Add the command's arguments, then parse."""
        if self._command is not None:
            module = import_module(f"parakeet_stt.cli.{self._command}")
            self._command = None
            module.add_arguments(self)
        return super().parse_known_args(args, namespace)


class _Version(argparse.Action):
    """Prints the version, which takes a while to look up."""

    def __call__(self, *_: Any) -> NoReturn:
        import parakeet_stt

        print(parakeet_stt.__version__)
        raise SystemExit(0)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="parakeet-stt", description="Speech-to-text with NVIDIA's Parakeet models."
    )
    parser.add_argument("--version", action=_Version, nargs=0, help="show the version and exit")
    parser.add_argument("-v", "--verbose", action="store_true", help="show what is happening")
    commands = parser.add_subparsers(required=True, metavar="COMMAND", parser_class=_Parser)
    for name, about in COMMANDS.items():
        commands.add_parser(name, help=about, description=f"{about.capitalize()}.", command=name)
    return parser
