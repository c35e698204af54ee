"""``parakeet-stt models``: which models there are, and which to use."""

from __future__ import annotations

import argparse
import platform
import shutil
import sys

from parakeet_stt.cli import console
from parakeet_stt.model.catalog import BUNDLED, KNOWN, KnownModel
from parakeet_stt.model.hub import is_cached
from parakeet_stt.settings import load_settings

_ENGLISH = "parakeet-tdt-0.6b-v2"
_MULTILINGUAL = "parakeet-tdt-0.6b-v3"
_INDENT = 24


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add nothing: the command has no arguments."""
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    count = len(KNOWN[_MULTILINGUAL].languages)
    console.out.print(
        f"Recommended:\n"
        f"  English                     {_ENGLISH} (the default)\n"
        f"  {count} European languages       {_MULTILINGUAL}\n"
        f"  a trial without a download  tiny\n\n{_machine()}\n",
        soft_wrap=True,
    )
    cache = load_settings().cache_dir
    size = sum(file.stat().st_size for file in BUNDLED["tiny"].iterdir()) / 1e6
    _print_model("tiny", ["English, a small vocabulary", f"bundled, {size:.0f} MB"])
    for name, known in KNOWN.items():
        encoders = (("mlx", known.mlx), ("onnx", known.onnx))
        sources = [
            f"{encoder:<4}  {repository}{', cached' if is_cached(repository, cache) else ''}"
            for encoder, repository in encoders
            if repository is not None
        ]
        facts = _facts(known)
        _print_model(name, [known.about, *([facts] if facts else []), *sources])
    console.out.print(
        "NVIDIA's ids (nvidia/parakeet-...) are names of the same models. Any other Hugging Face "
        "id (also owner/name@revision) or folder in the layout of parakeet-mlx, Transformers or "
        "onnx-asr, and any .nemo file works.",
        soft_wrap=True,
    )
    return 0


def _machine() -> str:
    """Say how the models of 0.6b run on a machine like this one."""
    if sys.platform == "darwin" and platform.machine() == "arm64":
        return "This machine: Apple silicon. Every model runs on its GPU (MLX, bf16)."
    if shutil.which("nvidia-smi") is not None:
        return (
            "This machine: an NVIDIA GPU. Every model runs on it with the extra 'cuda' (MLX, bf16)."
        )
    return (
        "This machine: a CPU. Models of 0.6b run on it (ONNX Runtime, fp32); for several speakers "
        "at once use Apple silicon or an NVIDIA GPU."
    )


def _print_model(name: str, lines: list[str]) -> None:
    for line in lines:
        console.out.print(f"{name:<{_INDENT}}{line}", soft_wrap=True)
        name = ""
    console.out.print()


def _facts(known: KnownModel) -> str:
    """Licence, size and memory of a model, as far as they are known."""
    facts = [known.licence] if known.licence else []
    if known.download_gb is not None:
        facts.append(f"download {known.download_gb:g} GB")
    if known.memory_gb is not None:
        bf16, fp32 = known.memory_gb
        facts.append(f"memory {bf16:g} GB (bf16, GPU) or {fp32:g} GB (fp32, CPU)")
    return "; ".join(facts)
