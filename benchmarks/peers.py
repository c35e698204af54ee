"""Other engines for the same weights: onnx-asr and sherpa-onnx, offline, on the CPU.

onnx-asr reads a model's folder as it is. sherpa-onnx wants an encoder with metadata, prediction
network and joint in a graph each, and tokens: :func:`export_sherpa` writes them.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from parakeet_stt.audio import SAMPLE_RATE

Floats = npt.NDArray[np.float32]

Transcriber = Callable[[Floats], str]
"""``float32 [samples]`` at 16 kHz, two frames (320) of them or more, to text."""

# Inputs and outputs are NeMo's, by order and shape; sherpa-onnx does not look at names. Capitals
# are weights, the fields in double angle brackets sizes.
_DECODER = """<ir_version: 8, opset_import: ["": 17]>
decoder (
    int32[batch, pieces] targets, int32[batch] target_lengths,
    float[1, batch, <<width>>] hidden, float[1, batch, <<width>>] cell
) => (
    float[batch, <<width>>, pieces] outputs, int32[batch] lengths,
    float[1, batch, <<width>>] next_hidden, float[1, batch, <<width>>] next_cell
) {
    embedded = Gather(EMBEDDING, targets)
    sequence = Transpose<perm = [1, 0, 2]>(embedded)
    predicted, next_hidden, next_cell = LSTM<hidden_size = <<width>>>(
        sequence, INPUT, RECURRENCE, BIAS, , hidden, cell)
    direction = Constant<value_ints = [1]>()
    squeezed = Squeeze(predicted, direction)
    outputs = Transpose<perm = [1, 2, 0]>(squeezed)
    lengths = Identity(target_lengths)
}"""

_JOINER = """<ir_version: 8, opset_import: ["": 17]>
joiner (
    float[batch, <<encoder>>, frames] encoder_outputs,
    float[batch, <<width>>, pieces] decoder_outputs
) => (float[batch, frames, pieces, <<outputs>>] logits) {
    frames_first = Transpose<perm = [0, 2, 1]>(encoder_outputs)
    pieces_first = Transpose<perm = [0, 2, 1]>(decoder_outputs)
    encoder_product = MatMul(frames_first, ENCODER)
    decoder_product = MatMul(pieces_first, PREDICTION)
    encoder_joint = Add(encoder_product, ENCODER_BIAS)
    decoder_joint = Add(decoder_product, PREDICTION_BIAS)
    piece_axis = Constant<value_ints = [2]>()
    frame_axis = Constant<value_ints = [1]>()
    encoder_grid = Unsqueeze(encoder_joint, piece_axis)
    decoder_grid = Unsqueeze(decoder_joint, frame_axis)
    sum = Add(encoder_grid, decoder_grid)
    active = Relu(sum)
    product = MatMul(active, OUTPUT)
    logits = Add(product, OUTPUT_BIAS)
}"""


def onnx_asr_transcriber(folder: Path, kind: str, threads: int | None) -> Transcriber:
    """onnx-asr on a folder in its own layout.

    Its frontend is in numpy, whose threads only the environment sets (``OPENBLAS_NUM_THREADS``).

    Args:
        folder: The model's.
        kind: The model's: ``tdt``, ``rnnt`` or ``ctc``.
        threads: ONNX Runtime's; None for onnx-asr's default.
    """
    import onnx_asr
    import onnxruntime

    options = onnxruntime.SessionOptions()
    if threads is not None:
        options.intra_op_num_threads = threads
    model = onnx_asr.load_model(
        f"nemo-conformer-{kind}", folder, sess_options=options, providers=["CPUExecutionProvider"]
    )
    return lambda samples: str(model.recognize(samples))


def sherpa_transcriber(folder: Path, threads: int | None) -> Transcriber:
    """sherpa-onnx on what :func:`export_sherpa` wrote.

    Args:
        folder: Where that is.
        threads: ONNX Runtime's; None for sherpa-onnx's default, which is one.
    """
    import sherpa_onnx

    recognizer = sherpa_onnx.OfflineRecognizer.from_transducer(
        **{part: str(folder / f"{part}.onnx") for part in ("encoder", "decoder", "joiner")},
        tokens=str(folder / "tokens.txt"),
        model_type="nemo_transducer",
        **({} if threads is None else {"num_threads": threads}),
    )

    def transcribe(samples: Floats) -> str:
        stream = recognizer.create_stream()
        stream.accept_waveform(SAMPLE_RATE, samples)
        recognizer.decode_stream(stream)
        return str(stream.result.text)

    return transcribe


def export_sherpa(folder: Path, target: Path) -> None:
    """Write a folder's model as sherpa-onnx's ``nemo_transducer`` models are.

    Args:
        folder: A Parakeet-TDT whose durations count from 0, whose prediction network has one
            layer and whose joint a ReLU, in parakeet-mlx's and onnx-asr's layouts, as ``tiny`` is.
        target: Gets ``encoder.onnx``, ``decoder.onnx``, ``joiner.onnx`` and ``tokens.txt``.
    """
    # Here, because what only exports needs counts as no engine's memory.
    import ml_dtypes  # noqa: F401 (teaches numpy bfloat16, which safetensors asks it for)
    import onnx
    from safetensors.numpy import load_file

    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    prednet = config["decoder"]["prednet"]
    metadata = {
        "vocab_size": config["decoder"]["vocab_size"],  # Without blank.
        "normalize_type": config["preprocessor"]["normalize"],
        "pred_rnn_layers": prednet["pred_rnn_layers"],
        "pred_hidden": prednet["pred_hidden"],
        "subsampling_factor": config["encoder"]["subsampling_factor"],
        "feat_dim": config["preprocessor"]["features"],
        "model_type": "EncDecRNNTBPEModel",
        "url": "tdt",  # That "tdt" is in it makes sherpa-onnx decode durations.
    }
    encoder = onnx.load(folder / "encoder-model.onnx")
    onnx.helper.set_model_props(encoder, {key: str(value) for key, value in metadata.items()})
    weights = {
        name: value.astype(np.float32)
        for name, value in load_file(folder / "model.safetensors").items()
        if not name.startswith("encoder.")
    }
    target.mkdir(parents=True, exist_ok=True)
    onnx.save(encoder, target / "encoder.onnx")
    onnx.save(_decoder(weights), target / "decoder.onnx")
    onnx.save(_joiner(weights), target / "joiner.onnx")
    shutil.copyfile(folder / "vocab.txt", target / "tokens.txt")


def _decoder(weights: dict[str, Floats]) -> Any:
    """The prediction network's graph."""
    embedding = weights["decoder.prediction.embed.weight"].copy()
    embedding[-1] = 0  # Blank, which decoding starts from.
    lstm = "decoder.prediction.dec_rnn.lstm.0"
    bias = _gates(weights[f"{lstm}.bias"])
    constants = {
        "EMBEDDING": embedding,
        "INPUT": _gates(weights[f"{lstm}.Wx"])[None],
        "RECURRENCE": _gates(weights[f"{lstm}.Wh"])[None],
        "BIAS": np.concatenate((bias, np.zeros_like(bias)))[None],
    }
    return _graph(_DECODER, constants, width=len(bias) // 4)


def _joiner(weights: dict[str, Floats]) -> Any:
    """The joint's graph, with the projections of both its sides."""
    layers = {"ENCODER": "enc", "PREDICTION": "pred", "OUTPUT": "joint_net.2"}
    constants = {}
    for name, layer in layers.items():
        constants[name] = weights[f"joint.{layer}.weight"].T
        constants[f"{name}_BIAS"] = weights[f"joint.{layer}.bias"]
    return _graph(
        _JOINER,
        constants,
        encoder=len(constants["ENCODER"]),
        width=len(constants["PREDICTION"]),
        outputs=len(constants["OUTPUT_BIAS"]),
    )


def _gates(value: Floats) -> Floats:
    """Gates from MLX's order (input, forget, candidate, output) to ONNX's (i, o, f, c)."""
    take, forget, candidate, give = np.split(value, 4)
    return np.concatenate((take, give, forget, candidate))


def _graph(text: str, constants: dict[str, Floats], **sizes: int) -> Any:
    """A graph from its text, its weights and its sizes, checked."""
    from onnx import checker, numpy_helper, parser

    for name, size in sizes.items():
        text = text.replace(f"<<{name}>>", str(size))
    model = parser.parse_model(text)
    for name, value in constants.items():
        model.graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(value), name))
    checker.check_model(model, full_check=True)
    return model
