"""Where a model's files are: bundled, in a folder, or on the Hugging Face hub.

Turns a source and a wish for a backend into a folder of files and the backend that runs them, and
every way in which that fails into an error that says what to do. Knows nothing of what is in the
weights.
"""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from huggingface_hub import HfApi, hf_hub_download, snapshot_download, try_to_load_from_cache
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
)
from loguru import logger

from parakeet_stt.errors import (
    ConfigurationError,
    ModelFormatError,
    ModelNotFoundError,
    ModelUnavailableError,
)
from parakeet_stt.model.config import ModelConfig, from_nemo, from_onnx_asr
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
    """

    mlx: str
    onnx: str | None
    about: str
    languages: tuple[str, ...] = ("en",)


KNOWN = {
    "parakeet-tdt-0.6b-v2": KnownModel(
        "mlx-community/parakeet-tdt-0.6b-v2",
        "istupakov/parakeet-tdt-0.6b-v2-onnx",
        "English, capitals and punctuation; the default",
    ),
    "parakeet-tdt-0.6b-v3": KnownModel(
        "mlx-community/parakeet-tdt-0.6b-v3",
        "istupakov/parakeet-tdt-0.6b-v3-onnx",
        "25 European languages, capitals and punctuation",
        # As NVIDIA's model card has them.
        tuple("bg cs da de el en es et fi fr hr hu it lt lv mt nl pl pt ro ru sk sl sv uk".split()),
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
    ),
    "parakeet-ctc-0.6b": KnownModel(
        "mlx-community/parakeet-ctc-0.6b",
        "istupakov/parakeet-ctc-0.6b-onnx",
        "English, lower case",
    ),
}
"""Names under which auto fetches what the machine runs best."""

LANGUAGES = tuple(sorted({language for known in KNOWN.values() for language in known.languages}))
"""BCP 47 codes of everything that some known model knows."""

_MLX_FILES = ("config.json", "model.safetensors")
_ONNX_ENCODER = "encoder-model.onnx"
_ONNX_DECODER = "decoder_joint-model.onnx"
_ONNX_CTC = "model.onnx"
_ONNX_VOCABULARY = "vocab.txt"
_ONNX_FILES = (
    "config.json",
    _ONNX_VOCABULARY,
    # With whatever data files a large graph has beside it.
    *(f"{name}*" for name in (_ONNX_ENCODER, _ONNX_DECODER, _ONNX_CTC)),
)


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
        path = self.folder / "model.safetensors"
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
    """Find a model's files, downloading them where necessary.

    Args:
        source: A bundled or known model's name, a folder, or a Hugging Face id.
        backend: What is to run the encoder.
        has_gpu: Whether MLX has a GPU here, which decides ``auto``.
        cache_dir: Where downloads are kept; Hugging Face's own cache by default.

    Raises:
        ModelNotFoundError: There is no such model, folder or repository, or a file is missing.
        ModelUnavailableError: It cannot be had now: no network, no access, no space.
        ModelFormatError: The configuration is not one that this version can run.
        ConfigurationError: The model has no encoder for the backend that was asked for.
    """
    if source in BUNDLED:
        return _read_folder(source, BUNDLED[source], backend, has_gpu)
    path = Path(source).expanduser()
    if path.is_dir():
        return _read_folder(source, path, backend, has_gpu)
    repository, backend = _repository(source, backend, has_gpu)
    with _explained(repository, source):
        folder = _download(repository, cache_dir)
    return _read_folder(source, folder, backend, has_gpu)


def languages_of(source: str) -> tuple[str, ...]:
    """BCP 47 codes of what a bundled or known model knows; none where that is not known."""
    for name, known in KNOWN.items():
        if source in (name, known.mlx, known.onnx):
            return known.languages
    return ("en",) if source in BUNDLED else ()


def is_cached(repository: str, cache_dir: Path | None = None) -> bool:
    """Whether a repository's configuration and weights are on this machine."""
    return _cached(repository, cache_dir) is not None


def _repository(source: str, backend: Backend, has_gpu: bool) -> tuple[str, Backend]:
    """The repository to fetch, and what will run it as far as that is known."""
    for name, known in KNOWN.items():
        if source not in (name, known.mlx, known.onnx):
            continue
        if backend == "onnx" and known.onnx is None:
            raise ConfigurationError(
                f"{source} has no ONNX export that is known of; use backend 'mlx' or 'auto'"
            )
        if source == known.onnx and backend == "auto":
            return source, "onnx"  # Asked for by its own id.
        wants_onnx = backend == "onnx" or (backend == "auto" and not has_gpu)
        if wants_onnx and known.onnx is not None:
            return known.onnx, "onnx"
        return known.mlx, "mlx"
    if source.count("/") != 1 or source.startswith((".", "/", "~")):
        raise ModelNotFoundError(
            f"no such model: {source!r}. Expected 'tiny', a folder, a Hugging Face id "
            f"(owner/name) or one of {', '.join(KNOWN)}."
        )
    return source, backend


