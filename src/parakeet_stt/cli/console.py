"""What the commands print with: output, messages, log lines and errors."""

from __future__ import annotations

import io
import os
import sys

from loguru import logger
from rich.console import Console
from rich.markup import escape

from parakeet_stt.errors import ParakeetError


class _Console(Console):
    """A console whose broken pipe is an exception, as that of :func:`print` is."""

    def on_broken_pipe(self) -> None:
        """Raise the error that is being handled; Rich would exit with code 1."""
        raise


out = _Console(highlight=False)
"""Standard output: results."""

err = Console(stderr=True, highlight=False)
"""Standard error: progress, messages and errors."""


def log_to_stderr(level: str) -> None:
    """Write log lines of at least this level to stderr, and downloads at any level.

    Raises:
        ValueError: There is no such level.
    """
    logger.remove()
    logger.add(sys.stderr, level=level, format="<level>{level: <7}</level> {message}")
    # A download takes minutes: the user should see it.
    logger.add(sys.stderr, level="INFO", format="{message}", filter="parakeet_stt.model.download")


def report(error: ParakeetError) -> None:
    """Print an error as one line."""
    err.print(f"[red]error:[/red] {escape(str(error))}", soft_wrap=True)


def accept_every_character() -> None:
    """Let output contain file names that are not UTF-8, and characters that the encoding lacks.

    The first are written as the bytes that they are, the second as question marks.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            utf8 = stream.encoding.lower().replace("-", "") == "utf8"
            stream.reconfigure(errors="surrogateescape" if utf8 else "replace")


def flush() -> None:
    """Write what standard output has buffered."""
    if sys.stdout is not None:  # It is None if the process started with a closed one.
        sys.stdout.flush()


def drop_output() -> None:
    """Discard what standard output has buffered: Python would try to write it at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
