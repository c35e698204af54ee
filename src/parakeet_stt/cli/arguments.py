"""Arguments that several commands have, and the settings that they give."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from typing import get_args

from parakeet_stt.errors import ConfigurationError
from parakeet_stt.settings import Backend, Device, ParakeetSettings, Precision, load_settings

_MODEL_ARGUMENTS = {
    "--model": {
        "help": "tiny, a known name, a Hugging Face id or a folder (PARAKEET_MODEL)",
    },
    "--backend": {
        "type": str.lower,
        "choices": get_args(Backend),
        "help": "PARAKEET_BACKEND",
    },
    "--device": {
        "type": str.lower,
        "choices": (*get_args(Device), "cuda", "mps"),
        "help": "PARAKEET_DEVICE",
    },
    "--precision": {
        "type": str.lower,
        "choices": get_args(Precision),
        "help": "PARAKEET_PRECISION",
    },
}


def add_model_arguments(command: argparse.ArgumentParser, *names: str) -> None:
    """Add the arguments with these names; all by default."""
    for name in names or _MODEL_ARGUMENTS:
        command.add_argument(name, **_MODEL_ARGUMENTS[name])  # type: ignore[arg-type]


def add_boost_argument(command: argparse.ArgumentParser) -> None:
    """Add ``--boost``."""
    command.add_argument(
        "--boost",
        metavar="PHRASES",
        help="phrases to expect, such as 'Ada Lovelace, Kubernetes:5' (PARAKEET_BOOST)",
    )


def settings_of(arguments: argparse.Namespace) -> ParakeetSettings:
    """Return the settings. Arguments take precedence over the environment."""
    given = vars(arguments)
    return load_settings(**{name: given.get(name) for name in ParakeetSettings.model_fields})


@contextmanager
def needs_extra(name: str, who: str) -> Iterator[None]:
    """Turn an ImportError into an error that names the extra to install."""
    try:
        yield
    except ImportError as error:
        raise ConfigurationError(
            f"{who} needs {error.name}: pip install 'pipecat-parakeet-stt[{name}]'"
        ) from error
