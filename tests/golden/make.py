"""Make the golden arrays; see README.md."""

from __future__ import annotations

import json
import subprocess
from dataclasses import asdict
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
    GreedyBatchedRNNTInfer,
    GreedyBatchedTDTInfer,
    GreedyRNNTInfer,
    GreedyTDTInfer,
)
from nemo.collections.asr.parts.utils.asr_confidence_utils import (
    ConfidenceMethodConfig,
    get_confidence_measure_bank,
)
from omegaconf import OmegaConf
from safetensors.numpy import save_file

HERE = Path(__file__).parent
WIDTH, HIDDEN, PIECES = 32, 24, 40
DURATIONS = [0, 1, 2, 3, 4]
MAX_SYMBOLS = 10
CAPPED_SYMBOLS = 2
"""A cap that is met often, and by tokens with a duration too: `tdt.capped.*`."""
FRAMES = 150
SHARPNESS = 5
"""Scales the joint's outputs, so that confidences spread over 0 to 1."""
VOCABULARY = [f"\u2581w{i}" if i % 3 == 0 else f"p{i}" for i in range(PIECES)]

ENCODER: dict[str, Any] = {
    "feat_in": 80, "n_layers": 3, "d_model": WIDTH, "n_heads": 4, "ff_expansion_factor": 2,
    "subsampling": "dw_striding", "subsampling_factor": 8, "subsampling_conv_channels": 8,
    "causal_downsampling": False, "self_attention_model": "rel_pos", "xscaling": False,
    "pos_emb_max_len": 5000, "conv_kernel_size": 9, "conv_norm_type": "batch_norm",
}  # fmt: skip

JOINT: dict[str, Any] = {
    "joint_hidden": 20, "activation": "relu", "encoder_hidden": WIDTH, "pred_hidden": HIDDEN,
    "dropout": 0.2,
}  # fmt: skip


MEASURE = ConfidenceMethodConfig(entropy_type="tsallis", alpha=2, entropy_norm="lin")
"""The measure of confidence that ours is; NeMo's default is kept beside it."""

TRANSDUCERS: list[tuple[str, int, list[int], float, int]] = [
    ("tdt", 1, DURATIONS, 5.0, 5), ("tdt2", 2, DURATIONS, 5.0, 8), ("rnnt", 1, [], 18.0, 7),
]  # fmt: skip
"""Name, LSTM layers, durations, the blank's bias, and a seed that gave a healthy mix."""


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
    """The module with random weights and statistics, none trivial, all of which show.

    As NeMo initialises it, the network hardly looks at its input: the biases outweigh it, and
    attention is all but uniform, so that a wrong attention would go unnoticed.
    """
    for name, value in module.state_dict().items():
        if name.endswith("running_var"):
            value.uniform_(0.5, 2)
        elif name.endswith("running_mean"):
            value.normal_(0, 0.3)
        elif "norm" in name and name.endswith("weight"):
            value.uniform_(0.6, 1.4)
        elif "pos_bias" in name:
            value.normal_(0, 0.7)
        elif value.is_floating_point() and value.ndim <= 1:
            value.normal_(0, 0.1)
        elif value.is_floating_point() and "embed" not in name:
            inputs = value[0].numel()
            sharp = any(part in name for part in ("linear_q", "linear_k", "linear_pos"))
            value.normal_(0, (1.8 if sharp else 1.4) / inputs**0.5)
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


def write(
    name: str,
    target: str,
    settings: dict[str, Any],
    config: dict[str, Any],
    weights: dict[str, np.ndarray],
) -> None:
    """Write a model's folder, as parakeet-mlx reads it; `settings` are the encoder's."""
    folder = HERE / "models" / name
    folder.mkdir(parents=True, exist_ok=True)
    whole = {
        "target": f"nemo.collections.asr.models.{target}",
        "preprocessor": {
            "sample_rate": 16000, "normalize": "per_feature", "window_size": 0.025,
            "window_stride": 0.01, "window": "hann", "features": 80, "n_fft": 512, "dither": 0.0,
        },
        "encoder": settings,
        **config,
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(whole, indent=1) + "\n", encoding="utf-8")
    save_file(weights, folder / "model.safetensors")
    (folder / "model.safetensors").chmod(0o644)


def encoder_of(**changes: Any) -> tuple[dict[str, Any], ConformerEncoder]:
    """Settings and a random encoder that differs from ENCODER in `changes`."""
    settings = {**ENCODER, "use_bias": True, **changes}
    encoder = randomised(ConformerEncoder(**settings))
    # What a whole NeMo model would have set, and what changing the attention asks for.
    encoder._cfg = OmegaConf.create(
        {**settings, "dropout": 0.0, "dropout_att": 0.0, "dropout_emb": 0.0}
    )
    return settings, encoder


