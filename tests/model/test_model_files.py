"""Models whose files are unusual or wrong: they load, or loading says what is wrong with them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from parakeet_stt import load_model
from parakeet_stt.errors import ModelFormatError
from parakeet_stt.model.catalog import BUNDLED
from parakeet_stt.model.config import read_vocabulary
from tests.support import onnx_files
from tests.support.model_folders import changed, copy_of
from tests.support.recordings import RECORDINGS

TINY = BUNDLED["tiny"]
EXPORT = {"model_type": "nemo-conformer-tdt", "features_size": 80, "subsampling_factor": 8}


@pytest.fixture
def export(tmp_path: Path) -> Path:
    """A copy of the bundled ONNX export, in onnx-asr's layout."""
    folder = tmp_path / "export"
    shutil.copytree(TINY, folder, ignore=shutil.ignore_patterns("*.safetensors"))
    (folder / "config.json").write_text(json.dumps(EXPORT))
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of the bundled folder in parakeet-mlx's layout."""
    return copy_of(TINY, tmp_path / "model")


def rewrite(graph: Path, edit: Callable[[Any], None]) -> None:
    """Edit an ONNX graph in its file."""
    model = onnx_files.read(graph)
    edit(model)
    onnx_files.write(model, graph)


def test_a_vocabulary_may_end_in_blank_lines_and_hold_other_line_separators(
    tmp_path: Path,
) -> None:
    path = tmp_path / "vocab.txt"
    path.write_bytes("\ufeff▁a 0\r\nb\u2028c 1\r\n<blk> 2\r\n\r\n\n".encode())
    assert read_vocabulary(path) == ("▁a", "b\u2028c")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"caf\xe9 0\n<blk> 1\n", "vocab.txt is not UTF-8"),
        (b"a 0\nb 0\n<blk> 1\n", "vocab.txt:2: the id 0 is there twice"),
        (b"a 0\n\n<blk> 1\n", "vocab.txt:2: expected 'piece id', got ''"),
        (b"", "vocab.txt:1: expected 'piece id', got ''"),
        (b"a 0\nb 1\n<blk> 2\n", r"has 262 outputs, expected 8"),
    ],
)
def test_a_vocabulary_that_cannot_be_used_is_refused_at_load(
    export: Path, content: bytes, message: str
) -> None:
    (export / "vocab.txt").write_bytes(content)
    with pytest.raises(ModelFormatError, match=message):
        load_model(export)


@pytest.mark.parametrize(
    "missing", ["decoding", "preprocessor.dither", "preprocessor.pad_to", "encoder.pos_emb_max_len"]
)
def test_a_configuration_may_lack_keys_that_have_a_default(folder: Path, missing: str) -> None:
    changed(folder, missing, None)
    recording = RECORDINGS[0]
    found = load_model(folder, backend="mlx").transcribe(recording.samples()).text
    assert found == load_model("tiny", backend="mlx").transcribe(recording.samples()).text


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("preprocessor.features", "eighty", "features='eighty' cannot be used, expected a whole"),
        ("joint.vocabulary", 256, "joint.vocabulary=256 cannot be used, expected a list"),
        ("joint.jointnet.activation", "gelu", "activation='gelu' cannot be run"),
        ("joint.jointnet", None, "joint.jointnet.activation is missing"),
        ("decoding.greedy", {"max_symbols": "ten"}, "max_symbols='ten' cannot be used"),
        ("model_defaults.tdt_durations", ["0"], "tdt_durations=.* a list of whole numbers"),
        ("encoder.n_heads", None, "encoder.n_heads is missing"),
        ("encoder.n_heads", "four", "encoder.n_heads='four' cannot be used"),
    ],
)
def test_a_configuration_of_wrong_values_is_refused_at_load(
    folder: Path, key: str, value: object, message: str
) -> None:
    changed(folder, key, value)
    with pytest.raises(ModelFormatError, match=message):
        load_model(folder, backend="mlx")


@pytest.mark.parametrize(
    ("graph", "name", "kind"),
    [
        ("encoder-model.onnx", "audio_signal", onnx_files.FLOAT16),
        ("encoder-model.onnx", "length", onnx_files.INT32),
        ("decoder_joint-model.onnx", "targets", onnx_files.INT64),
        ("decoder_joint-model.onnx", "encoder_outputs", onnx_files.FLOAT16),
    ],
)
def test_an_export_with_inputs_of_other_types_runs(
    export: Path, graph: str, name: str, kind: int
) -> None:
    rewrite(export / graph, lambda model: onnx_files.retype_input(model, name, kind))
    assert load_model(export).transcribe(RECORDINGS[0].samples()).text == RECORDINGS[0].text


@pytest.mark.parametrize(
    ("axis", "size", "message"),
    [
        (0, 1, r"windows of one shape: its input audio_signal is \[1, 80, frames\]"),
        (2, 3000, r"windows of one shape: its input audio_signal is \[batch, 80, 3000\]"),
        (1, 128, "takes 128 mel bins where config.json says features_size=80|cannot be loaded"),
    ],
)
def test_an_export_for_one_shape_is_refused_at_load(
    export: Path, axis: int, size: int, message: str
) -> None:
    rewrite(
        export / "encoder-model.onnx",
        lambda model: onnx_files.fix_dimension(model, "audio_signal", axis, size),
    )
    with pytest.raises(ModelFormatError, match=message):
        load_model(export)


@pytest.mark.parametrize("declared", [True, False])
def test_a_wrong_number_of_mel_bins_is_refused_at_load(export: Path, declared: bool) -> None:
    changed(export, "features_size", 128)
    if not declared:  # Then only running the graph shows it.

        def free(model: Any) -> None:
            shape = onnx_files.named(model.graph.input, "audio_signal").type.tensor_type.shape
            shape.dim[1].Clear()

        rewrite(export / "encoder-model.onnx", free)
    message = "takes 80 mel bins where config.json says" if declared else "cannot be run"
    with pytest.raises(ModelFormatError, match=message):
        load_model(export)
