"""Checkpoints in every layout, on both executors, against NeMo's and Transformers' results."""

from __future__ import annotations

import io
import json
import pickle
import shutil
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from parakeet_stt import load_model
from parakeet_stt.errors import ConfigurationError, ModelFormatError
from parakeet_stt.model.checkpoint import read_checkpoint
from parakeet_stt.model.encoder import LocalAttention
from parakeet_stt.settings import Backend
from tests.support.model_folders import changed, copy_of
from tests.support.recordings import CLEAR, GOLDEN, RECORDINGS

ARRAYS = np.load(GOLDEN / "encoder.npz")
Tensors = dict[str, np.ndarray]
FRAMES = {"tdt": "full.200", "tdt2": "tdt2.full.200", "ctc": "ctc.full.200"}
LAYOUTS = GOLDEN / "layouts"


def folders(kind: str) -> list[Path]:
    """The same golden model in all three layouts."""
    return [
        GOLDEN / "models" / kind,
        LAYOUTS / "transformers" / kind,
        LAYOUTS / "nemo" / f"{kind}.nemo",
    ]


@pytest.mark.parametrize("kind", ["tdt", "tdt2", "rnnt", "ctc"])
def test_all_layouts_are_the_same_model(kind: str) -> None:
    first, *others = map(read_checkpoint, folders(kind))
    for other in others:
        assert other.config == first.config
        assert other.encoder == first.encoder
        for name, tensor in first.tensors.items():
            # Transformers' joint is as wide as its prediction network: the rest is zeros.
            found = other.tensors[name][tuple(slice(size) for size in tensor.shape)]
            np.testing.assert_allclose(found, tensor, atol=1e-6)


@pytest.mark.parametrize("backend", ["onnx", "mlx"])
@pytest.mark.parametrize("layout", range(3), ids=["parakeet-mlx", "transformers", "nemo"])
@pytest.mark.parametrize("kind", FRAMES)
def test_encoder_frames_are_nemos(kind: str, layout: int, backend: Backend) -> None:
    model = load_model(folders(kind)[layout], backend=backend, precision="fp32")
    (frames,) = model.encoder.encode([ARRAYS["mel.200"]], None)
    np.testing.assert_allclose(frames, ARRAYS[FRAMES[kind]], atol=1e-4)


def test_local_attention_and_ragged_batches_on_onnx_runtime_are_nemos() -> None:
    encoder = load_model(GOLDEN / "models" / "tdt", backend="onnx").encoder
    for side in (4, 8):
        (frames,) = encoder.encode([ARRAYS["mel.433"]], LocalAttention(side, side))
        np.testing.assert_allclose(frames, ARRAYS[f"local.{side}"], atol=1e-4)
    lengths = (61, 137, 200)
    batch = encoder.encode([ARRAYS["mel.200"][:length] for length in lengths], None)
    for frames, length in zip(batch, lengths, strict=True):
        np.testing.assert_allclose(frames, ARRAYS[f"batch.{length}"], atol=1e-4)


@pytest.mark.parametrize("frames", [1, 8, 9, 17])
@pytest.mark.parametrize("band", [None, LocalAttention(8, 2)], ids=str)
def test_both_executors_agree_on_short_windows(frames: int, band: LocalAttention | None) -> None:
    mel = ARRAYS["mel.200"][:frames]
    folder = GOLDEN / "models" / "tdt"
    found, wanted = (
        load_model(folder, backend=backend, precision="fp32").encoder.encode([mel], band)[0]
        for backend in ("onnx", "mlx")
    )
    np.testing.assert_allclose(found, wanted, atol=1e-5)


@pytest.mark.parametrize("kind", ["tdt", "tdt2", "rnnt", "ctc"])
def test_tokens_are_the_same_in_every_layout_and_on_both_executors(kind: str) -> None:
    samples = RECORDINGS[0].samples()
    found = [
        [token.id for token in load_model(path, backend=backend).transcribe(samples).tokens]
        for path in folders(kind)
        for backend in ("onnx", "mlx")
    ]
    assert all(tokens == found[0] for tokens in found)


def test_int8_transcribes_clear_recordings() -> None:
    model = load_model("tiny", backend="onnx", precision="int8")
    assert model.encoder.precision == "int8"
    texts = [model.transcribe(recording.samples()).text for recording in CLEAR[:8]]
    assert texts == [recording.text for recording in CLEAR[:8]]


def test_int8_is_refused_where_it_does_not_exist() -> None:
    with pytest.raises(ConfigurationError, match="int8 needs a checkpoint and backend 'onnx'"):
        load_model("tiny", backend="mlx", precision="int8")


@pytest.mark.parametrize("path", folders("tdt")[1:], ids=["transformers", "nemo"])
def test_parakeet_mlxs_own_streaming_needs_its_own_layout(path: Path) -> None:
    model = load_model(path, backend="mlx")
    with pytest.raises(ConfigurationError, match="needs a folder in parakeet-mlx's layout"):
        model.transcribe_stream(streaming="upstream")


@pytest.mark.parametrize("mode", ["w:gz", "w:xz"])
def test_a_compressed_archive_is_the_same_model(tmp_path: Path, mode: str) -> None:
    plain = LAYOUTS / "nemo" / "tdt.nemo"
    path = tmp_path / "model.nemo"
    with tarfile.open(plain) as source, tarfile.open(path, mode) as archive:  # type: ignore[call-overload]
        for member in source.getmembers():
            archive.addfile(member, source.extractfile(member))
    found, wanted = read_checkpoint(path), read_checkpoint(plain)
    assert set(found.tensors) == set(wanted.tensors)
    for name, tensor in wanted.tensors.items():
        np.testing.assert_array_equal(found.tensors[name], tensor)


