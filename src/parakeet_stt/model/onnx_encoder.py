"""The encoder on ONNX Runtime, and the decoders that ONNX exports bring along.

Reads exports in onnx-asr's layout, which are NeMo's own: an encoder with a length input, and for
transducers a graph that holds prediction network and joint together.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from parakeet_stt.errors import ConfigurationError, ModelFormatError
from parakeet_stt.model.decoder import Floats
from parakeet_stt.model.encoder import EncoderFrames, LocalAttention, encoder_frames, stack
from parakeet_stt.model.frontend import LogMel
from parakeet_stt.settings import Device

_CPU = "CPUExecutionProvider"
_PROVIDERS = ("CUDAExecutionProvider", _CPU)
_MOST_THREADS = 8
_SMALL_BYTES = 32 << 20  # A network of up to this size is done before other threads have woken up.


class OnnxEncoder:
    """A FastConformer encoder in ONNX Runtime; of a CTC export, the whole model.

    Its attention is what was exported: every frame sees the whole window.

    Args:
        path: ``encoder-model.onnx`` or a CTC export's ``model.onnx``.
        device: ``auto``, ``gpu`` or ``cpu``.

    Raises:
        ModelFormatError: The file is not such a graph.
        ConfigurationError: There is no GPU for ONNX Runtime.
    """

    name = "onnx"
    precision = "fp32"

    def __init__(self, path: Path, device: Device = "auto") -> None:
        self._session = _open(path, {"audio_signal", "length"}, device)
        self._output = self._session.get_outputs()[0].name
        # The encoder puts out [batch, width, frames], CTC's log-probabilities [batch, frames, ids].
        self._frames_last = self._output == "outputs"
        provider = self._session.get_providers()[0].removesuffix("ExecutionProvider")
        threads = self._session.get_session_options().intra_op_num_threads
        self.device = f"{provider} ({threads} thread{'s' if threads > 1 else ''})"

    def encode(
        self, windows: Sequence[LogMel], attention: LocalAttention | None
    ) -> list[EncoderFrames]:
        """Encode a batch; the graph's own attention is full, whatever is asked for."""
        lengths = np.array([len(window) for window in windows], np.int64)
        feeds = {
            "audio_signal": np.ascontiguousarray(stack(windows).swapaxes(1, 2)),
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
        ModelFormatError: The file is not such a graph, or its outputs are not as many as the
            vocabulary says.
    """

    def __init__(self, path: Path, blank: int, durations: int) -> None:
        self._session = _open(path, {"encoder_outputs", "targets", "input_states_1"})
        self._blank = blank
        inputs = {item.name: item for item in self._session.get_inputs()}
        self._states = [inputs[name] for name in ("input_states_1", "input_states_2")]
        self._has_length = "target_length" in inputs
        self._width = inputs["encoder_outputs"].shape[1]
        wanted, outputs = blank + 1 + durations, self._session.get_outputs()[0].shape[-1]
        if isinstance(outputs, int) and outputs != wanted:
            raise ModelFormatError(
                f"{path} has {outputs} outputs where the vocabulary and durations beside it "
                f"make {wanted}"
            )

    def initial(self) -> _GraphPredictor:
        """The predictor before the first token: blank, whose embedding is zeros."""
        zeros = [np.zeros((s.shape[0], 1, s.shape[2]), np.float32) for s in self._states]
        return _GraphPredictor(self._blank, zeros)

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
        return logits


def _open(path: Path, wanted: set[str], device: Device = "auto") -> Any:
    """Open a graph and check that it has the inputs that it should have."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    size = sum(file.stat().st_size for file in path.parent.glob(f"{path.name}*"))
    threads = 1 if size <= _SMALL_BYTES else min(os.cpu_count() or 1, _MOST_THREADS)
    options.intra_op_num_threads = threads
    # Idle threads that spin would take the cores that the rest of the pipeline needs.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    available = onnxruntime.get_available_providers()
    providers = [provider for provider in _PROVIDERS if provider in available]
    if device == "gpu" and providers[0] == _CPU:
        raise ConfigurationError(
            f"PARAKEET_DEVICE='gpu': ONNX Runtime has no GPU here, it offers {', '.join(available)}"
        )
    if device == "cpu":
        providers = [_CPU]
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=providers)
    except Exception as error:  # ONNX Runtime has no common base class for its errors.
        raise ModelFormatError(f"{path} cannot be loaded by ONNX Runtime: {error}") from error
    missing = wanted - {item.name for item in session.get_inputs()}
    if missing:
        raise ModelFormatError(
            f"{path} is not an export that this version can run: it has no input "
            f"{', '.join(sorted(missing))}"
        )
    return session
