"""What ``bench load`` measures, and what comes out: values that go from process to process."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from parakeet_stt.settings import Backend


@dataclass(frozen=True)
class Candidate:
    """Something that transcribes, and what it is given to hear.

    Attributes:
        name: For people.
        backend: The backend of our engine; None for the server that people build today.
        model: The model, as :func:`~parakeet_stt.load_model`.
        data: Folder of the recordings.
        seconds: How long a step is measured.
        piece: Samples that are sent at a time.
    """

    name: str
    backend: Backend | None
    model: str
    data: Path
    seconds: float
    piece: int


@dataclass
class Step:
    """What was measured with so many speakers.

    Attributes:
        sessions: How many.
        about: The model, and what it runs on.
        seconds: How long it was measured.
        finals: Seconds from the moment at which each flush was due to its final.
        lost: Flushes without a final.
        lag: The most audio that waited for inference in one session, seconds.
        interims: Hypotheses that the speakers' clients have read.
        cpu: CPU seconds of the process.
        loop_lags: Seconds by which the event loop was late (:class:`LoopLag`).
        real_time_factor: Seconds that the naive server's one thread works on a second of audio.
    """

    sessions: int
    about: str = ""
    seconds: float = 0.0
    finals: list[float] = field(default_factory=list)
    lost: int = 0
    lag: float = 0.0
    interims: int = 0
    cpu: float = 0.0
    loop_lags: list[float] = field(default_factory=list)
    real_time_factor: float | None = None
