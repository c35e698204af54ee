"""Every code block of the README and of docs/ does what it shows.

Blocks run in a temporary folder with the bundled model and with short recordings under the names
that the documentation uses. tests/support/code_blocks.py describes the comments that change this.
"""

from __future__ import annotations

import ast
import asyncio
import importlib.util
import inspect
import re
import shlex
import shutil
import subprocess
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import openai
import pytest
import soundfile
import soxr
from pipecat.audio.vad.silero import SileroVADAnalyzer
from pipecat.frames.frames import STTUpdateSettingsFrame
from pipecat.pipeline.pipeline import Pipeline
from pipecat.pipeline.worker import PipelineWorker
from pipecat.processors.aggregators.llm_context import LLMContext
from pipecat.processors.aggregators.llm_response_universal import (
    LLMContextAggregatorPair,
    LLMUserAggregatorParams,
)
from pipecat.processors.filters.identity_filter import IdentityFilter
from pipecat.services.deepgram.stt import DeepgramSTTService
from pipecat.services.openai.stt import OpenAIRealtimeSTTService, OpenAISTTService

from parakeet_stt import Engine, ParakeetMLXSTTService, ParakeetSTTService, load_model
from parakeet_stt.cli.main import main as command_line
from parakeet_stt.pipecat.player import Player
from tests.support.code_blocks import CodeBlock, code_blocks
from tests.support.recordings import RECORDINGS, ROOT
from tests.support.serving import Served, serving

BLOCKS = code_blocks()
PYTHON = [block for block in BLOCKS if block.language == "python"]
SHELL = [block for block in BLOCKS if block.language in ("bash", "console")]
RECORDING = min((r for r in RECORDINGS if r.set == "known"), key=lambda r: len(r.samples()))
"""A short recording, so that playing it takes little time."""


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Work in a folder that has recordings, with the bundled model as the default."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PARAKEET_MODEL", "tiny")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    samples = RECORDING.samples()
    Path("samples").mkdir()
    for name in ("conversation", "dictation", "spelling"):
        soundfile.write(f"samples/{name}.flac", samples, 16_000)
    soundfile.write("talk.mp3", samples, 16_000)
    soundfile.write("mono.wav", samples, 16_000)
    soundfile.write("24khz.wav", soxr.resample(samples, 16_000, 24_000), 24_000, "PCM_16")


@pytest.fixture(scope="module")
def server() -> Iterator[Served]:
    with serving(wyoming_port=0) as served:
        yield served


class _Transport:
    """A transport of a bot: plays the recording."""

    def input(self) -> Player:
        return Player(RECORDING.samples())

    def output(self) -> IdentityFilter:
        return IdentityFilter()  # type: ignore[no-untyped-call]


def _given(name: str) -> Any:
    """The value of a name that a block uses without defining it."""
    samples = RECORDING.samples()
    values: dict[str, Any] = {
        "model": lambda: load_model("tiny"),
        "array": lambda: np.stack([samples, samples], axis=1),
        "chunks": lambda: np.array_split(samples, 10),
        "data": lambda: Path("talk.mp3").read_bytes(),
        "pcm": lambda: (samples * 32767).astype("<i2").tobytes(),
        "np": lambda: np,
        "Engine": lambda: Engine,
        "OpenAI": lambda: openai.OpenAI,
        "OpenAISTTService": lambda: OpenAISTTService,
        "OpenAIRealtimeSTTService": lambda: OpenAIRealtimeSTTService,
        "DeepgramSTTService": lambda: DeepgramSTTService,
        "STTUpdateSettingsFrame": lambda: STTUpdateSettingsFrame,
        "Pipeline": lambda: Pipeline,
        "ParakeetSTTService": lambda: ParakeetSTTService,
        "ParakeetMLXSTTService": lambda: ParakeetMLXSTTService,
        "LLMContextAggregatorPair": lambda: LLMContextAggregatorPair,
        "LLMUserAggregatorParams": lambda: LLMUserAggregatorParams,
        "SileroVADAnalyzer": lambda: SileroVADAnalyzer,
        "context": LLMContext,
        "transport": _Transport,
        "user_aggregator": IdentityFilter,
        "llm": IdentityFilter,
        "tts": IdentityFilter,
        "stt": ParakeetSTTService,
        "worker": lambda: PipelineWorker(Pipeline([_Transport().output()])),
    }
    return values[name]()


