"""Finding models: folders, known names, and a hub that is a server on this machine."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import huggingface_hub
import pytest
from huggingface_hub import constants
from loguru import logger

from parakeet_stt import load_model
from parakeet_stt.errors import (
    ConfigurationError,
    ModelFormatError,
    ModelNotFoundError,
    ModelUnavailableError,
)
from parakeet_stt.model import hub
from parakeet_stt.model.catalog import languages_of
from parakeet_stt.model.hub import cached_model, find_model
from parakeet_stt.settings import Backend
from tests.support.hub_server import (
    COMMIT,
    TINY,
    Hold,
    Hub,
    files_of,
    hub_server,
    large_onnx_export,
    onnx_export,
)
from tests.support.model_folders import changed, copy_of
from tests.support.recordings import GOLDEN, RECORDINGS

MLX_FILES = files_of(TINY, "config.json", "model.safetensors")


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with hub_server() as server:
        server.repositories = {
            "mlx-community/parakeet-tdt-0.6b-v2": MLX_FILES,
            "somebody/finetuned": {**MLX_FILES, "README.md": Path(__file__)},
        }
        monkeypatch.setattr(constants, "ENDPOINT", server.address)
        template = server.address + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        yield server


def test_auto_takes_mlx_with_a_gpu_and_onnx_without() -> None:
    assert find_model("tiny", "auto", has_gpu=True).executor == "mlx"
    assert find_model("tiny", "auto", has_gpu=False).executor == "onnx"
    golden = str(GOLDEN / "models" / "tdt")
    assert find_model(golden, "auto", has_gpu=False).executor == "onnx"


@pytest.fixture
def known(server: Hub, tmp_path: Path) -> Hub:
    """A hub with both repositories of two known models."""
    onnx_files = files_of(onnx_export(tmp_path / "export"))
    for version in ("v2", "v3"):
        server.repositories[f"mlx-community/parakeet-tdt-0.6b-{version}"] = MLX_FILES
        server.repositories[f"istupakov/parakeet-tdt-0.6b-{version}-onnx"] = onnx_files
    return server


V2 = "parakeet-tdt-0.6b-v2"
V3 = "parakeet-tdt-0.6b-v3"


@pytest.mark.parametrize(
    ("source", "backend", "has_gpu", "repository"),
    [
        (V2, "auto", True, f"mlx-community/{V2}"),
        (V2, "auto", False, f"istupakov/{V2}-onnx"),
        (f"mlx-community/{V2}", "auto", False, f"istupakov/{V2}-onnx"),
        (f"mlx-community/{V2}", "mlx", False, f"mlx-community/{V2}"),
        (f"istupakov/{V2}-onnx", "auto", True, f"istupakov/{V2}-onnx"),
        (f"nvidia/{V3}", "auto", True, f"mlx-community/{V3}"),
        (f"nvidia/{V3}", "auto", False, f"istupakov/{V3}-onnx"),
        (f"Nvidia/{V3.upper()}", "auto", False, f"istupakov/{V3}-onnx"),
        (V3.upper(), "mlx", False, f"mlx-community/{V3}"),
        (f"Istupakov/{V3}-ONNX", "auto", True, f"istupakov/{V3}-onnx"),
        (f"mlx-community/{V3}@main", "auto", False, f"mlx-community/{V3}"),
    ],
)
def test_a_known_model_has_several_names_and_a_repository_per_encoder(
    known: Hub, tmp_path: Path, source: str, backend: Backend, has_gpu: bool, repository: str
) -> None:
    files = find_model(source, backend, has_gpu, tmp_path)
    assert files.folder.parent.parent.name == f"models--{repository.replace('/', '--')}"
    on_mlx = backend == "mlx" or (has_gpu and "istupakov" not in repository)
    assert files.executor == ("mlx" if on_mlx else "onnx")
    assert files.source == source
    assert len(languages_of(source)) == (25 if V3 in source.casefold() else 1)


def test_int8_downloads_the_checkpoint_of_a_known_model(known: Hub, tmp_path: Path) -> None:
    model = load_model(V3, backend="onnx", precision="int8", cache_dir=tmp_path)
    assert (model.encoder.name, model.encoder.precision) == ("onnx", "int8")
    assert known.transfers("encoder-model.onnx") == []
    assert model.transcribe(RECORDINGS[0].samples()).text == RECORDINGS[0].text


def test_the_bundled_model_is_found_in_any_case() -> None:
    assert find_model("Tiny", "auto", False).source == "tiny"


def test_a_known_model_without_an_export_runs_on_onnx_runtime(server: Hub, tmp_path: Path) -> None:
    server.repositories["mlx-community/parakeet-tdt-1.1b"] = MLX_FILES
    for backend in ("onnx", "auto"):
        files = find_model("parakeet-tdt-1.1b", backend, False, tmp_path)  # type: ignore[arg-type]
        assert files.executor == "onnx"
        assert files.checkpoint is not None


def test_a_revision_of_a_name_with_several_repositories_is_refused() -> None:
    for source in (f"{V3}@main", f"nvidia/{V3}@main"):
        with pytest.raises(ConfigurationError, match="Give one of these before the @") as error:
            find_model(source, "auto", False)
        assert f"mlx-community/{V3} and istupakov/{V3}-onnx" in str(error.value)


@pytest.mark.parametrize("revision", ["v1.0", "fix/vocabulary", "f" * 40])
def test_a_revision_is_downloaded_once_and_kept_apart_from_others(
    server: Hub, tmp_path: Path, revision: str
) -> None:
    server.revisions |= {"v1.0": "1" * 40, "fix/vocabulary": "2" * 40, "other": "f" * 40}
    commit = server.revisions.get(revision, revision)
    files = find_model(f"somebody/finetuned@{revision}", "auto", False, tmp_path)
    assert files.folder.name == commit
    server.requests.clear()
    again = find_model(f"somebody/finetuned@{revision}", "auto", False, tmp_path)
    assert (again.folder, server.requests) == (files.folder, [])
    assert find_model("somebody/finetuned", "auto", False, tmp_path).folder.name == COMMIT
    assert server.transfers("model.safetensors") == [], "the same content was sent twice"


@pytest.mark.parametrize("reason", ["offline", "nothing listens", "the hub is broken"])
def test_a_cached_repository_takes_the_place_of_a_preferred_one_that_is_not_available(
    known: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reason: str
) -> None:
    cached = find_model(V2, "mlx", False, tmp_path)
    if reason == "offline":
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    elif reason == "nothing listens":
        with socket.create_server(("127.0.0.1", 0)) as free:
            monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{free.getsockname()[1]}")
    else:
        known.is_broken = True
    messages: list[str] = []
    sink = logger.add(messages.append, level="WARNING", format="{message}")
    found = find_model(V2, "auto", False, tmp_path)
    logger.remove(sink)
    assert (found.folder, found.executor) == (cached.folder, "onnx")
    assert f"Using mlx-community/{V2}, which is cached.\n" in messages[0]
    with pytest.raises(ModelUnavailableError):
        find_model(f"istupakov/{V2}-onnx", "onnx", False, tmp_path)


def test_the_same_choice_is_the_same_model() -> None:
    one = load_model("tiny", backend="mlx", precision="fp32")
    assert load_model("tiny", backend="mlx", precision="fp32") is one
    assert load_model(str(TINY), backend="mlx") is one
    assert load_model("tiny", backend="onnx") is not one


def test_an_onnx_export_alone_is_a_model(tmp_path: Path) -> None:
    model = load_model(onnx_export(tmp_path / "export"))
    recording = RECORDINGS[0]
    assert model.encoder.name == "onnx"
    assert model.transcribe(recording.samples()).text == (
        load_model("tiny", backend="onnx").transcribe(recording.samples()).text
    )


def test_a_repository_is_downloaded_once_and_only_what_is_needed(
    server: Hub, tmp_path: Path
) -> None:
    assert cached_model("somebody/finetuned", "auto", False, tmp_path) is None
    files = find_model("somebody/finetuned", "auto", False, tmp_path)
    assert files.executor == "onnx"
    assert not any(request.file == "README.md" for request in server.requests)
    server.requests.clear()
    again = find_model("somebody/finetuned", "auto", False, tmp_path)
    assert again.folder == files.folder
    assert server.requests == [], "the network was asked for a model that is cached"
    assert hub.is_cached("somebody/finetuned", tmp_path)
    assert not hub.is_cached("somebody/else", tmp_path)


def test_of_a_repository_in_both_layouts_only_the_checkpoint_is_downloaded(
    server: Hub, tmp_path: Path
) -> None:
    server.repositories["somebody/both"] = files_of(TINY)
    assert find_model("somebody/both", "auto", True, tmp_path).executor == "mlx"
    assert server.transfers("encoder-model.onnx") == []
    files = find_model("somebody/both", "auto", False, tmp_path)
    assert files.executor == "onnx"
    assert server.transfers("encoder-model.onnx") == []
    assert len(server.transfers("model.safetensors")) == 1
    model = load_model("somebody/both", backend="onnx", cache_dir=tmp_path)
    assert model.transcribe(RECORDINGS[0].samples()).text == RECORDINGS[0].text


def test_a_download_logs_each_file_and_its_size(server: Hub, tmp_path: Path) -> None:
    messages: list[str] = []
    sink = logger.add(messages.append, level="INFO", format="{message}")
    find_model("somebody/finetuned", "mlx", False, tmp_path)
    logger.remove(sink)
    assert messages == [
        "downloading somebody/finetuned: config.json, 0.0 MB\n",
        "downloading somebody/finetuned: model.safetensors, 5.3 MB\n",
    ]


@pytest.fixture(scope="module")
def export(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An export whose encoder keeps its weights in a file of another name."""
    return large_onnx_export(tmp_path_factory.mktemp("export") / "model", data="weights.bin")


