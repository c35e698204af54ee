"""``parakeet-stt serve``: start the server."""

from __future__ import annotations

import argparse
import asyncio
import os
from pathlib import Path

from parakeet_stt.cli import console
from parakeet_stt.cli.arguments import add_boost_argument, add_model_arguments, needs_extra


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add ports and limits. Every other setting of the server is an environment variable only."""
    parser.add_argument("--host", help="address to listen on (PARAKEET_HOST, default 127.0.0.1)")
    parser.add_argument(
        "--port", type=int, help="port of HTTP and WebSocket (PARAKEET_PORT, default 8000)"
    )
    for name, about in (
        ("ws", "another port with /v1/stream at its root"),
        ("ears", "another port with the protocol of eaRS at its root"),
        ("tcp", "port of /v1/stream as lines of JSON over TCP (parakeet-streaming: 8765)"),
        ("status", "port that reports the number of sessions (parakeet-streaming: 8050)"),
        ("wyoming", "port of Wyoming (Home Assistant: 10300)"),
    ):
        parser.add_argument(f"--{name}-port", type=int, metavar="PORT", help=about)
    for flags, kind, unit, about in (
        (("--max-sessions", "--max-num-streams"), int, "N", "maximum number of streaming clients"),
        (
            ("--max-session-seconds", "--max-stream-seconds"),
            float,
            "S",
            "maximum length of a streaming session",
        ),
        (("--sample-rate",), int, "HZ", "of raw audio, if neither protocol nor client states it"),
        (("--allowed-origins",), str, "URLS", "web pages that may use the server"),
        (("--tls-cert",), Path, "FILE", "certificate (PEM)"),
        (("--tls-key",), Path, "FILE", "private key of the certificate (PEM)"),
    ):
        parser.add_argument(*flags, type=kind, metavar=unit, help=about)
    add_model_arguments(parser)
    add_boost_argument(parser)
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    """Serve until SIGTERM or Ctrl-C."""
    with needs_extra("server", "the server"):
        from parakeet_stt.server.serve import serve
        from parakeet_stt.server.settings import ServerSettings, load_server_settings
    given = vars(arguments)
    names = (name for name in ServerSettings.model_fields if name in given)
    settings = load_server_settings(**{name: given[name] for name in names})
    if not arguments.verbose and not os.getenv("LOG_LEVEL"):
        console.log_to_stderr("INFO")  # The log says where the server listens.
    asyncio.run(serve(settings))
    return 0
