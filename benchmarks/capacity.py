"""What it means to hold so many sessions, and the search for the most that do.

Knows nothing of how a step is measured.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from benchmarks.step import Step
from parakeet_stt.bench.report import percentiles

FINAL_P95_SECONDS = 0.3
"""From flush to final, at the 95th percentile; more, and a step has not held."""

LAG_SECONDS = 1.0
"""Audio that waits for inference in one session; more, and a step has not held."""

MANY = 16
"""So many sessions are measured in any case."""


@dataclass(frozen=True)
class Capacity:
    """What a search has found.

    Attributes:
        held: The most sessions that held; 0 where one was too many.
        steps: Everything that was measured, by the number of sessions.
    """

    held: int
    steps: list[Step]

    @property
    def sessions(self) -> float:
        """The capacity to compare by: where not even one session held, how many would go by the
        work alone (one over the real-time factor)."""
        factor = self.steps[0].real_time_factor
        return float(self.held) if self.held or factor is None else 1 / factor


def search(measure: Callable[[int], Step]) -> Capacity:
    """Find the most sessions that hold: by doubling, then by bisection, to a sixteenth.

    A step that breaks a bound has a second try: something else on the machine may have disturbed
    the first.
    """
    steps: dict[int, Step] = {}

    def holds(sessions: int) -> bool:
        steps[sessions] = measure(sessions)
        if breaks(steps[sessions]):
            steps[sessions] = measure(sessions)
        return not breaks(steps[sessions])

    high = 1
    while holds(high):
        high *= 2
    low = high // 2
    while high - low > max(1, low // 16):
        middle = (low + high) // 2
        if holds(middle):
            low = middle
        else:
            high = middle
    if MANY not in steps:
        steps[MANY] = measure(MANY)
    return Capacity(low, [steps[sessions] for sessions in sorted(steps)])


def breaks(step: Step) -> list[str]:
    """The bounds that a step has broken."""
    broken = {
        "final p95": bool(step.finals) and final_p95(step) > FINAL_P95_SECONDS,
        "lag": step.lag > LAG_SECONDS,
        "lost finals": step.lost > 0,
    }
    return [name for name, is_broken in broken.items() if is_broken]


def final_p95(step: Step) -> float:
    """The 95th percentile of a step's finals, of which there is one at least; seconds."""
    return percentiles(step.finals)["p95"]
