"""Run a command and write what its terminal shows at the end as an SVG.

uv run scripts/record_terminal.py docs/demo.svg parakeet-stt listen --audio FILE --model tiny
"""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

from rich.console import Console
from rich.terminal_theme import MONOKAI
from rich.text import Text


def main(target: str, command: list[str]) -> None:
    """Run the command, and write the lines that it printed."""
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    shown = shlex.join([command[0].rpartition("/")[2], *command[1:]])
    with open("/dev/null", "w") as nowhere:  # The SVG is the only output.
        console = Console(record=True, width=92, file=nowhere)
        console.print(f"[bold green]$[/] [bold]{shown}[/]", highlight=False)
        console.print(Text(done.stdout.rstrip()))
        svg = console.export_svg(title="parakeet-stt", theme=MONOKAI)
    # The reader's own monospaced font instead of one from another host.
    svg = re.sub(r"@font-face \{.*?\}\s*", "", svg, flags=re.DOTALL)
    Path(target).write_text(svg.replace("Fira Code", "monospace"), encoding="utf-8")


main(sys.argv[1], sys.argv[2:])
