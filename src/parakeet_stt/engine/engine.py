"""A model and its sessions: the asynchronous face over the one inference thread."""

from __future__ import annotations

import math
import threading
import weakref
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Self

from parakeet_stt.engine.options import SessionOptions
from parakeet_stt.engine.scheduler import FinalBatcher, scheduler, waiting_for
from parakeet_stt.engine.session import Session, SessionState
from parakeet_stt.errors import ConfigurationError
from parakeet_stt.model import device
from parakeet_stt.model.loading import load_model
from parakeet_stt.model.model import MAX_BATCH, Model
from parakeet_stt.model.stream import StreamOptions
from parakeet_stt.settings import Backend, Device, ParakeetSettings, Precision, load_settings


class Engine:
    """A model and its sessions. Several services may share one engine.

    Args:
        source: As :func:`~parakeet_stt.load_model`.
        precision: As :func:`~parakeet_stt.load_model`.
        backend: As :func:`~parakeet_stt.load_model`.
        device: As :func:`~parakeet_stt.load_model`.
        cache_dir: As :func:`~parakeet_stt.load_model`.
        batch_size: Most windows of its sessions that are encoded at once; fewer where the device
            gains nothing by so many, which warming up finds out.
        batch_window: Seconds that a final may be held back for those of other sessions to be
            encoded with it. It is not while no other session has a segment open, nor once there
            are enough for a batch; by default it never is, and only what has to wait anyway is
            encoded together. Interims are not held up.

    Raises:
        ConfigurationError: A batch below one window, or a time that cannot be waited for.

    Attributes:
        batch_size: As the argument.
        gathering: Where its sessions' finals are held back.
    """

    def __init__(
        self,
        source: str | Path | None = None,
        *,
        precision: Precision | None = None,
        backend: Backend | None = None,
        device: Device | None = None,
        cache_dir: Path | None = None,
        batch_size: int = MAX_BATCH,
        batch_window: float = 0.0,
    ) -> None:
        if batch_size < 1:
            raise ConfigurationError(f"batch_size={batch_size}: expected 1 or more")
        if not 0 <= batch_window < math.inf:
            raise ConfigurationError(f"batch_window={batch_window}: expected 0 or more seconds")
        self._load: Callable[[], Model] = lambda: load_model(
            source, precision=precision, backend=backend, device=device, cache_dir=cache_dir
        )
        self._source = source
        self._model: Model | None = None
        self.batch_size = batch_size
        self._batch_window = batch_window
        self._start_anew()
        _engines.add(self)

    @classmethod
    def from_settings(
        cls,
        settings: ParakeetSettings,
        *,
        batch_size: int = MAX_BATCH,
        batch_window: float = 0.0,
    ) -> Self:
        """Return an engine with the model that settings name.

        Args:
            settings: Model, precision, backend, device and cache folder.
            batch_size: As the argument of :class:`Engine`.
            batch_window: As the argument of :class:`Engine`.
        """
        return cls(
            settings.model,
            precision=settings.precision,
            backend=settings.backend,
            device=settings.device,
            cache_dir=settings.cache_dir,
            batch_size=batch_size,
            batch_window=batch_window,
        )

    def _start_anew(self) -> None:
        """Have no sessions and load nothing, as in a forked child: that is the parent's."""
        self._lock = threading.Lock()
        self._starting: Future[Model] | None = None
        self._sessions: set[Session] = set()
        self.final_batcher = FinalBatcher(scheduler, self._batch_window, self._speaking)

    @property
    def model(self) -> Model | None:
        """The model, once it is loaded."""
        return self._model

    @property
    def source(self) -> str:
        """What the model is loaded from: the argument, or ``PARAKEET_MODEL``."""
        return str(self._source) if self._source is not None else load_settings().model

    @property
    def sessions(self) -> frozenset[Session]:
        """The sessions that are open."""
        return frozenset(self._sessions)

    async def start(self) -> Model:
        """Load the model and warm it up, off the event loop; later calls wait for the first.

        Any event loop may call it, also while another one, or one that has ended since, waits.
        A download runs on a thread of its own, so that it holds up no other engine; what touches
        the device runs on the inference thread.

        Raises:
            ParakeetError: The model cannot be loaded; the next call tries again.
        """
        if self._model is not None:
            return self._model
        with self._lock:
            if self._starting is None or self._starting.done():
                self._starting = self._start()
            starting = self._starting
        return await waiting_for(starting)

    async def check(self, options: StreamOptions) -> None:
        """Load the model, and make sure that its streams can listen as wanted.

        Raises:
            ConfigurationError: They cannot: the message says why.
            ParakeetError: The model cannot be loaded.
        """
        model = await self.start()

        def open_one() -> None:
            with model.open_stream(options):
                pass

        await waiting_for(device.submit(open_one))

    def _start(self) -> Future[Model]:
        loaded: Future[Model] = Future()

        def load() -> None:
            try:
                model = self._load()
                device.run(model.warm_up, self.batch_size)
            except Exception as error:
                loaded.set_exception(error)
            else:
                self._model = model
                loaded.set_result(model)

        # A daemon, so that a program can end during a download.
        threading.Thread(target=load, name="parakeet-load", daemon=True).start()
        return loaded

    def open(self, options: SessionOptions | None = None) -> Session:
        """Open a session. Audio may be sent at once; until the model is loaded, it waits.

        Args:
            options: How it segments and transcribes its audio; the defaults of
                :class:`SessionOptions` if None.
        """
        session = Session(self, options or SessionOptions())
        self._sessions.add(session)
        return session

    def _speaking(self) -> list[Session]:
        """Sessions that may ask for a final soon."""
        return [session for session in self.sessions if session.state is SessionState.SPEAKING]

    async def close(self) -> None:
        """Abort every session that is open. The model stays loaded for whoever else shares it."""
        for session in list(self._sessions):
            session.abort()


_engines: weakref.WeakSet[Engine] = weakref.WeakSet()


def _start_anew() -> None:
    for engine in list(_engines):
        engine._start_anew()


device.on_fork(_start_anew)
