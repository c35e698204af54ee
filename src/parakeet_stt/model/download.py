"""Files of a Hugging Face repository: which of them are cached, and how the others get there.

The cache is Hugging Face's own, with two additions in a folder of each repository: the sizes of all
files of a revision, by which a download is known to be complete, and the files of which a part has
arrived, which the next download continues.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, constants, get_hf_file_metadata, hf_hub_download, hf_hub_url
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.file_download import http_get
from huggingface_hub.utils import WeakFileLock, build_hf_headers  # type: ignore[attr-defined]
from loguru import logger

from parakeet_stt.errors import ModelNotFoundError, ModelUnavailableError, ParakeetError
from parakeet_stt.model.device import run_interruptibly
from parakeet_stt.model.integrity import Sizes, has_size, missing_file

Needed = Callable[[set[str]], list[str]]
"""Selects the files that a model is loaded from, given the names of all files of a repository."""

_COMMIT = re.compile(r"[0-9a-f]{40}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)

# Bases of every error of the HTTP library below huggingface_hub: requests, httpx or httpx2,
# depending on its version. ValueError: the answer is not JSON, such as a login page's.
_UNREACHABLE: tuple[Any, ...] = (*HfHubHTTPError.__bases__, OSError, ValueError)


@dataclass(frozen=True)
class Repository:
    """A model repository on the hub, at one revision.

    Attributes:
        id: ``owner/name``.
        revision: A branch, a tag or a commit.
        cache_dir: The cache; Hugging Face's own if None.
    """

    id: str
    revision: str = constants.DEFAULT_REVISION
    cache_dir: Path | None = None

    def __str__(self) -> str:
        pinned = self.revision != constants.DEFAULT_REVISION
        return f"{self.id}@{self.revision}" if pinned else self.id

    @property
    def _snapshot(self) -> Path | None:
        """Folder of the revision's files, as far as they are cached; None before any download."""
        commit: str | None = self.revision
        if not _COMMIT.fullmatch(self.revision):
            reference = self._folder / "refs" / self.revision
            commit = reference.read_text().strip() if reference.is_file() else None
        folder = self._folder / "snapshots" / commit if commit else None
        return folder if folder is not None and folder.is_dir() else None

    def cached(self, needed: Needed) -> Path | None:
        """Return the folder of the revision if it has all of the needed files, without a request.

        Decided by the sizes that the hub listed. If another program cached the files, no sizes are
        recorded; then by what the files themselves say.
        """
        snapshot = self._snapshot
        if snapshot is None:
            return None
        sizes = self._read_sizes(snapshot.name)
        names = {path.relative_to(snapshot).as_posix() for path in snapshot.rglob("*")}
        try:
            files = needed(names if sizes is None else set(sizes))
            return None if missing_file(snapshot, files, sizes) else snapshot
        except ParakeetError:  # Not the needed model, or a damaged one.
            return None

    def download(self, needed: Needed) -> Path:
        """Download the needed files that are not cached, and return their folder.

        A signal ends the caller at once: the transfer runs on a daemon thread. What has arrived is
        kept, and the next download continues from there.

        Raises:
            ModelNotFoundError: There is no such repository or revision, or it holds no model.
            ModelUnavailableError: No network, no access or no disk space.
        """
        return run_interruptibly(self._download, needed)

    def _download(self, needed: Needed) -> Path:
        with _explained(self):
            # `timeout` covers connecting and each read.
            info = HfApi().model_info(
                self.id,
                revision=self.revision,
                files_metadata=True,
                timeout=constants.HF_HUB_ETAG_TIMEOUT,
            )
            commit = str(info.sha)
            sizes = {file.rfilename: file.size for file in info.siblings or ()}
            files = needed(set(sizes))
            snapshot = self._folder / "snapshots" / commit
            snapshot.mkdir(parents=True, exist_ok=True)
            _write(self._sizes_file(commit), json.dumps(sizes))
            if self.revision != commit:
                _write(self._folder / "refs" / self.revision, commit)
            while name := missing_file(snapshot, files, sizes):
                if name not in sizes:
                    raise ModelNotFoundError(f"{self} lacks {name}, which the model is loaded from")
                self._fetch(commit, name, sizes[name])
        return snapshot

    def _fetch(self, commit: str, name: str, size: int | None) -> None:
        """Download one file, continuing after what an earlier download received of it."""
        url = hf_hub_url(self.id, name, revision=commit)
        etag = get_hf_file_metadata(url, timeout=constants.HF_HUB_ETAG_TIMEOUT).etag
        blob = self._folder / "blobs" / str(etag)
        partial = self._own_folder / f"{etag}.partial"
        partial.parent.mkdir(parents=True, exist_ok=True)
        blob.parent.mkdir(parents=True, exist_ok=True)
        with WeakFileLock(partial.with_suffix(".lock")):
            if not has_size(blob, size):
                with partial.open("ab") as file:
                    received = file.tell()
                    if received != size:
                        _log_start(self, name, size, received)
                        http_get(
                            url,
                            file,
                            resume_size=received,
                            headers=build_hf_headers(),
                            displayed_filename=name,
                        )
                self._check(partial, name, size, str(etag))
                partial.replace(blob)
            pointer = self._folder / "snapshots" / commit / name
            if not has_size(pointer, size):
                pointer.unlink(missing_ok=True)
            hf_hub_download(self.id, name, revision=commit, cache_dir=self.cache)
            if not pointer.is_symlink():  # Without symbolic links (Windows) it is a copy.
                blob.unlink(missing_ok=True)

    def _check(self, partial: Path, name: str, size: int | None, etag: str) -> None:
        """Compare a received file with what the hub announced; delete it if it differs."""
        received = partial.stat().st_size
        problem = ""
        if size not in (None, received):
            problem = f"{received} bytes where the repository lists {size}"
        elif _SHA256.fullmatch(etag):  # Large files: the tag is their checksum.
            with partial.open("rb") as file:
                if hashlib.file_digest(file, "sha256").hexdigest() != etag:
                    problem = "a checksum other than the repository's"
        if problem:
            partial.unlink()
            raise ModelUnavailableError(
                f"{self}: {name} arrived with {problem}. Start again to download it anew; if that "
                f"does not help, look at the proxy or mirror in between (HF_ENDPOINT)."
            )

    @property
    def cache(self) -> Path:
        """The folder in which repositories are cached."""
        return (self.cache_dir or Path(constants.HF_HUB_CACHE)).expanduser()

    @property
    def _folder(self) -> Path:
        return self.cache / f"models--{self.id.replace('/', '--')}"

    @property
    def _own_folder(self) -> Path:
        return self._folder / "parakeet_stt"

    def _sizes_file(self, commit: str) -> Path:
        return self._own_folder / f"{commit}.json"

    def _read_sizes(self, commit: str) -> Sizes | None:
        path = self._sizes_file(commit)
        if not path.is_file():
            return None
        try:
            sizes: Sizes = json.loads(path.read_text(encoding="utf-8"))
        except ValueError:  # Cut off by a crash of the machine; a download writes it again.
            return None
        return sizes


