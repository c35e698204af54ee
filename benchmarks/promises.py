"""What this package promises of its streams, tried: exactness, committed text, fast finals.

As :mod:`benchmarks.tasks`, for our own engine alone.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Iterator
from typing import Any, Literal

import numpy as np

from benchmarks.tasks import Run, pieces_of, whole_words
from parakeet_stt.audio import SAMPLE_RATE, Samples
from parakeet_stt.engine.engine import Engine
from parakeet_stt.engine.events import Final
from parakeet_stt.engine.session import Session
from parakeet_stt.errors import ParakeetError
from parakeet_stt.model.loading import load_model
from parakeet_stt.model.model import Model
from parakeet_stt.transcript import Transcript
from tests.support.recordings import normalised

SEED = 20260101

MOST_SAMPLES = 16_000
"""Largest piece of the random mixtures; sizes are uniform in their logarithm."""

UNBROKEN_SECONDS = 60.0
"""Shortest stretch of speech that counts as unbroken."""

FLUSH_SECONDS = 5
"""Length of a segment whose final is timed; quiet follows it."""

QUIET_SECONDS = 0.3
PACED_SECONDS = 1.0
"""So much of a segment, to its end, is sent as it would be spoken; the rest before it at once."""

_QUIET_LEVEL = 1e-4
_PIECE = SAMPLE_RATE // 10


def exactness(run: Run) -> dict[str, Any]:
    """Compare finals of randomly sized pieces with offline transcripts, token by token.

    The shortest recording is also heard one sample at a time, with an interim every 100 ms.
    """
    model, random = _model(run), np.random.default_rng(SEED)
    different, pieces = [], 0
    for recording, samples in run.each():
        with model.transcribe_stream() as stream:
            for piece in _mixture(samples, random):
                stream.add_audio(piece)
                pieces += 1
            final = stream.finish()
        if _ids(final) != _ids(model.transcribe(samples)):
            different.append(str(recording.path))
    recording, shortest = min(run.recordings, key=lambda item: len(item[1]))
    with model.transcribe_stream() as stream:
        for start in range(0, len(shortest), _PIECE):
            for sample in pieces_of(shortest[start : start + _PIECE], 1):
                stream.feed(sample)
            stream.hypothesis()
        final = stream.finish()
    return {
        "finals": len(run.recordings),
        "different": different,
        "pieces": pieces,
        "sample_by_sample_as_offline": _ids(final) == _ids(model.transcribe(shortest)),
    }


def committed(run: Run) -> dict[str, Any]:
    """Stream speech of a minute and more as one segment; gives what was committed before the end.

    Speech is several sentences to a recording where there are such recordings.
    """
    model, rows = _model(run), []
    for text, samples in _unbroken(run):
        promised, taken_back, hypotheses = "", 0, 0
        with model.transcribe_stream() as stream:
            for piece in pieces_of(samples, run.job.chunk_ms * SAMPLE_RATE // 1000):
                hypothesis = stream.add_audio(piece)
                taken_back += not hypothesis.committed.startswith(promised)
                promised = hypothesis.committed
                hypotheses += 1
                run.progress(hypothesis.end * SAMPLE_RATE / len(samples))
            final = stream.finish()
        rows.append(
            {
                "seconds": len(samples) / SAMPLE_RATE,
                "reference": text,
                "committed": whole_words(hypothesis.text, promised),
                "final": final.text,
                "offline": model.transcribe(samples).text,
                "hypotheses": hypotheses,
                "taken_back": taken_back,
            }
        )
    return {"rows": rows}


def flush(run: Run) -> dict[str, Any]:
    """Time finals of segments that are sent through a session as they would be spoken."""
    return asyncio.run(_flush(run))


async def _flush(run: Run) -> dict[str, Any]:
    engine = Engine(run.job.folder, backend=_backend(run), precision="fp32")
    model = await engine.start()
    quiet = np.random.default_rng(SEED).normal(0, _QUIET_LEVEL, int(QUIET_SECONDS * SAMPLE_RATE))
    times, same, speculated = [], 0, 0
    for number in range(run.job.segments):
        segment = np.concatenate((run.segment(FLUSH_SECONDS, number), quiet.astype(np.float32)))
        async with engine.open() as session:
            listening = asyncio.create_task(_final_of(session))
            await _speak(session, segment)
            begun = time.perf_counter()
            transcript = await session.flush()
            times.append((time.perf_counter() - begun) * 1000)
            final = await listening
        same += _ids(transcript) == _ids(model.transcribe(segment))
        speculated += final.speculated
        run.progress((number + 1) / run.job.segments)
    return {"flush_ms": times, "as_offline": same, "speculated": speculated}


async def _speak(session: Session, samples: Samples) -> None:
    """Send a segment in pieces of 100 ms, the last ones at the moments at which they end."""
    pieces = list(pieces_of(samples, _PIECE))
    paced = int(PACED_SECONDS * SAMPLE_RATE / _PIECE)
    for piece in pieces[:-paced]:
        session.send(piece)
    loop = asyncio.get_running_loop()
    begun = loop.time()
    for number, piece in enumerate(pieces[-paced:], start=1):
        await asyncio.sleep(begun + number * _PIECE / SAMPLE_RATE - loop.time())
        session.send(piece)


async def _final_of(session: Session) -> Final:
    async for event in session:
        if isinstance(event, Final):
            return event
    raise ParakeetError("a session ended without its final")


def _unbroken(run: Run) -> Iterator[tuple[str, Samples]]:
    """Recordings in a row, at least a minute each; few recordings come again and again."""
    chosen = [item for item in run.recordings if item[0].set == "several"] or run.recordings
    total = sum(len(samples) for _, samples in chosen) / SAMPLE_RATE
    source = itertools.cycle(chosen)
    for _ in range(max(1, int(total / UNBROKEN_SECONDS))):
        texts: list[str] = []
        parts: list[Samples] = []
        while sum(len(part) for part in parts) < UNBROKEN_SECONDS * SAMPLE_RATE:
            recording, samples = next(source)
            texts.append(normalised(recording.text))
            parts.append(samples)
        yield " ".join(texts), np.concatenate(parts)


def _mixture(samples: Samples, random: np.random.Generator) -> Iterator[Samples]:
    start = 0
    while start < len(samples):
        size = int(MOST_SAMPLES ** random.random())
        yield samples[start : start + size]
        start += size


def _model(run: Run) -> Model:
    """The candidate's model itself."""
    return load_model(run.job.folder, backend=_backend(run), precision="fp32")


def _backend(run: Run) -> Literal["onnx", "mlx"]:
    return "onnx" if run.job.engine == "ours-onnx" else "mlx"


def _ids(transcript: Transcript) -> list[int]:
    return [token.id for token in transcript.tokens]
