"""Time and memory of loading a model of 0.6 billion parameters.

``python -m benchmarks.conditions.loading_memory [--json FILE]`` writes random weights in
parakeet-mlx's layout to a temporary folder, as bf16 and as fp32, and loads each in fresh processes:
on MLX in bf16 and fp32, on ONNX Runtime in fp32 and int8. The table has the time, the peak of the
resident memory, what is resident afterwards, and the ratio of the peak to the weights in memory.
No two weights are equal, because ONNX Runtime keeps equal ones once. Takes 4 GB of disk and up to
11 GB of memory.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from parakeet_stt.settings import Backend, Precision

_FILES = {"bf16": ("BF16", np.dtype(ml_dtypes.bfloat16)), "fp32": ("F32", np.dtype(np.float32))}
_VOCABULARY = 1024
_LOADINGS = (("mlx", "bf16", 2), ("mlx", "fp32", 4), ("onnx", "fp32", 4), ("onnx", "int8", 1))
"""Executors, their precisions, and the bytes of one weight of the encoder."""

_BLOCK = 1 << 20  # Weights that are made at a time.


@dataclass(frozen=True)
class Loading:
    """What one load took.

    Attributes:
        file: Type of the weights in the file.
        backend: What ran the encoder.
        precision: The precision that was asked for.
        seconds: Duration of the load.
        weights_mb: The model's weights in memory.
        before_mb: Resident memory before the load, everything imported.
        peak_mb: Peak of the resident memory.
        after_mb: Resident memory after the load.
    """

    file: str
    backend: str
    precision: str
    seconds: float
    weights_mb: float
    before_mb: float
    peak_mb: float
    after_mb: float

    @property
    def ratio(self) -> float:
        """The peak relative to the weights."""
        return self.peak_mb / self.weights_mb


def configuration(layers: int, width: int) -> dict[str, Any]:
    """The bundled model's configuration with other sizes.

    Args:
        layers: Layers of the encoder.
        width: Its width; everything else is as in ``parakeet-tdt-0.6b-v2``.
    """
    from parakeet_stt.model.catalog import BUNDLED

    config: dict[str, Any] = copy.deepcopy(
        json.loads((BUNDLED["tiny"] / "config.json").read_text(encoding="utf-8"))
    )
    config["preprocessor"]["features"] = config["encoder"]["feat_in"] = 128
    config["encoder"] |= {"n_layers": layers, "d_model": width, "n_heads": 8}
    config["encoder"] |= {"subsampling_conv_channels": 256}
    config["decoder"]["vocab_size"] = config["joint"]["num_classes"] = _VOCABULARY
    config["decoder"]["prednet"] = {"pred_hidden": 640, "pred_rnn_layers": 2}
    config["joint"]["vocabulary"] = [f"▁{number}" for number in range(_VOCABULARY)]
    config["joint"]["jointnet"] |= {
        "joint_hidden": 640,
        "encoder_hidden": width,
        "pred_hidden": 640,
    }
    return config


def write_model(folder: Path, file: str, config: dict[str, Any]) -> dict[str, int]:
    """Write a folder with random weights, tensor by tensor.

    Args:
        folder: Where to; it is made.
        file: ``bf16`` or ``fp32``.
        config: The model's configuration.

    Returns:
        How many weights the encoder and the decoder have.
    """
    from mlx.utils import tree_flatten
    from parakeet_mlx.utils import from_config

    shapes: dict[str, tuple[int, ...]] = {
        name: array.shape for name, array in tree_flatten(from_config(config).parameters())
    }
    name_in_file, dtype = _FILES[file]
    header, offset = {}, 0
    for name, shape in shapes.items():
        end = offset + int(np.prod(shape)) * dtype.itemsize
        header[name] = {"dtype": name_in_file, "shape": shape, "data_offsets": [offset, end]}
        offset = end
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    encoded = json.dumps(header).encode()
    random = np.random.default_rng(3)
    with (folder / "model.safetensors").open("wb") as out:
        out.write(len(encoded).to_bytes(8, "little") + encoded)
        for name, shape in shapes.items():
            for block in _random_blocks(random, int(np.prod(shape))):
                values = np.abs(block) + 1 if name.endswith("running_var") else block
                out.write(values.astype(dtype).tobytes())
    counts = {"encoder": 0, "decoder": 0}
    for name, shape in shapes.items():
        part = "encoder" if name.startswith("encoder.") else "decoder"
        counts[part] += int(np.prod(shape))
    return counts


def _random_blocks(
    random: np.random.Generator, length: int
) -> Iterator[np.ndarray[Any, np.dtype[np.float32]]]:
    for start in range(0, length, _BLOCK):
        size = min(_BLOCK, length - start)
        yield random.standard_normal(size, np.float32) * np.float32(0.02)


def load(folder: Path, backend: Backend, precision: Precision) -> dict[str, float]:
    """Load a folder in this process; returns the time and resident memory."""
    from parakeet_stt import load_model

    load_model("tiny", backend=backend)  # Everything is imported, and MLX has started.
    before = _resident()
    started = time.perf_counter()
    load_model(folder, backend=backend, precision=precision)
    seconds = time.perf_counter() - started
    after = _resident()
    unit = 1 if sys.platform == "darwin" else 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    return {
        "seconds": seconds,
        "before_mb": before / 1e6,
        "peak_mb": peak / 1e6,
        "after_mb": after / 1e6,
    }


def _resident() -> int:
    """Resident memory of this process in bytes."""
    done = subprocess.run(
        ["ps", "-o", "rss=", "-p", str(os.getpid())], capture_output=True, text=True, check=True
    )
    return int(done.stdout) * 1024


def measure(config: dict[str, Any]) -> Iterator[Loading]:
    """Load each file with each precision, one after the other."""
    for file in _FILES:
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary, "model")
            counts = write_model(folder, file, config)
            for backend, precision, size in _LOADINGS:
                load = ("--load", str(folder), backend, precision)
                done = subprocess.run(
                    [sys.executable, "-m", __spec__.name, *load],
                    capture_output=True,
                    text=True,
                    check=True,
                )
                # The decoder computes in float32, whatever the encoder's precision.
                weights = (counts["encoder"] * size + counts["decoder"] * 4) / 1e6
                found = json.loads(done.stdout)
                yield Loading(file, backend, precision, weights_mb=weights, **found)


def table(loadings: list[Loading]) -> str:
    """The figures as a Markdown table."""
    rows = [
        "| file | executor, precision | s | weights MB | before MB | peak MB | after MB "
        "| peak / weights |",
        "|---|---|---|---|---|---|---|---|",
    ]
    rows += [
        f"| {one.file} | {one.backend}, {one.precision} | {one.seconds:.1f} | "
        f"{one.weights_mb:.0f} | {one.before_mb:.0f} | "
        f"{one.peak_mb:.0f} | {one.after_mb:.0f} | {one.ratio:.2f} |"
        for one in loadings
    ]
    return "\n".join(rows)


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures to a file")
    parser.add_argument("--layers", type=int, default=24, help="of the encoder (24)")
    parser.add_argument("--width", type=int, default=1024, help="of the encoder (1024)")
    parser.add_argument("--load", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.load:
        folder, backend, precision = arguments.load
        print(json.dumps(load(Path(folder), backend, precision)))
        return
    loadings = list(measure(configuration(arguments.layers, arguments.width)))
    print(table(loadings))
    if arguments.json:
        figures = [{**asdict(one), "ratio": one.ratio} for one in loadings]
        arguments.json.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