def _read_folder(source: str, folder: Path, backend: Backend, has_gpu: bool) -> ModelFiles:
    raw = _read_config(folder / "config.json")
    mlx = (folder / "model.safetensors").is_file()
    is_ctc_export = (folder / _ONNX_CTC).is_file() and not (folder / _ONNX_ENCODER).is_file()
    onnx = (folder / _ONNX_ENCODER).is_file() or is_ctc_export
    if not mlx and not onnx:
        raise ModelNotFoundError(
            f"{folder} holds no model: expected model.safetensors (parakeet-mlx's layout) or "
            f"{_ONNX_ENCODER} (onnx-asr's layout) beside config.json"
        )
    if (backend == "mlx" and not mlx) or (backend == "onnx" and not onnx):
        raise ConfigurationError(
            f"{source} has no {backend} encoder: {folder} holds only "
            f"{'model.safetensors' if mlx else 'an ONNX export'}. Use backend 'auto'."
        )
    if backend == "auto":
        backend = "mlx" if mlx and (has_gpu or not onnx) else "onnx"
    if mlx:
        config = from_nemo(raw, folder / "config.json")
    else:
        needed = [_ONNX_VOCABULARY] + ([] if is_ctc_export else [_ONNX_DECODER])
        for name in needed:
            if not (folder / name).is_file():
                raise ModelNotFoundError(f"{folder} lacks {name}, which an ONNX export needs")
        config = from_onnx_asr(raw, folder / _ONNX_VOCABULARY, folder / "config.json")
    return ModelFiles(source, folder, backend, raw, config)


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


def _cached(repository: str, cache_dir: Path | None) -> Path | None:
    """The folder of a complete download, without asking the network."""
    config = try_to_load_from_cache(repository, "config.json", cache_dir=cache_dir)
    if not isinstance(config, str):
        return None
    folder = Path(config).parent
    complete = all((folder / name).is_file() for name in _MLX_FILES) or (
        (folder / _ONNX_VOCABULARY).is_file()
        and (
            (folder / _ONNX_CTC).is_file()
            or all((folder / name).is_file() for name in (_ONNX_ENCODER, _ONNX_DECODER))
        )
    )
    return folder if complete else None


def _download(repository: str, cache_dir: Path | None) -> Path:
    folder = _cached(repository, cache_dir)
    if folder is not None:
        return folder
    config = _read_config(Path(hf_hub_download(repository, "config.json", cache_dir=cache_dir)))
    wanted = _MLX_FILES if "encoder" in config else _ONNX_FILES
    info = HfApi().model_info(repository, files_metadata=True)
    files = [f for f in info.siblings or [] if _matches(f.rfilename, wanted)]
    size = sum(f.size or 0 for f in files)
    logger.info(f"downloading {repository}: {len(files)} files, {size / 1e9:.2f} GB")
    return Path(
        snapshot_download(
            repository, cache_dir=cache_dir, allow_patterns=[f.rfilename for f in files]
        )
    )


def _matches(name: str, wanted: tuple[str, ...]) -> bool:
    """Whether a repository's file is one of those wanted; ``*`` stands for any ending."""
    return any(
        name.startswith(pattern[:-1]) if pattern.endswith("*") else name == pattern
        for pattern in wanted
    )


@contextmanager
def _explained(repository: str, source: str) -> Iterator[None]:
    """Turn what the hub's client raises into errors that say what to do."""
    try:
        yield
    except GatedRepoError as error:
        raise ModelUnavailableError(
            f"{repository} is gated: accept its terms on its Hugging Face page, then log in with "
            f"'hf auth login' or set HF_TOKEN"
        ) from error
    except RepositoryNotFoundError as error:
        raise ModelNotFoundError(
            f"no such repository on the hub: {repository!r} (or it is private: log in with "
            f"'hf auth login' or set HF_TOKEN). Known models: {', '.join(KNOWN)}."
        ) from error
    except HFValidationError as error:
        raise ModelNotFoundError(
            f"no such model: {source!r} is neither a folder nor a Hugging Face id (owner/name)"
        ) from error
    except LocalEntryNotFoundError as error:
        raise ModelUnavailableError(
            f"{repository} is not cached and the hub cannot be reached "
            f"({error.__cause__ or error}). Check the network (and HF_HUB_OFFLINE), or give a "
            f"folder that holds the model; 'tiny' needs no network."
        ) from error
    except HfHubHTTPError as error:
        status = error.response.status_code if error.response is not None else "no"
        raise ModelUnavailableError(
            f"the hub answered a request for {repository} with status {status}: {error}"
        ) from error
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise ModelUnavailableError(
                f"the disk is full: {repository} does not fit into "
                f"{os.environ.get('HF_HOME', 'the cache')}. Free some space, or set "
                f"PARAKEET_CACHE_DIR to a folder on another disk."
            ) from error
        raise ModelUnavailableError(f"{repository} cannot be downloaded: {error}") from error