def _addressed(code: str, server: Served) -> str:
    """The code with the server's real ports."""
    code = re.sub(r"(localhost|127\.0\.0\.1):8000", server.http.removeprefix("http://"), code)
    return code.replace(
        'AsyncTcpClient("localhost", 10300)',
        f'AsyncTcpClient("127.0.0.1", {server.port("wyoming_port")})',
    )


def _compiled(code: str, block: CodeBlock) -> types.CodeType:
    return compile(code, str(block), "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)


@pytest.mark.parametrize("block", PYTHON, ids=str)
def test_python(
    block: CodeBlock,
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    code = block.code
    names: dict[str, Any] = {"__name__": "__main__"}
    if block.mode == "check":
        _compiled(code, block)
        return
    if block.mode == "server":
        code = _addressed(code, request.getfixturevalue("server"))
        monkeypatch.setattr(sys, "argv", ["program.py", *shlex.split(block.details)])
    if block.mode == "given":
        names.update({name: _given(name) for name in re.findall(r"\w+", block.details)})
    compiled = _compiled(code, block)
    if "asyncio.run(" in code:
        exec(compiled, names)
    else:
        asyncio.run(_run(compiled, names))
    if "print(" in code:
        assert capsys.readouterr().out.strip()


async def _run(code: types.CodeType, names: dict[str, Any]) -> None:
    result = eval(code, names)
    if inspect.isawaitable(result):
        await result


@pytest.mark.parametrize("block", SHELL, ids=str)
def test_shell(
    block: CodeBlock, request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str]
) -> None:
    for command in block.commands:
        subprocess.run(["bash", "-n", "-c", command], check=True)
        _check_command(shlex.split(command, comments=True), capsys)
        if block.mode == "check":
            continue
        words = shlex.split(command, comments=True)
        if words[0] == "parakeet-stt":
            assert command_line(words[1:]) == 0
        else:
            assert words[0] == "curl", f"{block}: mark a command that the test cannot run"
            if shutil.which("curl") is None:
                pytest.skip("curl is not installed")
            command = _addressed(command, request.getfixturevalue("server"))
            done = subprocess.run(["bash", "-c", command], capture_output=True, text=True)
            assert done.returncode == 0, done.stderr
            assert '"text"' in done.stdout or '"transcript"' in done.stdout


def _check_command(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """Check that a command names files, modules and options that exist."""
    if "&&" in words:
        at = words.index("&&")
        _check_command(words[:at], capsys)
        _check_command(words[at + 1 :], capsys)
        return
    if words[:2] == ["uv", "run"]:
        words = words[2:]
        while words[0] in ("--with", "--extra", "--group", "--no-dev", "--python"):
            words = words[1 if words[0] == "--no-dev" else 2 :]
    if words[0] == "parakeet-stt":
        _check_options(words[1:], capsys)
    elif words[:2] == ["python", "-m"]:
        assert importlib.util.find_spec(words[2]) is not None, f"no module {words[2]}"
    else:
        script = next((word for word in words if word.startswith(("examples/", "scripts/"))), None)
        if script is not None:
            text = (ROOT / script).read_text(encoding="utf-8")
            missing = [word for word in words if word.startswith("--") and word not in text]
            # Pipecat's runner has the rest of the bot's options.
            assert not missing or "pipecat.runner" in text, f"{script} has no {missing}"


def _check_options(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """Check that the help of a command of ours names every option that is given."""
    capsys.readouterr()
    commands = [word for word in words[:2] if re.fullmatch("[a-z]+", word)]
    with pytest.raises(SystemExit) as ended:
        command_line([*commands[: 2 if words[0] == "bench" else 1], "--help"])
    help_text = capsys.readouterr().out
    assert ended.value.code == 0, f"no such command: parakeet-stt {' '.join(words)}"
    options = {word.partition("=")[0] for word in words if word.startswith("-")}
    unknown = {option for option in options if not re.search(rf"{option}\b", help_text)}
    assert not unknown, f"parakeet-stt {words[0]} has no {', '.join(sorted(unknown))}"


def test_every_block_names_a_language_that_is_tested() -> None:
    known = {"python", "bash", "console", "ini", "text", "yaml"}
    assert [str(block) for block in BLOCKS if block.language not in known] == []
