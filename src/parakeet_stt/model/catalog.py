"""Names of models: the bundled one, and those that are published for both executors."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

BUNDLED = {"tiny": Path(__file__).parent.parent / "data" / "tiny"}
"""Folders of the models that come with the package, by name."""


@dataclass(frozen=True)
class KnownModel:
    """A model whose repositories are known for each executor.

    Attributes:
        mlx: Hugging Face id of the parakeet-mlx folder.
        onnx: Hugging Face id of the ONNX export; None if there is none.
        about: One-line description.
        languages: BCP 47 codes of the languages that it transcribes.
        memory_gb: Memory of the model in bf16 and in fp32; None if it was not measured.
        download_gb: Size of the MLX repository; None if it is not known.
        licence: SPDX identifier of the weights' licence; None if it is not known.
    """

    mlx: str
    onnx: str | None
    about: str
    languages: tuple[str, ...] = ("en",)
    memory_gb: tuple[float, float] | None = None
    download_gb: float | None = None
    licence: str | None = None

    @property
    def repositories(self) -> tuple[str, ...]:
        """Hugging Face ids of its repositories."""
        return (self.mlx,) if self.onnx is None else (self.mlx, self.onnx)


_MEMORY_GB_600M = (1.2, 2.5)  # Measured (docs/troubleshooting.md).

KNOWN = {
    "parakeet-tdt-0.6b-v2": KnownModel(
        "mlx-community/parakeet-tdt-0.6b-v2",
        "istupakov/parakeet-tdt-0.6b-v2-onnx",
        "English, capitals and punctuation; the default",
        memory_gb=_MEMORY_GB_600M,
        download_gb=2.5,
        licence="CC-BY-4.0",
    ),
    "parakeet-tdt-0.6b-v3": KnownModel(
        "mlx-community/parakeet-tdt-0.6b-v3",
        "istupakov/parakeet-tdt-0.6b-v3-onnx",
        "25 European languages, capitals and punctuation",
        # From NVIDIA's model card.
        tuple("bg cs da de el en es et fi fr hr hu it lt lv mt nl pl pt ro ru sk sl sv uk".split()),
        memory_gb=_MEMORY_GB_600M,
        licence="CC-BY-4.0",
    ),
    "parakeet-tdt-1.1b": KnownModel(
        "mlx-community/parakeet-tdt-1.1b", None, "English, lower case, higher accuracy"
    ),
    "parakeet-tdt_ctc-110m": KnownModel(
        "mlx-community/parakeet-tdt_ctc-110m", None, "English, small, capitals and punctuation"
    ),
    "parakeet-rnnt-0.6b": KnownModel(
        "mlx-community/parakeet-rnnt-0.6b",
        "istupakov/parakeet-rnnt-0.6b-onnx",
        "English, lower case",
        memory_gb=_MEMORY_GB_600M,
    ),
    "parakeet-ctc-0.6b": KnownModel(
        "mlx-community/parakeet-ctc-0.6b",
        "istupakov/parakeet-ctc-0.6b-onnx",
        "English, lower case",
        memory_gb=_MEMORY_GB_600M,
    ),
}
"""Models by the names for which backend ``auto`` chooses the repository."""

LANGUAGES = tuple(sorted({language for known in KNOWN.values() for language in known.languages}))
"""BCP 47 codes of the languages of all known models."""


def known_model(name: str) -> KnownModel | None:
    """Find a known model by its name, ``nvidia/`` and its name, or the id of a repository.

    Case does not matter, as on the hub. Returns None for any other name.
    """
    wanted = name.casefold()
    for known, model in KNOWN.items():
        if wanted in (known, f"nvidia/{known}", *map(str.casefold, model.repositories)):
            return model
    return None


def languages_of(source: str) -> tuple[str, ...]:
    """BCP 47 codes of the languages of a bundled or known model; empty for any other source.

    Args:
        source: The model's name or Hugging Face id, with or without ``@revision``.
    """
    repository, _, _ = source.partition("@")
    known = known_model(repository)
    if known is not None:
        return known.languages
    return ("en",) if source in BUNDLED else ()
