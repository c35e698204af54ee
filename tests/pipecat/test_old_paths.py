"""Module paths of earlier versions, which work for one more release."""

from __future__ import annotations

import importlib
import sys

import pytest

from parakeet_stt import ParakeetSTTService
from parakeet_stt.pipecat.player import Player


@pytest.mark.parametrize(
    ("module", "name", "expected"),
    [
        ("parakeet_stt.service", "ParakeetMLXSTTService", ParakeetSTTService),
        ("parakeet_stt.service", "ParakeetMLXSTTSettings", ParakeetSTTService.Settings),
        ("parakeet_stt.player", "Player", Player),
    ],
)
def test_an_old_module_path_works_and_is_deprecated(
    monkeypatch: pytest.MonkeyPatch, module: str, name: str, expected: type
) -> None:
    monkeypatch.delitem(sys.modules, module, raising=False)
    with pytest.warns(DeprecationWarning, match=f"{module} is deprecated"):
        assert getattr(importlib.import_module(module), name) is expected
