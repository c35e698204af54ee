"""The streams that a model opens while a test runs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from parakeet_stt import Model, Stream
from parakeet_stt.model.stream import EncoderJob
from parakeet_stt.transcript import Hypothesis


class Streams:
    """Records the streams of a model, in the order in which they are opened.

    Args:
        monkeypatch: Restores the model after the test.
        model: The model.
        on_open: Called with each stream when it has been opened.

    Attributes:
        opened: The streams.
        hypotheses: The stream of each hypothesis that has been made.
    """

    def __init__(
        self,
        monkeypatch: pytest.MonkeyPatch,
        model: Model,
        on_open: Callable[[Stream], None] = lambda stream: None,
    ) -> None:
        self.opened: list[Stream] = []
        self.hypotheses: list[Stream] = []
        self._on_open = on_open
        self._open_stream = model.open_stream
        monkeypatch.setattr(model, "open_stream", self._open)

    def _open(self, *arguments: Any) -> Stream:
        stream = self._open_stream(*arguments)
        make = stream.hypothesis_job

        def counted() -> EncoderJob[Hypothesis]:
            hypothesis = yield from make()
            self.hypotheses.append(stream)
            return hypothesis

        stream.hypothesis_job = counted  # type: ignore[method-assign]
        self._on_open(stream)
        self.opened.append(stream)
        return stream
