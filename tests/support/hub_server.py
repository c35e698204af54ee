"""A stand-in for the Hugging Face hub: a real HTTP server for the requests of its client.

It can hold a request back, break a connection off in the middle of a file, and list wrong sizes.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote

import onnxruntime
from huggingface_hub import constants

from parakeet_stt.model.catalog import BUNDLED

TINY = BUNDLED["tiny"]
COMMIT = "0123456789abcdef0123456789abcdef01234567"

Files = dict[str, Path]


@dataclass
class Request:
    """A request that arrived: ``GET``, the path, and the range of bytes, if any."""

    method: str
    path: str
    range: str = ""

    @property
    def file(self) -> str:
        """Name of the file asked for, or ``list`` for a repository's list of files."""
        return "list" if self.path.startswith("api/") else self.path.split("/", 4)[-1]


@dataclass
class Hold:
    """Where the server stops answering.

    Attributes:
        method: The request's method.
        file: The file asked for, or ``list``.
        bytes: Sent before it stops; with 0, not even a status is sent.
        number: Which of such requests, counted from 1.
        breaks: Whether the connection is closed then. Otherwise it hangs.
    """

    method: str
    file: str
    bytes: int = 0
    number: int = 1
    breaks: bool = False


@dataclass
class Hub:
    """The server's repositories and what it was asked for.

    Attributes:
        address: For ``HF_ENDPOINT``.
        repositories: The files of each.
        revisions: Branches and tags of every repository, and the commits that they stand for.
        sizes: Sizes to list for some files in place of the real ones.
        damages: Files of which another content is sent than announced.
        is_broken: Whether to answer everything with status 500.
        hold: Where to stop answering.
        held: Set when that is reached.
        requests: All that arrived.
    """

    address: str = ""
    repositories: dict[str, Files] = field(default_factory=dict)
    revisions: dict[str, str] = field(default_factory=lambda: {"main": COMMIT})
    sizes: dict[str, int] = field(default_factory=dict)
    damages: set[str] = field(default_factory=set)
    is_broken: bool = False
    hold: Hold | None = None
    held: threading.Event = field(default_factory=threading.Event)
    released: threading.Event = field(default_factory=threading.Event)
    requests: list[Request] = field(default_factory=list)

    def transfers(self, file: str) -> list[Request]:
        """The requests for the content of a file."""
        return [r for r in self.requests if (r.method, r.file) == ("GET", file)]

    def release(self) -> None:
        """Answer everything from now on, and forget what was asked for."""
        self.released.set()
        self.hold = None
        self.requests.clear()


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    current: Request

    def do_HEAD(self) -> None:
        self.answer()

    def do_GET(self) -> None:
        self.answer()

    def answer(self) -> None:
        path = self.path.split("?")[0].strip("/")
        request = self.current = Request(self.command, path, self.headers.get("Range", ""))
        self.hub.requests.append(request)
        # api/models/OWNER/NAME/revision/REVISION, or OWNER/NAME/resolve/REVISION/FILE
        owner, name, _, revision = (*path.removeprefix("api/models/").split("/"), "", "main")[:4]
        name, revision = f"{owner}/{name}", unquote(revision)
        commit = self.hub.revisions.get(revision, revision)
        if name not in self.hub.repositories or self.hub.is_broken:
            return self.refuse(name)
        if commit not in self.hub.revisions.values():
            return self.send(b"", {"X-Error-Code": "RevisionNotFound"}, 404)
        files = self.hub.repositories[name]
        if "/tree/" in path:
            tree = [
                {"type": "file", "path": n, "size": f.stat().st_size, "oid": n}
                for n, f in files.items()
            ]
            return self.send(json.dumps(tree).encode(), {})
        if request.file == "list":
            return self.send(json.dumps(self.listing(name, commit)).encode(), {})
        if request.file not in files:
            return self.send(b"", {"X-Error-Code": "EntryNotFound"}, 404)
        data = files[request.file].read_bytes()
        tag = f'"{hashlib.sha256(data).hexdigest()}"'
        if request.file in self.hub.damages:
            data = bytes(len(data))
        return self.send(data, {"ETag": tag, "X-Repo-Commit": commit, "Accept-Ranges": "bytes"})

    def listing(self, name: str, commit: str) -> dict[str, object]:
        sizes = {n: f.stat().st_size for n, f in self.hub.repositories[name].items()}
        siblings = [{"rfilename": n, "size": s} for n, s in (sizes | self.hub.sizes).items()]
        return {"id": name, "sha": commit, "siblings": siblings, "private": False}

    def refuse(self, name: str) -> None:
        if name.startswith("gated/"):
            return self.send(b"", {"X-Error-Code": "GatedRepo"}, 403)
        if self.hub.is_broken:
            return self.send(b"", {}, 500)
        if name.startswith("portal/"):
            return self.send(b"<html>Log in to use this network.</html>", {})
        return self.send(b"", {"X-Error-Code": "RepoNotFound"}, 404)

    def send(self, data: bytes, headers: dict[str, str], status: int = 200) -> None:
        request = self.current
        hold = self.reached(request)
        if hold is not None and hold.bytes == 0:
            return self.stop(hold)
        start = int(request.range.removeprefix("bytes=").rstrip("-") or 0)
        if request.range:
            status = 206 if start < len(data) else 416
            headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(data) - start))
        self.end_headers()
        if self.command == "HEAD":
            return None
        if hold is not None:
            self.wfile.write(data[start : start + hold.bytes])
            self.wfile.flush()
            return self.stop(hold)
        self.wfile.write(data[start:])
        return None

    def reached(self, request: Request) -> Hold | None:
        hold = self.hub.hold
        if hold is None or (request.method, request.file) != (hold.method, hold.file):
            return None
        same = [r for r in self.hub.requests if (r.method, r.file) == (hold.method, hold.file)]
        return hold if len(same) == hold.number else None

    def stop(self, hold: Hold) -> None:
        self.hub.held.set()
        if not hold.breaks:
            self.hub.released.wait()
        self.close_connection = True

    def log_message(self, *_: object) -> None:
        """Nothing: the test's output is not a server's log."""


