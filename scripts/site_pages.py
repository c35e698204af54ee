"""Hook of mkdocs: makes pages of the site from files outside docs/.

The README is the first page, and the programs of examples/ share a page with their code.
"""

from __future__ import annotations

import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parent.parent

PAGES = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "security.md",
    "CODE_OF_CONDUCT.md": "conduct.md",
    "CHANGELOG.md": "changelog.md",
}
"""Files of the repository's root, and the pages that show them."""

_LINK = re.compile(r"\[([^\]]*)\]\(([^)#:\s]+)(#[^)\s]*)?\)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages."""
    for source, page in PAGES.items():
        text = _LINK.sub(_link_on_site, (ROOT / source).read_text(encoding="utf-8"))
        files.append(File.generated(config, page, content=text))
    files.append(File.generated(config, "examples.md", content=_examples()))
    return files


def _link_on_site(link: re.Match[str]) -> str:
    """Rewrite a link of a file in the root; a file that the site lacks keeps its name only."""
    text, target, anchor = link[1], link[2], link[3] or ""
    if target in PAGES:
        return f"[{text}]({PAGES[target]}{anchor})"
    if target.startswith("docs/"):
        return f"[{text}]({target.removeprefix('docs/')}{anchor})"
    if target.startswith("examples"):
        return f"[{text}](examples.md)"
    return text


def _examples() -> str:
    parts = [
        "# Examples\n\nEach program runs from a checkout, with the bundled model by default.\n"
    ]
    for path in sorted((ROOT / "examples").glob("*.py")):
        code = path.read_text(encoding="utf-8").rstrip()
        parts.append(f"## {path.name}\n\n```python\n{code}\n```\n")
    return "\n".join(parts)
