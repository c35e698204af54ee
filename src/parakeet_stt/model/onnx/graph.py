"""The encoder's graph for ONNX Runtime, built from a checkpoint's tensors.

No export by third parties is needed, and the graph takes the band of local attention as an input.
What makes it fast: queries, keys and values are one product, batch normalisation and scales are
folded into weights, positions are projected once when the graph is built, and depthwise
convolutions are two-dimensional (ONNX Runtime's CPU kernels for one dimension are slow).
The architecture and its sources are described in :mod:`parakeet_stt.model.mlx.conformer`.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from parakeet_stt.errors import ModelFormatError
from parakeet_stt.model.config import EncoderConfig
from parakeet_stt.model.encoder import Floats

OPSET = 17
"""The first with LayerNormalization; every ONNX Runtime that this package allows runs it."""

NO_LIMIT = 1 << 20
"""Value of the inputs ``left`` and ``right`` for full attention: more frames than a window has."""

_HIDDEN = -1e9  # Score of a hidden key: finite, since a row of padding may see no key at all.
_EPSILON = 1e-5  # Of NeMo's normalisation layers.
_INT8_LIMIT = 127
_STAGE_BYTES = 200 << 20  # About two blocks of a 0.6b encoder in float32, seven in int8.
_IR_VERSION = 8
_WEIGHTS = "weights"  # Name of the file.
_ALIGNMENT = 4096  # Of each weight in the file, so that it can be mapped.


@dataclass(frozen=True)
class EncoderGraph:
    """The graphs of an encoder, each with as many of its blocks as fit into ``_STAGE_BYTES``.

    One after the other they compute what one graph would. ONNX Runtime never frees weights that
    are handed to it in memory, so they are written to a file, and stages bound its size.

    The first stage's inputs are ``mel`` float32 ``[windows, frames, bins]``, zeros behind each
    window's end; ``lengths`` int64 ``[windows]``, mel frames; ``left`` and ``right`` int64 ``[]``,
    encoder frames that a frame attends to before and after itself. Its outputs are ``frames``
    float32 ``[windows, ceil(frames / 8), width]`` and, as inputs of the stages behind it,
    ``hidden`` and ``inside``. Every other stage has these three inputs and the output ``frames``.
    The content behind a window's end is undefined.

    Args:
        tensors: The checkpoint's tensors by NeMo's names without ``encoder.``, in PyTorch's
            shapes, float32.
        config: The sizes that shapes do not show.
        max_frames: Maximum window, in encoder frames.
        int8: Whether the matrix products with weights are computed in int8: weights are quantised
            symmetrically per output, activations per call.
    """

    tensors: Mapping[str, Floats]
    config: EncoderConfig
    max_frames: int
    int8: bool = False

    @cached_property
    def block_bytes(self) -> int:
        """Bytes of the weights of one block, about."""
        names = (name for name in self.tensors if name.startswith("layers.0."))
        return sum(self.tensors[name].size for name in names) * (1 if self.int8 else 4)

    def stages(self) -> Iterator[range]:
        """The blocks of each stage."""
        count = max(1, _STAGE_BYTES // max(1, self.block_bytes))
        for first in range(0, self.config.layers, count):
            yield range(first, min(first + count, self.config.layers))

    def write(self, blocks: range, folder: Path) -> Path:
        """Write the graph of one stage and its weights to a folder.

        Returns:
            The graph's file.

        Raises:
            ModelFormatError: A tensor is missing or does not fit the configuration.
        """
        path = folder / "graph.onnx"
        try:
            with (folder / _WEIGHTS).open("wb") as weights:
                path.write_bytes(_Stage(self, weights).build(blocks))
        except (ValueError, IndexError) as error:
            raise ModelFormatError(
                f"the weights do not match the configuration: {error}"
            ) from error
        return path


class _Stage:
    """Collects the nodes and initializers of one stage.

    Methods that add nodes return the name of their output.

    Args:
        graph: The graph that the stage is a part of.
        weights: Receives the weights of matrix products.
    """

    def __init__(self, graph: EncoderGraph, weights: BinaryIO) -> None:
        self._tensors = graph.tensors
        self._config = graph.config
        self._max_frames = graph.max_frames
        self._int8 = graph.int8
        self._file = weights
        self._nodes: list[onnx.NodeProto] = []
        self._initializers: dict[str, onnx.TensorProto] = {}

    def build(self, blocks: range) -> bytes:
        """Build the graph; the first stage has the subsampling in front of its blocks."""
        frames = _value("frames", TensorProto.FLOAT, "windows", "frames", None)
        between = [
            _value("hidden", TensorProto.FLOAT, "windows", 1, "frames", "frames"),
            _value("inside", TensorProto.FLOAT, "windows", "frames", 1),
        ]
        outputs = [frames]
        if blocks.start == 0:
            inputs = [
                _value("mel", TensorProto.FLOAT, "windows", "time", None),
                _value("lengths", TensorProto.INT64, "windows"),
                _value("left", TensorProto.INT64),
                _value("right", TensorProto.INT64),
            ]
            x = self._subsampling()
            if blocks.stop < self._config.layers:
                outputs += between
        else:
            inputs = [_value("input", TensorProto.FLOAT, "windows", "frames", None), *between]
            x = "input"
        self._measure(self._size(x, 1))
        for index in blocks:
            x = self._block(f"layers.{index}.", x)
        self._name("frames", x)
        graph = helper.make_graph(
            self._nodes, "fastconformer", inputs, outputs, list(self._initializers.values())
        )
        model = helper.make_model(
            graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=_IR_VERSION
        )
        return bytes(model.SerializeToString())

    def _measure(self, frames: str) -> None:
        """Compute once what every layer's attention needs of the number of frames."""
        one, two = self._int([1]), self._int([2])
        self._frames = self._op("Unsqueeze", frames, self._int([0]))
        before = self._op("Sub", self._frames, one)
        start = self._op("Sub", self._int([self._max_frames]), self._frames)
        self._distances = (start, self._op("Add", start, self._op("Add", self._frames, before)))
        columns = self._op("Max", self._op("Mul", before, two), one)
        end = self._op("Add", before, self._op("Mul", self._frames, columns))
        shape = self._op("Concat", self._int([0, 0]), self._frames, columns, axis=0)
        self._shifted = (before, end, shape)

    # The architecture.

    def _subsampling(self) -> str:
        """Three strided convolutions and a linear layer; names the masks of all blocks, too."""
        x = self._op("Unsqueeze", "mel", self._int([1]))
        ends = "lengths"
        for strided, pointwise in (("0", None), ("2", "3"), ("5", "6")):
            if pointwise is not None:  # The input itself has zeros behind each window's end.
                inside = self._op("Cast", self._inside(x, 2, ends), to=TensorProto.FLOAT)
                x = self._op("Mul", x, self._op("Unsqueeze", inside, self._int([1, 3])))
            ends = self._op("Div", self._op("Add", ends, self._int([1])), self._int([2]))
            depthwise = pointwise is not None
            x = self._convolve_2d(x, f"pre_encode.conv.{strided}.", 2, depthwise)
            if pointwise is not None:
                x = self._convolve_2d(x, f"pre_encode.conv.{pointwise}.", 1, depthwise=False)
            x = self._op("Relu", x)
        x = self._op("Transpose", x, perm=[0, 2, 1, 3])
        x = self._op("Reshape", x, self._int([0, 0, -1]))
        width = len(self._tensor("pre_encode.out.weight"))
        scale = math.sqrt(width) if self._config.scale_input else 1.0
        x = self._linear(x, "pre_encode.out.", scale)
        inside = self._inside(x, 1, ends)
        self._name("hidden", self._hidden_keys(self._size(x, 1), inside))
        mask = self._op("Cast", inside, to=TensorProto.FLOAT)
        self._name("inside", self._op("Unsqueeze", mask, self._int([2])))
        return x

    def _hidden_keys(self, frames: str, inside: str) -> str:
        """Scores to add: float32 ``[windows, 1, frames, frames]``, large and negative if hidden."""
        position = self._range(frames)
        distance = self._op(
            "Sub",
            self._op("Unsqueeze", position, self._int([0])),
            self._op("Unsqueeze", position, self._int([1])),
        )
        outside = self._op(
            "Or",
            self._op("Less", distance, self._op("Neg", "left")),
            self._op("Greater", distance, "right"),
        )
        behind = self._op("Not", self._op("Unsqueeze", inside, self._int([1])))
        hidden = self._op("Or", outside, behind)
        cost = self._op("Mul", self._op("Cast", hidden, to=TensorProto.FLOAT), self._float(_HIDDEN))
        return self._op("Unsqueeze", cost, self._int([1]))

    def _block(self, prefix: str, x: str) -> str:
        x = self._feed_forward(prefix, "1", x)
        x = self._attention(prefix, x)
        x = self._convolution(prefix, x)
        x = self._feed_forward(prefix, "2", x)
        return self._norm(x, f"{prefix}norm_out.")

    def _feed_forward(self, prefix: str, number: str, x: str) -> str:
        """Half of a macaron pair, with its residual."""
        module = f"{prefix}feed_forward{number}."
        y = self._norm(x, f"{prefix}norm_feed_forward{number}.")
        y = self._swish(self._linear(y, f"{module}linear1."))
        return self._op("Add", x, self._linear(y, f"{module}linear2.", scale=0.5))

    def _attention(self, prefix: str, x: str) -> str:
        """Relative-position attention, with its residual."""
        module = f"{prefix}self_attn."
        heads = self._config.heads
        u, v = self._tensor(f"{module}pos_bias_u"), self._tensor(f"{module}pos_bias_v")
        if u.shape[0] != heads:
            raise ModelFormatError(
                f"{module}pos_bias_u has {u.shape[0]} heads, the configuration has {heads}"
            )
        size = u.shape[1]
        scale = 1 / math.sqrt(size)
        names = [f"{module}linear_{part}." for part in "qkv"]
        weights = [self._tensor(f"{name}weight") for name in names]
        biases = [self._tensors.get(f"{name}bias") for name in names]
        # The scale of the scores is part of the queries and of both biases.
        inputs = self._product(
            self._norm(x, f"{prefix}norm_self_att."),
            np.concatenate([weights[0] * scale, *weights[1:]]),
            _joined([None if biases[0] is None else biases[0] * scale, *biases[1:]]),
            f"{module}linear_qkv",
        )
        inputs = self._op("Reshape", inputs, self._int([0, 0, 3 * heads, size]))
        inputs = self._op("Transpose", inputs, perm=[0, 2, 1, 3])
        query, key, value = self._outputs("Split", inputs, count=3, axis=1)
        keys = self._op("Transpose", key, perm=[0, 1, 3, 2])
        content = self._op(
            "MatMul", self._op("Add", query, self._weight(f"{module}u", u[:, None] * scale)), keys
        )
        distances = self._op(
            "MatMul",
            self._op("Add", query, self._weight(f"{module}v", v[:, None] * scale)),
            self._op("Transpose", self._positions(module, heads, size), perm=[0, 2, 1]),
        )
        scores = self._op("Add", content, self._shift(distances))
        weighted = self._op("Softmax", self._op("Add", scores, "hidden"), axis=-1)
        found = self._op("Transpose", self._op("MatMul", weighted, value), perm=[0, 2, 1, 3])
        found = self._op("Reshape", found, self._int([0, 0, -1]))
        return self._op("Add", x, self._linear(found, f"{module}linear_out."))

    def _positions(self, module: str, heads: int, size: int) -> str:
        """The projected positions of a window, ``[heads, 2 * frames - 1, size]``.

        Dai et al., "Transformer-XL", 2019: sines and cosines of the distance, from the most distant
        key before the query to the most distant behind it.
        """
        weight = self._tensor(f"{module}linear_pos.weight")
        projected = _position_table(self._max_frames, heads * size) @ weight.T
        projected = projected.reshape(-1, heads, size).swapaxes(0, 1)
        name = self._weight(f"{module}positions", projected)
        return self._op("Slice", name, *self._distances, self._int([1]))

    def _shift(self, scores: str) -> str:
        """Turn scores by distance ``[…, frames, 2 * frames - 1]`` into scores by key.

        Row by row the wanted part begins one distance earlier, which is what rows of one column
        less do after ``frames - 1`` elements.
        """
        start, end, columns = self._shifted
        flat = self._op("Reshape", scores, self._int([0, 0, -1]))
        turned = self._op("Reshape", self._op("Slice", flat, start, end, self._int([2])), columns)
        return self._op("Slice", turned, self._int([0]), self._frames, self._int([3]))

    def _convolution(self, prefix: str, x: str) -> str:
        """Gated depthwise convolution, with its residual."""
        module = f"{prefix}conv."
        y = self._linear(self._norm(x, f"{prefix}norm_conv."), f"{module}pointwise_conv1.")
        value, gate = self._outputs("Split", y, count=2, axis=-1)
        y = self._op("Mul", self._op("Mul", value, self._op("Sigmoid", gate)), "inside")
        kernel = self._tensor(f"{module}depthwise_conv.weight")
        norm = f"{module}batch_norm."
        variance = self._tensor(f"{norm}running_var").astype(np.float64)
        gain = self._tensor(f"{norm}weight") / np.sqrt(variance + _EPSILON)
        offset = self._tensor(f"{norm}bias") - self._tensor(f"{norm}running_mean") * gain
        bias = self._tensors.get(f"{module}depthwise_conv.bias")
        if bias is not None:
            offset = offset + bias * gain
        width, _, size = kernel.shape
        y = self._op("Unsqueeze", self._op("Transpose", y, perm=[0, 2, 1]), self._int([2]))
        y = self._op(
            "Conv",
            y,
            self._weight(f"{module}kernel", (kernel * gain[:, None, None])[:, :, None]),
            self._weight(f"{module}offset", offset),
            group=width,
            kernel_shape=[1, size],
            pads=[0, size // 2, 0, size // 2],
        )
        y = self._op(
            "Transpose", self._op("Squeeze", self._swish(y), self._int([2])), perm=[0, 2, 1]
        )
        return self._op("Add", x, self._linear(y, f"{module}pointwise_conv2."))

    # Modules.

    def _linear(self, x: str, module: str, scale: float = 1.0) -> str:
        """A linear layer, or a convolution of size one."""
        weight = self._tensor(f"{module}weight")
        weight = weight.reshape(len(weight), -1)
        bias = self._tensors.get(f"{module}bias")
        if scale != 1:
            weight, bias = weight * np.float32(scale), None if bias is None else bias * scale
        return self._product(x, weight, bias, module[:-1])

    def _product(self, x: str, weight: Floats, bias: Floats | None, name: str) -> str:
        """``x @ weight.T + bias``."""
        if self._int8:
            y = self._product_int8(x, weight, name)
        else:
            y = self._op("MatMul", x, self._product_weight(f"{name}.weight", weight.T))
        return y if bias is None else self._op("Add", y, self._weight(f"{name}.bias", bias))

    def _product_int8(self, x: str, weight: Floats, name: str) -> str:
        """``x @ weight.T`` in integers.

        The pattern that ONNX Runtime's own dynamic quantisation writes, which its optimizer turns
        into one kernel.
        """
        limit = np.abs(weight).max(axis=1)
        scale = (limit / np.float32(_INT8_LIMIT)).astype(np.float32)
        scale[limit == 0] = 1
        quantised = np.rint(weight / scale[:, None]).astype(np.int8)
        x, x_scale, zero = self._outputs("DynamicQuantizeLinear", x, count=3)
        y = self._op(
            "MatMulInteger",
            x,
            self._product_weight(f"{name}.weight", quantised.T),
            zero,
            self._weight(f"{name}.zero", np.zeros(len(scale), np.int8)),
        )
        both = self._op("Mul", x_scale, self._weight(f"{name}.scale", scale))
        return self._op("Mul", self._op("Cast", y, to=TensorProto.FLOAT), both)

    def _norm(self, x: str, module: str) -> str:
        return self._op(
            "LayerNormalization",
            x,
            self._weight(f"{module}weight", self._tensor(f"{module}weight")),
            self._weight(f"{module}bias", self._tensor(f"{module}bias")),
            axis=-1,
            epsilon=_EPSILON,
        )

    def _swish(self, x: str) -> str:
        return self._op("Mul", x, self._op("Sigmoid", x))

    def _convolve_2d(self, x: str, module: str, stride: int, depthwise: bool) -> str:
        """A convolution over time and frequency."""
        weight = self._tensor(f"{module}weight")
        channels, _, size, _ = weight.shape
        return self._op(
            "Conv",
            x,
            self._weight(f"{module}weight", weight),
            self._weight(f"{module}bias", self._tensor(f"{module}bias")),
            group=channels if depthwise else 1,
            kernel_shape=[size, size],
            strides=[stride, stride],
            pads=[size // 2] * 4,
        )

    # Nodes and constants.

    def _op(self, kind: str, *inputs: str, **attributes: Any) -> str:
        output = f"{kind}_{len(self._nodes)}"
        self._nodes.append(helper.make_node(kind, list(inputs), [output], **attributes))
        return output

    def _name(self, name: str, x: str) -> None:
        """Give a value a name of its own."""
        self._nodes.append(helper.make_node("Identity", [x], [name]))

    def _outputs(self, kind: str, *inputs: str, count: int, **attributes: Any) -> list[str]:
        """Add a node with several outputs."""
        outputs = [f"{kind}_{len(self._nodes)}_{number}" for number in range(count)]
        self._nodes.append(helper.make_node(kind, list(inputs), outputs, **attributes))
        return outputs

    def _size(self, x: str, axis: int) -> str:
        return self._op("Squeeze", self._op("Shape", x, start=axis, end=axis + 1), self._int([0]))

    def _inside(self, x: str, axis: int, ends: str) -> str:
        """bool ``[windows, size of the axis]``, false behind each window's end."""
        ends = self._op("Unsqueeze", ends, self._int([1]))
        return self._op("Less", self._range(self._size(x, axis)), ends)

    def _range(self, end: str) -> str:
        return self._op("Range", self._scalar(0), end, self._scalar(1))

    def _int(self, values: list[int]) -> str:
        return self._constant(np.array(values, np.int64))

    def _scalar(self, value: int) -> str:
        return self._constant(np.array(value, np.int64))

    def _float(self, value: float) -> str:
        return self._constant(np.array(value, np.float32))

    def _constant(self, array: npt.NDArray[Any]) -> str:
        name = f"constant.{array.dtype}.{array.tolist()}"
        if name not in self._initializers:
            self._initializers[name] = numpy_helper.from_array(array, name)
        return name

    def _weight(self, name: str, array: npt.NDArray[Any]) -> str:
        array = np.ascontiguousarray(array, np.int8 if array.dtype == np.int8 else np.float32)
        self._initializers[name] = numpy_helper.from_array(array, name)
        return name

    def _product_weight(self, name: str, array: npt.NDArray[Any]) -> str:
        """Add a weight of a matrix product, which ONNX Runtime reads from the file and packs."""
        self._file.seek(-self._file.tell() % _ALIGNMENT, os.SEEK_CUR)
        tensor = self._initializers[name] = TensorProto(
            name=name,
            data_type=helper.np_dtype_to_tensor_dtype(array.dtype),
            dims=array.shape,
            data_location=TensorProto.EXTERNAL,
        )
        for key, value in (
            ("location", _WEIGHTS),
            ("offset", self._file.tell()),
            ("length", array.nbytes),
        ):
            tensor.external_data.add(key=key, value=str(value))
        np.ascontiguousarray(array).tofile(self._file)
        return name

    def _tensor(self, name: str) -> Floats:
        try:
            return self._tensors[name]
        except KeyError as error:
            raise ModelFormatError(f"the weights lack encoder.{name}") from error


def _joined(biases: list[Floats | None]) -> Floats | None:
    present = [bias for bias in biases if bias is not None]
    return np.concatenate(present) if present else None


def _position_table(frames: int, width: int) -> Floats:
    """Sines and cosines of distances from ``frames - 1`` down: ``[2 * frames - 1, width]``."""
    distance = np.arange(frames - 1, -frames, -1, dtype=np.float32)[:, None]
    rates = np.exp(np.arange(0, width, 2, dtype=np.float32) * -(math.log(10_000.0) / width))
    table = np.empty((len(distance), width), np.float32)
    table[:, 0::2] = np.sin(distance * rates)
    table[:, 1::2] = np.cos(distance * rates)
    return table


def _value(name: str, kind: int, *shape: str | int | None) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, shape)
