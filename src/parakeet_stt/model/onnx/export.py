"""ONNX exports: their encoders, and the decoders that they contain.

Reads exports in onnx-asr's layout, which are NeMo's own: an encoder with a length input, and for
transducers a graph that holds prediction network and joint together.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from parakeet_stt.errors import ModelFormatError
from parakeet_stt.model.encoder import (
    EncoderFrames,
    Floats,
    LocalAttention,
    encoder_frames,
    stack,
)
from parakeet_stt.model.frontend import LogMel
from parakeet_stt.model.onnx.session import OnnxSession
from parakeet_stt.settings import Device


class OnnxExport:
    """An exported FastConformer encoder in ONNX Runtime; of a CTC export, the whole model.

    Its attention is what was exported: every frame sees the whole window.

    Args:
        path: ``encoder-model.onnx`` or a CTC export's ``model.onnx``.
        features: Mel bins, as the configuration has them.
        device: ``auto``, ``gpu`` or ``cpu``.

    Raises:
        ModelFormatError: The file is not such a graph, or takes windows of one shape only.
        ConfigurationError: There is no GPU for ONNX Runtime.
    """

    name = "onnx"
    precision = "fp32"
    has_local_attention = False

    def __init__(self, path: Path, features: int, device: Device = "auto") -> None:
        self._session = OnnxSession(path, {"audio_signal", "length"}, device)
        batch, bins, frames = _shape(self._session, "audio_signal", 3)
        if isinstance(bins, int) and bins != features:
            raise ModelFormatError(
                f"{path} takes {bins} mel bins where config.json says features_size={features}"
            )
        if isinstance(batch, int) or isinstance(frames, int):
            raise ModelFormatError(
                f"{path} was exported for windows of one shape: its input audio_signal is "
                f"[{batch}, {bins}, {frames}]. Export it with dynamic axes for batch and time."
            )
        self._output = self._session.outputs[0].name
        # The encoder puts out [batch, width, frames], CTC's log-probabilities [batch, frames, ids].
        self._frames_last = self._output == "outputs"
        self.device = self._session.device

    def encode(
        self, windows: Sequence[LogMel], attention: LocalAttention | None
    ) -> list[EncoderFrames]:
        """Encode a batch; the graph's own attention is full, whatever is asked for."""
        lengths = np.array([len(window) for window in windows], np.int64)
        feeds = {
            "audio_signal": stack(windows).swapaxes(1, 2),
            "length": lengths,
        }
        (outputs,) = self._session.run([self._output], feeds)
        if self._frames_last:
            outputs = outputs.swapaxes(1, 2)
        return [
            np.ascontiguousarray(found[: encoder_frames(length)])
            for found, length in zip(outputs, lengths, strict=True)
        ]


@dataclass
class _GraphPredictor:
    """A prediction network inside a graph that also holds the joint.

    The graph advances by the token and joins a frame in one run, so the state after the token is
    known once any frame has been joined.
    """

    token: int
    before: list[Floats]
    after: list[Floats] | None = None


class OnnxNetwork:
    """Prediction network and joint of a transducer export (``decoder_joint-model.onnx``).

    Args:
        path: The graph.
        blank: Id of the blank token, which the graph takes for the start.
        durations: How many duration outputs stand behind the token outputs.

    Raises:
        ModelFormatError: The file is not such a graph; :meth:`joint` raises it if the graph's
            outputs are not as many as the vocabulary says.
    """

    def __init__(self, path: Path, blank: int, durations: int) -> None:
        inputs = {"encoder_outputs", "targets", "input_states_1", "input_states_2"}
        self._session = OnnxSession(path, inputs)
        self._blank = blank
        self._states = [
            np.zeros(
                [_dimension(self._session, name, 0), 1, _dimension(self._session, name, 2)],
                np.float32,
            )
            for name in ("input_states_1", "input_states_2")
        ]
        self._has_length = "target_length" in self._session.inputs
        self._width = _dimension(self._session, "encoder_outputs", 1)
        self._outputs = blank + 1 + durations

    def initial(self) -> _GraphPredictor:
        """The predictor before the first token: blank, whose embedding is zeros."""
        return _GraphPredictor(self._blank, self._states)

    def advance(self, token: int, predictor: _GraphPredictor) -> _GraphPredictor:
        """The predictor after one more token."""
        if predictor.after is None:
            self.joint(np.zeros((1, self._width), np.float32), predictor)
        assert predictor.after is not None
        return _GraphPredictor(token, predictor.after)

    def project(self, frames: EncoderFrames) -> Floats:
        """The frames as they are: the graph projects them itself."""
        return frames

    def joint(self, projected: Floats, predictor: _GraphPredictor) -> Floats:
        """Logits of tokens, blank, then durations: float32 [frames, outputs]."""
        feeds: dict[str, Any] = {
            "encoder_outputs": projected.T[None],
            "targets": np.array([[predictor.token]], np.int32),
            "input_states_1": predictor.before[0],
            "input_states_2": predictor.before[1],
        }
        if self._has_length:
            feeds["target_length"] = np.array([1], np.int32)
        names = ["outputs", "output_states_1", "output_states_2"]
        outputs, *predictor.after = self._session.run(names, feeds)
        logits: Floats = outputs.reshape(len(projected), -1)
        if logits.shape[1] != self._outputs:
            raise ModelFormatError(
                f"{self._session.path} has {logits.shape[1]} outputs, expected {self._outputs} "
                f"from the vocabulary and durations beside it"
            )
        return logits


def _shape(session: OnnxSession, name: str, dimensions: int) -> list[int | str | None]:
    """The shape that a graph declares for an input: numbers where it is fixed."""
    shape: list[int | str | None] = session.inputs[name].shape
    if len(shape) != dimensions:
        raise ModelFormatError(
            f"{session.path}: its input {name} has the shape {shape}, expected {dimensions} "
            f"dimensions"
        )
    return shape


def _dimension(session: OnnxSession, name: str, axis: int) -> int:
    """The size that a graph declares for one axis of a three-dimensional input."""
    size = _shape(session, name, 3)[axis]
    if not isinstance(size, int):
        raise ModelFormatError(
            f"{session.path}: its input {name} has {size!r} as the size of axis {axis}, expected a "
            f"number"
        )
    return size
