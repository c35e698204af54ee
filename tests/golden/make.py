"""Make the golden arrays; see README.md."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import torch
from nemo.collections.asr.modules import (
    AudioToMelSpectrogramPreprocessor,
    ConformerEncoder,
    ConvASRDecoder,
    RNNTDecoder,
    RNNTJoint,
)
from nemo.collections.asr.parts.submodules.rnnt_greedy_decoding import (
    GreedyRNNTInfer,
    GreedyTDTInfer,
)
from nemo.collections.asr.parts.utils.asr_confidence_utils import (
    get_confidence_measure_bank,
)
from omegaconf import OmegaConf
from safetensors.numpy import save_file

HERE = Path(__file__).parent
WIDTH, HIDDEN, PIECES = 32, 24, 40
DURATIONS = [0, 1, 2, 3, 4]
MAX_SYMBOLS = 10
VOCABULARY = [f"\u2581w{i}" if i % 3 == 0 else f"p{i}" for i in range(PIECES)]

ENCODER: dict[str, Any] = {
    "feat_in": 80, "n_layers": 3, "d_model": WIDTH, "n_heads": 4, "ff_expansion_factor": 2,
    "subsampling": "dw_striding", "subsampling_factor": 8, "subsampling_conv_channels": 8,
    "causal_downsampling": False, "self_attention_model": "rel_pos", "xscaling": False,
    "pos_emb_max_len": 5000, "conv_kernel_size": 9, "conv_norm_type": "batch_norm",
}  # fmt: skip


def signals() -> dict[str, np.ndarray]:
    """Signals of all kinds at 16 kHz, int16; some lengths leave a large remainder of 160."""
    random = np.random.default_rng(7)
    spoken = subprocess.run(
        ["espeak-ng", "-v", "en-us", "--stdout", "What time is it in London?"],
        capture_output=True, check=True,
    ).stdout  # fmt: skip
    speech = np.frombuffer(spoken[44 : 44 + 2 * 40_000], "<i2")[: 22_050 // 160 * 160 + 59]
    time = np.arange(16_157) / 16_000
    chirp = 9000 * np.sin(2 * np.pi * (100 + 1800 * time) * time)
    click = np.zeros(8_000)
    click[3_000] = 20_000
    return {
        "speech": speech,
        "chirp": (chirp + random.normal(0, 60, len(chirp))).astype(np.int16),
        "noise": random.normal(0, 3000, 16_150).astype(np.int16),
        "click": click.astype(np.int16),
        "short": random.normal(0, 500, 4_799).astype(np.int16),
    }


def frontend() -> dict[str, np.ndarray]:
    arrays: dict[str, np.ndarray] = {}
    for name, signal in signals().items():
        arrays[f"{name}.samples"] = signal
        samples = torch.from_numpy(signal.astype(np.float32) / 32768)[None]
        for bins in (80, 128):
            for kind in ("raw", "normal"):
                module = AudioToMelSpectrogramPreprocessor(
                    features=bins, window_size=0.025, n_fft=512, dither=0.0, pad_to=0,
                    normalize="NA" if kind == "raw" else "per_feature",
                ).eval()  # fmt: skip
                mel, length = module(input_signal=samples, length=torch.tensor([samples.shape[1]]))
                arrays[f"{name}.{kind}.{bins}"] = mel[0, :, : int(length)].T.numpy()
    return arrays


def randomised(module: torch.nn.Module) -> torch.nn.Module:
    """The module with weights and statistics of which none is trivial."""
    for name, value in module.state_dict().items():
        if name.endswith("running_var"):
            value.uniform_(0.5, 2)
        elif name.endswith("running_mean"):
            value.normal_(0, 0.3)
        elif "norm" in name and name.endswith("weight"):
            value.uniform_(0.6, 1.4)
        elif value.is_floating_point() and value.ndim <= 1:
            value.normal_(0, 0.1)
        elif "pos_bias" in name:
            value.normal_(0, 0.3)
    return module.eval()


def mlx_weights(prefix: str, module: torch.nn.Module) -> dict[str, np.ndarray]:
    """A module's weights under parakeet-mlx's names and in its layouts."""
    weights: dict[str, np.ndarray] = {}
    state = {k: v.detach().numpy() for k, v in module.state_dict().items()}
    for name, value in state.items():
        if name.endswith("num_batches_tracked") or ".lstm." in name:
            continue
        if value.ndim == 4:
            value = value.transpose(0, 2, 3, 1)
        elif value.ndim == 3:
            value = value.transpose(0, 2, 1)
        weights[f"{prefix}.{name}"] = np.ascontiguousarray(value)
    lstm = "prediction.dec_rnn.lstm"
    for layer in range(sum(name.startswith(f"{lstm}.weight_ih") for name in state)):
        for ours, theirs in (("Wx", "weight_ih"), ("Wh", "weight_hh")):
            weights[f"{prefix}.{lstm}.{layer}.{ours}"] = state[f"{lstm}.{theirs}_l{layer}"]
        bias = state[f"{lstm}.bias_ih_l{layer}"] + state[f"{lstm}.bias_hh_l{layer}"]
        weights[f"{prefix}.{lstm}.{layer}.bias"] = bias
    return weights


def write(name: str, target: str, config: dict[str, Any], weights: dict[str, np.ndarray]) -> None:
    folder = HERE / "models" / name
    folder.mkdir(parents=True, exist_ok=True)
    whole = {
        "target": f"nemo.collections.asr.models.{target}",
        "preprocessor": {
            "sample_rate": 16000, "normalize": "per_feature", "window_size": 0.025,
            "window_stride": 0.01, "window": "hann", "features": 80, "n_fft": 512, "dither": 0.0,
        },
        "encoder": {**ENCODER, "use_bias": True},
        **config,
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(whole, indent=1) + "\n", encoding="utf-8")
    save_file(weights, folder / "model.safetensors")


def encode(encoder: ConformerEncoder, mel: torch.Tensor, lengths: list[int]) -> np.ndarray:
    with torch.no_grad():
        out, _ = encoder(audio_signal=mel.transpose(1, 2), length=torch.tensor(lengths))
    return out.transpose(1, 2).numpy()


def main() -> None:
    torch.manual_seed(11)
    np.savez_compressed(HERE / "frontend.npz", **frontend())

    encoder = randomised(ConformerEncoder(**ENCODER))
    # What a whole NeMo model would have set, and what changing the attention asks for.
    encoder._cfg = OmegaConf.create(
        {**ENCODER, "use_bias": True, "dropout": 0.0, "dropout_att": 0.0, "dropout_emb": 0.0}
    )
    encoded = mlx_weights("encoder", encoder)
    arrays: dict[str, np.ndarray] = {}
    for frames in (61, 200, 433):
        mel = torch.randn(1, frames, 80)
        arrays[f"mel.{frames}"] = mel[0].numpy()
        arrays[f"full.{frames}"] = encode(encoder, mel, [frames])[0]
    long = torch.from_numpy(arrays["mel.433"])[None]
    for side in (4, 8):
        encoder.change_attention_model("rel_pos_local_attn", [side, side])
        arrays[f"local.{side}"] = encode(encoder.eval(), long, [433])[0]
    encoder.change_attention_model("rel_pos", [-1, -1])
    np.savez_compressed(HERE / "encoder.npz", **arrays)

    golden: dict[str, np.ndarray] = {}
    for name, layers, durations in (("tdt", 1, DURATIONS), ("tdt2", 2, DURATIONS), ("rnnt", 1, [])):
        prednet = {"pred_hidden": HIDDEN, "pred_rnn_layers": layers, "dropout": 0.0}
        decoder = randomised(RNNTDecoder(prednet=prednet, vocab_size=PIECES))
        jointnet = {
            "joint_hidden": 20, "activation": "relu", "encoder_hidden": WIDTH,
            "pred_hidden": HIDDEN, "dropout": 0.2,
        }  # fmt: skip
        joint = randomised(
            RNNTJoint(
                jointnet=jointnet, num_classes=PIECES, vocabulary=VOCABULARY,
                num_extra_outputs=len(durations),
            )
        )  # fmt: skip
        with torch.no_grad():
            # Sharper outputs, and a blank that wins about half of the time.
            joint.joint_net[2].weight.mul_(6)
            joint.joint_net[2].bias[PIECES] += 2.5 if durations else 14
            for layer in (joint.enc, joint.pred):
                layer.weight.mul_(2)
        frames = torch.randn(1, WIDTH, 150)
        common = {
            "decoder_model": decoder, "joint_model": joint, "blank_index": PIECES,
            "max_symbols_per_step": MAX_SYMBOLS, "preserve_alignments": False,
        }  # fmt: skip
        if durations:
            search = GreedyTDTInfer(durations=durations, include_duration=True, **common)
        else:
            search = GreedyRNNTInfer(**common)
        with torch.no_grad():
            (hypotheses,) = search(encoder_output=frames, encoded_lengths=torch.tensor([150]))
        best = hypotheses[0]
        golden[f"{name}.frames"] = frames[0].T.numpy()
        golden[f"{name}.tokens"] = np.asarray(best.y_sequence, np.int32)
        golden[f"{name}.starts"] = np.asarray(best.timestamp, np.int32)
        if durations:
            golden[f"{name}.durations"] = np.asarray(best.token_duration, np.int32)
        print(name, len(best.y_sequence), "tokens of", 150, "frames")
        config: dict[str, Any] = {
            "decoder": {
                "blank_as_pad": True, "vocab_size": PIECES,
                "prednet": {"pred_hidden": HIDDEN, "pred_rnn_layers": layers},
            },
            "joint": {
                "num_classes": PIECES, "vocabulary": VOCABULARY, "jointnet": jointnet,
                "num_extra_outputs": len(durations),
            },
            "model_defaults": {"tdt_durations": durations} if durations else {},
            "decoding": {
                "model_type": "tdt" if durations else "rnnt", "durations": durations,
                "greedy": {"max_symbols": MAX_SYMBOLS},
            },
        }  # fmt: skip
        weights = {**encoded, **mlx_weights("decoder", decoder), **mlx_weights("joint", joint)}
        write(name, "rnnt_bpe_models.EncDecRNNTBPEModel", config, weights)

    head = randomised(ConvASRDecoder(feat_in=WIDTH, num_classes=PIECES, vocabulary=VOCABULARY))
    frames = torch.randn(1, WIDTH, 150)
    with torch.no_grad():
        best = head(encoder_output=frames).argmax(-1)[0].numpy()
    golden["ctc.frames"] = frames[0].T.numpy()
    merged = [int(b) for i, b in enumerate(best) if (i == 0 or b != best[i - 1]) and b != PIECES]
    golden["ctc.tokens"] = np.asarray(merged, np.int32)
    decoder_config = {"feat_in": WIDTH, "num_classes": PIECES, "vocabulary": VOCABULARY}
    write(
        "ctc", "ctc_bpe_models.EncDecCTCModelBPE",
        {"decoder": decoder_config, "decoding": {"greedy": {}}},
        {**encoded, **mlx_weights("decoder", head)},
    )  # fmt: skip

    logits = torch.randn(64, PIECES + 1) * torch.linspace(0.2, 8, 64)[:, None]
    measure = get_confidence_measure_bank()["entropy_tsallis_lin"]
    golden["confidence.logits"] = logits.numpy()
    golden["confidence.values"] = measure(logits.log_softmax(-1), PIECES + 1, 2).numpy()
    np.savez_compressed(HERE / "decoding.npz", **golden)


if __name__ == "__main__":
    main()
