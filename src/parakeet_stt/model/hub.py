"""Where a model's files are: bundled, in a folder, or on the Hugging Face hub.

Turns a source and a choice of backend into a folder of files and the backend that runs them. Knows
the names of models and the layouts of their files, nothing of what is in the weights.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from loguru import logger

from parakeet_stt.errors import (
    ConfigurationError,
    ModelFormatError,
    ModelNotFoundError,
    ModelUnavailableError,
)
from parakeet_stt.model.config import ModelConfig, from_nemo, from_onnx_asr
from parakeet_stt.model.download import Repository, missing_file
from parakeet_stt.settings import Backend

Runs = Literal["mlx", "onnx"]

BUNDLED = {"tiny": Path(__file__).parent.parent / "data" / "tiny"}
"""Models that come with the package."""


@dataclass(frozen=True)
class KnownModel:
    """A model that is published more than once, each time for another encoder.

    Attributes:
        mlx: Hugging Face id of the parakeet-mlx folder.
        onnx: Hugging Face id of the ONNX export, where there is one.
        about: A line for people.
        languages: BCP 47 codes of what it knows.
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
        """The ids of its repositories."""
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
        # As NVIDIA's model card has them.
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
"""Names under which auto fetches what the machine runs best."""

LANGUAGES = tuple(sorted({language for known in KNOWN.values() for language in known.languages}))
"""BCP 47 codes of everything that some known model knows."""

_MLX_WEIGHTS = "model.safetensors"
_ONNX_ENCODER = "encoder-model.onnx"
_ONNX_DECODER = "decoder_joint-model.onnx"
_ONNX_CTC = "model.onnx"
_ONNX_VOCABULARY = "vocab.txt"


@dataclass(frozen=True)
class ModelFiles:
    """A model's folder, read as far as to know what it is.

    Attributes:
        source: What was asked for.
        folder: Where the files are.
        backend: What runs its encoder.
        raw: The parsed ``config.json``.
        config: What this package needs of it.
    """

    source: str
    folder: Path
    backend: Runs
    raw: dict[str, Any]
    config: ModelConfig

    @property
    def weights(self) -> Path | None:
        """parakeet-mlx's weights, where the folder has them."""
        path = self.folder / _MLX_WEIGHTS
        return path if path.is_file() else None

    @property
    def onnx_encoder(self) -> Path:
        """The ONNX graph that takes log-mel."""
        return self.folder / (_ONNX_CTC if self.config.kind == "ctc" else _ONNX_ENCODER)

    @property
    def onnx_decoder(self) -> Path:
        """The ONNX graph of prediction network and joint."""
        return self.folder / _ONNX_DECODER


def find_model(
    source: str, backend: Backend, has_gpu: bool, cache_dir: Path | None = None
) -> ModelFiles:
    """Find a model's files, and download them if they are not cached.

    If the preferred repository of a known model is not available, one that is cached takes its
    place.

    Args:
        source: A bundled or known model's name, a folder, or a Hugging Face id, which may end in
            ``@revision``.
        backend: What is to run the encoder.
        has_gpu: Whether MLX has a GPU here, which decides ``auto``.
        cache_dir: Where downloads are kept; Hugging Face's own cache by default.

    Raises:
        ModelNotFoundError: There is no such model, folder or repository, or a file is missing.
        ModelUnavailableError: Not cached, and there is no network, no access or no space.
        ModelFormatError: The configuration is not one that this version can run.
        ConfigurationError: The model has no encoder for the chosen backend.
    """
    cached = cached_model(source, backend, has_gpu, cache_dir)
    if cached is not None:
        return cached
    preferred, *others = _choices(source, backend, has_gpu, cache_dir)
    try:
        folder = preferred.repository.download(preferred.files)
        return _read_folder(source, folder, preferred.backend, has_gpu)
    except ModelUnavailableError as error:
        for other in others:
            found = other.find(source)
            if found is not None:
                logger.warning(f"{error} Using {other.repository}, which is cached.")
                return found
        raise


def cached_model(
    source: str, backend: Backend, has_gpu: bool, cache_dir: Path | None = None
) -> ModelFiles | None:
    """Find a model's files on this machine; None if :func:`find_model` would download them.

    Arguments and errors are those of :func:`find_model`.
    """
    name = source.casefold()
    if name in BUNDLED:
        return _read_folder(name, BUNDLED[name], backend, has_gpu)
    path = Path(source).expanduser()
    if path.is_dir():
        return _read_folder(source, path, backend, has_gpu)
    return _choices(source, backend, has_gpu, cache_dir)[0].find(source)


def languages_of(source: str) -> tuple[str, ...]:
    """BCP 47 codes of what a bundled or known model knows; none if that is not known."""
    repository, _, _ = source.partition("@")
    known = _known(repository)
    if known is not None:
        return known.languages
    return ("en",) if source in BUNDLED else ()


def is_cached(repository: str, cache_dir: Path | None = None) -> bool:
    """Whether a repository's configuration and weights are on this machine."""
    choice = _Choice(Repository(repository, cache_dir=cache_dir), "auto", has_gpu=True)
    return choice.repository.cached(choice.files) is not None


