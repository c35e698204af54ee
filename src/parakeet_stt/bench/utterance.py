"""What became of one clip that ``bench server`` has said: what was heard of it, and when.

Latencies count from when speech ended on the client's schedule, so that a client that is late makes
them worse and not better. Knows nothing of sockets.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from parakeet_stt.bench.clips import Clip
from parakeet_stt.bench.dialects import Message

Failure = Literal["connect", "no final", "error", "closed"]

SETTLE_SECONDS = 1.0
"""Of quiet after a final, where only the server's VAD knows whether more is to come."""


@dataclass
class Utterance:
    """What became of a clip; moments are the event loop's.

    Attributes:
        clip: What was said.
        begun: When its first sample was.
        flush_due: When the final was asked for, where it can be.
        flush_answered: When the server said that nothing more would come.
        first_interim: When the first text came.
        last_final: When the last final came, even an empty one.
        last_text: When the last one came that was not empty.
        last_heard: When the last message came.
        texts: Those of the finals.
        queued: How many finals were announced.
        finals: How many have come.
        lags: Seconds of audio that waited on the server, each time it told.
        lateness: Seconds by which this client sent each frame too late.
        stalled: Seconds for which the server would not take a frame, at most.
        failure: Why there is no final.
        reason: The same in words.
    """

    clip: Clip
    begun: float
    flush_due: float | None = None
    flush_answered: float | None = None
    first_interim: float | None = None
    last_final: float | None = None
    last_text: float | None = None
    last_heard: float = 0.0
    texts: list[str] = field(default_factory=list)
    queued: int = 0
    finals: int = 0
    lags: list[float] = field(default_factory=list)
    lateness: list[float] = field(default_factory=list)
    stalled: float = 0.0
    failure: Failure | None = None
    reason: str = ""

    @property
    def speech_end(self) -> float:
        """When the last word was over."""
        return self.begun + self.clip.end

    @property
    def text(self) -> str:
        """All of the finals, in the order in which they came."""
        return " ".join(self.texts)

    @property
    def eos_seconds(self) -> float:
        """From the end of speech to the final."""
        return self._final_at - self.speech_end

    @property
    def flush_seconds(self) -> float | None:
        """From the flush to the final; None where the server's VAD ends segments."""
        return None if self.flush_due is None else self._final_at - self.flush_due

    @property
    def first_interim_seconds(self) -> float | None:
        """From the beginning of speech to the first text before the final; None without one."""
        if self.first_interim is None:
            return None
        return self.first_interim - self.begun - self.clip.start

    @property
    def _final_at(self) -> float:
        """When all of the text was there."""
        if self.flush_due is None:
            # Unless the server's VAD took the last words for quiet: then with what came for that.
            late = self.last_text is not None and self.last_text > self.speech_end
            at = self.last_text if late else self.last_final
        else:
            # A server that had ended the segment before has nothing but the answer left to send.
            late = self.last_final is not None and self.last_final >= self.flush_due
            at = self.last_final if late else self.flush_answered
        assert at is not None
        return at

    def hear(self, message: Message, now: float) -> None:
        """Take note of a message; after the flush's answer it is no longer about this clip."""
        if self.flush_answered is not None:
            return
        self.last_heard = now
        if message.lag is not None:
            self.lags.append(message.lag)
        match message.kind:
            case "interim":
                if message.text and self.first_interim is None:
                    self.first_interim = now
            case "final":
                self.finals += 1
                self.last_final = now
                if message.text.strip():
                    self.texts.append(message.text)
                    self.last_text = now
            case "queued":
                self.queued += 1
            case "error":
                self.fail("error", message.text)
        if message.answers_flush:
            self.flush_answered = now

    def fail(self, failure: Failure, reason: str) -> None:
        """Give up; only the first reason is kept."""
        if self.failure is None:
            self.failure, self.reason = failure, reason

    def is_over(self, now: float) -> bool:
        """Whether all of the text is there."""
        if self.flush_due is not None:
            return self.flush_answered is not None
        return (
            self.last_final is not None
            and self.last_final > self.speech_end
            and self.finals >= self.queued
            and now > self.last_final + SETTLE_SECONDS
        )
