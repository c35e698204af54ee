"""The interface of streams: audio in chunks to hypotheses and a final.

Operations that need the encoder are generators (*encoder jobs*). They yield windows and receive
encoder output. :func:`run_job` runs one with an encoder; the engine runs those of several sessions
together and encodes their windows as one batch. Streams use no sessions, threads or clocks.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Generator, Mapping
from dataclasses import dataclass, field, replace
from itertools import chain
from types import TracebackType
from typing import Any, Self, TypeVar

from parakeet_stt.audio import SAMPLE_RATE, Samples, as_samples
from parakeet_stt.errors import ConfigurationError, SessionClosedError
from parakeet_stt.model.encoder import Encoder, EncoderFrames, LocalAttention
from parakeet_stt.model.frontend import LogMel
from parakeet_stt.settings import Attention, ContextSize, ParakeetSettings, Streaming, check_boost
from parakeet_stt.transcript import Hypothesis, Transcript, has_words

T = TypeVar("T")


@dataclass(frozen=True)
class Window:
    """Log-mel that an encoder job needs encoded.

    Attributes:
        mel: Normalised log-mel ``[frames, bins]``.
        attention: The band, or None for full attention.
    """

    mel: LogMel
    attention: LocalAttention | None


EncoderJob = Generator[Window, EncoderFrames, T]
"""An operation of a stream: yields windows, receives their encoder frames, returns a result."""


def run_job(job: EncoderJob[T], encoder: Encoder) -> T:
    """Run an encoder job to its end, encoding its windows one by one."""
    try:
        window = next(job)
        while True:
            (frames,) = encoder.encode([window.mel], window.attention)
            window = job.send(frames)
    except StopIteration as end:
        result: T = end.value
        return result


@dataclass(frozen=True)
class StreamOptions:
    """Options of a stream.

    Attributes:
        context_size: Left and right context in encoder frames: the band of local attention, and
            how old text may get (right) before it is committed.
        attention: ``full``, ``local``, or ``auto`` (the default): ``local`` if the encoder
            supports it.
        streaming: ``windowed`` (ours) or ``upstream`` (parakeet-mlx's own context).
        boost: Phrases to prefer, each with its weight.

    Raises:
        ConfigurationError: A context below one frame, an unknown choice, or a phrase that is empty
            or has a weight out of range.
    """

    context_size: ContextSize = (256, 256)
    attention: Attention = "auto"
    streaming: Streaming = "windowed"
    boost: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        sides = tuple(self.context_size)
        if len(sides) != 2 or not all(isinstance(side, int) and side >= 1 for side in sides):
            raise ConfigurationError(
                f"context_size={self.context_size!r}: expected two whole numbers of encoder "
                f"frames (80 ms), left and right, both at least 1"
            )
        if self.attention not in ("auto", "local", "full"):
            raise ConfigurationError(
                f"attention={self.attention!r}: expected 'auto', 'local' or 'full'"
            )
        if self.streaming not in ("windowed", "upstream"):
            raise ConfigurationError(
                f"streaming={self.streaming!r}: expected 'windowed' or 'upstream'"
            )
        try:
            check_boost(self.boost)
        except ValueError as error:
            raise ConfigurationError(f"boost={self.boost!r}: {error}") from error

    @classmethod
    def from_settings(cls, settings: ParakeetSettings) -> Self:
        """Return the options that settings ask for.

        Raises:
            ConfigurationError: A value that cannot be used.
        """
        return cls(
            context_size=settings.context_size,
            attention=settings.attention_mode,
            streaming=settings.streaming,
            boost=settings.boost,
        )

    @property
    def band(self) -> LocalAttention | None:
        """The band of local attention; None for full attention. An encoder without support for
        local attention ignores it."""
        return None if self.attention == "full" else LocalAttention(*self.context_size)


class Stream(ABC):
    """One segment of speech, from its first sample to its final.

    A context manager: leaving it closes the stream without a final pass.

    Args:
        encoder: Encodes the windows of the synchronous calls.
        start: Start of the segment, seconds; all times count from there.
    """

    def __init__(self, encoder: Encoder, start: float) -> None:
        self._encoder = encoder
        self._start = start
        self._samples = 0
        self._closed = False

    def __enter__(self) -> Stream:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._closed = True

    @property
    def seconds(self) -> float:
        """Seconds of audio received."""
        return self._samples / SAMPLE_RATE

    @property
    def paused(self) -> bool:
        """Whether the newest hypothesis ends in a pause and no final is ready for it."""
        return False

    @property
    def speculated(self) -> bool:
        """Whether the final was ready before :meth:`finish`."""
        return False

    def add_audio(self, samples: Any) -> Hypothesis:
        """Add audio and return the current hypothesis.

        Args:
            samples: ``float32 [samples]``, mono, 16 kHz, any number of them.

        Raises:
            AudioError: Samples of another shape or kind.
            SessionClosedError: The stream has been finished.
        """
        self.feed(samples)
        return self.hypothesis()

    def feed(self, samples: Any) -> None:
        """Add audio without returning a hypothesis.

        Takes the arguments of :meth:`add_audio` and raises the same errors.
        """
        run_job(self.feed_job(samples), self._encoder)

    def hypothesis(self) -> Hypothesis:
        """Return the hypothesis of all audio so far.

        Raises:
            SessionClosedError: The stream has been finished.
        """
        return run_job(self.hypothesis_job(), self._encoder)

    def finish(self) -> Transcript:
        """Close the stream and return the final: the same tokens as ``transcribe()`` returns.

        Raises:
            SessionClosedError: The stream has been finished before.
        """
        return run_job(self.finish_job(), self._encoder)

    def feed_job(self, samples: Any) -> EncoderJob[None]:
        """Return :meth:`feed` as an encoder job."""
        self._check_open()
        audio = as_samples(samples)
        self._samples += len(audio)
        return self._feed(audio)

    def hypothesis_job(self) -> EncoderJob[Hypothesis]:
        """Return :meth:`hypothesis` as an encoder job."""
        self._check_open()
        return _without_leading_punctuation(self._hypothesize())

    def finish_job(self) -> EncoderJob[Transcript]:
        """Return :meth:`finish` as an encoder job."""
        self._check_open()
        self._closed = True
        return _empty_without_words(self._finish())

    def speculate_job(self) -> EncoderJob[None]:
        """Return an encoder job that makes the final early, in case no more audio follows."""
        self._check_open()
        return self._speculate()

    @abstractmethod
    def _feed(self, audio: Samples) -> EncoderJob[None]: ...

    @abstractmethod
    def _hypothesize(self) -> EncoderJob[Hypothesis]: ...

    @abstractmethod
    def _finish(self) -> EncoderJob[Transcript]: ...

    def _speculate(self) -> EncoderJob[None]:
        yield from ()

    def _check_open(self) -> None:
        if self._closed:
            raise SessionClosedError(
                "the stream has been finished; open another with transcribe_stream()"
            )


def _without_leading_punctuation(job: EncoderJob[Hypothesis]) -> EncoderJob[Hypothesis]:
    """Drop tentative punctuation of a hypothesis that has no word."""
    hypothesis = yield from job
    if has_words(chain(hypothesis.committed_tokens, hypothesis.tentative_tokens)):
        return hypothesis
    return replace(hypothesis, tentative_tokens=())


def _empty_without_words(job: EncoderJob[Transcript]) -> EncoderJob[Transcript]:
    """Return an empty final if it has no word: models transcribe noise as "."."""
    transcript = yield from job
    return transcript if has_words(transcript.tokens) else replace(transcript, tokens=())
