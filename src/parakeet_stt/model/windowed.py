"""The streaming context: interims from a bounded window, a final that is the offline transcript.

Two boundaries run through the log-mel of a segment. Behind the one of *hypotheses* everything has
been committed; an interim encodes a second or two of history before it and what came after it,
so that its cost does not grow. Behind the one of the *final* lies what no longer fits the longest
window; the final pass encodes everything from there, in windows whose places depend on the audio
alone, so that ``transcribe()``, which is this stream fed at once, gives the same tokens.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from parakeet_stt.audio import SAMPLE_RATE, Samples
from parakeet_stt.model.boost import phrases_of
from parakeet_stt.model.config import ENCODER_HOP, ModelConfig
from parakeet_stt.model.decoder import Decoder, Emission
from parakeet_stt.model.encoder import MAX_WINDOW, Encoder, EncoderFrames
from parakeet_stt.model.frontend import HOP, LogMelStream
from parakeet_stt.model.mel_buffer import MelBuffer
from parakeet_stt.model.stream import EncoderJob, Stream, StreamOptions, Window
from parakeet_stt.transcript import Hypothesis, Token, Transcript

FRAME_SECONDS = ENCODER_HOP * HOP / SAMPLE_RATE
"""Length of an encoder frame: 80 ms."""

# In encoder frames; how they were chosen is in docs/benchmarks.md.
HISTORY = 20
"""Frames before the committed boundary that an interim encodes along."""
HELD_BACK = 25
"""The newest frames, which are never committed by agreement."""
MAX_TENTATIVE_AGE = 37
"""Text older than this is committed, agreement or not."""
RENEWED = 4
"""An interim goes back to the committed boundary when so many frames are new since one did."""
RENEWED_IN_PAUSE = 12
"""The same in a pause, where interims in between repeat the one that heard it begin."""
NEWEST = 6
"""The newest frames, which every interim decodes anew."""
NEWEST_HISTORY = 6
"""Frames before them that an interim encodes along when it does not go further back."""
# In mel frames of 10 ms.
_SETTLED_HISTORY = 800  # Before the final's boundary, what stays in its window.
_SETTLED_LOOKAHEAD = 400  # Behind it, when a full window is settled.


@dataclass(frozen=True)
class _Speculation:
    """A final that was made before it was asked for.

    Attributes:
        emissions: What it says.
        pause: Mel frame of the pause in which it was made.
    """

    emissions: list[Emission]
    pause: int | None


class WindowedStream(Stream):
    """One segment of speech; see :class:`~parakeet_stt.model.stream.Stream`.

    Args:
        config: The model's configuration.
        encoder: Its encoder.
        decoder: Its decoder.
        options: How to listen.
        language: What finals say about their language.
        start: Seconds at which the segment begins.
    """

    def __init__(
        self,
        config: ModelConfig,
        encoder: Encoder,
        decoder: Decoder[Any],
        options: StreamOptions,
        language: str | None = None,
        start: float = 0.0,
    ) -> None:
        super().__init__(encoder, start)
        self._vocabulary = config.vocabulary
        self._decoder = decoder
        self._band = options.band
        self._language = language
        left, right = options.context_size
        self._history = min(HISTORY, left)
        self._held_back = min(HELD_BACK, right)
        self._max_tentative_age = min(MAX_TENTATIVE_AGE, right)
        self._frontend = LogMelStream(config.features)
        # What was heard and is not in the buffer yet.
        self._pieces: deque[Samples] = deque()
        self._waiting = np.zeros((0, config.features), np.float32)
        self._mel = MelBuffer(config.features, MAX_WINDOW)
        # Both boundaries are where a decoder's state stands.
        self._settled: list[Emission] = []
        weights = frozenset(options.boost.items())
        phrases = phrases_of(config.vocabulary, weights) if weights else None
        self._settled_state = decoder.initial(phrases)
        self._hypothesis = Hypothesis()  # The newest one.
        self._committed_state = self._settled_state
        self._tentative: list[Emission] = []
        # The part of it that stays until all of it is renewed, and where the decoder stood then.
        self._lasting: list[Emission] = []
        self._lasting_state = self._settled_state
        self._renewed = 0  # Encoder frame that was the newest when all of it was renewed.
        self._pause: int | None = None  # Mel frame at which the pause began that was heard then.
        self._speculation: _Speculation | None = None

    @property
    def paused(self) -> bool:
        """Whether the speaker has fallen silent and no final is ready for it."""
        pause = self._mel.pause
        if pause is None or not (self._tentative or self._hypothesis.committed_tokens):
            return False
        return self._speculation is None or self._speculation.pause != pause

    @property
    def speculated(self) -> bool:
        """Whether the final was ready before :meth:`finish`."""
        return self._speculation is not None and self._speculation.pause == self._mel.pause

    def _hear(self, audio: Samples) -> EncoderJob[None]:
        # Piece by piece, so that an hour fed at once needs no more memory than one fed slowly.
        for start in range(0, len(audio), SAMPLE_RATE * 10):
            self._pieces.append(audio[start : start + SAMPLE_RATE * 10])
        yield from self._take_in()

    def _take_in(self) -> EncoderJob[None]:
        """Move what waits into the buffer, and settle windows as they fill.

        Should a window fail to be encoded, the rest is still there for the next call.
        """
        while True:
            if self._mel.full:
                yield from self._settle_window()
            elif len(self._waiting):
                self._waiting = self._mel.append(self._waiting)
            elif self._pieces:
                self._waiting = self._frontend.push(self._pieces.popleft())
            else:
                return

    def _settle_window(self) -> EncoderJob[None]:
        """Decode a full window up to its look-ahead for good, and move on."""
        begin, boundary = self._mel.start // ENCODER_HOP, self._mel.end - _SETTLED_LOOKAHEAD
        frames = yield Window(self._mel.open_window(self._mel.start), self._band)
        emissions, self._settled_state = self._decoder.decode(
            frames[self._settled_state.frame - begin : boundary // ENCODER_HOP - begin],
            self._settled_state,
        )
        self._settled += emissions
        self._speculation = None
        self._mel.drop(boundary - _SETTLED_HISTORY)

    def _suppose(self) -> EncoderJob[Hypothesis]:
        if self._committed_state.frame * ENCODER_HOP < self._mel.start:
            self._catch_up()
        end, pause = self._mel.end, self._mel.pause
        new = end // ENCODER_HOP - self._renewed
        if pause is not None and pause != self._pause:
            self._pause = pause
            yield from self._renew(pause)
        elif new >= (RENEWED if pause is None else RENEWED_IN_PAUSE):
            yield from self._renew(end)
        elif pause is None and end > self._mel.start:
            yield from self._renew_newest()
        tokens = self._tokens(self._tentative)
        self._hypothesis = self._hypothesis.followed_by((), tokens, self._start + self.seconds)
        return self._hypothesis

    def _renew(self, end: int) -> EncoderJob[None]:
        """Encode and decode what is not committed up to a mel frame, and commit what can be.

        What two of these in a row agree on, up to a tail that is held back: Liu et al.,
        "Low-Latency Sequence-to-Sequence Speech Recognition and Translation by Partial Hypothesis
        Selection", 2020.
        """
        state = self._committed_state
        frames = yield from self._frames_from(state.frame, self._history, end)
        newest = end // ENCODER_HOP
        cut = max(0, newest - self._held_back - state.frame)
        older, boundary = self._decoder.decode(frames[:cut], state)
        agreed = zip(self._tentative, older, strict=False)
        if len(self._tentative) < len(older) or any(a.token != b.token for a, b in agreed):
            cut = max(0, newest - self._max_tentative_age - state.frame)
            older, boundary = self._decoder.decode(frames[:cut], state)
        self._commit(older, boundary)
        lasting = max(cut, newest - NEWEST - state.frame)
        self._lasting, self._lasting_state = self._decoder.decode(frames[cut:lasting], boundary)
        newer, _ = self._decoder.decode(frames[lasting:], self._lasting_state)
        self._tentative = self._lasting + newer
        self._renewed = self._mel.end // ENCODER_HOP

    def _renew_newest(self) -> EncoderJob[None]:
        """Encode and decode the newest frames alone."""
        state = self._lasting_state
        frames = yield from self._frames_from(state.frame, NEWEST_HISTORY, self._mel.end)
        newer, _ = self._decoder.decode(frames, state)
        self._tentative = self._lasting + newer

    def _frames_from(self, first: int, history: int, end: int) -> EncoderJob[EncoderFrames]:
        """Encoder frames from one on up to a mel frame, with some before them encoded along."""
        begin = max(self._mel.start // ENCODER_HOP, first - history)
        start, paused = begin * ENCODER_HOP, end == self._mel.pause
        mel = self._mel.closed_window(start) if paused else self._mel.open_window(start)
        frames = yield Window(mel, self._band)
        return frames[first - begin :]

    def _catch_up(self) -> None:
        """Commit what was settled since the last hypothesis, which was too long ago."""
        known = self._committed_state.frame
        self._commit([e for e in self._settled if e.frame >= known], self._settled_state)
        self._tentative, self._lasting, self._lasting_state = [], [], self._settled_state

    def _commit(self, emissions: list[Emission], state: Any) -> None:
        """Commit tokens, behind which the decoder stands as ``state`` says."""
        tokens = self._tokens(emissions)
        self._hypothesis = self._hypothesis.followed_by(tokens, (), self._start + self.seconds)
        self._committed_state = state

    def _speculate(self) -> EncoderJob[None]:
        pause = self._mel.pause
        self._speculation = _Speculation((yield from self._final_pass()), pause)

    def _finish(self) -> EncoderJob[Transcript]:
        yield from self._take_in()
        self._waiting = self._frontend.finish()
        yield from self._take_in()
        if self._speculation is not None and self.speculated:
            emissions = self._speculation.emissions
        else:
            emissions = yield from self._final_pass()
        end = self._start + self.seconds
        return Transcript(self._tokens(emissions), self._start, end, self._language)

    def _final_pass(self) -> EncoderJob[list[Emission]]:
        """Everything received, up to the pause if there is one, as emissions."""
        begin, known = self._mel.start // ENCODER_HOP, self._settled_state.frame
        end = self._mel.end if self._mel.pause is None else self._mel.pause
        if end <= known * ENCODER_HOP:
            return list(self._settled)
        frames = yield Window(self._mel.closed_window(self._mel.start), self._band)
        emissions, _ = self._decoder.decode(frames[known - begin :], self._settled_state)
        return self._settled + emissions

    def _tokens(self, emissions: Sequence[Emission]) -> tuple[Token, ...]:
        """Emissions as tokens with times; a token without a duration lasts a frame."""
        heard = self._start + self.seconds
        tokens: list[Token] = []
        for index, emission in enumerate(emissions):
            start = min(self._start + emission.frame * FRAME_SECONDS, heard)
            end = start + max(1, emission.duration) * FRAME_SECONDS
            if index + 1 < len(emissions):
                following = self._start + emissions[index + 1].frame * FRAME_SECONDS
                end = min(end, max(start, following))
            piece = self._vocabulary[emission.token]
            end = min(end, heard)
            sure, likely = emission.confidence, emission.logprob
            tokens.append(Token(emission.token, piece, start, end, sure, likely))
        return tuple(tokens)
