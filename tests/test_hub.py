"""Finding models: folders, known names, and a hub that is a server on this machine."""

from __future__ import annotations

import errno
import hashlib
import json
import shutil
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import huggingface_hub
import pytest
from conftest import GOLDEN, RECORDINGS
from huggingface_hub import constants

from parakeet_stt import load_model
from parakeet_stt.errors import (
    ConfigurationError,
    ModelFormatError,
    ModelNotFoundError,
    ModelUnavailableError,
)
from parakeet_stt.model import hub
from parakeet_stt.model.hub import BUNDLED, find_model

TINY = BUNDLED["tiny"]
COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub(BaseHTTPRequestHandler):
    """As much of the hub's interface as downloads need: a repository's list and its files."""

    repositories: ClassVar[dict[str, dict[str, Path]]] = {}
    asked: ClassVar[list[str]] = []

    def do_HEAD(self) -> None:
        self.answer(body=False)

    def do_GET(self) -> None:
        self.answer(body=True)

    def answer(self, body: bool) -> None:
        path = self.path.split("?")[0].strip("/")
        self.asked.append(path)
        if path.startswith("api/models/"):
            name = "/".join(path.split("/")[2:4])
            if name not in self.repositories:
                return self.refuse(name)
            if "/tree/" in path:
                tree = [
                    {"type": "file", "path": n, "size": f.stat().st_size, "oid": n}
                    for n, f in self.repositories[name].items()
                ]
                return self.send(json.dumps(tree).encode(), body, {})
            files = [
                {"rfilename": n, "size": f.stat().st_size}
                for n, f in self.repositories[name].items()
            ]
            listing = {"id": name, "sha": COMMIT, "siblings": files, "private": False}
            return self.send(json.dumps(listing).encode(), body, {})
        name, file = "/".join(path.split("/")[:2]), "/".join(path.split("/")[4:])
        if name not in self.repositories:
            return self.refuse(name)
        if file not in self.repositories[name]:
            return self.send(b"", body, {"X-Error-Code": "EntryNotFound"}, 404)
        data = self.repositories[name][file].read_bytes()
        tag = f'"{hashlib.sha256(data).hexdigest()}"'
        return self.send(data, body, {"ETag": tag, "X-Repo-Commit": COMMIT})

    def refuse(self, name: str) -> None:
        if name.startswith("gated/"):
            return self.send(b"", False, {"X-Error-Code": "GatedRepo"}, 403)
        if name.startswith("broken/"):
            return self.send(b"", False, {}, 500)
        return self.send(b"", False, {"X-Error-Code": "RepoNotFound"}, 404)

    def send(self, data: bytes, body: bool, headers: dict[str, str], status: int = 200) -> None:
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if body:
            self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        """Nothing: the test's output is not a server's log."""


def folder_files(folder: Path, *names: str) -> dict[str, Path]:
    return {name: folder / name for name in names}


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[type[Hub]]:
    Hub.repositories = {
        "mlx-community/parakeet-tdt-0.6b-v2": folder_files(
            TINY, "config.json", "model.safetensors"
        ),
        "somebody/finetuned": {
            **folder_files(TINY, "config.json", "model.safetensors"),
            "README.md": Path(__file__),
        },
    }
    Hub.asked = []
    http = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    thread = threading.Thread(target=http.serve_forever, daemon=True)
    thread.start()
    address = f"http://127.0.0.1:{http.server_port}"
    monkeypatch.setattr(constants, "ENDPOINT", address)
    monkeypatch.setattr(
        constants,
        "HUGGINGFACE_CO_URL_TEMPLATE",
        address + "/{repo_id}/resolve/{revision}/{filename}",
    )
    api = huggingface_hub.HfApi(endpoint=address)
    monkeypatch.setattr(hub, "HfApi", lambda: api)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    yield Hub
    http.shutdown()
    http.server_close()


def onnx_folder(to: Path) -> Path:
    to.mkdir()
    for name in ("encoder-model.onnx", "decoder_joint-model.onnx", "vocab.txt"):
        shutil.copy(TINY / name, to / name)
    config = {"model_type": "nemo-conformer-tdt", "features_size": 80, "subsampling_factor": 8}
    (to / "config.json").write_text(json.dumps(config))
    return to


