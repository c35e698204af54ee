"""parakeet-mlx's own streaming context behind our interface."""

from __future__ import annotations

import mlx.core as mx
import numpy as np
import pytest
from loguru import logger

from parakeet_stt import Engine, load_model
from parakeet_stt.engine.options import SessionOptions
from parakeet_stt.errors import ConfigurationError, SessionClosedError
from parakeet_stt.model import device, upstream
from parakeet_stt.model.catalog import BUNDLED
from parakeet_stt.model.stream import StreamOptions
from tests.support.recordings import RECORDINGS


def test_it_says_what_parakeet_mlx_says() -> None:
    """At pieces of a second it hears something; token for token what it hears by itself."""
    samples = RECORDINGS[0].samples()
    with load_model("tiny", backend="mlx").transcribe_stream(streaming="upstream") as stream:
        for start in range(0, len(samples), 16_000):
            hypothesis = stream.add_audio(samples[start : start + 16_000])
        final = stream.finish()

    def theirs() -> list[int]:
        model = upstream._load(BUNDLED["tiny"], "fp32")
        with model.transcribe_stream((256, 256), keep_original_attention=True) as context:
            for start in range(0, len(samples), 16_000):
                context.add_audio(mx.array(samples[start : start + 16_000]))
            return [t.id for t in (*context.finalized_tokens, *context.draft_tokens)]

    wanted = device.run(theirs)
    assert wanted
    assert [token.id for token in hypothesis.tentative_tokens] == wanted
    assert [token.id for token in final.tokens][: len(wanted) - 2] == wanted[:-2]
    with pytest.raises(SessionClosedError):
        stream.finish()


async def test_a_session_can_use_it() -> None:
    engine = Engine("tiny", backend="mlx")
    await engine.start()
    async with engine.open(
        SessionOptions(stream=StreamOptions(streaming="upstream"), interval=1.0)
    ) as session:
        session.send(RECORDINGS[0].samples())
        assert (await session.flush()).text
        session.send(np.zeros(10, np.float32))
        assert (await session.flush()).text == ""


def test_it_warns_of_what_is_known_to_be_wrong(caplog: pytest.LogCaptureFixture) -> None:
    said: list[str] = []
    sink = logger.add(said.append, level="WARNING")
    upstream._warn.cache_clear()
    load_model("tiny", backend="mlx").transcribe_stream(streaming="upstream").finish()
    logger.remove(sink)
    assert any("normalises every piece by itself" in str(line) for line in said)


def test_what_it_cannot_do_is_an_error() -> None:
    with pytest.raises(ConfigurationError, match="needs backend=mlx"):
        load_model("tiny", backend="onnx").transcribe_stream(streaming="upstream")
    with pytest.raises(ConfigurationError, match="cannot boost"):
        load_model("tiny", backend="mlx").transcribe_stream(
            streaming="upstream", boost={"radio": 1.0}
        )
    with pytest.raises(ConfigurationError, match="'windowed' or 'upstream'"):
        load_model("tiny").transcribe_stream(streaming="theirs")  # type: ignore[arg-type]
