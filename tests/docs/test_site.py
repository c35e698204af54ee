"""What the documentation lists is what exists."""

from __future__ import annotations

import re

import parakeet_stt
from tests.support.recordings import ROOT

PACKAGE = ROOT / "src" / "parakeet_stt"


def test_the_reference_describes_every_public_name() -> None:
    page = (ROOT / "docs" / "reference.md").read_text(encoding="utf-8")
    generated = set(re.findall(r"^::: parakeet_stt\.(\w+)$", page, re.MULTILINE))
    described = set(re.findall(r"^### (\w+)$", page, re.MULTILINE))
    assert generated | described == set(parakeet_stt.__all__)


def test_the_architecture_page_lists_every_module() -> None:
    """A row names a module, or a folder whose modules it describes together."""
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    listed = set(re.findall(r"`([\w/]+(?:\.py|/))`", page))
    missing = []
    for path in sorted(PACKAGE.rglob("*.py")):
        name = path.relative_to(PACKAGE).as_posix()
        folders = {f"{parent.as_posix()}/" for parent in path.relative_to(PACKAGE).parents}
        if path.name not in ("__init__.py", "__main__.py") and not {name, *folders} & listed:
            missing.append(name)
    assert missing == []


def test_every_page_is_reachable() -> None:
    navigation = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    pages = {path.name for path in (ROOT / "docs").glob("*.md")}
    assert {page for page in pages if f": {page}\n" not in navigation} == set()
