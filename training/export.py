"""Write the bundled model: parakeet-mlx's folder and onnx-asr's, from one checkpoint.

    python -m training.export --data DATA --run RUN --out src/parakeet_stt/data/tiny

Weights are rounded so that bfloat16 and float16 both hold them exactly: the MLX file stores
bfloat16, the ONNX file float16 behind casts, and both are the same numbers. Batch-norm statistics
stay float32.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

import onnx
import sentencepiece
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from training.model import DURATIONS, MEL_BINS, Model, Shape

OPSET = 17
MAX_SYMBOLS = 10


def load(run: Path) -> Model:
    """The averaged weights of a run's checkpoint, rounded as they are stored."""
    saved = torch.load(run / "checkpoint.pt", weights_only=False)
    model = Model(saved["shape"])
    model.load_state_dict(saved["average"])
    with torch.no_grad():
        for name, value in model.state_dict().items():
            if value.is_floating_point() and "batch_norm" not in name:
                value.copy_(value.bfloat16().half().float())
    return model.eval()


def mlx_weights(model: Model) -> dict[str, Tensor]:
    """Weights under parakeet-mlx's names and in its layouts."""
    weights: dict[str, Tensor] = {}
    for name, value in model.encoder.state_dict().items():
        if name.endswith("num_batches_tracked"):
            continue
        if value.ndim == 4:
            value = value.permute(0, 2, 3, 1)
        elif value.ndim == 3:
            value = value.permute(0, 2, 1)
        weights[f"encoder.{name}"] = value
    lstm = model.predictor.lstm
    weights["decoder.prediction.embed.weight"] = model.predictor.embed.weight
    prefix = "decoder.prediction.dec_rnn.lstm.0"
    weights[f"{prefix}.Wx"] = lstm.weight_ih_l0
    weights[f"{prefix}.Wh"] = lstm.weight_hh_l0
    weights[f"{prefix}.bias"] = (lstm.bias_ih_l0 + lstm.bias_hh_l0).bfloat16().half().float()
    for ours, theirs in (("enc", "enc"), ("pred", "pred"), ("out", "joint_net.2")):
        for kind in ("weight", "bias"):
            weights[f"joint.{theirs}.{kind}"] = getattr(getattr(model.joint, ours), kind)
    return {
        name: (value if "batch_norm" in name else value.bfloat16()).detach().contiguous()
        for name, value in weights.items()
    }


def config(shape: Shape, vocabulary: list[str]) -> dict[str, Any]:
    """``config.json``: NeMo's keys as parakeet-mlx reads them, and onnx-asr's beside them."""
    return {
        "target": "nemo.collections.asr.models.rnnt_bpe_models.EncDecRNNTBPEModel",
        "model_type": "nemo-conformer-tdt",
        "features_size": MEL_BINS,
        "subsampling_factor": 8,
        "max_tokens_per_step": MAX_SYMBOLS,
        "model_defaults": {
            "enc_hidden": shape.width,
            "pred_hidden": shape.predictor,
            "joint_hidden": shape.joint,
            "tdt_durations": list(DURATIONS),
            "num_tdt_durations": len(DURATIONS),
        },
        "preprocessor": {
            "sample_rate": 16000,
            "normalize": "per_feature",
            "window_size": 0.025,
            "window_stride": 0.01,
            "window": "hann",
            "features": MEL_BINS,
            "n_fft": 512,
            "dither": 0.0,
            "pad_to": 0,
        },
        "encoder": {
            "feat_in": MEL_BINS,
            "n_layers": shape.layers,
            "d_model": shape.width,
            "n_heads": shape.heads,
            "ff_expansion_factor": shape.expansion,
            "subsampling": "dw_striding",
            "subsampling_factor": 8,
            "subsampling_conv_channels": shape.channels,
            "causal_downsampling": False,
            "self_attention_model": "rel_pos",
            "att_context_size": [-1, -1],
            "xscaling": False,
            "use_bias": False,
            "pos_emb_max_len": 5000,
            "conv_kernel_size": shape.kernel,
            "conv_norm_type": "batch_norm",
        },
        "decoder": {
            "blank_as_pad": True,
            "vocab_size": shape.pieces,
            "prednet": {"pred_hidden": shape.predictor, "pred_rnn_layers": 1},
        },
        "joint": {
            "num_classes": shape.pieces,
            "num_extra_outputs": len(DURATIONS),
            "vocabulary": vocabulary,
            "jointnet": {
                "joint_hidden": shape.joint,
                "activation": "relu",
                "encoder_hidden": shape.width,
                "pred_hidden": shape.predictor,
            },
        },
        "decoding": {
            "model_type": "tdt",
            "durations": list(DURATIONS),
            "greedy": {"max_symbols": MAX_SYMBOLS},
        },
    }


class EncoderGraph(nn.Module):
    """The encoder with NeMo's export interface."""

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.encoder = model.encoder

    def forward(self, audio_signal: Tensor, length: Tensor) -> tuple[Tensor, Tensor]:
        frames, lengths = self.encoder(audio_signal.transpose(1, 2), length)
        return frames.transpose(1, 2), lengths


