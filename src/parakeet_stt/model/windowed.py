"""The windowed stream: interims from a bounded window, and a final equal to the offline transcript.

Two boundaries divide the log-mel of a segment. Text before the *committed* boundary never changes.
An interim encodes the audio after it and a second or two of history before it, so that its cost
does not grow. Audio before the *settled* boundary has been decoded for good because a full window
was reached. The final pass encodes the audio after it. The windows depend on the audio only, not on
the chunks: ``transcribe()`` feeds this stream all audio at once and gets the same tokens.
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

# In encoder frames of 80 ms. docs/benchmarks.md describes how they were chosen.
HISTORY = 20
"""History before the committed boundary that an interim encodes."""
HELD_BACK = 25
"""Newest frames whose text is not committed even if two hypotheses agree."""
MAX_TENTATIVE_AGE = 37
"""Text older than this is committed even if hypotheses disagree."""
REFRESH_INTERVAL = 4
"""New frames after which an interim re-encodes everything from the committed boundary."""
REFRESH_INTERVAL_IN_PAUSE = 12
"""The same in a pause. Interims in between repeat the hypothesis of the start of the pause."""
TAIL = 6
"""Newest frames, which every interim decodes again."""
TAIL_HISTORY = 6
"""History before the tail that an interim encodes if it only refreshes the tail."""
# In mel frames of 10 ms.
_SETTLED_HISTORY = 800  # Kept before the settled boundary as left context.
_SETTLED_LOOKAHEAD = 400  # Right context of the settled boundary in a full window.


@dataclass(frozen=True)
class _Speculation:
    """A final that was made before it was asked for.

    Attributes:
        emissions: Its tokens.
        pause: Mel frame at which the pause began in which it was made.
    """

    emissions: list[Emission]
    pause: int | None


class WindowedStream(Stream):
    """One segment of speech; see :class:`~parakeet_stt.model.stream.Stream`.

    Args:
        config: The model's configuration.
        encoder: Its encoder.
        decoder: Its decoder.
        options: Its options.
        language: BCP 47 code for the language of finals; None if it is not known.
        start: Start of the segment, seconds.
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
        # Audio and log-mel that are not in the buffer yet.
        self._chunks: deque[Samples] = deque()
        self._waiting = np.zeros((0, config.features), np.float32)
        self._mel = MelBuffer(config.features, MAX_WINDOW)
        # Each boundary is the frame of a decoder state.
        self._settled: list[Emission] = []
        weights = frozenset(options.boost.items())
        phrases = phrases_of(config.vocabulary, weights) if weights else None
        self._settled_state = decoder.initial(phrases)
        self._hypothesis = Hypothesis()  # The newest one.
        self._committed_state = self._settled_state
        self._tentative: list[Emission] = []
        # The part of it that does not change before the next refresh, and the state behind it.
        self._stable: list[Emission] = []
        self._stable_state = self._settled_state
        self._refreshed_at = 0  # Number of encoder frames at the last refresh.
        self._pause: int | None = None  # Mel frame at which the last pause began.
        self._speculation: _Speculation | None = None

    @property
    def paused(self) -> bool:
        """Whether the segment ends in a pause for which no final is ready."""
        pause = self._mel.pause
        if pause is None or not (self._tentative or self._hypothesis.committed_tokens):
            return False
        return self._speculation is None or self._speculation.pause != pause

    @property
    def speculated(self) -> bool:
        """Whether the final was ready before :meth:`finish`."""
        return self._speculation is not None and self._speculation.pause == self._mel.pause

    def _feed(self, audio: Samples) -> EncoderJob[None]:
        # In chunks, so that an hour that is fed at once needs no more memory than small chunks.
        for start in range(0, len(audio), SAMPLE_RATE * 10):
            self._chunks.append(audio[start : start + SAMPLE_RATE * 10])
        yield from self._process_audio()

    def _process_audio(self) -> EncoderJob[None]:
        """Move audio into the buffer, and settle windows that are full.

        If encoding a window fails, the remaining audio is kept for the next call.
        """
        while True:
            if self._mel.full:
                yield from self._settle_window()
            elif len(self._waiting):
                self._waiting = self._mel.append(self._waiting)
            elif self._chunks:
                self._waiting = self._frontend.push(self._chunks.popleft())
            else:
                return

    def _settle_window(self) -> EncoderJob[None]:
        """Decode a full window up to its look-ahead for good, and move the settled boundary."""
        begin, boundary = self._mel.start // ENCODER_HOP, self._mel.end - _SETTLED_LOOKAHEAD
        frames = yield Window(self._mel.open_window(self._mel.start), self._band)
        emissions, self._settled_state = self._decoder.decode(
            frames[self._settled_state.frame - begin : boundary // ENCODER_HOP - begin],
            self._settled_state,
        )
        self._settled += emissions
        self._speculation = None
        self._mel.drop(boundary - _SETTLED_HISTORY)

    def _hypothesize(self) -> EncoderJob[Hypothesis]:
        if self._committed_state.frame * ENCODER_HOP < self._mel.start:
            self._catch_up()
        end, pause = self._mel.end, self._mel.pause
        new = end // ENCODER_HOP - self._refreshed_at
        if pause is not None and pause != self._pause:
            self._pause = pause
            yield from self._refresh(pause)
        elif new >= (REFRESH_INTERVAL if pause is None else REFRESH_INTERVAL_IN_PAUSE):
            yield from self._refresh(end)
        elif pause is None and end > self._mel.start:
            yield from self._refresh_tail()
        tokens = self._tokens(self._tentative)
        self._hypothesis = self._hypothesis.followed_by((), tokens, self._start + self.seconds)
        return self._hypothesis

    def _refresh(self, end: int) -> EncoderJob[None]:
        """Encode and decode from the committed boundary to a mel frame, and commit tokens.

        Commits the tokens on which two refreshes in a row agree, except in the frames that are held
        back: Liu et al., "Low-Latency Sequence-to-Sequence Speech Recognition and Translation by
        Partial Hypothesis Selection", 2020.
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
        stable = max(cut, newest - TAIL - state.frame)
        self._stable, self._stable_state = self._decoder.decode(frames[cut:stable], boundary)
        newer, _ = self._decoder.decode(frames[stable:], self._stable_state)
        self._tentative = self._stable + newer
        self._refreshed_at = self._mel.end // ENCODER_HOP

    def _refresh_tail(self) -> EncoderJob[None]:
        """Encode and decode the newest frames only."""
        state = self._stable_state
        frames = yield from self._frames_from(state.frame, TAIL_HISTORY, self._mel.end)
        newer, _ = self._decoder.decode(frames, state)
        self._tentative = self._stable + newer

    def _frames_from(self, first: int, history: int, end: int) -> EncoderJob[EncoderFrames]:
        """Encode up to a mel frame; return the encoder frames from ``first`` on.

        Args:
            first: First encoder frame to return.
            history: Encoder frames before it that are encoded as left context.
            end: Mel frame at which the window ends.
        """
        begin = max(self._mel.start // ENCODER_HOP, first - history)
        start, paused = begin * ENCODER_HOP, end == self._mel.pause
        mel = self._mel.closed_window(start) if paused else self._mel.open_window(start)
        frames = yield Window(mel, self._band)
        return frames[first - begin :]

    def _catch_up(self) -> None:
        """Commit tokens that were settled since the last hypothesis."""
        first = self._committed_state.frame
        self._commit([e for e in self._settled if e.frame >= first], self._settled_state)
        self._tentative, self._stable, self._stable_state = [], [], self._settled_state

    def _commit(self, emissions: list[Emission], state: Any) -> None:
        """Commit tokens; ``state`` is the decoder's state behind them."""
        tokens = self._tokens(emissions)
        self._hypothesis = self._hypothesis.followed_by(tokens, (), self._start + self.seconds)
        self._committed_state = state

    def _speculate(self) -> EncoderJob[None]:
        pause = self._mel.pause
        self._speculation = _Speculation((yield from self._final_pass()), pause)

    def _finish(self) -> EncoderJob[Transcript]:
        yield from self._process_audio()
        self._waiting = self._frontend.finish()
        yield from self._process_audio()
        if self._speculation is not None and self.speculated:
            emissions = self._speculation.emissions
        else:
            emissions = yield from self._final_pass()
        end = self._start + self.seconds
        return Transcript(self._tokens(emissions), self._start, end, self._language)

    def _final_pass(self) -> EncoderJob[list[Emission]]:
        """Decode all audio received, up to the pause if there is one."""
        begin, settled = self._mel.start // ENCODER_HOP, self._settled_state.frame
        end = self._mel.end if self._mel.pause is None else self._mel.pause
        if end <= settled * ENCODER_HOP:
            return list(self._settled)
        frames = yield Window(self._mel.closed_window(self._mel.start), self._band)
        emissions, _ = self._decoder.decode(frames[settled - begin :], self._settled_state)
        return self._settled + emissions

    def _tokens(self, emissions: Sequence[Emission]) -> tuple[Token, ...]:
        """Convert emissions to tokens with times. A token without a duration lasts one frame."""
        end_of_audio = self._start + self.seconds
        tokens: list[Token] = []
        for index, emission in enumerate(emissions):
            start = min(self._start + emission.frame * FRAME_SECONDS, end_of_audio)
            end = start + max(1, emission.duration) * FRAME_SECONDS
            if index + 1 < len(emissions):
                following = self._start + emissions[index + 1].frame * FRAME_SECONDS
                end = min(end, max(start, following))
            piece = self._vocabulary[emission.token]
            end = min(end, end_of_audio)
            confidence, logprob = emission.confidence, emission.logprob
            tokens.append(Token(emission.token, piece, start, end, confidence, logprob))
        return tuple(tokens)
