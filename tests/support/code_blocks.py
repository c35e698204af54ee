"""The code blocks of the Markdown files, and what a comment before each says about running it.

    <!-- code: check (needs a network) -->   is not run: only its syntax and options are checked
    <!-- code: given model, array -->        is run with these names defined
    <!-- code: server recording.wav -->      is run beside a server, with these arguments

A block without a comment is run as it is.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from tests.support.recordings import ROOT

_FENCE = re.compile(r"^```(\w*)\s*$")
_COMMENT = re.compile(r"^<!-- code: (check|given|server)\s*(.*?)\s*-->$")


@dataclass(frozen=True)
class CodeBlock:
    """A fenced block.

    Attributes:
        file: The Markdown file, relative to the repository's root.
        line: Of the opening fence.
        language: As the fence names it.
        code: What is between the fences.
        mode: ``run``, ``check``, ``given`` or ``server``.
        details: What the comment says after its mode.
    """

    file: str
    line: int
    language: str
    code: str
    mode: str
    details: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}"

    @property
    def commands(self) -> list[str]:
        """The commands of a shell block, without comments and with continued lines joined."""
        lines = self.code.replace("\\\n", " ").splitlines()
        if self.language == "console":
            lines = [line.removeprefix("$ ") for line in lines if line.startswith("$ ")]
        return [line for line in lines if line.strip() and not line.startswith("#")]


def documents() -> list[Path]:
    """The files whose blocks are tested."""
    return [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


def code_blocks() -> list[CodeBlock]:
    """Every block of every document."""
    return [block for path in documents() for block in _blocks_of(path)]


def _blocks_of(path: Path) -> list[CodeBlock]:
    blocks = []
    mode, details = "run", ""
    opened: int | None = None
    language = ""
    lines = path.read_text(encoding="utf-8").splitlines()
    for number, line in enumerate(lines, start=1):
        fence, comment = _FENCE.match(line), _COMMENT.match(line)
        if opened is not None:
            if line == "```":
                code = "\n".join(lines[opened : number - 1]) + "\n"
                name = path.relative_to(ROOT).as_posix()
                blocks.append(CodeBlock(name, opened, language, code, mode, details))
                opened, mode, details = None, "run", ""
        elif fence is not None:
            opened, language = number, fence[1]
        elif comment is not None:
            mode, details = comment[1], comment[2]
    return blocks
