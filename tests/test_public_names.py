"""The names that ``parakeet_stt`` exports."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import version

import pytest

import parakeet_stt

PUBLIC = (
    "Endpointing Engine Final Hypothesis MLX_GLOBAL_LOCK Model ParakeetError ParakeetMLXSTTService "
    "ParakeetSTTService Sentence Session SessionOptions Stream StreamOptions Token Transcript Word "
    "load_model"
).split()


def test_the_public_names_are_these() -> None:
    assert sorted(parakeet_stt.__all__) == sorted(PUBLIC)


@pytest.mark.parametrize("name", PUBLIC)
def test_every_public_name_can_be_imported(name: str) -> None:
    assert getattr(parakeet_stt, name) is not None


def test_dir_lists_the_public_names_and_the_version() -> None:
    assert {*PUBLIC, "__version__"} <= set(dir(parakeet_stt))


def test_the_version_is_that_of_the_installed_package() -> None:
    assert parakeet_stt.__version__ == version("pipecat-parakeet-stt")


def test_the_service_has_an_alias_for_existing_bots() -> None:
    assert parakeet_stt.ParakeetMLXSTTService is parakeet_stt.ParakeetSTTService


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'load_modle'"):
        _ = parakeet_stt.load_modle  # type: ignore[attr-defined]


def test_importing_the_package_imports_nothing_heavy() -> None:
    code = """
import sys, parakeet_stt
heavy = {"mlx", "onnxruntime", "onnx", "pipecat", "fastapi", "numpy", "pydantic"}
print(sorted(heavy & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
