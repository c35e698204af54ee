"""Delays finals so that finals of several speakers are encoded as one batch."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterable

from parakeet_stt.engine.scheduler import Job, Scheduler


class FinalBatcher:
    """Holds finals until a batch is worth running, then hands them all to the scheduler.

    That is as soon as there are enough for a batch, or no other speaker has a segment open, or one
    of them has waited for ``window`` seconds. Interims run meanwhile: nothing waits on the
    inference thread. The methods may be called from any event loop.

    Args:
        scheduler: Receives the finals.
        window: Maximum delay of a final, in seconds; 0 delays nothing.
        speakers: Returns the speakers with an open segment, who may need a final soon.
    """

    def __init__(
        self, scheduler: Scheduler, window: float, speakers: Callable[[], Iterable[object]]
    ) -> None:
        self._scheduler = scheduler
        self._window = window
        self._speakers = speakers
        self._held: list[tuple[object, Job]] = []
        self._lock = threading.Lock()

    def add(self, speaker: object, job: Job) -> None:
        """Take a speaker's final; called on an event loop."""
        if not self._window:
            self._scheduler.add(job)
            return
        with self._lock:
            self._held.append((speaker, job))
        if not self.review():
            loop = asyncio.get_running_loop()
            loop.call_later(self._window, self._window_over, job)

    def review(self) -> bool:
        """Release the finals unless waiting for others is worth it; return whether none is left."""
        with self._lock:
            if not self._held:
                return True
            full = any(len(self._held) >= job.batch_limit for _, job in self._held)
            waiting = {id(speaker) for speaker, _ in self._held}
            if not full and any(id(speaker) not in waiting for speaker in self._speakers()):
                return False
            self._release()
        return True

    def _window_over(self, job: Job) -> None:
        with self._lock:
            if any(held is job for _, held in self._held):
                self._release()

    def _release(self) -> None:
        held, self._held = self._held, []
        self._scheduler.add(*(job for _, job in held))
