"""Measure conditions with this source and with that of an earlier commit, one after the other.

``python -m benchmarks.conditions recognition --baseline HEAD~1 --json-dir docs [-- ARGUMENTS]``
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).parents[2]
NAMES = sorted(
    path.stem
    for path in Path(__file__).parent.glob("*.py")
    if "def main()" in path.read_text(encoding="utf-8") and not path.stem.startswith("_")
)


def main() -> None:
    """Run what the command line names."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.conditions", description=__doc__)
    parser.add_argument("names", nargs="+", choices=NAMES, metavar="NAME", help=", ".join(NAMES))
    parser.add_argument("--baseline", metavar="COMMIT", help="measure this commit's source first")
    parser.add_argument("--json-dir", type=Path, help="write bench-NAME.json and so on to a folder")
    given = sys.argv[1:]
    split = given.index("--") if "--" in given else len(given)
    arguments = parser.parse_args(given[:split])
    for name in arguments.names:
        if arguments.baseline:
            with source_of(arguments.baseline) as source:
                print(f"\n## {name}, {arguments.baseline}", flush=True)
                measure(name, source, "baseline-", arguments.json_dir, given[split + 1 :])
        print(f"\n## {name}", flush=True)
        measure(name, ROOT / "src", "", arguments.json_dir, given[split + 1 :])


def measure(name: str, source: Path, prefix: str, folder: Path | None, rest: list[str]) -> None:
    """Run one module in a process that imports ``parakeet_stt`` from ``source``."""
    command = [sys.executable, "-m", f"benchmarks.conditions.{name}", *rest]
    if folder is not None:
        command += ["--json", str(folder.absolute() / f"bench-{prefix}{name}.json")]
    environment = {**os.environ, "PYTHONPATH": str(source)}
    subprocess.run(command, cwd=ROOT, env=environment, check=True)


@contextmanager
def source_of(commit: str) -> Iterator[Path]:
    """The ``src`` folder of a commit, in a worktree that is removed afterwards."""
    with tempfile.TemporaryDirectory() as folder:
        git = ["git", "-C", str(ROOT), "worktree"]
        subprocess.run([*git, "add", "--quiet", "--detach", folder, commit], check=True)
        try:
            yield Path(folder) / "src"
        finally:
            subprocess.run([*git, "remove", "--force", folder], check=True)


if __name__ == "__main__":
    main()
