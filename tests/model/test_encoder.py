"""Both encoders against NeMo's and against each other."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from parakeet_mlx.attention import RelPositionalEncoding

from parakeet_stt import Model, load_model
from parakeet_stt.model import device
from parakeet_stt.model.catalog import BUNDLED
from parakeet_stt.model.encoder import LocalAttention, encoder_frames
from parakeet_stt.model.mlx.attention import hidden_keys
from parakeet_stt.model.mlx.conformer import _Layer
from tests.support.features import log_mel, normalize
from tests.support.recordings import GOLDEN, RECORDINGS

ARRAYS = np.load(GOLDEN / "encoder.npz")


@pytest.fixture(scope="module")
def golden() -> Model:
    return load_model(GOLDEN / "models" / "tdt", backend="mlx", precision="fp32")


@pytest.mark.parametrize("frames", [61, 200, 433])
def test_full_attention_is_nemos(golden: Model, frames: int) -> None:
    found = golden.encoder.encode([ARRAYS[f"mel.{frames}"]], None)[0]
    assert found.shape == (encoder_frames(frames), 32)
    np.testing.assert_allclose(found, ARRAYS[f"full.{frames}"], atol=1e-3)


@pytest.mark.parametrize("side", [4, 8])
def test_local_attention_is_nemos(golden: Model, side: int) -> None:
    found = golden.encoder.encode([ARRAYS["mel.433"]], LocalAttention(side, side))[0]
    np.testing.assert_allclose(found, ARRAYS[f"local.{side}"], atol=1e-3)
    assert np.abs(found - ARRAYS["full.433"]).max() > 0.05, "the band made no difference"


def test_a_band_that_covers_the_window_is_full_attention(golden: Model) -> None:
    mel = ARRAYS["mel.200"]
    wide = golden.encoder.encode([mel], LocalAttention(256, 256))[0]
    np.testing.assert_array_equal(wide, golden.encoder.encode([mel], None)[0])


def dense_attention(
    module: Any, x: np.ndarray, table: np.ndarray, band: LocalAttention | None
) -> np.ndarray:
    """Relative-position attention (Dai et al., 2019), written out in float64.

    Takes every pair of frames by itself, so that it shares no indexing with what it checks.
    """

    def weight(name: str) -> np.ndarray:
        return np.array(getattr(module, name).weight).astype(np.float64)

    heads, frames = module.n_head, len(x)
    split = (frames, heads, module.head_dim)
    query, key, value = ((x @ weight(f"linear_{n}").T).reshape(split) for n in "qkv")
    positions = (table @ weight("linear_pos").T).reshape(len(table), *split[1:])
    u, v = (np.array(getattr(module, f"pos_bias_{n}")).astype(np.float64) for n in "uv")
    out = np.zeros(split)
    for head in range(heads):
        for i in range(frames):
            left = 0 if band is None else max(0, i - band.left)
            right = frames if band is None else min(frames, i + band.right + 1)
            scores = [
                (query[i, head] + u[head]) @ key[j, head]
                # The table runs from the most distant key before to the most distant behind.
                + (query[i, head] + v[head]) @ positions[frames - 1 - (i - j), head]
                for j in range(left, right)
            ]
            weights = np.exp(module.scale * (np.array(scores) - max(scores)))
            out[i, head] = weights @ value[left:right, head] / weights.sum()
    return out.reshape(frames, -1) @ weight("linear_out").T


@pytest.mark.parametrize(
    "band",
    [None, LocalAttention(4, 4), LocalAttention(8, 2), LocalAttention(1, 6), LocalAttention(20, 1)],
    ids=str,
)
def test_attention_is_that_of_a_dense_float64_reference(band: LocalAttention | None) -> None:
    import parakeet_mlx.conformer as theirs

    args = theirs.ConformerArgs(
        feat_in=80, n_layers=1, d_model=16, n_heads=4, ff_expansion_factor=1, subsampling_factor=8,
        self_attention_model="rel_pos", subsampling="dw_striding", conv_kernel_size=3,
        subsampling_conv_channels=4, pos_emb_max_len=64, use_bias=False,
    )  # fmt: skip
    frames, random = 21, np.random.default_rng(3)

    def ours() -> tuple[Any, np.ndarray, np.ndarray, np.ndarray]:
        mx.random.seed(3)
        block = theirs.ConformerBlock(args)
        module = block.self_attn
        module.pos_bias_u = mx.random.normal((4, 4))
        module.pos_bias_v = mx.random.normal((4, 4))
        layer = _Layer(block, mx.float32)
        _, table = RelPositionalEncoding(16, 64)(mx.zeros((1, frames, 16)))
        layer.project_positions(table[0])
        x = mx.array(random.normal(size=(frames, 16)).astype(np.float32))
        normal = np.array(layer._norm_attention(x))
        found = layer._attend(x, 1, hidden_keys(frames, band, None)) - x
        return module, normal, np.array(found), np.array(table[0])

    module, x, found, table = device.run(ours)
    wanted = device.run(
        dense_attention, module, x.astype(np.float64), table.astype(np.float64), band
    )
    np.testing.assert_allclose(found, wanted, atol=2e-5)
    if band is not None:
        full = device.run(dense_attention, module, x.astype(np.float64), table, None)
        assert np.abs(found - full).max() > 0.01, "the band made no difference"


@pytest.mark.parametrize("attention", [None, LocalAttention(6, 3)])
def test_windows_in_a_batch_do_not_see_each_other_or_padding(
    model: Model, attention: LocalAttention | None
) -> None:
    mel = normalize(log_mel(RECORDINGS[0].samples(), 80))
    windows = [mel[:n] for n in (131, 1, 64, 8, 77, len(mel), 200)]
    together = model.encoder.encode(windows, attention)
    for window, found in zip(windows, together, strict=True):
        (alone,) = model.encoder.encode([window], attention)
        assert found.shape == alone.shape == (encoder_frames(len(window)), 128)
        np.testing.assert_allclose(found, alone, atol=1e-4)


@pytest.mark.parametrize("frames", [61, 137, 200])
def test_a_padded_batch_gives_what_nemos_gives(golden: Model, frames: int) -> None:
    windows = [ARRAYS["mel.200"][:n] for n in (61, 137, 200)]
    found = golden.encoder.encode(windows, None)[(61, 137, 200).index(frames)]
    np.testing.assert_allclose(found, ARRAYS[f"batch.{frames}"], atol=1e-3)


def test_streams_with_different_bands_do_not_touch_each_other(golden: Model) -> None:
    mel = ARRAYS["mel.433"]
    before = golden.encoder.encode([mel], None)[0]
    golden.encoder.encode([mel], LocalAttention(4, 4))
    np.testing.assert_array_equal(golden.encoder.encode([mel], None)[0], before)


@pytest.mark.parametrize("recording", RECORDINGS[::12], ids=lambda r: r.path.stem)
def test_onnx_and_mlx_give_the_same_frames(recording: object) -> None:
    mel = normalize(log_mel(recording.samples(), 80))  # type: ignore[attr-defined]
    frames = [load_model("tiny", backend=b).encoder.encode([mel], None)[0] for b in ("mlx", "onnx")]  # type: ignore[arg-type]
    np.testing.assert_allclose(frames[0], frames[1], atol=1e-4)


def test_bf16_rounds_activations_and_folds_batch_norm_in_fp32() -> None:
    exact = load_model("tiny", backend="mlx", precision="fp32")
    rounded = load_model("tiny", backend="mlx", precision="bf16")
    layer = rounded.encoder._encoder._layers[0]  # type: ignore[attr-defined]
    assert layer._first._wide._weight.dtype == mx.bfloat16
    # Folded in fp32 first: rounding the product is not the product of rounded factors.
    whole = exact.encoder._encoder._layers[0]._kernel  # type: ignore[attr-defined]
    same = lambda: mx.array_equal(layer._kernel, whole.astype(mx.bfloat16)).item()  # noqa: E731
    assert device.run(same)
    mel = normalize(log_mel(RECORDINGS[0].samples(), 80))
    a, b = exact.encoder.encode([mel], None)[0], rounded.encoder.encode([mel], None)[0]
    assert 0 < np.abs(a - b).mean() < 0.05 * np.abs(a).mean()


def test_the_bundled_folder_is_loaded_by_unmodified_parakeet_mlx(tmp_path: Path) -> None:
    from parakeet_mlx import from_pretrained

    theirs = from_pretrained(str(BUNDLED["tiny"]), dtype=mx.float32)
    mel = normalize(log_mel(RECORDINGS[0].samples(), 80))
    frames, _ = theirs.encoder(mx.array(mel[None]))
    ours = load_model("tiny", backend="mlx").encoder.encode([mel], None)[0]
    np.testing.assert_allclose(np.array(frames[0]), ours, atol=1e-4)
    spoken = theirs.generate(mx.array(mel))[0].text.strip()
    assert spoken == RECORDINGS[0].text
