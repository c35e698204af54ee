"""Write the golden models in other layouts; see README.md."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from safetensors.numpy import load_file
from tokenizers import AddedToken, Tokenizer, decoders, models
from transformers import (
    ParakeetCTCConfig,
    ParakeetFeatureExtractor,
    ParakeetForCTC,
    ParakeetForRNNT,
    ParakeetForTDT,
    ParakeetProcessor,
    ParakeetRNNTConfig,
    ParakeetTDTConfig,
    ParakeetTokenizer,
)

HERE = Path(__file__).parent
KINDS = ("tdt", "tdt2", "rnnt", "ctc")
SHARDED = "rnnt"
TOLERANCE = 1e-4
GOLDEN = {"tdt": "full.200", "tdt2": "tdt2.full.200", "ctc": "ctc.full.200"}
"""NeMo's encoder frames of ``mel.200`` in ``encoder.npz``."""


def torch_name(name: str) -> str:
    """Transformers' name of one of NeMo's tensors."""
    for old, new in (
        ("encoder.pre_encode.conv.", "encoder.subsampling.layers."),
        ("encoder.pre_encode.out.", "encoder.subsampling.linear."),
        ("self_attn.linear_out.", "self_attn.o_proj."),
        ("self_attn.linear_pos.", "self_attn.relative_k_proj."),
        ("self_attn.pos_bias_", "self_attn.bias_"),
        (".conv.batch_norm.", ".conv.norm."),
        ("decoder.prediction.embed.", "decoder.embedding."),
        ("decoder.prediction.dec_rnn.lstm.", "decoder.lstm."),
        ("joint.pred.", "decoder.decoder_projector."),
        ("joint.enc.", "encoder_projector."),
        ("joint.joint_net.2.", "joint.head."),
        ("decoder.decoder_layers.0.", "ctc_head."),
        *((f"self_attn.linear_{part}.", f"self_attn.{part}_proj.") for part in "qkv"),
    ):
        name = name.replace(old, new)
    return name


def nemo_tensors(folder: Path) -> dict[str, torch.Tensor]:
    """A parakeet-mlx folder's tensors as NeMo has them."""
    tensors: dict[str, torch.Tensor] = {}
    for name, array in load_file(folder / "model.safetensors").items():
        if array.ndim >= 3:
            array = np.moveaxis(array, -1, 1)
        tensor = torch.from_numpy(np.ascontiguousarray(array).astype(np.float32))
        if ".lstm." not in name:
            tensors[name] = tensor
            continue
        lstm, layer, part = name.rsplit(".", 2)
        if part == "bias":
            # Any two that add up to it.
            tensors[f"{lstm}.bias_ih_l{layer}"] = tensor * 0.25
            tensors[f"{lstm}.bias_hh_l{layer}"] = tensor * 0.75
        else:
            tensors[f"{lstm}.weight_{'ih' if part == 'Wx' else 'hh'}_l{layer}"] = tensor
    return tensors


def transformers_model(config: dict[str, Any]) -> Any:
    """An empty model of NVIDIA's own implementation in Transformers."""
    encoder = config["encoder"]
    shared: dict[str, Any] = {
        "encoder_config": {
            "hidden_size": encoder["d_model"],
            "num_hidden_layers": encoder["n_layers"],
            "num_attention_heads": encoder["n_heads"],
            "intermediate_size": encoder["d_model"] * encoder["ff_expansion_factor"],
            "num_mel_bins": encoder["feat_in"],
            "subsampling_conv_channels": encoder["subsampling_conv_channels"],
            "conv_kernel_size": encoder["conv_kernel_size"],
            "scale_input": encoder["xscaling"],
            "attention_bias": encoder["use_bias"],
            "convolution_bias": encoder["use_bias"],
        }
    }
    if "joint" not in config:
        blank = len(config["decoder"]["vocabulary"])
        return ParakeetForCTC(ParakeetCTCConfig(vocab_size=blank + 1, pad_token_id=blank, **shared))
    blank = len(config["joint"]["vocabulary"])
    network = config["decoder"]["prednet"]
    shared |= {
        "vocab_size": blank + 1,
        "blank_token_id": blank,
        "decoder_hidden_size": network["pred_hidden"],
        "num_decoder_layers": network["pred_rnn_layers"],
        "max_symbols_per_step": config["decoding"]["greedy"]["max_symbols"],
    }
    durations = config["model_defaults"].get("tdt_durations")
    if durations:
        return ParakeetForTDT(ParakeetTDTConfig(durations=durations, **shared))
    return ParakeetForRNNT(ParakeetRNNTConfig(**shared))


def widened(
    tensors: dict[str, torch.Tensor], wanted: dict[str, torch.Tensor]
) -> dict[str, torch.Tensor]:
    """Tensors with zeros added: Transformers has no joint narrower than the prediction network."""
    result = {}
    for name, tensor in tensors.items():
        result[name] = torch.zeros_like(wanted[name])
        result[name][tuple(slice(size) for size in tensor.shape)] = tensor
    return result


def processor(vocabulary: list[str], features: int) -> ParakeetProcessor:
    """The processor that lies beside a model: its tokenizer and its frontend's settings."""
    tokenizer = Tokenizer(models.BPE({piece: i for i, piece in enumerate(vocabulary)}, []))
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.add_special_tokens([AddedToken("<blank>", special=True)])
    return ParakeetProcessor(
        ParakeetFeatureExtractor(feature_size=features),
        ParakeetTokenizer(tokenizer_object=tokenizer, pad_token="<blank>"),
    )


def main() -> None:
    golden = np.load(HERE / "encoder.npz")
    mel = torch.from_numpy(golden["mel.200"])[None]
    for kind in KINDS:
        folder = HERE / "models" / kind
        config = json.loads((folder / "config.json").read_text())
        tensors = nemo_tensors(folder)
        model = transformers_model(config)
        weights = {torch_name(name): tensor for name, tensor in tensors.items()}
        found = model.load_state_dict(widened(weights, model.state_dict()), strict=False)
        assert not found.unexpected_keys, found
        assert all("num_batches_tracked" in name for name in found.missing_keys), found
        model.eval()
        with torch.no_grad():
            frames = model.encoder(mel).last_hidden_state[0].numpy()
        if kind in GOLDEN:
            error = np.abs(frames - golden[GOLDEN[kind]]).max()
            print(f"{kind}: Transformers and NeMo differ by {error:.1e}")
            assert error < TOLERANCE
        to = HERE / "layouts" / "transformers" / kind
        model.save_pretrained(to, max_shard_size="60KB" if kind == SHARDED else "1GB")
        vocabulary = config.get("joint", config["decoder"])["vocabulary"]
        processor(vocabulary, config["encoder"]["feat_in"]).save_pretrained(to)
        write_nemo(HERE / "layouts" / "nemo" / f"{kind}.nemo", config, tensors)


def write_nemo(path: Path, config: dict[str, Any], tensors: dict[str, torch.Tensor]) -> None:
    """Write an archive as NeMo's ``save_to`` does."""
    path.parent.mkdir(parents=True, exist_ok=True)
    weights = io.BytesIO()
    torch.save(tensors, weights)
    with tarfile.open(path, "w") as archive:
        for name, data in (
            ("model_config.yaml", yaml.safe_dump(config).encode()),
            ("model_weights.ckpt", weights.getvalue()),
        ):
            member = tarfile.TarInfo(f"./{name}")
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))


if __name__ == "__main__":
    main()
