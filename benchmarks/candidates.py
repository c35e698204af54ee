"""The engines that are compared, behind one face; and the process in which one is measured.

``python -m benchmarks.candidates`` reads a :class:`~benchmarks.jobs.Job` as JSON
from its standard input and writes its progress and result as lines of JSON. What an engine needs
is imported when it is made, so that its memory can be told from the process's.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any, TextIO

from loguru import logger

from benchmarks import tasks
from benchmarks.jobs import Job
from benchmarks.tasks import Candidate, Live, Run, Said
from parakeet_stt.audio import Samples  # With the package, before mlx: it brings a fast BLAS.
from parakeet_stt.errors import ParakeetError
from tests.support.recordings import read_recordings

UPSTREAM_CONTEXT = (256, 256)
"""parakeet-mlx's own default."""


def ours_onnx(job: Job) -> Candidate:
    """This package on ONNX Runtime."""
    return _ours(job, "onnx")


def ours_mlx(job: Job) -> Candidate:
    """This package on MLX."""
    return _ours(job, "mlx")


def parakeet_mlx(job: Job) -> Candidate:
    """parakeet-mlx itself; with local attention, its default, where there is Metal."""
    import mlx.core as mx
    from parakeet_mlx import from_pretrained
    from parakeet_mlx.audio import get_logmel

    model = from_pretrained(job.folder, dtype=mx.float32)

    def transcribe(samples: Samples) -> Said:
        mel = get_logmel(mx.array(samples), model.preprocessor_config)
        return Said(model.generate(mel)[0].text.strip())

    @contextmanager
    def stream() -> Iterator[Live]:
        with model.transcribe_stream(
            UPSTREAM_CONTEXT, keep_original_attention=not mx.metal.is_available()
        ) as live:
            yield _UpstreamLive(live)

    return Candidate(transcribe, stream, flushes=False)


def onnx_asr(job: Job) -> Candidate:
    """onnx-asr on ONNX Runtime."""
    from benchmarks.peers import onnx_asr_transcriber

    transcribe = onnx_asr_transcriber(Path(job.folder), job.kind, job.threads)
    return Candidate(lambda samples: Said(transcribe(samples).strip()))


def sherpa_onnx(job: Job) -> Candidate:
    """sherpa-onnx on its own ONNX Runtime."""
    from benchmarks.peers import sherpa_transcriber

    transcribe = sherpa_transcriber(Path(job.folder), job.threads)
    return Candidate(lambda samples: Said(transcribe(samples).strip()))


_MAKERS: dict[str, Callable[[Job], Candidate]] = {
    "ours-onnx": ours_onnx,
    "ours-mlx": ours_mlx,
    "parakeet-mlx": parakeet_mlx,
    "onnx-asr": onnx_asr,
    "sherpa-onnx": sherpa_onnx,
}


def _ours(job: Job, backend: Any) -> Candidate:
    from parakeet_stt.model.loading import load_model

    model = load_model(job.folder, backend=backend, precision="fp32")

    @contextmanager
    def stream() -> Iterator[Live]:
        with model.transcribe_stream() as live:
            yield _OurLive(live)

    return Candidate(lambda samples: _said(model.transcribe(samples)), stream)


def _said(transcript: Any) -> Said:
    return Said(transcript.text, [token.id for token in transcript.tokens])


class _OurLive:
    """A stream of this package."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def add(self, samples: Samples) -> tuple[str, str]:
        """As :class:`Live`."""
        hypothesis = self._stream.add_audio(samples)
        return hypothesis.text, hypothesis.committed

    def finish(self) -> Said:
        """As :class:`Live`."""
        return _said(self._stream.finish())


class _UpstreamLive:
    """A stream of parakeet-mlx, which promises nothing and has no flush."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def add(self, samples: Samples) -> tuple[str, str]:
        """As :class:`Live`."""
        import mlx.core as mx

        self._stream.add_audio(mx.array(samples))
        return self._stream.result.text.strip(), ""

    def finish(self) -> Said:
        """What the last piece gave."""
        return Said(self._stream.result.text.strip())


def _section(name: str) -> Callable[[Run], dict[str, Any]]:
    module: ModuleType = tasks
    if not hasattr(module, name):
        # Not before it is needed: it brings the whole engine.
        module = importlib.import_module("benchmarks.promises")
    function: Callable[[Run], dict[str, Any]] = getattr(module, name)
    return function


def _measure(job: Job, channel: TextIO) -> dict[str, Any]:
    def progress(share: float) -> None:
        print(json.dumps({"progress": share}), file=channel, flush=True)

    recordings = [(r, r.samples()) for r in read_recordings(Path(job.data), job.limit)]
    before = tasks.peak_memory()
    run = Run(job, _MAKERS[job.engine](job), recordings, progress)
    result = _section(job.section)(run)
    if "peak_memory" in result:
        result["peak_memory"] -= before
    return result


def main() -> int:
    """Measure one job; gives the exit code."""
    logger.remove()
    # Whatever libraries print goes to standard error, whose last line is shown on failure.
    channel = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    try:
        result = _measure(Job(**json.load(sys.stdin)), channel)
    except ParakeetError as error:
        print(error, file=sys.stderr)
        return 1
    print(json.dumps({"result": result}), file=channel, flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