@pytest.fixture
def large(server: Hub, export: Path) -> Hub:
    server.repositories["somebody/large"] = files_of(export)
    return server


def transcribed(source: str | Path, cache: Path) -> str:
    model = load_model(source, backend="onnx", cache_dir=cache)
    return model.transcribe(RECORDINGS[0].samples()).text


def test_data_files_that_a_graph_refers_to_are_downloaded(large: Hub, tmp_path: Path) -> None:
    assert transcribed("somebody/large", tmp_path) == RECORDINGS[0].text
    assert len(large.transfers("weights.bin")) == 1


def test_a_connection_that_breaks_off_is_continued(large: Hub, tmp_path: Path) -> None:
    large.hold = Hold("GET", "weights.bin", bytes=constants.DOWNLOAD_CHUNK_SIZE + 1, breaks=True)
    find_model("somebody/large", "onnx", False, tmp_path)
    first, second = large.transfers("weights.bin")
    assert (first.range, second.range) == ("", f"bytes={constants.DOWNLOAD_CHUNK_SIZE}-")


@pytest.mark.parametrize("wrong", [-1, 1])
def test_a_file_of_another_size_than_listed_is_refused_and_downloaded_anew(
    large: Hub, tmp_path: Path, wrong: int
) -> None:
    size = large.repositories["somebody/large"]["weights.bin"].stat().st_size
    large.sizes = {"weights.bin": size + wrong}
    with pytest.raises(ModelUnavailableError, match=rf"{size} bytes where .* lists {size + wrong}"):
        find_model("somebody/large", "onnx", False, tmp_path)
    large.sizes.clear()
    find_model("somebody/large", "onnx", False, tmp_path)