class DecoderGraph(nn.Module):
    """Prediction network and joint with NeMo's export interface."""

    def __init__(self, model: Model, bias: Tensor) -> None:
        super().__init__()
        self.predictor, self.joint = model.predictor, model.joint
        with torch.no_grad():
            self.predictor.lstm.bias_ih_l0.copy_(bias)
            self.predictor.lstm.bias_hh_l0.zero_()
            self.predictor.embed.weight[-1].zero_()

    def forward(
        self,
        encoder_outputs: Tensor,
        targets: Tensor,
        target_length: Tensor,
        input_states_1: Tensor,
        input_states_2: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        embedded = self.predictor.embed(targets)
        predicted, (hidden, cell) = self.predictor.lstm(embedded, (input_states_1, input_states_2))
        return self.joint(encoder_outputs.transpose(1, 2), predicted), target_length, hidden, cell


def write_onnx(model: Model, weights: dict[str, Tensor], out: Path) -> None:
    """Write ``encoder-model.onnx`` and ``decoder_joint-model.onnx``."""
    shape = model.shape
    audio, lengths = torch.randn(2, MEL_BINS, 203), torch.tensor([203, 150])
    torch.onnx.export(
        EncoderGraph(model).eval(), (audio, lengths), str(out / "encoder-model.onnx"),
        input_names=["audio_signal", "length"], output_names=["outputs", "encoded_lengths"],
        dynamic_axes={
            "audio_signal": {0: "batch", 2: "frames"}, "length": {0: "batch"},
            "outputs": {0: "batch", 2: "encoded"}, "encoded_lengths": {0: "batch"},
        },
        opset_version=OPSET, dynamo=False,
    )  # fmt: skip
    bias = weights["decoder.prediction.dec_rnn.lstm.0.bias"].float()
    state = torch.zeros(1, 1, shape.predictor)
    torch.onnx.export(
        DecoderGraph(model, bias).eval(),
        (
            torch.randn(1, shape.width, 1), torch.zeros(1, 1, dtype=torch.int32),
            torch.ones(1, dtype=torch.int32), state, state,
        ),
        str(out / "decoder_joint-model.onnx"),
        input_names=["encoder_outputs", "targets", "target_length", "input_states_1",
                     "input_states_2"],
        output_names=["outputs", "prednet_lengths", "output_states_1", "output_states_2"],
        dynamic_axes={
            "encoder_outputs": {0: "batch", 2: "frames"}, "targets": {0: "batch", 1: "pieces"},
            "target_length": {0: "batch"}, "input_states_1": {1: "batch"},
            "input_states_2": {1: "batch"}, "outputs": {0: "batch", 1: "frames", 2: "pieces"},
            "prednet_lengths": {0: "batch"}, "output_states_1": {1: "batch"},
            "output_states_2": {1: "batch"},
        },
        opset_version=OPSET, dynamo=False,
    )  # fmt: skip
    for name in ("encoder-model.onnx", "decoder_joint-model.onnx"):
        halve(out / name)


def halve(path: Path) -> None:
    """Store a graph's large initialisers as float16 behind a cast, where that loses nothing."""
    graph = onnx.load(str(path))
    casts = []
    for tensor in graph.graph.initializer:
        if tensor.data_type != onnx.TensorProto.FLOAT:
            continue
        values = onnx.numpy_helper.to_array(tensor)
        small = values.astype("float16")
        if values.size < 256 or (small.astype("float32") != values).any():
            continue
        name = tensor.name
        tensor.CopyFrom(onnx.numpy_helper.from_array(small, name + "_half"))
        casts.append(
            onnx.helper.make_node("Cast", [name + "_half"], [name], to=onnx.TensorProto.FLOAT)
        )
    for node in reversed(casts):
        graph.graph.node.insert(0, node)
    onnx.checker.check_model(graph)
    onnx.save(graph, str(path))


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    tokenizer = sentencepiece.SentencePieceProcessor(
        model_file=str(arguments.data / "tokenizer.model")
    )
    vocabulary = [tokenizer.id_to_piece(i) for i in range(tokenizer.get_piece_size())]
    model = load(arguments.run)
    weights = mlx_weights(model)
    arguments.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=arguments.out.parent) as folder:
        part = Path(folder)
        save_file(weights, part / "model.safetensors", metadata={"format": "mlx"})
        text = json.dumps(config(model.shape, vocabulary), indent=1, ensure_ascii=False)
        (part / "config.json").write_text(text + "\n", encoding="utf-8")
        lines = [f"{piece} {i}" for i, piece in enumerate([*vocabulary, "<blk>"])]
        (part / "vocab.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
        write_onnx(model, weights, part)
        for file in sorted(part.iterdir()):
            print(f"{file.name}: {file.stat().st_size / 1e6:.2f} MB")
            shutil.move(file, arguments.out / file.name)


if __name__ == "__main__":
    main()