@contextmanager
def hub_server() -> Iterator[Hub]:
    """Run a hub without any repository on a free port."""
    hub = Hub()
    handler = type("Handler", (_Handler,), {"hub": hub})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as http:
        http.daemon_threads = True
        hub.address = f"http://127.0.0.1:{http.server_port}"
        threading.Thread(target=http.serve_forever, daemon=True).start()
        try:
            yield hub
        finally:
            hub.released.set()
            http.shutdown()


def files_of(folder: Path, *names: str) -> Files:
    """Files of a folder; all of them by default."""
    return {name: folder / name for name in names or sorted(os.listdir(folder))}


def onnx_export(to: Path) -> Path:
    """Make an ONNX export of the bundled model, in onnx-asr's layout."""
    to.mkdir()
    for name in ("encoder-model.onnx", "decoder_joint-model.onnx", "vocab.txt"):
        shutil.copy(TINY / name, to / name)
    config = {"model_type": "nemo-conformer-tdt", "features_size": 80, "subsampling_factor": 8}
    (to / "config.json").write_text(json.dumps(config))
    return to


def large_onnx_export(to: Path, data: str = "encoder-model.onnx.data") -> Path:
    """Make such an export with the encoder's weights in a file of their own, as large models have.

    The file is padded to more than the client keeps in memory before it writes.
    """
    onnx_export(to)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.optimized_model_filepath = str(to / "encoder-model.onnx")
    for key, value in (("file_name", data), ("min_size_in_bytes", "1024")):
        options.add_session_config_entry(
            f"session.optimized_model_external_initializers_{key}", value
        )
    onnxruntime.InferenceSession(TINY / "encoder-model.onnx", options)
    os.truncate(to / data, 2 * constants.DOWNLOAD_CHUNK_SIZE + 1)
    return to