@dataclass(frozen=True)
class _Choice:
    """A repository that a model can be loaded from.

    Attributes:
        repository: The repository.
        backend: What will run its encoder, as far as that is known.
        has_gpu: Whether MLX has a GPU here.
    """

    repository: Repository
    backend: Backend
    has_gpu: bool

    def files(self, names: set[str]) -> list[str]:
        """Select the files to load from all names in the repository; errors as `_runs`."""
        return _files(names, _runs(names, self.backend, self.has_gpu, str(self.repository)))

    def find(self, source: str) -> ModelFiles | None:
        """Read the repository's files if they are cached."""
        folder = self.repository.cached(self.files)
        if folder is None:
            return None
        return _read_folder(source, folder, self.backend, self.has_gpu)


def _known(name: str) -> KnownModel | None:
    """The known model of a name or id. Case does not matter, as on the hub."""
    wanted = name.casefold()
    for known, model in KNOWN.items():
        if wanted in (known, f"nvidia/{known}", *map(str.casefold, model.repositories)):
            return model
    return None


def _choices(source: str, backend: Backend, has_gpu: bool, cache_dir: Path | None) -> list[_Choice]:
    """The repositories that a source stands for, the preferred one first."""
    name, at, revision = source.partition("@")
    known = _known(name)
    if known is None or at:
        _check_id(source, known)
        repository = Repository(name, revision or "main", cache_dir)
        return [_Choice(repository, backend, has_gpu)]
    mlx = _Choice(Repository(known.mlx, cache_dir=cache_dir), "mlx", has_gpu)
    if known.onnx is None:
        if backend == "onnx":
            raise ConfigurationError(
                f"{source} has no ONNX export that is known of; use backend 'mlx' or 'auto'"
            )
        return [mlx]
    onnx = _Choice(Repository(known.onnx, cache_dir=cache_dir), "onnx", has_gpu)
    if backend == "auto" and name.casefold() != known.onnx.casefold():
        return [mlx, onnx] if has_gpu else [onnx, mlx]
    return [mlx] if backend == "mlx" else [onnx]


def _check_id(source: str, known: KnownModel | None) -> None:
    """Check that a source may be the id of one repository, with or without a revision.

    Raises:
        ModelNotFoundError: It is not of that form.
        ConfigurationError: A revision of a name that stands for several repositories.
    """
    name, at, revision = source.partition("@")
    if known is not None and name.casefold() not in map(str.casefold, known.repositories):
        raise ConfigurationError(
            f"model {source!r}: a revision belongs to one repository, and {name} stands for "
            f"{' and '.join(known.repositories)}. Give one of these before the @."
        )
    if name.count("/") != 1 or name.startswith((".", "/", "~")) or (at and not revision):
        raise ModelNotFoundError(
            f"no such model: {source!r}. Expected 'tiny', a folder, a Hugging Face id "
            f"(owner/name or owner/name@revision) or one of {', '.join(KNOWN)}."
        )


def _runs(names: set[str], backend: Backend, has_gpu: bool, where: str) -> Runs:
    """Decide what runs the encoder of a folder or repository with files of these names.

    Raises:
        ModelNotFoundError: There is no model among them.
        ConfigurationError: There is none for the backend.
    """
    mlx = _MLX_WEIGHTS in names
    onnx = _ONNX_ENCODER in names or _ONNX_CTC in names
    if not mlx and not onnx:
        raise ModelNotFoundError(
            f"{where} holds no model: expected {_MLX_WEIGHTS} (parakeet-mlx's layout) or "
            f"{_ONNX_ENCODER} (onnx-asr's layout) beside config.json"
        )
    if (backend == "mlx" and not mlx) or (backend == "onnx" and not onnx):
        raise ConfigurationError(
            f"{where} has no {backend} encoder, only "
            f"{_MLX_WEIGHTS if mlx else 'an ONNX export'}. Use backend 'auto'."
        )
    if backend == "auto":
        return "mlx" if mlx and (has_gpu or not onnx) else "onnx"
    return backend


def _files(names: set[str], runs: Runs) -> list[str]:
    """The files that a model is loaded from, without those that its graphs refer to."""
    files = ["config.json"]
    if _MLX_WEIGHTS in names:  # With an ONNX encoder, too: the decoder reads them.
        files.append(_MLX_WEIGHTS)
    elif _ONNX_ENCODER in names:
        files += [_ONNX_VOCABULARY, _ONNX_DECODER]
    else:
        files.append(_ONNX_VOCABULARY)
    if runs == "onnx":
        files.append(_ONNX_ENCODER if _ONNX_ENCODER in names else _ONNX_CTC)
    return files


def _read_folder(source: str, folder: Path, backend: Backend, has_gpu: bool) -> ModelFiles:
    raw = _read_config(folder / "config.json")
    names = {path.name for path in folder.iterdir()}
    runs = _runs(names, backend, has_gpu, str(folder))
    files = _files(names, runs)
    missing = missing_file(folder, files)
    if missing is not None and not (folder / missing).is_file():
        raise ModelNotFoundError(f"{folder} lacks {missing}, which the model is loaded from")
    if _MLX_WEIGHTS in names:
        config = from_nemo(raw, folder / "config.json")
    else:
        config = from_onnx_asr(raw, folder / _ONNX_VOCABULARY, folder / "config.json")
    return ModelFiles(source, folder, runs, raw, config)


def _read_config(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise ModelNotFoundError(f"{path.parent} holds no model: config.json is missing")
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, UnicodeDecodeError) as error:
        raise ModelFormatError(f"{path} is not JSON: {error}") from error
    if not isinstance(config, dict):
        raise ModelFormatError(f"{path} holds a {type(config).__name__}, expected an object")
    return config
