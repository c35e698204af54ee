"""Decides what runs next on the inference thread.

Jobs of many sessions wait here by priority. A job runs an encoder job of a stream
(:mod:`parakeet_stt.model.stream`); the windows of jobs of the same priority and model are encoded
as one batch if that is faster.
"""

from __future__ import annotations

import heapq
import itertools
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

from parakeet_stt.model import device
from parakeet_stt.model.encoder import EncoderFrames
from parakeet_stt.model.model import MAX_BATCH, Model
from parakeet_stt.model.stream import EncoderJob, Window

RESERVE = 0.2
"""Share of the inference thread's time that interims leave to finals."""

MAX_BATCH_SECONDS = 0.04
"""Maximum duration of a batch of interims: a final that is queued meanwhile waits for it."""

_MIN_FILL = 0.75  # Minimum length of a window, as a share of the longest window of its batch.
_NEWEST_WEIGHT = 0.1  # Weight of the newest batch in the average duration of an interim.


class Priority(IntEnum):
    """Urgency of a job: the lowest value runs first."""

    FINAL = 0
    INTERIM = 1
    LOW = 2
    """Jobs of recordings: people who are speaking now go first."""
    SPECULATION = 3


@dataclass(frozen=True)
class Job:
    """Work for the inference thread.

    Attributes:
        priority: Its urgency.
        model: The model whose encoder encodes its windows.
        start: Called on the inference thread; returns the encoder job to run, or None if there is
            nothing left to do.
        done: Called on the inference thread with the result, or with None and an error. It must
            not raise.
        max_batch: Maximum number of windows in a batch that contains one of this job.
    """

    priority: Priority
    model: Model
    start: Callable[[], EncoderJob[Any] | None]
    done: Callable[[Any, Exception | None], None]
    max_batch: int = MAX_BATCH

    @property
    def batch_limit(self) -> int:
        """Maximum number of jobs like this one that are worth running together: what warming the
        model up has found, and at most :attr:`max_batch`."""
        return min(self.max_batch, self.model.batch)


_Running = tuple[Job, EncoderJob[Any], Window]
"""A job, its encoder job, and the window that it waits for."""


class Scheduler:
    """Runs jobs by priority, one batch at a time, on the inference thread.

    Each job that is added has the thread run once; when it does, it takes the most urgent job. So
    a final overtakes waiting interims, and other users of the thread get their turn.
    """

    def __init__(self) -> None:
        self._order = itertools.count()
        self._interim_seconds = 0.0
        self.reset()

    def reset(self) -> None:
        """Forget every job: in a forked child they are the parent's."""
        self._heap: list[tuple[int, int, Job]] = []
        self._lock = threading.Lock()
        self._progressed_at = 0.0

    @property
    def progressed_at(self) -> float:
        """When the encoder last completed a batch, by :func:`time.monotonic`; 0 before the
        first."""
        return self._progressed_at

    def add(self, *jobs: Job) -> None:
        """Queue jobs; if there are several, none starts before all of them are queued."""
        with self._lock:
            for job in jobs:
                heapq.heappush(self._heap, (job.priority, next(self._order), job))
        for _ in jobs:
            device.submit(self._run_next)

    def cadence(self, speakers: int) -> float:
        """Minimum time, in seconds, between the interims of a session at which the inference
        thread keeps its reserve.

        Args:
            speakers: Number of open segments that want interims.
        """
        return speakers * self._interim_seconds / (1 - RESERVE)

    def _run_next(self) -> None:
        batch = self._take_batch()
        if not batch:
            return  # The job ran in an earlier batch.
        started = time.perf_counter()
        _run(batch, self._note_progress)
        if batch[0].priority is Priority.INTERIM:
            seconds = (time.perf_counter() - started) / len(batch)
            average = self._interim_seconds or seconds
            self._interim_seconds = (1 - _NEWEST_WEIGHT) * average + _NEWEST_WEIGHT * seconds

    def _note_progress(self) -> None:
        self._progressed_at = time.monotonic()

    def _take_batch(self) -> list[Job]:
        """Take the most urgent job, and those that can be encoded together with it."""
        with self._lock:
            if not self._heap:
                return []
            first = heapq.heappop(self._heap)[2]
            batch, others = [first], []
            limit = self._batch_limit(first)
            while self._heap and len(batch) < limit:
                entry = heapq.heappop(self._heap)
                job = entry[2]
                fits = job.priority is first.priority and job.model is first.model
                if fits and len(batch) < job.max_batch:
                    batch.append(job)
                    limit = min(limit, job.max_batch)
                else:
                    others.append(entry)
            for entry in others:
                heapq.heappush(self._heap, entry)
        return batch

    def _batch_limit(self, first: Job) -> int:
        if first.priority is not Priority.INTERIM or not self._interim_seconds:
            return first.batch_limit
        affordable = int(MAX_BATCH_SECONDS / self._interim_seconds)
        return max(1, min(first.batch_limit, affordable))


def _run(batch: list[Job], note_progress: Callable[[], None]) -> None:
    """Run jobs together until all have ended; an error in one does not affect the others.

    Args:
        batch: The jobs.
        note_progress: Called after every call of the encoder.
    """
    running: list[_Running] = []
    for job in batch:
        try:
            encoder_job = job.start()
        except Exception as error:
            job.done(None, error)
            continue
        if encoder_job is not None:
            _advance(job, encoder_job, None, running)
    while running:
        together, running = _split_by_length(running)
        encoded = _encode(together)
        note_progress()
        for (job, encoder_job, _), frames in zip(together, encoded, strict=True):
            if isinstance(frames, Exception):
                encoder_job.close()
                job.done(None, frames)
            else:
                _advance(job, encoder_job, frames, running)


def _split_by_length(running: list[_Running]) -> tuple[list[_Running], list[_Running]]:
    """Return those whose windows are worth encoding with the longest one's, and the others."""
    longest = max((window for _, _, window in running), key=lambda window: len(window.mel))
    together: list[_Running] = []
    others: list[_Running] = []
    for item in running:
        window = item[2]
        fits = window.attention == longest.attention and (
            len(window.mel) >= _MIN_FILL * len(longest.mel)
        )
        (together if fits else others).append(item)
    return together, others


def _advance(
    job: Job,
    encoder_job: EncoderJob[Any],
    frames: EncoderFrames | None,
    running: list[_Running],
) -> None:
    """Send an encoder job its frames; it requests another window, returns, or fails."""
    try:
        window = next(encoder_job) if frames is None else encoder_job.send(frames)
    except StopIteration as end:
        job.done(end.value, None)
    except Exception as error:
        job.done(None, error)
    else:
        running.append((job, encoder_job, window))


def _encode(together: list[_Running]) -> list[EncoderFrames | Exception]:
    """Return the encoder frames of each window, or the error of that window."""
    encoder = together[0][0].model.encoder
    windows = [window for _, _, window in together]
    try:
        return list(encoder.encode([w.mel for w in windows], windows[0].attention))
    except Exception as error:
        if len(together) == 1:
            return [error]
    # One of the windows may be the cause: encode each by itself.
    return [_encode([item])[0] for item in together]


scheduler = Scheduler()
"""The process's scheduler."""

device.on_fork(scheduler.reset)