def encode(encoder: ConformerEncoder, mel: torch.Tensor, lengths: list[int]) -> list[np.ndarray]:
    """Encoder frames, float32 [frames, width] of each item of mel [items, mel frames, bins]."""
    with torch.no_grad():
        out, counts = encoder(audio_signal=mel.transpose(1, 2), length=torch.tensor(lengths))
    return [o[:, : int(n)].T.contiguous().numpy() for o, n in zip(out, counts, strict=True)]


def padded_batch(encoder: ConformerEncoder, mel: torch.Tensor) -> dict[str, np.ndarray]:
    """Unequal lengths in one batch, masked by NeMo, with rubbish where there is no signal."""
    lengths = [61, 137, mel.shape[1]]
    batch = mel.repeat(len(lengths), 1, 1)
    for item, length in zip(batch, lengths, strict=True):
        item[length:] = 3.0
    found = encode(encoder, batch, lengths)
    return {f"batch.{n}": frames for n, frames in zip(lengths, found, strict=True)}


def token_confidences(hypothesis: Any) -> np.ndarray:
    """NeMo's confidence of every token, float32 [tokens], from a search that kept all steps.

    Steps are taken in order, not by frame: where a frame's cap was met NeMo's lists by frame
    can be out of step with its time stamps.
    """
    steps = zip(
        (step for frame in hypothesis.alignments for step in frame),
        (float(value) for frame in hypothesis.frame_confidence for value in frame),
        strict=True,
    )
    kept = [value for (_, token), value in steps if int(token) != PIECES]
    assert len(kept) == len(hypothesis.y_sequence)
    return np.asarray(kept, np.float32)


def search(
    decoder: RNNTDecoder, joint: RNNTJoint, frames: torch.Tensor, durations: list[int], cap: int
) -> dict[str, np.ndarray]:
    """NeMo's greedy tokens, start frames, durations and confidences of frames [1, width, T].

    The tokens are those of the batched search, NeMo's default. The one-by-one search, which
    knows the confidence of each step, must agree, or its confidences are left out.
    """
    common: dict[str, Any] = {
        "decoder_model": decoder, "joint_model": joint, "blank_index": PIECES,
        "max_symbols_per_step": cap, "confidence_method_cfg": OmegaConf.create(asdict(MEASURE)),
    }  # fmt: skip
    every = {"preserve_alignments": True, "preserve_frame_confidence": True}
    if durations:
        common |= {"durations": durations, "include_duration": True}
        searches = GreedyBatchedTDTInfer(**common), GreedyTDTInfer(**common, **every)
    else:
        searches = GreedyBatchedRNNTInfer(**common), GreedyRNNTInfer(**common, **every)
    lengths = torch.tensor([frames.shape[2]])
    with torch.no_grad():
        default, single = (
            one(encoder_output=frames, encoded_lengths=lengths)[0][0] for one in searches
        )
    found = {
        "tokens": np.asarray(default.y_sequence, np.int32),
        "starts": np.asarray(default.timestamp, np.int32),
    }
    if durations:
        found["durations"] = np.asarray(default.token_duration, np.int32)
    agree = list(default.y_sequence) == list(single.y_sequence)
    if agree and list(default.timestamp) == list(single.timestamp):
        found["confidences"] = token_confidences(single)
    return found


def transducer(layers: int, durations: list[int], blank: float) -> tuple[RNNTDecoder, RNNTJoint]:
    """A random prediction network and joint; `blank` is added to the blank's bias."""
    prednet = {"pred_hidden": HIDDEN, "pred_rnn_layers": layers, "dropout": 0.0}
    decoder = randomised(RNNTDecoder(prednet=prednet, vocab_size=PIECES))
    joint = randomised(
        RNNTJoint(
            jointnet=JOINT, num_classes=PIECES, vocabulary=VOCABULARY,
            num_extra_outputs=len(durations),
        )
    )  # fmt: skip
    with torch.no_grad():
        joint.joint_net[2].bias[PIECES] += blank
        joint.joint_net[2].weight.mul_(SHARPNESS)
        joint.pred.weight.mul_(2)
        if not durations:  # Unless it heeds its last token, an RNN-T says it ten times over.
            joint.pred.weight.mul_(4)
            decoder.prediction["embed"].weight.mul_(3)
    return decoder, joint