def test_content_other_than_announced_is_refused_and_downloaded_anew(
    large: Hub, tmp_path: Path
) -> None:
    large.damages = {"weights.bin"}
    with pytest.raises(ModelUnavailableError, match=r"weights.bin arrived with a checksum other"):
        find_model("somebody/large", "onnx", False, tmp_path)
    large.damages.clear()
    assert transcribed("somebody/large", tmp_path) == RECORDINGS[0].text


@pytest.mark.parametrize("name", ["weights.bin", "encoder-model.onnx", "vocab.txt"])
@pytest.mark.parametrize("damage", ["missing", "too short"])
def test_a_cached_file_that_is_missing_or_of_the_wrong_size_is_downloaded_again(
    large: Hub, tmp_path: Path, name: str, damage: str
) -> None:
    path = find_model("somebody/large", "onnx", False, tmp_path).folder / name
    size = path.stat().st_size
    if damage == "missing":
        path.resolve().unlink()
        path.unlink()
    else:
        os.truncate(path, size - 1)
    large.requests.clear()
    assert cached_model("somebody/large", "onnx", False, tmp_path) is None
    find_model("somebody/large", "onnx", False, tmp_path)
    assert path.stat().st_size == size
    assert [r.file for r in large.requests if r.method == "GET"] == ["list", name]


