"""Both encoders against NeMo's and against each other."""

from __future__ import annotations

from pathlib import Path

import mlx.core as mx
import numpy as np
import onnxruntime
import pytest
from conftest import GOLDEN, RECORDINGS

from parakeet_stt import Model, load_model
from parakeet_stt.model.attention import band_mask
from parakeet_stt.model.encoder import LocalAttention, encoder_frames
from parakeet_stt.model.frontend import log_mel, normalize
from parakeet_stt.model.hub import BUNDLED

ARRAYS = np.load(GOLDEN / "encoder.npz")


@pytest.fixture(scope="module")
def golden() -> Model:
    return load_model(GOLDEN / "models" / "tdt", backend="mlx", precision="fp32")


@pytest.mark.parametrize("frames", [61, 200, 433])
def test_full_attention_is_nemos(golden: Model, frames: int) -> None:
    found = golden.encoder.encode(ARRAYS[f"mel.{frames}"], None)
    assert found.shape == (encoder_frames(frames), 32)
    np.testing.assert_allclose(found, ARRAYS[f"full.{frames}"], atol=1e-3)


@pytest.mark.parametrize("side", [4, 8])
def test_local_attention_is_nemos(golden: Model, side: int) -> None:
    found = golden.encoder.encode(ARRAYS["mel.433"], LocalAttention(side, side))
    np.testing.assert_allclose(found, ARRAYS[f"local.{side}"], atol=1e-3)
    assert np.abs(found - ARRAYS["full.433"]).max() > 0.05, "the band made no difference"


def test_a_band_that_covers_the_window_is_full_attention(golden: Model) -> None:
    mel = ARRAYS["mel.200"]
    wide = golden.encoder.encode(mel, LocalAttention(256, 256))
    np.testing.assert_array_equal(wide, golden.encoder.encode(mel, None))


def test_the_band_is_as_wide_as_it_says_on_either_side() -> None:
    mask = band_mask(7, 1, LocalAttention(left=2, right=1))
    assert mask is not None
    seen = [np.flatnonzero(~row).tolist() for row in np.array(mask)[0]]
    assert seen[3] == [1, 2, 3, 4]
    assert seen[0] == [0, 1]
    assert seen[6] == [4, 5, 6]
    assert band_mask(3, 1, LocalAttention(2, 2)) is None


def test_streams_with_different_bands_do_not_touch_each_other(golden: Model) -> None:
    mel = ARRAYS["mel.433"]
    before = golden.encoder.encode(mel, None)
    golden.encoder.encode(mel, LocalAttention(4, 4))
    np.testing.assert_array_equal(golden.encoder.encode(mel, None), before)


@pytest.mark.parametrize("recording", RECORDINGS[::12], ids=lambda r: r.path.stem)
def test_onnx_and_mlx_give_the_same_frames(recording: object) -> None:
    mel = normalize(log_mel(recording.samples(), 80))  # type: ignore[attr-defined]
    frames = [load_model("tiny", backend=b).encoder.encode(mel, None) for b in ("mlx", "onnx")]  # type: ignore[arg-type]
    np.testing.assert_allclose(frames[0], frames[1], atol=1e-4)


def test_padding_in_a_batch_does_not_leak_in_the_onnx_export() -> None:
    graph = onnxruntime.InferenceSession(str(BUNDLED["tiny"] / "encoder-model.onnx"))
    long = normalize(log_mel(RECORDINGS[0].samples(), 80))
    short = long[:101]
    padded = np.full_like(long, 3.0)
    padded[:101] = short
    feeds = {"audio_signal": np.stack((long.T, padded.T)), "length": np.array([len(long), 101])}
    frames, lengths = graph.run(None, feeds)
    alone = load_model("tiny", backend="onnx").encoder.encode(short, None)
    assert lengths.tolist() == [encoder_frames(len(long)), encoder_frames(101)]
    np.testing.assert_allclose(frames[1, :, : len(alone)].T, alone, atol=1e-4)


def test_bf16_rounds_activations_and_keeps_batch_norm_in_fp32() -> None:
    exact = load_model("tiny", backend="mlx", precision="fp32")
    rounded = load_model("tiny", backend="mlx", precision="bf16")
    inner = rounded.encoder._encoder  # type: ignore[attr-defined]
    assert inner.layers[0].feed_forward1.linear1.weight.dtype == mx.bfloat16
    assert inner.layers[0].conv.batch_norm._scale.dtype == mx.float32
    mel = normalize(log_mel(RECORDINGS[0].samples(), 80))
    a, b = exact.encoder.encode(mel, None), rounded.encoder.encode(mel, None)
    assert 0 < np.abs(a - b).mean() < 0.05 * np.abs(a).mean()


def test_the_bundled_folder_is_loaded_by_unmodified_parakeet_mlx(tmp_path: Path) -> None:
    from parakeet_mlx import from_pretrained

    theirs = from_pretrained(str(BUNDLED["tiny"]), dtype=mx.float32)
    mel = normalize(log_mel(RECORDINGS[0].samples(), 80))
    frames, _ = theirs.encoder(mx.array(mel[None]))
    ours = load_model("tiny", backend="mlx").encoder.encode(mel, None)
    np.testing.assert_allclose(np.array(frames[0]), ours, atol=1e-4)
    spoken = theirs.generate(mx.array(mel))[0].text.strip()
    assert spoken == RECORDINGS[0].text
