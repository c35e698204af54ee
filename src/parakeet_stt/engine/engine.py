"""A model and its sessions: the asynchronous API over the one inference thread."""

from __future__ import annotations

import math
import weakref
from pathlib import Path
from typing import Self

from parakeet_stt.engine.event_loop import wrap
from parakeet_stt.engine.options import SessionOptions
from parakeet_stt.engine.runtime import Runtime
from parakeet_stt.engine.session import Session
from parakeet_stt.errors import ConfigurationError
from parakeet_stt.model import device
from parakeet_stt.model.loading import load_model
from parakeet_stt.model.model import MAX_BATCH, Model
from parakeet_stt.model.stream import StreamOptions
from parakeet_stt.settings import Backend, Device, ParakeetSettings, Precision, load_settings


class Engine:
    """A model and its sessions. Several services may share one engine.

    Args:
        source: The model: ``tiny`` (bundled), a known name, a Hugging Face id or a folder;
            ``PARAKEET_MODEL`` if None.
        precision: ``bf16``, ``fp32``, ``int8`` or ``auto``; ``PARAKEET_PRECISION`` if None.
        backend: ``mlx``, ``onnx`` or ``auto``; ``PARAKEET_BACKEND`` if None.
        device: ``gpu``, ``cpu`` or ``auto``; ``PARAKEET_DEVICE`` if None.
        cache_dir: Folder for downloads; ``PARAKEET_CACHE_DIR`` if None, otherwise Hugging Face's.
        batch_size: Maximum number of windows that are encoded together. Warming the model up
            finds out whether the device is faster with fewer.
        batch_window: Maximum delay, in seconds, for batching a final with finals of other sessions.
            0 (the default) never delays: only finals that have to wait anyway are batched. A final
            is not delayed while no other session has a segment open, nor once there are enough
            for a batch. Interims are never delayed.

    Raises:
        ConfigurationError: ``batch_size`` is below 1, or ``batch_window`` is negative or infinite.
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

        def load() -> Model:
            return load_model(
                source, precision=precision, backend=backend, device=device, cache_dir=cache_dir
            )

        self._source = source
        self._runtime = Runtime(load, batch_size, batch_window)
        self._sessions: set[Session] = set()
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
            batch_size: Maximum number of windows that are encoded together.
            batch_window: Maximum delay of a final, in seconds, for batching it with others.
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

    @property
    def model(self) -> Model | None:
        """The model; None until it is loaded."""
        return self._runtime.model

    @property
    def source(self) -> str:
        """What the model is loaded from: the argument, or ``PARAKEET_MODEL``."""
        return str(self._source) if self._source is not None else load_settings().model

    @property
    def batch_size(self) -> int:
        """Maximum number of windows that are encoded together."""
        return self._runtime.batch_size

    @property
    def sessions(self) -> frozenset[Session]:
        """The sessions that are open."""
        return frozenset(self._sessions)

    @property
    def runtime(self) -> Runtime:
        """The loaded model and its batch limits, for the sessions."""
        return self._runtime

    async def start(self) -> Model:
        """Load the model and warm it up, off the event loop; later calls wait for the first.

        Any event loop may call it, also while another one waits or after one has ended.

        Raises:
            ParakeetError: The model cannot be loaded; the next call tries again.
        """
        return await self._runtime.start()

    async def check(self, options: StreamOptions) -> None:
        """Load the model, and check that it supports the options of a stream.

        Raises:
            ConfigurationError: It does not; the message says why.
            ParakeetError: The model cannot be loaded.
        """
        model = await self.start()

        def open_stream() -> None:
            with model.open_stream(options):
                pass

        await wrap(device.submit(open_stream))

    def open(self, options: SessionOptions | None = None) -> Session:
        """Open a session. Audio may be sent at once; until the model is loaded, it waits.

        Args:
            options: How it segments and transcribes its audio; the defaults of
                :class:`SessionOptions` if None.
        """
        return Session(self, options or SessionOptions())

    async def close(self) -> None:
        """Abort every open session. The model stays loaded for others who share it."""
        for session in list(self._sessions):
            session.abort()

    def adopt(self, session: Session) -> None:
        """Add a session to those that are open; called by the session."""
        self._sessions.add(session)

    def release(self, session: Session) -> None:
        """Remove a session from those that are open; called by the session."""
        self._sessions.discard(session)

    def _reset(self) -> None:
        """Forget sessions and a load in progress: in a forked child they are the parent's."""
        self._sessions = set()
        self._runtime.reset()


_engines: weakref.WeakSet[Engine] = weakref.WeakSet()


def _reset_engines() -> None:
    for engine in list(_engines):
        engine._reset()


device.on_fork(_reset_engines)