def copy_of(folder: Path, to: Path) -> Path:
    return Path(shutil.copytree(folder, to))


def changed(folder: Path, key: str, value: object) -> Path:
    """The folder with one key of its configuration set to another value."""
    path = folder / "config.json"
    config = json.loads(path.read_text())
    place = config
    *parents, last = key.split(".")
    for parent in parents:
        place = place[parent]
    if value is None:
        del place[last]
    else:
        place[last] = value
    path.write_text(json.dumps(config))
    return folder


def test_auto_takes_mlx_with_a_gpu_and_onnx_without() -> None:
    assert find_model("tiny", "auto", has_gpu=True).backend == "mlx"
    assert find_model("tiny", "auto", has_gpu=False).backend == "onnx"
    golden = str(GOLDEN / "models" / "tdt")
    assert find_model(golden, "auto", has_gpu=False).backend == "mlx"


def test_a_known_model_has_one_name_and_a_source_per_encoder() -> None:
    name = "parakeet-tdt-0.6b-v2"
    mlx, onnx = "mlx-community/parakeet-tdt-0.6b-v2", "istupakov/parakeet-tdt-0.6b-v2-onnx"
    assert hub._repository(name, "auto", True) == (mlx, "mlx")
    assert hub._repository(name, "auto", False) == (onnx, "onnx")
    assert hub._repository(mlx, "auto", False) == (onnx, "onnx")
    assert hub._repository(mlx, "mlx", False) == (mlx, "mlx")
    assert hub._repository(onnx, "auto", True) == (onnx, "onnx")
    assert hub._repository("parakeet-tdt-1.1b", "auto", False)[1] == "mlx"
    with pytest.raises(ConfigurationError, match="no ONNX export"):
        hub._repository("parakeet-tdt-1.1b", "onnx", False)


def test_the_same_choice_is_the_same_model() -> None:
    one = load_model("tiny", backend="mlx", precision="fp32")
    assert load_model("tiny", backend="mlx", precision="fp32") is one
    assert load_model(str(TINY), backend="mlx") is one
    assert load_model("tiny", backend="onnx") is not one


def test_an_onnx_export_alone_is_a_model(tmp_path: Path) -> None:
    model = load_model(onnx_folder(tmp_path / "export"))
    recording = RECORDINGS[0]
    assert model.encoder.name == "onnx"
    assert model.transcribe(recording.samples()).text == (
        load_model("tiny", backend="onnx").transcribe(recording.samples()).text
    )


