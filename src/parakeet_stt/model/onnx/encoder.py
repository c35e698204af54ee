"""The encoder of a checkpoint on ONNX Runtime."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from parakeet_stt.model.checkpoint import Checkpoint
from parakeet_stt.model.encoder import (
    MAX_WINDOW,
    EncoderFrames,
    LocalAttention,
    encoder_frames,
    stack,
)
from parakeet_stt.model.frontend import LogMel
from parakeet_stt.model.memory import trim_heap
from parakeet_stt.model.onnx.graph import NO_LIMIT, EncoderGraph
from parakeet_stt.model.onnx.session import OnnxSession
from parakeet_stt.settings import Device, RunPrecision


class OnnxEncoder:
    """A checkpoint's FastConformer encoder in ONNX Runtime.

    Args:
        checkpoint: The model; its encoder's tensors are read here.
        precision: ``fp32``, or ``int8`` for the matrix products with weights.
        device: ``auto``, ``gpu`` or ``cpu``.

    Raises:
        ModelFormatError: The tensors do not match the configuration.
        ConfigurationError: There is no GPU for ONNX Runtime.
    """

    name = "onnx"
    has_local_attention = True

    def __init__(
        self, checkpoint: Checkpoint, precision: RunPrecision, device: Device = "auto"
    ) -> None:
        self.precision: str = precision
        tensors = checkpoint.tensors.below("encoder.")
        max_frames = encoder_frames(MAX_WINDOW)
        graph = EncoderGraph(tensors, checkpoint.encoder, max_frames, int8=precision == "int8")
        size = graph.block_bytes * checkpoint.encoder.layers
        self._stages = []
        for blocks in graph.stages():
            inputs = {"mel", "lengths"} if blocks.start == 0 else {"input"}
            write = partial(graph.write, blocks)
            self._stages.append(OnnxSession(checkpoint.path, inputs, device, write, size))
            trim_heap()
        self.device = self._stages[0].device

    def encode(
        self, windows: Sequence[LogMel], attention: LocalAttention | None
    ) -> list[EncoderFrames]:
        """Encode a batch of windows; see :class:`~parakeet_stt.model.encoder.Encoder`."""
        lengths = [len(window) for window in windows]
        left, right = (NO_LIMIT,) * 2 if attention is None else (attention.left, attention.right)
        first, *others = self._stages
        feeds = {"mel": stack(windows), "lengths": lengths, "left": left, "right": right}
        frames, *masks = first.run([output.name for output in first.outputs], feeds)
        for stage in others:
            hidden, inside = masks
            feeds = {"input": frames, "hidden": hidden, "inside": inside}
            (frames,) = stage.run(["frames"], feeds)
        return [found[: encoder_frames(n)] for found, n in zip(frames, lengths, strict=True)]