class _Exploit:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return print, ("executed",)


def nemo_with(weights: bytes, path: Path) -> Path:
    """A copy of a golden archive with other weights."""
    with (
        tarfile.open(LAYOUTS / "nemo" / "tdt.nemo") as source,
        tarfile.open(path, "w") as archive,
    ):
        for member in source.getmembers():
            opened = source.extractfile(member)
            assert opened is not None
            data = weights if member.name.endswith(".ckpt") else opened.read()
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return path


def zipped(description: bytes) -> bytes:
    """Weights as ``torch.save`` writes them, with a pickle of our own."""
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as archive:
        archive.writestr("archive/data.pkl", description)
    return data.getvalue()


def test_a_pickle_that_holds_anything_but_tensors_is_refused_and_not_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = nemo_with(zipped(pickle.dumps({"a": _Exploit()})), tmp_path / "model.nemo")
    with pytest.raises(ModelFormatError, match=r"builtins\.print, expected tensors only"):
        load_model(path)
    assert "executed" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        (b"nothing", "cannot be read as a .nemo archive"),
        (zipped(b"\x80\x02"), "cannot be read as a .nemo archive"),
        (zipped(pickle.dumps([1])), "holds no tensors by name"),
        (zipped(pickle.dumps({"a": 1})), "holds 'a', which is no tensor"),
    ],
    ids=["no zip archive", "a truncated pickle", "a list", "a number"],
)
def test_damaged_weights_of_an_archive_are_refused(
    tmp_path: Path, weights: bytes, message: str
) -> None:
    with pytest.raises(ModelFormatError, match=message):
        load_model(nemo_with(weights, tmp_path / "model.nemo"))


def test_a_file_that_is_no_archive_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.nemo"
    path.write_bytes(b"nothing")
    with pytest.raises(ModelFormatError, match="cannot be read as a"):
        load_model(path)


def test_what_a_transformers_folder_lacks_is_named(tmp_path: Path) -> None:
    folder = copy_of(LAYOUTS / "transformers" / "rnnt", tmp_path / "model")
    shard = sorted(folder.glob("model-*.safetensors"))[1]
    moved = shutil.move(shard, tmp_path / shard.name)
    with pytest.raises(ModelFormatError, match=f"{shard.name} cannot be read"):
        load_model(folder)
    shutil.move(moved, shard)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "vocab_size": 99}))
    with pytest.raises(ModelFormatError, match="vocab_size=99"):
        load_model(folder)
    (folder / "config.json").write_text(json.dumps({**config, "hidden_act": "gelu"}))
    with pytest.raises(ModelFormatError, match="hidden_act='gelu'"):
        load_model(folder)
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "tokenizer.json").unlink()
    with pytest.raises(ModelFormatError, match=r"tokenizer.json is missing"):
        load_model(folder)


@pytest.mark.parametrize("backend", ["onnx", "mlx"])
@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda t: t.pop("encoder.layers.0.norm_out.bias"), "norm_out"),
        (lambda t: t.pop("decoder.lstm.bias_hh_l0"), "lack 'decoder.prediction.*bias_hh_l0'"),
        (lambda t: t.pop("joint.head.bias"), "lack 'joint.joint_net.2.bias'"),
        (
            lambda t: t.update({"encoder.layers.1.self_attn.o_proj.weight": np.ones((3, 32))}),
            "match|cannot be",
        ),
        (
            lambda t: t.update({"encoder.layers.1.self_attn.q_proj.weight": np.ones((32, 9))}),
            "match",
        ),
    ],
    ids=["a bias", "a bias of the LSTM", "the output", "a wrong shape", "shapes that differ"],
)
def test_tensors_that_are_missing_or_misshaped_are_refused(
    tmp_path: Path, backend: Backend, edit: Callable[[Tensors], object], message: str
) -> None:
    folder = copy_of(LAYOUTS / "transformers" / "tdt", tmp_path / "model")
    tensors = dict(load_file(folder / "model.safetensors"))
    edit(tensors)
    save_file(
        {n: np.asarray(t, np.float32) for n, t in tensors.items()}, folder / "model.safetensors"
    )
    with pytest.raises(ModelFormatError, match=message):
        load_model(folder, backend=backend)


@pytest.mark.parametrize("layers", [2, 4])
def test_another_number_of_layers_than_the_weights_have_is_refused(
    tmp_path: Path, layers: int
) -> None:
    folder = changed(copy_of(GOLDEN / "models" / "tdt", tmp_path / "a"), "encoder.n_layers", layers)
    with pytest.raises(ModelFormatError, match=f"3 encoder layers, the configuration has {layers}"):
        load_model(folder)


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("tokenizer.json", {"model": {"vocab": {}}, "added_tokens": [{}]}, "added_tokens lack"),
        ("tokenizer.json", {"model": 5}, "has no piece with the id 0"),
        ("model.safetensors.index.json", {"weight_map": 5}, "weight_map is no mapping"),
        ("model.safetensors.index.json", {"weight_map": {"a": 5}}, "weight_map is no mapping"),
    ],
)
def test_a_damaged_description_is_refused(
    tmp_path: Path, file: str, content: object, message: str
) -> None:
    folder = copy_of(LAYOUTS / "transformers" / "rnnt", tmp_path / "model")
    (folder / file).write_text(json.dumps(content))
    with pytest.raises(ModelFormatError, match=message):
        load_model(folder)


def test_a_shard_index_cannot_name_files_of_other_folders(tmp_path: Path) -> None:
    folder = copy_of(LAYOUTS / "transformers" / "rnnt", tmp_path / "model")
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": "../secret.safetensors"}}))
    with pytest.raises(ModelFormatError, match="names a file outside its folder"):
        load_model(folder)