def _write(path: Path, text: str) -> None:
    """Write a small file so that it is never seen half written."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{os.getpid()}.{threading.get_ident()}")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)


def _log_start(repository: Repository, name: str, size: int | None, received: int) -> None:
    whole = "unknown size" if size is None else f"{size / 1e6:.1f} MB"
    continued = f", continued at {received / 1e6:.1f} MB" if received else ""
    logger.info(f"downloading {repository}: {name}, {whole}{continued}")


@contextmanager
def _explained(repository: Repository) -> Iterator[None]:
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
            f"no such repository on the hub: {repository.id!r} (or it is private: log in with "
            f"'hf auth login' or set HF_TOKEN)"
        ) from error
    except RevisionNotFoundError as error:
        raise ModelNotFoundError(
            f"{repository.id} has no revision {repository.revision!r}; expected a branch, a tag or "
            f"a whole commit hash"
        ) from error
    except HFValidationError as error:
        raise ModelNotFoundError(
            f"no such model: {str(repository)!r} is neither a folder nor a Hugging Face id "
            f"(owner/name, or owner/name@revision)"
        ) from error
    except OfflineModeIsEnabled as error:
        raise ModelUnavailableError(
            f"{repository} is not completely cached and HF_HUB_OFFLINE is set. Unset it to "
            f"download the model, or give a folder that holds it; 'tiny' needs no network."
        ) from error
    except HfHubHTTPError as error:
        status = error.response.status_code if error.response is not None else "no"
        raise ModelUnavailableError(
            f"the hub answered a request for {repository} with status {status}: {error}"
        ) from error
    except _UNREACHABLE as error:
        if isinstance(error, OSError) and error.errno in _NO_SPACE:
            raise ModelUnavailableError(
                f"{repository} does not fit into {repository.cache}: {error.strerror}. Free some "
                f"space, or set PARAKEET_CACHE_DIR to a folder on another disk; the next start "
                f"continues the download."
            ) from error
        raise ModelUnavailableError(
            f"{repository} is not completely cached and cannot be downloaded: {error}. Check the "
            f"network, or give a folder that holds the model; 'tiny' needs no network."
        ) from error