def test_a_repository_is_downloaded_once_and_only_what_is_needed(
    server: type[Hub], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    files = find_model("somebody/finetuned", "auto", False, tmp_path)
    assert files.backend == "mlx"
    assert not any("README" in path for path in server.asked)
    server.asked.clear()
    again = find_model("somebody/finetuned", "auto", False, tmp_path)
    assert again.folder == files.folder
    assert server.asked == [], "the network was asked for a model that is cached"
    assert hub.is_cached("somebody/finetuned", tmp_path)
    assert not hub.is_cached("somebody/else", tmp_path)


def test_a_download_says_what_it_is_and_how_large(server: type[Hub], tmp_path: Path) -> None:
    from loguru import logger

    said: list[str] = []
    sink = logger.add(said.append, level="INFO", format="{message}")
    find_model("mlx-community/parakeet-tdt-0.6b-v2", "mlx", False, tmp_path)
    logger.remove(sink)
    assert "downloading mlx-community/parakeet-tdt-0.6b-v2: 2 files, 0.01 GB\n" in said


@pytest.mark.parametrize(
    ("source", "kind", "message"),
    [
        ("somebody/nothing", ModelNotFoundError, "no such repository"),
        ("gated/model", ModelUnavailableError, "gated: accept its terms"),
        ("broken/model", ModelUnavailableError, "cannot be reached.*500"),
        ("no-such-model", ModelNotFoundError, "no such model: 'no-such-model'"),
        ("./folder", ModelNotFoundError, "Expected 'tiny', a folder"),
        ("some body/x", ModelNotFoundError, "neither a folder nor a Hugging Face id"),
    ],
)
def test_a_source_that_cannot_be_had_is_explained(
    server: type[Hub], tmp_path: Path, source: str, kind: type[Exception], message: str
) -> None:
    with pytest.raises(kind, match=message):
        find_model(source, "auto", False, tmp_path)


def test_no_network_and_nothing_cached_is_explained(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ModelUnavailableError, match="not cached and the hub cannot be reached"):
        find_model("somebody/model", "auto", False, tmp_path)


def test_a_full_disk_is_explained(
    server: type[Hub], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def full(*_: object, **__: object) -> str:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(hub, "snapshot_download", full)
    monkeypatch.setattr(hub, "_cached", lambda *_: None)
    with pytest.raises(ModelUnavailableError, match=r"disk is full.*PARAKEET_CACHE_DIR"):
        find_model("somebody/finetuned", "auto", False, tmp_path)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("encoder.causal_downsampling", True, "encoder.causal_downsampling=True"),
        ("encoder.conv_norm_type", "layer_norm", "conv_norm_type='layer_norm'"),
        ("encoder.subsampling_factor", 4, "subsampling_factor=4"),
        ("encoder.self_attention_model", "abs_pos", "self_attention_model='abs_pos'"),
        ("preprocessor.normalize", "NA", "normalize='NA'.*expects 'per_feature'"),
        ("preprocessor.sample_rate", 8000, "sample_rate=8000"),
        ("target", "nemo.EncDecMultiTaskModel", "target='nemo.EncDecMultiTaskModel'"),
        ("joint.vocabulary", None, "joint.vocabulary is missing"),
    ],
)
def test_a_configuration_that_cannot_be_run_is_named(
    tmp_path: Path, key: str, value: object, message: str
) -> None:
    folder = changed(copy_of(GOLDEN / "models" / "tdt", tmp_path / "model"), key, value)
    with pytest.raises(ModelFormatError, match=message):
        load_model(folder)


def test_weights_that_do_not_match_are_refused(tmp_path: Path) -> None:
    wide = changed(copy_of(GOLDEN / "models" / "tdt", tmp_path / "a"), "encoder.n_layers", 4)
    with pytest.raises(ModelFormatError, match="does not match the configuration"):
        load_model(wide, backend="mlx")
    small = copy_of(GOLDEN / "models" / "tdt", tmp_path / "b")
    changed(small, "joint.vocabulary", ["a", "b"])
    with pytest.raises(ModelFormatError, match=r"46 outputs where .* make 8"):
        load_model(small, backend="mlx")


def test_files_that_are_broken_or_missing_are_named(tmp_path: Path) -> None:
    folder = copy_of(GOLDEN / "models" / "tdt", tmp_path / "model")
    (folder / "model.safetensors").write_bytes(b"\x10\0\0\0\0\0\0\0nothing")
    with pytest.raises(ModelFormatError, match=r"model.safetensors cannot be read.*Delete it"):
        load_model(folder, backend="mlx")
    (folder / "model.safetensors").unlink()
    with pytest.raises(ModelNotFoundError, match="holds no model"):
        load_model(folder)
    (folder / "config.json").write_text("{")
    with pytest.raises(ModelFormatError, match="is not JSON"):
        load_model(folder)
    export = onnx_folder(tmp_path / "export")
    (export / "encoder-model.onnx").write_bytes(b"nothing")
    with pytest.raises(ModelFormatError, match="cannot be loaded by ONNX Runtime"):
        load_model(export)
    (export / "vocab.txt").unlink()
    with pytest.raises(ModelNotFoundError, match=r"lacks vocab.txt"):
        load_model(export)
    with pytest.raises(ModelNotFoundError, match=r"config.json is missing"):
        load_model(tmp_path)


def test_a_folder_without_the_wanted_encoder_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="has no onnx encoder"):
        load_model(GOLDEN / "models" / "tdt", backend="onnx")


@pytest.mark.parametrize("line", ["piece", "piece x"])
def test_a_vocabulary_of_another_form_is_refused(tmp_path: Path, line: str) -> None:
    export = onnx_folder(tmp_path / "export")
    (export / "vocab.txt").write_text(f"{line}\n")
    with pytest.raises(ModelFormatError, match=r"vocab.txt:1: expected 'piece id'"):
        load_model(export)
