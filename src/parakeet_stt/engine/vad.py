"""Finds the starts and ends of speech.

All streams share Silero's network, which comes with pipecat-ai; each has its own recurrent state.
Pipecat's own analyzer is not used: its decisions depend on how the audio is cut into pieces, and
each analyzer keeps a network and a thread.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from enum import Enum
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from parakeet_stt.audio import SAMPLE_RATE, Samples
from parakeet_stt.errors import ConfigurationError
from parakeet_stt.model.onnx.session import OnnxSession

WINDOW = 512
"""Samples that Silero looks at, at 16 kHz (32 ms)."""

_CONTEXT = 64  # Samples before a window that the network is shown too.
_HYSTERESIS = 0.15  # Speech that has begun goes on down to so much below the threshold.
_SUSPICION = 3.0  # What reaches this fraction of the threshold may have been speech.
_SUSPICION_SECONDS = 2.0  # For so long, and as long as speech must last to start.

# Other sounds than speech, music above all, shift the state so that the speech after them is found
# late. As in Pipecat, the network is started anew every few seconds, in quiet that is beyond doubt.
_RENEWAL_WINDOWS = 2 * SAMPLE_RATE // WINDOW
_QUIET_WINDOWS = 5
_QUIET = 0.1


@dataclass(frozen=True)
class Endpointing:
    """When speech counts as started and as stopped.

    Attributes:
        threshold: Probability of speech from which a window counts as speech, 0 to 1.
        start_seconds: Seconds of speech that count as a start.
        stop_seconds: Seconds of silence that count as a stop.
        min_segment_seconds: Silence does not end a segment that is shorter.

    Raises:
        ConfigurationError: A threshold outside of 0 to 1, or a negative time.
    """

    threshold: float = 0.5
    start_seconds: float = 0.1
    stop_seconds: float = 0.5
    min_segment_seconds: float = 0.0

    def __post_init__(self) -> None:
        if not 0 < self.threshold < 1:
            raise ConfigurationError(
                f"VAD threshold {self.threshold}: expected a probability between 0 and 1"
            )
        if min(self.start_seconds, self.stop_seconds, self.min_segment_seconds) < 0:
            raise ConfigurationError(f"{self}: expected times of 0 seconds and more")


class Speech(Enum):
    """A change that the endpointer has noticed."""

    STARTED = "started"
    STOPPED = "stopped"


@dataclass(frozen=True)
class Change:
    """Speech that started or stopped.

    Attributes:
        speech: Which of the two.
        since: Sample at which it did.
        noticed: Sample at which that was certain; depends on the audio alone, not on its pieces.
    """

    speech: Speech
    since: int
    noticed: int


class Endpointer:
    """Finds the starts and ends of speech in one audio stream.

    Args:
        options: When speech counts as started and as stopped.
        position: Samples of the stream before the first that it processes.
    """

    def __init__(self, options: Endpointing, position: int = 0) -> None:
        self._options = options
        self._rest = np.zeros(0, np.float32)
        self._position = position
        self._network = _Silero()
        self._speaking = False
        self._since: int | None = None  # Where the run of windows began that may change that.
        self._suspects: deque[int] = deque()  # Windows that may have been speech.

    def __call__(self, samples: Samples) -> list[Change]:
        """Process more audio and return the changes in it.

        Args:
            samples: ``float32 [samples]``, mono, 16 kHz, any number of them.
        """
        audio = np.concatenate((self._rest, samples)) if len(self._rest) else samples
        whole = len(audio) // WINDOW * WINDOW
        changes: list[Change] = []
        for window in audio[:whole].reshape(-1, WINDOW):
            change = self._judge(self._network(window))
            if change is not None:
                changes.append(change)
        self._rest = audio[whole:].copy()
        return changes

    @property
    def options(self) -> Endpointing:
        """When speech starts and stops."""
        return self._options

    def configure(self, options: Endpointing) -> None:
        """Change when speech starts and stops; also applies to speech that has started."""
        self._options = options

    def restart(self) -> None:
        """Forget speech that has started or may have; the caller has handled it."""
        self._speaking = False
        self._since = None
        self._suspects.clear()

    @property
    def speaking(self) -> bool:
        """Whether speech has started and not stopped."""
        return self._speaking

    @property
    def starting(self) -> int | None:
        """Sample at which speech starts that is still too short; None if there is none."""
        return None if self._speaking else self._since

    @property
    def suspect(self) -> int | None:
        """First sample of the last seconds that may have been speech, though too little of it to
        start; None if there is none."""
        return self._suspects[0] if self._suspects else None

    def _judge(self, probability: float) -> Change | None:
        begin, self._position = self._position, self._position + WINDOW
        options = self._options
        if self._speaking:
            continues = probability >= options.threshold - _HYSTERESIS
            needed, change = options.stop_seconds, Speech.STOPPED
        else:
            if probability >= options.threshold / _SUSPICION:
                self._suspects.append(begin)
            # What has not become speech by then is music, a tone or noise.
            oldest = self._position - (options.start_seconds + _SUSPICION_SECONDS) * SAMPLE_RATE
            while self._suspects and self._suspects[0] < oldest:
                self._suspects.popleft()
            continues = probability < options.threshold
            needed, change = options.start_seconds, Speech.STARTED
        if continues:
            self._since = None
            return None
        since = begin if self._since is None else self._since
        if self._position - since < needed * SAMPLE_RATE:
            self._since = since
            return None
        self._speaking = not self._speaking
        self._since = None
        self._suspects.clear()
        return Change(change, since, self._position)


class _Silero:
    """The network's state in one stream."""

    _state: Samples
    _context: Samples
    _age: int
    _quiet: int

    def __init__(self) -> None:
        self._renew()

    def __call__(self, window: Samples) -> float:
        """Probability of speech in the next window, ``float32 [512]``."""
        audio = np.concatenate((self._context, window))[None]
        outputs, self._state = _network().run(
            ("output", "stateN"), {"input": audio, "state": self._state, "sr": SAMPLE_RATE}
        )
        self._context = window[-_CONTEXT:]
        probability = float(outputs[0, 0])
        self._age += 1
        self._quiet = self._quiet + 1 if probability < _QUIET else 0
        if self._age >= _RENEWAL_WINDOWS and self._quiet >= _QUIET_WINDOWS:
            self._renew()
        return probability

    def _renew(self) -> None:
        self._state = np.zeros((2, 1, 128), np.float32)
        self._context = np.zeros(_CONTEXT, np.float32)
        self._age = self._quiet = 0


@cache
def _network() -> OnnxSession:
    # Finds the file without importing Pipecat, which takes a second.
    package = find_spec("pipecat")
    assert package is not None
    assert package.submodule_search_locations is not None
    path = Path(package.submodule_search_locations[0], "audio/vad/data/silero_vad.onnx")
    return OnnxSession(path, {"input", "state", "sr"})
