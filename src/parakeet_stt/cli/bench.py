"""``parakeet-stt bench``: the benchmarks, which :mod:`parakeet_stt.bench` describes and runs."""

from __future__ import annotations

import argparse

from parakeet_stt.bench.commands import add_benches


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add a command for each benchmark."""
    add_benches(parser)
