"""A loaded model: transcription of files and streams, synchronously."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from loguru import logger

from parakeet_stt.audio import SAMPLE_RATE, AudioSource, read_blocks
from parakeet_stt.model.catalog import languages_of
from parakeet_stt.model.decoder import Decoder
from parakeet_stt.model.encoder import MAX_WINDOW, Encoder
from parakeet_stt.model.layout import ModelFiles
from parakeet_stt.model.stream import Stream, StreamOptions
from parakeet_stt.model.windowed import WindowedStream
from parakeet_stt.settings import Attention, ContextSize, Streaming
from parakeet_stt.transcript import Transcript

WARM_UP_SECONDS = (0.5, 2.0)
"""Lengths of silence that :meth:`Model.warm_up` transcribes: kernels are compiled per shape."""

MAX_BATCH = 8
"""Default maximum number of windows that are encoded as one batch."""

_MAX_COST = 0.9
"""A batch is used if it takes at most this share of the time of its windows one by one."""

_SLOW_SECONDS = 0.1
"""A device that takes longer for one window gains nothing from batches."""


class Model:
    """A Parakeet model, made by :func:`~parakeet_stt.model.loading.load_model`.

    Any number of streams may share it.

    Attributes:
        name: The source that it was loaded from.
        config: Its configuration.
        encoder: Its encoder.
        batch: Number of windows per batch that pays off on this machine; 1 before
            :meth:`warm_up`.
    """

    def __init__(self, files: ModelFiles, encoder: Encoder, decoder: Decoder[Any]) -> None:
        self.name = files.source
        self.config = files.config
        self.encoder = encoder
        self.batch = 1
        self._folder = files.folder
        self._decoder = decoder
        self._warned = False
        self._measured_batch = 0  # The largest batch that warm_up() has measured.

    def __repr__(self) -> str:
        return (
            f"<Model {self.name}: {self.config.kind} on {self.encoder.name}, "
            f"{self.encoder.device}, {self.encoder.precision}>"
        )

    @property
    def language(self) -> str | None:
        """BCP 47 code of the model's language; None if it has several or they are not known."""
        return self.languages[0] if len(self.languages) == 1 else None

    @property
    def languages(self) -> tuple[str, ...]:
        """BCP 47 codes of the model's languages; empty if they are not known."""
        return languages_of(self.name)

    def transcribe_stream(
        self,
        context_size: ContextSize = (256, 256),
        attention: Attention = "auto",
        streaming: Streaming = "windowed",
        boost: Mapping[str, float] | None = None,
    ) -> Stream:
        """Open a stream, to be used as a context manager.

        Args:
            context_size: Left and right context in encoder frames of 80 ms; (256, 256) by default.
            attention: ``full``, ``local``, or ``auto`` (the default): ``local`` if the encoder
                supports it, which ONNX exports do not.
            streaming: ``windowed`` (the default), or ``upstream`` for parakeet-mlx's own context.
            boost: Phrases to prefer, each with its weight above 0 and up to 10; none by default.

        Raises:
            ConfigurationError: An option is out of range, or the model does not support it.
        """
        return self.open_stream(StreamOptions(context_size, attention, streaming, boost or {}))

    def open_stream(self, options: StreamOptions, start: float = 0.0) -> Stream:
        """Open a stream.

        Args:
            options: Its options.
            start: Time of its first sample, seconds; its tokens' times count from there.

        Raises:
            ConfigurationError: The model does not support an option.
        """
        if options.attention == "local" and not self.encoder.has_local_attention:
            self._warn_full_attention()
        if options.streaming == "upstream":
            from parakeet_stt.model.upstream import UpstreamStream

            return UpstreamStream(self._folder, self.encoder, options, self.language, start)
        return WindowedStream(
            self.config, self.encoder, self._decoder, options, self.language, start
        )

    def _warn_full_attention(self) -> None:
        """Log, once, that local attention was chosen but is not available."""
        if not self._warned:
            self._warned = True
            logger.warning(
                f"attention 'local' has no effect: the encoder of {self.name} was exported to ONNX "
                f"with full attention. Use 'auto' or 'full', or a checkpoint of the model."
            )

    def transcribe(
        self,
        audio: AudioSource,
        context_size: ContextSize = (256, 256),
        attention: Attention = "auto",
        boost: Mapping[str, float] | None = None,
        progress: Callable[[float], None] | None = None,
        sample_rate: int | None = None,
    ) -> Transcript:
        """Transcribe samples or a file of any length.

        Audio of more than 32 s is encoded in overlapping windows.

        Args:
            audio: A path; the bytes of a file; an open binary file; or an array ``[samples]`` or
                ``[samples, channels]`` of floats within -1 to 1, int16, int32 or uint8.
            context_size: Left and right context in encoder frames of 80 ms; (256, 256) by default.
            attention: ``full``, ``local``, or ``auto`` (the default): ``local`` if the encoder
                supports it.
            boost: Phrases to prefer, each with its weight above 0 and up to 10; none by default.
            progress: Called with the seconds of audio that have been processed.
            sample_rate: Sample rate of an array, Hz; 16,000 by default. Not for files, which
                state their own.

        Raises:
            AudioError: The file cannot be decoded or holds no audio, or the array has another
                shape or dtype.
            ConfigurationError: An option is out of range.
        """
        with self.transcribe_stream(context_size, attention, boost=boost) as stream:
            for block in read_blocks(audio, sample_rate):
                stream.feed(block)
                if progress is not None:
                    progress(stream.seconds)
            return stream.finish()

    def warm_up(self, max_batch: int = MAX_BATCH) -> None:
        """Compile the kernels by transcribing silence, and measure which batch size pays off.

        Later calls only measure batches that are larger than those measured before.

        Args:
            max_batch: Maximum number of windows per batch. Batches of more than
                :data:`MAX_BATCH` are only used if they are measured to pay off.
        """
        if not self._measured_batch:
            if self.encoder.name == "onnx":
                # The memory arena reaches its final size now; otherwise it grows for half an hour.
                longest = np.zeros((MAX_WINDOW, self.config.features), np.float32)
                self.encoder.encode([longest], None)
            for seconds in WARM_UP_SECONDS:
                self.transcribe(np.zeros(int(SAMPLE_RATE * seconds), np.float32))
            self._measured_batch = MAX_BATCH
            alone = self._encoding_seconds(1)
            if alone < _SLOW_SECONDS and self._encoding_seconds(4) < 4 * alone * _MAX_COST:
                self.batch = MAX_BATCH
        while self.batch == self._measured_batch < max_batch:
            self._measured_batch *= 2
            doubled = self._encoding_seconds(self._measured_batch)
            if doubled < 2 * self._encoding_seconds(self.batch) * _MAX_COST:
                self.batch = self._measured_batch

    def _encoding_seconds(self, windows: int) -> float:
        """Minimum time of three runs for encoding a batch of windows of 2 s."""
        batch = [np.zeros((200, self.config.features), np.float32)] * windows
        times = []
        for _ in range(3):
            start = time.perf_counter()
            self.encoder.encode(batch, None)
            times.append(time.perf_counter() - start)
        return min(times)
