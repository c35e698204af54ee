"""Finding a model: bundled, in a folder, or on the Hugging Face hub.

Turns a source (:mod:`~parakeet_stt.model.catalog` has the names) into a folder of files
(:mod:`~parakeet_stt.model.layout`), which :mod:`~parakeet_stt.model.download` fetches if necessary.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from loguru import logger

from parakeet_stt.errors import ConfigurationError, ModelNotFoundError, ModelUnavailableError
from parakeet_stt.model.catalog import BUNDLED, KNOWN, KnownModel, known_model
from parakeet_stt.model.download import Repository
from parakeet_stt.model.layout import ModelFiles, choose_executor, files_to_load, read_folder
from parakeet_stt.settings import Backend


def find_model(
    source: str,
    backend: Backend,
    has_gpu: bool,
    cache_dir: Path | None = None,
    needs_checkpoint: bool = False,
) -> ModelFiles:
    """Find a model's files, and download them if they are not cached.

    If the preferred repository of a known model is not available, a cached one is used instead.

    Args:
        source: Name of a bundled or known model, a folder, or a Hugging Face id, which may end in
            ``@revision``.
        backend: What should run the encoder.
        has_gpu: Whether MLX has a GPU, which decides ``auto``.
        cache_dir: Folder for downloads; Hugging Face's own cache by default.
        needs_checkpoint: Whether the export of a known model is of no use, as for int8.

    Raises:
        ModelNotFoundError: There is no such model, folder or repository, or a file is missing.
        ModelUnavailableError: Not cached, and there is no network, no access or no disk space.
        ModelFormatError: This version cannot run the configuration.
        ConfigurationError: The model has no encoder for the chosen backend.
    """
    cached = cached_model(source, backend, has_gpu, cache_dir, needs_checkpoint)
    if cached is not None:
        return cached
    preferred, *others = _candidates(source, backend, has_gpu, cache_dir, needs_checkpoint)
    try:
        folder = preferred.repository.download(preferred.select)
        return read_folder(source, folder, preferred.backend, has_gpu)
    except ModelUnavailableError as error:
        for other in others:
            files = other.read_cached(source)
            if files is not None:
                logger.warning(f"{error} Using {other.repository}, which is cached.")
                return files
        raise


def cached_model(
    source: str,
    backend: Backend,
    has_gpu: bool,
    cache_dir: Path | None = None,
    needs_checkpoint: bool = False,
) -> ModelFiles | None:
    """Find a model's files on this machine; None if :func:`find_model` would download them.

    Takes the arguments of :func:`find_model` and raises the same errors.
    """
    name = source.casefold()
    if name in BUNDLED:
        return read_folder(name, BUNDLED[name], backend, has_gpu)
    path = Path(source).expanduser()
    if path.is_dir() or (path.suffix == ".nemo" and path.is_file()):
        return read_folder(source, path, backend, has_gpu)
    candidates = _candidates(source, backend, has_gpu, cache_dir, needs_checkpoint)
    return candidates[0].read_cached(source)


def is_cached(repository: str, cache_dir: Path | None = None) -> bool:
    """Whether a repository's configuration and weights are on this machine."""
    candidate = _Candidate(Repository(repository, cache_dir=cache_dir), "auto", has_gpu=True)
    return candidate.repository.cached(candidate.select) is not None


@dataclass(frozen=True)
class _Candidate:
    """A repository that a model can be loaded from.

    Attributes:
        repository: The repository.
        backend: What should run its encoder.
        has_gpu: Whether MLX has a GPU.
    """

    repository: Repository
    backend: Backend
    has_gpu: bool

    def select(self, names: set[str]) -> list[str]:
        """Select the files to load from the names of all files of the repository.

        Raises:
            ModelNotFoundError: The repository holds no model.
            ConfigurationError: It holds none for the backend.
        """
        choose_executor(names, self.backend, self.has_gpu, str(self.repository))
        return files_to_load(names)

    def read_cached(self, source: str) -> ModelFiles | None:
        """Read the repository's files; None if they are not cached."""
        folder = self.repository.cached(self.select)
        if folder is None:
            return None
        return read_folder(source, folder, self.backend, self.has_gpu)


def _candidates(
    source: str,
    backend: Backend,
    has_gpu: bool,
    cache_dir: Path | None,
    needs_checkpoint: bool,
) -> list[_Candidate]:
    """The repositories of a source, the preferred one first."""
    name, at, revision = source.partition("@")
    known = known_model(name)
    if known is None or at:
        _check_id(source, known)
        repository = Repository(name, revision or "main", cache_dir)
        return [_Candidate(repository, backend, has_gpu)]
    mlx = _Candidate(Repository(known.mlx, cache_dir=cache_dir), backend, has_gpu)
    if known.onnx is None:
        return [mlx]
    onnx = _Candidate(Repository(known.onnx, cache_dir=cache_dir), "onnx", has_gpu)
    if backend == "mlx":
        return [mlx]
    if name.casefold() == known.onnx.casefold():
        return [onnx]
    if needs_checkpoint:
        return [mlx]
    return [mlx, onnx] if backend == "auto" and has_gpu else [onnx, mlx]


def _check_id(source: str, known: KnownModel | None) -> None:
    """Check that a source has the form of a repository's id, with or without a revision.

    Raises:
        ModelNotFoundError: It has another form.
        ConfigurationError: It has a revision, and its name stands for several repositories.
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
