"""Audio in pieces to hypotheses and a final.

The final is the offline transcript: :meth:`Stream.finish` encodes the whole segment once more, as
``transcribe()`` does. Segments that are longer than the window are committed window by window, at
places that depend on the audio alone and not on the sizes of the pieces; ``transcribe()`` is this
stream, fed at once. Knows nothing of sessions, threads or clocks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile
from types import TracebackType
from typing import Any

import numpy as np

from parakeet_stt.audio import SAMPLE_RATE, as_samples
from parakeet_stt.errors import ConfigurationError, SessionClosedError
from parakeet_stt.model.config import ENCODER_HOP, ModelConfig
from parakeet_stt.model.decoder import Decoder, Emission
from parakeet_stt.model.encoder import Encoder, LocalAttention
from parakeet_stt.model.frontend import HOP, LogMel, LogMelStream, normalize
from parakeet_stt.settings import Attention, ContextSize
from parakeet_stt.transcript import Hypothesis, Token, Transcript

FRAME_SECONDS = ENCODER_HOP * HOP / SAMPLE_RATE
"""Length of an encoder frame: 80 ms."""

PADDING_FRAMES = 32
"""Mel frames of synthetic silence behind the end, which release the last word."""

_WINDOW = 3200
"""Most mel frames that are encoded at once: 32 s."""
_HISTORY = 800
"""Mel frames before the committed boundary that stay in the window: 8 s."""
_LOOKAHEAD = 400
"""Mel frames behind the committed boundary when a full window is committed: 4 s."""


@dataclass(frozen=True)
class StreamOptions:
    """How a stream listens.

    Attributes:
        context_size: Left and right context in encoder frames: the band of local attention, and
            how old text must be (right) before it is committed.
        attention: ``local`` or ``full``.

    Raises:
        ConfigurationError: A context below one frame, or an attention of another name.
    """

    context_size: ContextSize = (256, 256)
    attention: Attention = "local"

    def __post_init__(self) -> None:
        sides = tuple(self.context_size)
        if len(sides) != 2 or not all(isinstance(side, int) and side >= 1 for side in sides):
            raise ConfigurationError(
                f"context_size={self.context_size!r}: expected two whole numbers of encoder "
                f"frames (80 ms), left and right, both at least 1"
            )
        if self.attention not in ("local", "full"):
            raise ConfigurationError(f"attention={self.attention!r}: expected 'local' or 'full'")

    @property
    def band(self) -> LocalAttention | None:
        """The band of the attention, or None for full attention."""
        return LocalAttention(*self.context_size) if self.attention == "local" else None


class Stream:
    """One segment of speech, from its first sample to its final.

    A context manager: leaving it closes the stream without a final pass.

    Args:
        config: The model's configuration.
        encoder: Its encoder.
        decoder: Its decoder.
        options: How to listen.
        language: What finals say about their language.
    """

    def __init__(
        self,
        config: ModelConfig,
        encoder: Encoder,
        decoder: Decoder[Any],
        options: StreamOptions,
        language: str | None = None,
    ) -> None:
        self._config = config
        self._encoder = encoder
        self._decoder = decoder
        self._options = options
        self._language = language
        self._frontend = LogMelStream(config.features)
        self._samples = 0
        self._mel: list[LogMel] = []  # Raw; joined when a window is encoded.
        self._mel_frames = 0
        # What full windows have settled, and the decoder behind it; ``_origin`` is the mel frame,
        # counted from the stream's start, at which ``_mel`` begins.
        self._origin = 0
        self._settled: list[Emission] = []
        self._boundary = decoder.initial()
        # What hypotheses have promised not to take back.
        self._committed: list[Emission] = []
        self._previous: list[Emission] = []
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
        """Seconds of audio heard."""
        return self._samples / SAMPLE_RATE

    def add_audio(self, samples: Any) -> Hypothesis:
        """Hear more and say what is believed now.

        Args:
            samples: ``float32 [samples]``, mono, 16 kHz, any number of them.

        Raises:
            AudioError: Samples of another shape or kind.
            SessionClosedError: The stream has been finished.
        """
        self.feed(samples)
        return self.hypothesis()

    def feed(self, samples: Any) -> None:
        """Hear more without forming a hypothesis; arguments and errors as :meth:`add_audio`."""
        self._check_open()
        audio = as_samples(samples)
        self._samples += len(audio)
        # Piece by piece, so that an hour fed at once needs no more memory than one fed slowly.
        for start in range(0, len(audio), SAMPLE_RATE * 10):
            self._append(self._frontend.push(audio[start : start + SAMPLE_RATE * 10]))

    def hypothesis(self) -> Hypothesis:
        """What is believed of everything heard so far.

        Raises:
            SessionClosedError: The stream has been finished.
        """
        self._check_open()
        emissions = self._decode_window(padding=0)
        newest = (self._origin + self._mel_frames) // ENCODER_HOP
        tentative = self._commit(emissions, newest)
        tokens = self._tokens([*self._committed, *tentative])
        count = len(self._committed)
        return Hypothesis(tokens[:count], tokens[count:], self.seconds)

    def finish(self) -> Transcript:
        """The final of everything heard: the same tokens as ``transcribe()`` gives.

        Raises:
            SessionClosedError: The stream has been finished before.
        """
        self._check_open()
        self._closed = True
        self._append(self._frontend.finish())
        emissions = self._decode_window(PADDING_FRAMES)
        return Transcript(self._tokens(emissions), 0.0, self.seconds, self._language)

    def _append(self, mel: LogMel) -> None:
        """Keep more log-mel, and commit windows as they fill."""
        self._mel.append(mel)
        self._mel_frames += len(mel)
        while self._mel_frames >= _WINDOW:
            self._settle_window()

    def _settle_window(self) -> None:
        """Decode a full window up to its look-ahead for good, and move on."""
        mel = np.concatenate(self._mel)
        window, last = mel[:_WINDOW], _WINDOW - _LOOKAHEAD
        frames = self._encode(window, len(window))
        known = self._boundary.frame - self._origin // ENCODER_HOP
        emissions, self._boundary = self._decoder.decode(
            frames[known : last // ENCODER_HOP], self._boundary
        )
        self._settled += emissions
        begin = last - _HISTORY
        self._origin += begin
        self._mel = [mel[begin:]]
        self._mel_frames = len(mel) - begin

    def _decode_window(self, padding: int) -> list[Emission]:
        """Everything heard so far as emissions, without moving the boundary."""
        if self._mel_frames == 0:
            return list(self._settled)
        mel = np.concatenate(self._mel)
        self._mel = [mel]
        heard = len(mel)
        if padding:
            silence = np.full((padding, mel.shape[1]), _SILENCE, np.float32)
            mel = np.concatenate((mel, silence))
        frames = self._encode(mel, heard)
        known = self._boundary.frame - self._origin // ENCODER_HOP
        emissions, _ = self._decoder.decode(frames[known:], self._boundary)
        return self._settled + emissions

    def _encode(self, mel: LogMel, heard: int) -> Any:
        return self._encoder.encode(normalize(mel, heard), self._options.band)

    def _commit(self, emissions: list[Emission], newest: int) -> list[Emission]:
        """Promise what two hypotheses in a row agree on and what is older than the right context.

        Local agreement: Liu et al., "Low-Latency Sequence-to-Sequence Speech Recognition and
        Translation by Partial Hypothesis Selection", 2020.

        Returns:
            What of the newer hypothesis stays tentative.
        """
        oldest = newest - self._options.context_size[1]
        agreed = sum(
            1
            for _ in takewhile(
                lambda pair: pair[0].token == pair[1].token and pair[1].frame < oldest,
                zip(self._previous, emissions, strict=False),
            )
        )
        self._previous = emissions
        count = len(self._committed)
        if [e.token for e in emissions[:count]] != [e.token for e in self._committed]:
            # It contradicts what was promised: what lies behind that is all that can be shown.
            return [e for e in emissions if e.frame > self._committed[-1].frame]
        self._committed += emissions[count:agreed]
        return emissions[len(self._committed) :]

    def _tokens(self, emissions: Sequence[Emission]) -> tuple[Token, ...]:
        """Emissions as tokens with times; a token without a duration lasts to the next."""
        vocabulary = self._config.vocabulary
        end = self.seconds
        tokens: list[Token] = []
        for index, emission in enumerate(emissions):
            start = min(emission.frame * FRAME_SECONDS, end)
            stop = start + max(1, emission.duration) * FRAME_SECONDS
            if index + 1 < len(emissions):
                stop = min(stop, max(start, emissions[index + 1].frame * FRAME_SECONDS))
            tokens.append(
                Token(
                    emission.token,
                    vocabulary[emission.token],
                    start,
                    min(stop, end),
                    emission.confidence,
                )
            )
        return tuple(tokens)

    def _check_open(self) -> None:
        if self._closed:
            raise SessionClosedError(
                "the stream has been finished; open another with transcribe_stream()"
            )


_SILENCE = float(np.log(np.float32(2.0**-24)))
"""Raw log-mel of digital silence."""
