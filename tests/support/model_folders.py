"""Copies of model folders, and changes to their configurations."""

from __future__ import annotations

import json
import shutil
from pathlib import Path


def copy_of(folder: Path, to: Path) -> Path:
    return Path(shutil.copytree(folder, to))


def changed(folder: Path, key: str, value: object) -> Path:
    """The folder with one key of its configuration set to another value; None removes it."""
    path = folder / "config.json"
    config = json.loads(path.read_text())
    place = config
    *parents, last = key.split(".")
    for parent in parents:
        place = place[parent]
    if value is None:
        del place[last]
    else:
        place[last] = value
    path.write_text(json.dumps(config))
    return folder
