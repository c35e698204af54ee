"""Options of a session, and where they come from."""

from __future__ import annotations

import pytest

from parakeet_stt import Engine, SessionOptions, StreamOptions
from parakeet_stt.settings import ParakeetSettings


def test_settings_become_options() -> None:
    settings = ParakeetSettings(
        context_size=(64, 8),
        attention_mode="full",
        boost={"Ada": 4.0},
        chunk_ms=200,
        preroll_ms=700,
    )
    assert SessionOptions.from_settings(settings) == SessionOptions(
        stream=StreamOptions(context_size=(64, 8), attention="full", boost={"Ada": 4.0}),
        interval=0.2,
        preroll=0.7,
    )


def test_no_interims_are_made_if_the_settings_disable_them() -> None:
    options = SessionOptions.from_settings(ParakeetSettings(emit_partial=False))
    assert options.interval is None


async def test_an_engine_takes_its_model_from_the_settings() -> None:
    settings = ParakeetSettings(model="tiny", backend="onnx")
    engine = Engine.from_settings(settings, batch_size=2)
    assert engine.source == "tiny"
    assert engine.batch_size == 2
    model = await engine.start()
    assert "onnx" in repr(model).lower()


@pytest.mark.parametrize("options", [None, SessionOptions()])
async def test_a_session_without_options_has_the_defaults(options: SessionOptions | None) -> None:
    engine = Engine("tiny", backend="onnx")
    async with engine.open(options) as session:
        session.start_segment()  # Without a pre-roll, all audio belongs to a segment.
        assert session.state.value == "speaking"
