"""``parakeet-stt models``."""

from __future__ import annotations

from parakeet_stt.model.catalog import KNOWN
from tests.support.command import parakeet


def test_models_recommends_and_then_lists_every_bundled_and_known_model() -> None:
    done = parakeet("models")
    assert done.returncode == 0
    assert done.stdout.startswith("Recommended:\n")
    recommended, _, listed = done.stdout.partition("This machine: ")
    for name in ("parakeet-tdt-0.6b-v2 (the default)", "parakeet-tdt-0.6b-v3", "tiny"):
        assert name in recommended
    for name, known in KNOWN.items():
        assert name in listed
        for repository in known.repositories:
            assert repository in listed


def test_models_states_size_memory_and_licence() -> None:
    lines = parakeet("models").stdout.splitlines()
    place = next(n for n, line in enumerate(lines) if line.startswith("parakeet-tdt-0.6b-v2 "))
    assert "CC-BY-4.0" in lines[place + 1]
    assert "download 2.5 GB" in lines[place + 1]
    assert "memory 1.2 GB (bf16, GPU) or 2.5 GB (fp32, CPU)" in lines[place + 1]