def main() -> None:
    torch.manual_seed(11)
    torch.set_num_threads(1)
    np.savez_compressed(HERE / "frontend.npz", **frontend())

    # Biases and scaled inputs come and go in Parakeet's configurations.
    encoders = {
        "tdt": encoder_of(),
        "tdt2": encoder_of(use_bias=False, n_layers=2),
        "ctc": encoder_of(xscaling=True, n_layers=2),
    }
    encoders["rnnt"] = encoders["tdt"]
    arrays: dict[str, np.ndarray] = {}
    _, encoder = encoders["tdt"]
    for frames in (61, 200, 433):
        mel = torch.randn(1, frames, 80)
        arrays[f"mel.{frames}"] = mel[0].numpy()
        (arrays[f"full.{frames}"],) = encode(encoder, mel, [frames])
    middle = torch.from_numpy(arrays["mel.200"])[None]
    arrays |= padded_batch(encoder, middle)
    for name in ("tdt2", "ctc"):
        (arrays[f"{name}.full.200"],) = encode(encoders[name][1], middle, [200])
    weights = {name: mlx_weights("encoder", module) for name, (_, module) in encoders.items()}
    long = torch.from_numpy(arrays["mel.433"])[None]
    for side in (4, 8):
        encoder.change_attention_model("rel_pos_local_attn", [side, side])
        (arrays[f"local.{side}"],) = encode(encoder.eval(), long, [433])
    np.savez_compressed(HERE / "encoder.npz", **arrays)

    golden: dict[str, np.ndarray] = {}
    for name, layers, durations, blank, seed in TRANSDUCERS:
        torch.manual_seed(seed)
        decoder, joint = transducer(layers, durations, blank)
        frames = torch.randn(1, WIDTH, FRAMES)
        golden[f"{name}.frames"] = frames[0].T.numpy()
        found = search(decoder, joint, frames, durations, MAX_SYMBOLS)
        golden |= {f"{name}.{key}": value for key, value in found.items()}
        if name == "tdt":
            capped = search(decoder, joint, frames, durations, CAPPED_SYMBOLS)
            golden |= {f"tdt.capped.{key}": value for key, value in capped.items()}
        config: dict[str, Any] = {
            "decoder": {
                "blank_as_pad": True, "vocab_size": PIECES,
                "prednet": {"pred_hidden": HIDDEN, "pred_rnn_layers": layers},
            },
            "joint": {
                "num_classes": PIECES, "vocabulary": VOCABULARY, "jointnet": JOINT,
                "num_extra_outputs": len(durations),
            },
            "model_defaults": {"tdt_durations": durations} if durations else {},
            "decoding": {
                "model_type": "tdt" if durations else "rnnt", "durations": durations,
                "greedy": {"max_symbols": MAX_SYMBOLS},
            },
        }  # fmt: skip
        weights[name] |= mlx_weights("decoder", decoder) | mlx_weights("joint", joint)
        target = "rnnt_bpe_models.EncDecRNNTBPEModel"
        write(name, target, encoders[name][0], config, weights[name])

    head = randomised(ConvASRDecoder(feat_in=WIDTH, num_classes=PIECES, vocabulary=VOCABULARY))
    # Each frame twice, so that tokens repeat, and a blank that wins often.
    frames = torch.randn(1, WIDTH, FRAMES // 2).repeat_interleave(2, dim=2)
    frames += 0.2 * torch.randn(frames.shape)
    with torch.no_grad():
        head.decoder_layers[0].bias[PIECES] += 3
        logits = head(encoder_output=frames)[0]
    best = logits.argmax(-1).tolist()
    kept = [i for i, b in enumerate(best) if b != PIECES and (i == 0 or b != best[i - 1])]
    golden["ctc.frames"] = frames[0].T.numpy()
    golden["ctc.tokens"] = np.asarray([best[i] for i in kept], np.int32)
    golden["ctc.starts"] = np.asarray(kept, np.int32)
    golden["ctc.logprobs"] = logits.numpy()
    decoder_config = {"feat_in": WIDTH, "num_classes": PIECES, "vocabulary": VOCABULARY}
    write(
        "ctc", "ctc_bpe_models.EncDecCTCModelBPE", encoders["ctc"][0],
        {"decoder": decoder_config, "decoding": {"greedy": {}}},
        {**weights["ctc"], **mlx_weights("decoder", head)},
    )  # fmt: skip

    logits = torch.randn(64, PIECES + 1) * torch.linspace(0.2, 8, 64)[:, None]
    golden["confidence.logits"] = logits.numpy()
    bank = get_confidence_measure_bank()
    for key, method in (("values", MEASURE), ("default", ConfidenceMethodConfig())):
        measure = bank[f"entropy_{method.entropy_type}_{method.entropy_norm}"]
        values = measure(logits.log_softmax(-1), PIECES + 1, method.alpha)
        golden[f"confidence.{key}"] = values.numpy()
    np.savez_compressed(HERE / "decoding.npz", **golden)


if __name__ == "__main__":
    main()
