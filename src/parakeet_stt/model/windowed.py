"""The streaming context: interims from a bounded window, a final that is the offline transcript.

The log-mel of a segment has two boundaries. Tokens before the *hypothesis* boundary are committed.
An interim encodes one or two seconds of history before this boundary and everything after it, so
its cost is bounded. Tokens before the *final* boundary come from windows that reached the maximum
length. The final pass encodes everything after it. Window positions depend only on the audio, so
``transcribe()``, which feeds this stream all audio at once, returns the same tokens.
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
from parakeet_stt.model.encoder import Encoder, EncoderFrames
from parakeet_stt.model.frontend import HOP, LogMelStream
from parakeet_stt.model.mel_buffer import MelBuffer
from parakeet_stt.model.stream import EncoderJob, Stream, StreamOptions, Window
from parakeet_stt.transcript import Hypothesis, Token, Transcript

FRAME_SECONDS = ENCODER_HOP * HOP / SAMPLE_RATE
"""Length of an encoder frame: 80 ms."""

# In encoder frames; how they were chosen is in docs/benchmarks.md.
HISTORY = 20
"""Frames of history that an interim encodes before the committed boundary."""
HELD_BACK = 25
"""Number of newest frames that agreement never commits."""
MAX_TENTATIVE_AGE = 37
"""Maximum age of tentative text. Older text is committed even without agreement."""
RENEWED = 4
"""Number of new frames after which an interim decodes again from the committed boundary."""
RENEWED_IN_PAUSE = 12
"""The same during a pause. Interims in between repeat the one from the start of the pause."""
NEWEST = 6
"""Number of newest frames that every interim decodes again."""
NEWEST_HISTORY = 6
"""Frames of history that an interim encodes before the newest frames."""
# In mel frames of 10 ms.
MAX_WINDOW = 3200
"""Maximum length of an encoded window: 32 s."""
_SETTLED_HISTORY = 800  # Kept before the final boundary.
_SETTLED_LOOKAHEAD = 400  # Left after the final boundary of a full window.


@dataclass(frozen=True)
class _Speculation:
    """A final computed before it was requested.

    Attributes:
        emissions: Its decoded tokens.
        pause: Mel frame at which the pause began; None if there was no pause.
    """

    emissions: list[Emission]
    pause: int | None


class WindowedStream(Stream):
    """One segment of speech; see :class:`~parakeet_stt.model.stream.Stream`.

    Args:
        config: The model's configuration.
        encoder: Its encoder.
        decoder: Its decoder.
        options: Context, attention and boosted phrases.
        language: Language code that finals carry; None by default.
        start: Start of the segment in seconds; 0 by default.
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
        # Received audio that is not in the buffer yet.
        self._pieces: deque[Samples] = deque()
        self._waiting = np.zeros((0, config.features), np.float32)
        self._mel = MelBuffer(config.features, MAX_WINDOW)
        # The frame of a decoder state marks each boundary.
        self._final_emissions: list[Emission] = []
        weights = frozenset(options.boost.items())
        phrases = phrases_of(config.vocabulary, weights) if weights else None
        self._final_state = decoder.initial(phrases)
        self._hypothesis = Hypothesis()  # The newest one.
        self._committed_state = self._final_state
        self._tentative: list[Emission] = []
        # The part that stays until the next full decode, and the decoder state after it.
        self._stable: list[Emission] = []
        self._stable_state = self._final_state
        self._last_full_decode = 0  # Newest encoder frame at the last full decode.
        self._pause: int | None = None  # Mel frame at which the last decoded pause began.
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
        """Move received audio into the buffer and decode windows that are full.

        If encoding a window fails, the remaining audio is kept for the next call.
        """
        while True:
            if self._mel.full:
                yield from self._decode_full_window()
            elif len(self._waiting):
                self._waiting = self._mel.append(self._waiting)
            elif self._pieces:
                self._waiting = self._frontend.push(self._pieces.popleft())
            else:
                return

    def _decode_full_window(self) -> EncoderJob[None]:
        """Decode a full window up to its look-ahead and advance the final boundary."""
        begin, boundary = self._mel.start // ENCODER_HOP, self._mel.end - _SETTLED_LOOKAHEAD
        frames = yield Window(self._mel.open_window(self._mel.start), self._band)
        emissions, self._final_state = self._decoder.decode(
            frames[self._final_state.frame - begin : boundary // ENCODER_HOP - begin],
            self._final_state,
        )
        self._final_emissions += emissions
        self._speculation = None
        self._mel.drop(boundary - _SETTLED_HISTORY)

    def _suppose(self) -> EncoderJob[Hypothesis]:
        if self._committed_state.frame * ENCODER_HOP < self._mel.start:
            self._catch_up()
        end, pause = self._mel.end, self._mel.pause
        new = end // ENCODER_HOP - self._last_full_decode
        if pause is not None and pause != self._pause:
            self._pause = pause
            yield from self._decode_uncommitted(pause)
        elif new >= (RENEWED if pause is None else RENEWED_IN_PAUSE):
            yield from self._decode_uncommitted(end)
        elif pause is None and end > self._mel.start:
            yield from self._decode_newest()
        tokens = self._tokens(self._tentative)
        self._hypothesis = self._hypothesis.followed_by((), tokens, self._start + self.seconds)
        return self._hypothesis

    def _decode_uncommitted(self, end: int) -> EncoderJob[None]:
        """Decode uncommitted audio up to a mel frame and commit stable tokens.

        Commits tokens on which two consecutive calls agree, except the newest frames: Liu et al.,
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
        stable = max(cut, newest - NEWEST - state.frame)
        self._stable, self._stable_state = self._decoder.decode(frames[cut:stable], boundary)
        newer, _ = self._decoder.decode(frames[stable:], self._stable_state)
        self._tentative = self._stable + newer
        self._last_full_decode = self._mel.end // ENCODER_HOP

    def _decode_newest(self) -> EncoderJob[None]:
        """Encode and decode only the newest frames."""
        state = self._stable_state
        frames = yield from self._frames_from(state.frame, NEWEST_HISTORY, self._mel.end)
        newer, _ = self._decoder.decode(frames, state)
        self._tentative = self._stable + newer

    def _frames_from(self, first: int, history: int, end: int) -> EncoderJob[EncoderFrames]:
        """Return encoder frames from ``first`` to a mel frame, encoded with some history."""
        begin = max(self._mel.start // ENCODER_HOP, first - history)
        start, paused = begin * ENCODER_HOP, end == self._mel.pause
        mel = self._mel.closed_window(start) if paused else self._mel.open_window(start)
        frames = yield Window(mel, self._band)
        return frames[first - begin :]

    def _catch_up(self) -> None:
        """Commit tokens of full windows that were decoded after the last hypothesis."""
        boundary = self._committed_state.frame
        self._commit([e for e in self._final_emissions if e.frame >= boundary], self._final_state)
        self._tentative, self._stable, self._stable_state = [], [], self._final_state

    def _commit(self, emissions: list[Emission], state: Any) -> None:
        """Commit tokens; ``state`` is the decoder state after them."""
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
        """Decode all received audio, up to the pause if there is one."""
        begin, boundary = self._mel.start // ENCODER_HOP, self._final_state.frame
        end = self._mel.end if self._mel.pause is None else self._mel.pause
        if end <= boundary * ENCODER_HOP:
            return list(self._final_emissions)
        frames = yield Window(self._mel.closed_window(self._mel.start), self._band)
        emissions, _ = self._decoder.decode(frames[boundary - begin :], self._final_state)
        return self._final_emissions + emissions

    def _tokens(self, emissions: Sequence[Emission]) -> tuple[Token, ...]:
        """Convert emissions to timed tokens; the minimum duration is one frame."""
        received = self._start + self.seconds
        tokens: list[Token] = []
        for index, emission in enumerate(emissions):
            start = min(self._start + emission.frame * FRAME_SECONDS, received)
            end = start + max(1, emission.duration) * FRAME_SECONDS
            if index + 1 < len(emissions):
                following = self._start + emissions[index + 1].frame * FRAME_SECONDS
                end = min(end, max(start, following))
            piece = self._vocabulary[emission.token]
            end = min(end, received)
            sure, likely = emission.confidence, emission.logprob
            tokens.append(Token(emission.token, piece, start, end, sure, likely))
        return tuple(tokens)
