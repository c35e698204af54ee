"""ONNX files that differ from the bundled export, made from it without the onnx package.

Only the parts of ONNX's format that are touched are described here; protobuf keeps the others.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

FLOAT, INT32, INT64, FLOAT16 = 1, 6, 7, 10
"""Element types of tensors."""

_OPTIONAL, _REPEATED = 1, 3
_KINDS = {"int64": 3, "int32": 5, "string": 9, "bytes": 12}
_MESSAGES: dict[str, dict[str, tuple[int, str, int]]] = {
    "Dimension": {"dim_value": (1, "int64", _OPTIONAL), "dim_param": (2, "string", _OPTIONAL)},
    "Shape": {"dim": (1, "Dimension", _REPEATED)},
    "TensorType": {"elem_type": (1, "int32", _OPTIONAL), "shape": (2, "Shape", _OPTIONAL)},
    "Type": {"tensor_type": (1, "TensorType", _OPTIONAL)},
    "ValueInfo": {"name": (1, "string", _OPTIONAL), "type": (2, "Type", _OPTIONAL)},
    "Tensor": {
        "dims": (1, "int64", _REPEATED),
        "data_type": (2, "int32", _OPTIONAL),
        "name": (8, "string", _OPTIONAL),
        "raw_data": (9, "bytes", _OPTIONAL),
    },
    "Attribute": {
        "name": (1, "string", _OPTIONAL),
        "i": (3, "int64", _OPTIONAL),
        "type": (20, "int32", _OPTIONAL),
    },
    "Node": {
        "input": (1, "string", _REPEATED),
        "output": (2, "string", _REPEATED),
        "op_type": (4, "string", _OPTIONAL),
        "attribute": (5, "Attribute", _REPEATED),
    },
    "Graph": {
        "node": (1, "Node", _REPEATED),
        "initializer": (5, "Tensor", _REPEATED),
        "input": (11, "ValueInfo", _REPEATED),
        "output": (12, "ValueInfo", _REPEATED),
    },
    "Model": {"graph": (7, "Graph", _OPTIONAL)},
}


def _model_class() -> Any:
    file = descriptor_pb2.FileDescriptorProto(name="parts_of_onnx.proto", package="parts")
    for name, fields in _MESSAGES.items():
        message = file.message_type.add(name=name)
        for field, (number, kind, label) in fields.items():
            added = message.field.add(name=field, number=number, label=label)
            if kind in _KINDS:
                added.type = _KINDS[kind]
            else:
                added.type, added.type_name = 11, f".parts.{kind}"
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("parts.Model"))


_Model = _model_class()


def read(path: Path) -> Any:
    """The model in a file."""
    return _Model.FromString(path.read_bytes())


def write(model: Any, path: Path) -> None:
    """Write a model to a file."""
    path.write_bytes(model.SerializeToString())


def named(values: Any, name: str) -> Any:
    """The input or output of this name."""
    return next(value for value in values if value.name == name)


def retype_input(model: Any, name: str, to: int) -> None:
    """Declare an input with another type, and convert it to the old one inside the graph."""
    tensor = named(model.graph.input, name).type.tensor_type
    old, tensor.elem_type = tensor.elem_type, to
    for node in model.graph.node:
        node.input[:] = [f"{name}.converted" if i == name else i for i in node.input]
    cast = model.graph.node.add(op_type="Cast", input=[name], output=[f"{name}.converted"])
    cast.attribute.add(name="to", i=old, type=2)


def fix_dimension(model: Any, name: str, axis: int, size: int) -> None:
    """Declare an axis of an input with a fixed size."""
    dimension = named(model.graph.input, name).type.tensor_type.shape.dim[axis]
    dimension.Clear()
    dimension.dim_value = size


def add_long_load(model: Any) -> None:
    """Have ONNX Runtime fold minutes of matrix products when it loads the model."""
    size = (4096).to_bytes(8, "little") * 2
    model.graph.initializer.add(name="slow.shape", dims=[2], data_type=INT64, raw_data=size)
    model.graph.node.add(op_type="ConstantOfShape", input=["slow.shape"], output=["slow.0"])
    for i in range(200):
        model.graph.node.add(
            op_type="MatMul", input=[f"slow.{i}", "slow.0"], output=[f"slow.{i + 1}"]
        )
    output = model.graph.output.add(name="slow.200")
    output.type.tensor_type.elem_type = FLOAT
