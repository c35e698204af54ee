"""The server that people build on parakeet-mlx today, to measure ours against.

One ``transcribe_stream`` context per speaker and one worker thread for all of them: each 100 ms of
audio is added as it arrives, and the text after the last of it is the final. A speaker gets a new
context after each flush, as the public Pipecat services on parakeet-mlx do (a context cannot be
flushed): that favours this server, since a context's cost grows with what it has heard.
"""

from __future__ import annotations

import asyncio
import atexit
import functools
import queue
import threading
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import numpy as np

from parakeet_stt.audio import SAMPLE_RATE, Samples
from parakeet_stt.transcript import Hypothesis, Token

CONTEXT_SIZE = (256, 256)
_CHUNK = SAMPLE_RATE // 10


class NaiveServer:
    """A parakeet-mlx model and its one worker thread.

    Attributes:
        busy: Seconds that the worker has spent on audio.
        heard: Seconds of that audio.
    """

    def __init__(self, folder: Path) -> None:
        self.busy = 0.0
        self.heard = 0.0
        self._folder = folder
        self._model: Any = None
        self._keeps_attention = False
        self._jobs: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        # A daemon that outlives exit handlers: MLX crashes the process when the thread that made
        # its streams ends before them.
        threading.Thread(target=self._work, name="naive-server", daemon=True).start()

    async def ready(self) -> None:
        """Wait until the model is loaded and every job that was submitted before is done."""
        loop = asyncio.get_running_loop()
        done: asyncio.Future[None] = loop.create_future()

        def load() -> None:
            error: Exception | None = None
            try:
                self._load()
            except Exception as caught:
                error = caught
            loop.call_soon_threadsafe(_settle, done, error)

        self.submit(load)
        await done

    def open(self) -> NaiveSession:
        """A new speaker."""
        return NaiveSession(self)

    def submit(self, job: Callable[[], None]) -> None:
        """Queue a job for the worker; it must not raise."""
        self._jobs.put(job)

    def new_context(self) -> Any:
        """A fresh ``StreamingParakeet``; on the worker."""
        context = self._model.transcribe_stream(
            CONTEXT_SIZE, keep_original_attention=self._keeps_attention
        )
        return context.__enter__()

    def _work(self) -> None:
        while True:
            self._jobs.get()()

    def _load(self) -> None:
        """MLX's arrays belong to the thread that made them, so the worker loads the model."""
        if self._model is not None:
            return
        import mlx.core as mx
        from parakeet_mlx import from_pretrained

        # Its local attention is a Metal kernel.
        self._keeps_attention = not mx.metal.is_available()
        self._model = from_pretrained(str(self._folder.absolute()), dtype=mx.float32)
        atexit.register(self._clear_streams)

    def _clear_streams(self) -> None:
        import mlx.core as mx

        cleared = threading.Event()

        def clear() -> None:
            mx.clear_streams()
            cleared.set()

        self.submit(clear)
        cleared.wait()


class NaiveSession:
    """One speaker, with as much of a session's face as the benchmark needs."""

    def __init__(self, server: NaiveServer) -> None:
        self._server = server
        self._loop = asyncio.get_running_loop()
        self._events: asyncio.Queue[Hypothesis | None] = asyncio.Queue()
        self._gathered = np.zeros(0, np.float32)
        self._context: Any = None  # Made, used and dropped on the worker.
        self._error: Exception | None = None
        self._sent = 0
        self._taken = 0
        self._closed = False

    @property
    def backlog(self) -> float:
        """Seconds of audio that wait for inference."""
        return (self._sent - self._taken) / SAMPLE_RATE

    def send(self, samples: Samples) -> None:
        """Take more audio; every 100 ms of it become a job."""
        self._sent += len(samples)
        self._gathered = np.concatenate((self._gathered, samples))
        while len(self._gathered) >= _CHUNK:
            chunk, self._gathered = self._gathered[:_CHUNK], self._gathered[_CHUNK:]
            self._server.submit(functools.partial(self._hear, chunk))

    def flush(self) -> asyncio.Future[None]:
        """The final is there when everything that was sent before has been heard."""
        if len(self._gathered):
            self.send(np.zeros(_CHUNK - len(self._gathered), np.float32))
        result: asyncio.Future[None] = self._loop.create_future()
        self._server.submit(functools.partial(self._end, result))
        return result

    def abort(self) -> None:
        """Drop what waits, and end the iteration."""
        self._closed = True
        self._server.submit(self._drop_context)
        self._events.put_nowait(None)

    async def __aiter__(self) -> AsyncIterator[Hypothesis]:
        while (event := await self._events.get()) is not None:
            yield event

    def _hear(self, chunk: Samples) -> None:
        if self._closed:
            return
        import mlx.core as mx

        self._taken += len(chunk)
        begun = time.perf_counter()
        try:
            if self._context is None:
                self._context = self._server.new_context()
            self._context.add_audio(mx.array(chunk))
            hypothesis = Hypothesis(
                _tokens(self._context.finalized_tokens), _tokens(self._context.draft_tokens)
            )
        except Exception as error:
            self._error = error
            return
        self._server.busy += time.perf_counter() - begun
        self._server.heard += len(chunk) / SAMPLE_RATE
        self._loop.call_soon_threadsafe(self._events.put_nowait, hypothesis)

    def _end(self, result: asyncio.Future[None]) -> None:
        if self._closed:
            return
        error, self._error = self._error, None
        self._drop_context()
        self._loop.call_soon_threadsafe(_settle, result, error)

    def _drop_context(self) -> None:
        if self._context is not None:
            self._context.__exit__(None, None, None)
            self._context = None


def _tokens(found: list[Any]) -> tuple[Token, ...]:
    return tuple(Token(t.id, t.text, t.start, t.end, t.confidence) for t in found)


def _settle(future: asyncio.Future[None], error: Exception | None) -> None:
    if future.done():
        return
    if error is None:
        future.set_result(None)
    else:
        future.set_exception(error)


@functools.cache
def naive_server(folder: Path) -> NaiveServer:
    """The process's one server for a model."""
    return NaiveServer(folder)