@pytest.mark.parametrize(
    ("repository", "name"),
    [
        ("somebody/large", "weights.bin"),
        ("somebody/large", "encoder-model.onnx"),
        ("somebody/finetuned", "model.safetensors"),
    ],
)
@pytest.mark.parametrize("damage", ["missing", "too short"])
def test_what_another_program_has_cached_is_used_if_complete_and_completed_if_not(
    large: Hub, tmp_path: Path, repository: str, name: str, damage: str
) -> None:
    for file in large.repositories[repository]:
        path = Path(huggingface_hub.hf_hub_download(repository, file, cache_dir=tmp_path))
    folder, size = path.parent, (path.parent / name).stat().st_size
    large.requests.clear()
    assert find_model(repository, "auto", False, tmp_path).folder == folder
    assert large.requests == []
    os.truncate(folder / name, size // 5)
    if damage == "missing":
        (folder / name).unlink()
    find_model(repository, "auto", False, tmp_path)
    assert (folder / name).stat().st_size == size
    assert [r.file for r in large.requests if r.method == "GET"] == ["list", name]


def test_a_file_is_kept_once_where_there_are_no_symbolic_links(
    large: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_SYMLINKS", True)
    folder = find_model("somebody/large", "onnx", False, tmp_path).folder
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert not any(path.is_symlink() for path in files)
    size = (folder / "weights.bin").stat().st_size
    assert [path for path in files if path.stat().st_size == size] == [folder / "weights.bin"]


def test_weights_that_are_damaged_on_the_hub_are_refused(server: Hub, tmp_path: Path) -> None:
    damaged = tmp_path / "damaged"
    damaged.write_bytes(b"nothing")
    config = MLX_FILES["config.json"]
    server.repositories["somebody/damaged"] = {"config.json": config, "model.safetensors": damaged}
    for _ in range(2):
        with pytest.raises(ModelFormatError, match=r"model.safetensors cannot be read"):
            load_model("somebody/damaged", backend="mlx", cache_dir=tmp_path)


def test_data_that_is_too_short_on_the_hub_is_refused(large: Hub, tmp_path: Path) -> None:
    short = tmp_path / "short"
    short.write_bytes(bytes(1000))
    large.repositories["somebody/large"]["weights.bin"] = short
    for _ in range(2):
        with pytest.raises(ModelFormatError, match=r"cannot be loaded by ONNX Runtime"):
            load_model("somebody/large", cache_dir=tmp_path, backend="onnx")


def test_two_that_need_the_same_model_at_once_download_it_once(large: Hub, tmp_path: Path) -> None:
    with ThreadPoolExecutor() as pool:
        both = [pool.submit(find_model, "somebody/large", "onnx", False, tmp_path) for _ in "ab"]
    assert both[0].result().folder == both[1].result().folder
    assert len(large.transfers("weights.bin")) == 1


@pytest.mark.parametrize(
    ("source", "kind", "message"),
    [
        ("somebody/nothing", ModelNotFoundError, "no such repository"),
        ("gated/model", ModelUnavailableError, "gated: accept its terms"),
        ("portal/model", ModelUnavailableError, "cannot be downloaded.*Check the network"),
        ("somebody/finetuned@v9", ModelNotFoundError, "no revision 'v9'; expected a branch"),
        ("somebody/finetuned@", ModelNotFoundError, "owner/name@revision"),
        ("somebody/notes", ModelNotFoundError, "somebody/notes holds no model: expected"),
        ("no-such-model", ModelNotFoundError, "no such model: 'no-such-model'"),
        ("./folder", ModelNotFoundError, "Expected 'tiny', a folder"),
        ("some body/x", ModelNotFoundError, "neither a folder nor a Hugging Face id"),
    ],
)
def test_a_source_that_cannot_be_had_is_explained(
    server: Hub, tmp_path: Path, source: str, kind: type[Exception], message: str
) -> None:
    server.repositories["somebody/notes"] = {"README.md": Path(__file__)}
    with pytest.raises(kind, match=message):
        find_model(source, "auto", False, tmp_path)


def test_a_hub_that_is_broken_is_explained(server: Hub, tmp_path: Path) -> None:
    server.is_broken = True
    with pytest.raises(ModelUnavailableError, match="somebody/finetuned with status 500"):
        find_model("somebody/finetuned", "auto", False, tmp_path)


def test_no_network_and_nothing_cached_is_explained(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(
        ModelUnavailableError, match="not completely cached and HF_HUB_OFFLINE is set"
    ):
        find_model("somebody/model", "auto", False, tmp_path)


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
    with pytest.raises(
        ModelFormatError, match="the weights have 3 encoder layers, the configuration has 4"
    ):
        load_model(wide, backend="mlx")
    small = copy_of(GOLDEN / "models" / "tdt", tmp_path / "b")
    changed(small, "joint.vocabulary", ["a", "b"])
    with pytest.raises(ModelFormatError, match="46 outputs, expected 8"):
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
    export = onnx_export(tmp_path / "export")
    (export / "encoder-model.onnx").write_bytes(b"nothing")
    with pytest.raises(ModelFormatError, match="cannot be loaded by ONNX Runtime"):
        load_model(export)
    (export / "vocab.txt").unlink()
    with pytest.raises(ModelNotFoundError, match=r"lacks vocab.txt"):
        load_model(export)
    with pytest.raises(ModelNotFoundError, match=r"config.json is missing"):
        load_model(tmp_path)


def test_a_folder_that_lacks_data_of_its_graph_is_refused(export: Path, tmp_path: Path) -> None:
    folder = copy_of(export, tmp_path / "model")
    (folder / "weights.bin").unlink()
    with pytest.raises(ModelNotFoundError, match=r"lacks weights.bin, which the model is loaded"):
        load_model(folder)


def test_an_export_is_refused_on_mlx(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="no checkpoint that MLX could run"):
        load_model(onnx_export(tmp_path / "export"), backend="mlx")


def test_special_pieces_of_a_vocabulary_are_no_text(tmp_path: Path) -> None:
    folder = onnx_export(tmp_path / "export")
    special = {"\u2581is 26": "<|en|> 26", "\u2581the 6": "<unk> 6", "y 211": "<0xFF> 211"}
    special |= {"ic 47": "<0xC3> 47", "u 212": "<0xA9> 212"}
    lines = (folder / "vocab.txt").read_text().splitlines()
    assert RECORDINGS[0].text == "Why is the oven so difficult?"
    (folder / "vocab.txt").write_text("\n".join(special.get(line, line) for line in lines))
    model = load_model(folder)
    samples = RECORDINGS[0].samples()
    transcript = model.transcribe(samples, boost={"<unk>": 10.0})
    assert transcript.text == "Wh\ufffd oven so diffélt?"
    assert [word.text for word in transcript.words] == ["Wh\ufffd", "oven", "so", "diffélt?"]
    committed = ""
    with model.transcribe_stream((256, 1)) as stream:
        for start in range(0, len(samples), 1600):
            hypothesis = stream.add_audio(samples[start : start + 1600])
            assert not {*"<>|"} & {*hypothesis.text, *hypothesis.tentative}
            assert hypothesis.committed.startswith(committed)
            assert hypothesis.text.startswith(hypothesis.committed)
            committed = hypothesis.committed
        assert stream.finish().text == transcript.text


@pytest.mark.parametrize("line", ["piece", "piece x"])
def test_a_vocabulary_of_another_form_is_refused(tmp_path: Path, line: str) -> None:
    export = onnx_export(tmp_path / "export")
    (export / "vocab.txt").write_text(f"{line}\n")
    with pytest.raises(ModelFormatError, match=r"vocab.txt:1: expected 'piece id'"):
        load_model(export)
