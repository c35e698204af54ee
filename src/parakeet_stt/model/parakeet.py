"""A model, ready to transcribe: configuration, encoder and decoder behind one synchronous face."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any, Literal

import ml_dtypes  # noqa: F401 (teaches numpy bfloat16, which safetensors asks it for)
import numpy as np
import safetensors
from loguru import logger

from parakeet_stt.audio import AudioSource, read_blocks
from parakeet_stt.errors import ConfigurationError, ModelFormatError, ParakeetError
from parakeet_stt.model import blas, device, hub
from parakeet_stt.model.decoder import (
    Decoder,
    Floats,
    GreedyCTC,
    GreedyTransducer,
    Network,
    NumpyNetwork,
)
from parakeet_stt.model.device import on_fork, run_interruptibly
from parakeet_stt.model.encoder import Encoder, encoder_frames
from parakeet_stt.model.hub import ModelFiles
from parakeet_stt.model.memory import trim_heap
from parakeet_stt.model.stream import Stream, StreamOptions
from parakeet_stt.model.windowed import MAX_WINDOW, WindowedStream
from parakeet_stt.settings import (
    Attention,
    Backend,
    ContextSize,
    Device,
    Precision,
    Streaming,
    load_settings,
    warn_of_local_attention,
)
from parakeet_stt.transcript import Transcript

WARM_UP_SECONDS = (0.5, 2.0)
"""Lengths of silence that :meth:`Model.warm_up` transcribes: kernels are compiled per shape."""

MAX_BATCH = 8
"""Most windows that are encoded at once, where nothing else is asked for."""

_WORTHWHILE = 0.9  # A batch is, if it takes at most this share of the time of its parts.
_TOO_SLOW_SECONDS = 0.1  # A window that takes longer keeps a device busy by itself.


class Model:
    """A Parakeet model. Make one with :func:`load_model`; any number of streams may share it.

    Attributes:
        name: The source that it was loaded from.
        config: Its configuration.
        encoder: Its encoder.
        batch: How many windows of different streams are worth encoding at once; known after
            :meth:`warm_up`.
    """

    def __init__(self, files: ModelFiles, encoder: Encoder, decoder: Decoder[Any]) -> None:
        self.name = files.source
        self.config = files.config
        self.encoder = encoder
        self._folder = files.folder
        self._decoder = decoder
        self.batch = 1
        self._warm_for = 0  # Windows at once that have been tried.

    def __repr__(self) -> str:
        return (
            f"<Model {self.name}: {self.config.kind} on {self.encoder.name}, "
            f"{self.encoder.device}, {self.encoder.precision}>"
        )

    @property
    def language(self) -> str | None:
        """BCP 47 code of the one language that the model knows, where that is known."""
        return self.languages[0] if len(self.languages) == 1 else None

    @property
    def languages(self) -> tuple[str, ...]:
        """BCP 47 codes of the languages that the model knows; none where that is not known."""
        return hub.languages_of(self.name)

    def transcribe_stream(
        self,
        context_size: ContextSize = (256, 256),
        attention: Attention = "local",
        streaming: Streaming = "windowed",
        boost: Mapping[str, float] | None = None,
    ) -> Stream:
        """Open a stream, to be used as a context manager.

        Args:
            context_size: Left and right context in encoder frames of 80 ms.
            attention: ``local`` or ``full``; an ONNX encoder knows ``full`` only.
            streaming: ``windowed``, or ``upstream`` for parakeet-mlx's own context.
            boost: Phrases to expect and their weights.

        Raises:
            ConfigurationError: An option that cannot be used.
        """
        return self.open_stream(StreamOptions(context_size, attention, streaming, boost or {}))

    def open_stream(self, options: StreamOptions, start: float = 0.0) -> Stream:
        """Open a stream with options that have been checked already.

        Args:
            options: How it listens.
            start: Seconds at which it begins; its times count from there.
        """
        if options.streaming == "upstream":
            from parakeet_stt.model.upstream import UpstreamStream

            return UpstreamStream(self._folder, self.encoder, options, self.language, start)
        return WindowedStream(
            self.config, self.encoder, self._decoder, options, self.language, start
        )

    def transcribe(
        self,
        audio: AudioSource,
        context_size: ContextSize = (256, 256),
        attention: Attention = "local",
        boost: Mapping[str, float] | None = None,
        progress: Callable[[float], None] | None = None,
        sample_rate: int | None = None,
    ) -> Transcript:
        """Transcribe samples or a file, of any length.

        What is longer than half a minute is encoded in overlapping windows.

        Args:
            audio: A path; the bytes of a file; an open binary file; or an array ``[samples]`` or
                ``[samples, channels]`` of floats within -1 to 1, int16, int32 or uint8.
            context_size: As :meth:`transcribe_stream`.
            attention: As :meth:`transcribe_stream`.
            boost: As :meth:`transcribe_stream`.
            progress: Called with the seconds of a file that have been heard.
            sample_rate: That of an array, Hz; 16,000 by default. A file states its own.

        Raises:
            AudioError: The file cannot be decoded or holds no audio, or the array is not as
                described.
            ConfigurationError: An option that cannot be used.
        """
        with self.transcribe_stream(context_size, attention, boost=boost) as stream:
            for block in read_blocks(audio, sample_rate):
                stream.feed(block)
                if progress is not None:
                    progress(stream.seconds)
            return stream.finish()

    def warm_up(self, most: int = MAX_BATCH) -> None:
        """Run over silence, once, so that the first words do not wait for kernels.

        Args:
            most: Windows at once that will be asked for: more than :data:`MAX_BATCH` are tried
                before they count as worthwhile.
        """
        if not self._warm_for:
            if self.encoder.name == "onnx":
                # Its memory arena is then as large as it will be, instead of growing for half an
                # hour.
                longest = np.zeros((MAX_WINDOW, self.config.features), np.float32)
                self.encoder.encode([longest], None)
            for seconds in WARM_UP_SECONDS:
                self.transcribe(np.zeros(int(16_000 * seconds), np.float32))
            self._warm_for = MAX_BATCH
            alone = self._seconds(1)
            if alone < _TOO_SLOW_SECONDS and self._seconds(4) < 4 * alone * _WORTHWHILE:
                self.batch = MAX_BATCH
        while self.batch == self._warm_for < most:
            self._warm_for *= 2
            if self._seconds(self._warm_for) < 2 * self._seconds(self.batch) * _WORTHWHILE:
                self.batch = self._warm_for

    def _seconds(self, windows: int) -> float:
        """What encoding so many windows at once takes, at best."""
        batch = [np.zeros((200, self.config.features), np.float32)] * windows
        times = []
        for _ in range(3):
            begun = time.perf_counter()
            self.encoder.encode(batch, None)
            times.append(time.perf_counter() - begun)
        return min(times)


_loaded: dict[tuple[Any, ...], Model] = {}
_loading = threading.Lock()


def load_model(
    source: str | Path | None = None,
    *,
    precision: Precision | None = None,
    backend: Backend | None = None,
    device: Device | None = None,
    cache_dir: Path | None = None,
) -> Model:
    """Load a model; the same choice gives the same shared model.

    Args:
        source: ``tiny``, a known name, a folder, or a Hugging Face id, which may end in
            ``@revision``. Everything that is not given comes from the environment
            (``PARAKEET_MODEL`` and so on).
        precision: ``bf16``, ``fp32``, or ``auto``: bf16 on a GPU, fp32 on a CPU.
        backend: ``mlx``, ``onnx`` or ``auto``.
        device: ``gpu``, ``cpu`` or ``auto``. In one process MLX runs on one of them.
        cache_dir: Where downloads are kept.

    Raises:
        ParakeetError: One of its kinds, each saying what to do: the model does not exist, cannot
            be had now, or is not one that this version can run.
    """
    settings = load_settings(
        model=None if source is None else str(source),
        precision=precision,
        backend=backend,
        device=device,
        cache_dir=cache_dir,
    )
    # The ONNX encoder must not bring MLX along where it is not wanted.
    missing = missing_mlx() if settings.backend != "onnx" else None
    if missing and settings.backend == "mlx":
        raise ConfigurationError(f"backend='mlx': {missing}")
    chosen_backend: Backend = "onnx" if missing else settings.backend
    gpu = chosen_backend != "onnx" and _mlx_has_gpu(settings.device)
    try:
        # Without the lock: one model's download must not delay other models.
        files = hub.find_model(settings.model, chosen_backend, gpu, settings.cache_dir)
    except ConfigurationError as error:
        raise ConfigurationError(f"{error} ({missing})" if missing else str(error)) from error
    warn_of_local_attention(settings, files.backend)
    with _loading:
        if settings.device == "gpu" and files.backend == "mlx" and not gpu:
            raise ConfigurationError(
                "PARAKEET_DEVICE='gpu': MLX has no GPU here; on NVIDIA it needs the extra `cuda`"
            )
        chosen = _precision(settings.precision, gpu) if files.backend == "mlx" else "fp32"
        key = (files.folder, files.backend, chosen, settings.device)
        if key not in _loaded:
            _loaded[key] = run_interruptibly(_load, files, chosen, settings.device)
            trim_heap()
            logger.info(f"loaded {_loaded[key]!r}")
        return _loaded[key]


def _start_anew() -> None:
    global _loading
    _loading = threading.Lock()


on_fork(_start_anew)


@cache
def missing_mlx() -> str | None:
    """Why MLX cannot be imported and what to do; None if it can."""
    try:
        with device.native_calls:  # The end of the process in the midst of it would be an abort.
            import parakeet_stt.model.mlx.encoder  # noqa: F401
    except ImportError as error:
        logger.info(f"MLX cannot be imported ({error}): using ONNX Runtime")
        return (
            f"MLX cannot be imported: {error}. To use it: pip install 'pipecat-parakeet-stt[mlx]', "
            f"or 'pipecat-parakeet-stt[cuda]' for an NVIDIA GPU"
        )
    return None


def _mlx_has_gpu(device: Device) -> bool:
    from parakeet_stt.model.mlx.encoder import has_gpu, use_cpu

    if device == "cpu":
        use_cpu()
    return has_gpu()


_said_fp32 = False


def _precision(wanted: Precision, gpu: bool) -> Literal["bf16", "fp32"]:
    global _said_fp32
    if wanted != "auto":
        return wanted
    if gpu:
        return "bf16"
    if not _said_fp32:
        _said_fp32 = True
        logger.info("MLX has no GPU here: computing in fp32, which a CPU does faster than bf16")
    return "fp32"


def _load(files: ModelFiles, precision: Literal["bf16", "fp32"], device: Device) -> Model:
    config, weights = files.config, _read_decoder_weights(files)
    blas.use_threads(numpy=1)  # Decoding is done before a second one has woken up.
    encoder: Encoder
    if files.backend == "mlx":
        from parakeet_stt.model.mlx.encoder import MLXEncoder

        assert files.weights is not None
        encoder = MLXEncoder(files.raw, files.weights, precision)
    else:
        from parakeet_stt.model.onnx.encoder import OnnxEncoder

        encoder = OnnxEncoder(files.onnx_encoder, config.features, device)
    try:
        decoder = _decoder(files, weights)
    except KeyError as error:
        raise ModelFormatError(f"{files.folder}: the weights lack {error}") from error
    wanted = config.blank + 1 + len(config.durations)
    outputs = next(
        (len(w) for n, w in weights.items() if n in ("joint.joint_net.2.bias", _CTC_BIAS)), wanted
    )
    if outputs != wanted:
        raise ModelFormatError(
            f"{files.folder}: the weights have {outputs} outputs where the configuration's "
            f"vocabulary and durations make {wanted}"
        )
    _try_out(files, encoder, decoder)
    return Model(files, encoder, decoder)


def _try_out(files: ModelFiles, encoder: Encoder, decoder: Decoder[Any]) -> None:
    """Run two short windows of silence, so that a model that cannot run fails here.

    Raises:
        ModelFormatError: It cannot, or its output has another shape than expected.
    """
    features = files.config.features
    windows = [np.zeros((frames, features), np.float32) for frames in _TRIAL_FRAMES]
    try:
        for window, frames in zip(windows, encoder.encode(windows, None), strict=True):
            if len(frames) != encoder_frames(len(window)):
                raise ModelFormatError(
                    f"{files.folder}: the encoder makes {len(frames)} frames of {len(window)} mel "
                    f"frames, expected {encoder_frames(len(window))}"
                )
            outputs = files.config.blank + 1
            is_ctc_graph = files.config.kind == "ctc" and files.backend == "onnx"
            if is_ctc_graph and frames.shape[1] != outputs:
                raise ModelFormatError(
                    f"{files.onnx_encoder} has {frames.shape[1]} outputs where the vocabulary "
                    f"beside it makes {outputs}"
                )
            decoder.decode(frames, decoder.initial())
    except ParakeetError:
        raise
    except Exception as error:  # The executors have no common base class for their errors.
        raise ModelFormatError(
            f"{files.folder}: the model cannot be run, its files do not belong together or are of "
            f"a kind that this version does not know: {error}"
        ) from error


_TRIAL_FRAMES = (17, 9)

_CTC_BIAS = "decoder.decoder_layers.0.bias"


def _decoder(files: ModelFiles, weights: dict[str, Floats]) -> Decoder[Any]:
    """The decoder in numpy where its weights are at hand, else the export's own graph."""
    config = files.config
    if config.kind == "ctc":
        if files.backend == "onnx":
            return GreedyCTC(config, None)
        weight = weights["decoder.decoder_layers.0.weight"]
        return GreedyCTC(config, (weight[:, 0, :], weights[_CTC_BIAS]))
    network: Network
    if weights:
        network = NumpyNetwork(weights, config.activation)
    else:
        from parakeet_stt.model.onnx.encoder import OnnxNetwork

        network = OnnxNetwork(files.onnx_decoder, config.blank, len(config.durations))
    return GreedyTransducer(config, network)


def _read_decoder_weights(files: ModelFiles) -> dict[str, Floats]:
    """Everything of a parakeet-mlx folder's weights but the encoder, as float32."""
    if files.weights is None:
        return {}
    weights: dict[str, Floats] = {}
    try:
        with safetensors.safe_open(files.weights, framework="numpy") as file:
            for name in file.keys():  # noqa: SIM118 (the file is no mapping)
                if not name.startswith("encoder."):
                    weights[name] = np.asarray(file.get_tensor(name)).astype(np.float32)
    except (safetensors.SafetensorError, OSError) as error:
        raise ModelFormatError(
            f"{files.weights} cannot be read: {error}. Delete it, so that it is downloaded again."
        ) from error
    return weights
