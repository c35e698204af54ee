"""Fork, several event loops, exit, signals and a missing MLX, each in processes of its own."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from parakeet_stt.model.catalog import BUNDLED
from tests.support import onnx_files
from tests.support.recordings import GOLDEN, RECORDINGS, ROOT
from tests.support.serving import PATIENCE

RECORDING = RECORDINGS[0]

forks = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")


def python(
    program: str, *arguments: object, path: Path | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a program in a fresh process; a process that hangs fails the test."""
    paths = [str(place) for place in (path, ROOT) if place is not None]
    return subprocess.run(
        [sys.executable, "-c", PREAMBLE + program, *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )


PREAMBLE = f"""
import asyncio, multiprocessing, os, sys, threading
from pathlib import Path
import numpy as np
from loguru import logger
from parakeet_stt import Engine, ParakeetError, load_model
from parakeet_stt.audio import read_audio
from parakeet_stt.engine.options import SessionOptions
from parakeet_stt.engine.vad import Endpointing

SAMPLES = read_audio(Path({str(RECORDING.path)!r}))[{int(RECORDING.start * 16_000)}:]
SAMPLES = SAMPLES[:{len(RECORDING.samples())}]

async def speak(engine):
    # With endpointing, so that all threads take part: the VAD's, the load's and inference.
    options = SessionOptions(interval=None, preroll=1.0, endpointing=Endpointing())
    async with engine.open(options) as session:
        session.send(SAMPLES)
        return (await session.finish()).text

def in_child(function, *arguments):
    child = multiprocessing.get_context("fork").Process(target=function, args=arguments)
    child.start()
    child.join()
    return child.exitcode
"""


def with_several_threads(folder: Path) -> Path:
    """The bundled ONNX export with a data file so large that its session has threads."""
    folder.mkdir()
    for name in ("encoder-model.onnx", "decoder_joint-model.onnx", "vocab.txt", "config.json"):
        shutil.copy(BUNDLED["tiny"] / name, folder / name)
    with (folder / "encoder-model.onnx.data").open("wb") as data:
        data.truncate(64 << 20)
    return folder


@forks
def test_a_child_transcribes_with_the_onnx_model_and_engine_of_its_parent(tmp_path: Path) -> None:
    done = python(
        """
engine = Engine(sys.argv[1], backend="onnx")
print("parent:", asyncio.run(speak(engine)))
stop = threading.Event()

def work():  # Other threads are inside ONNX Runtime and hold its locks while the process forks.
    while not stop.is_set():
        engine.model.transcribe(SAMPLES)

threads = [threading.Thread(target=work) for _ in range(2)]
for thread in threads: thread.start()

def child():
    print("child:", asyncio.run(speak(engine)), flush=True)
    print("child:", load_model(sys.argv[1], backend="onnx").transcribe(SAMPLES).text, flush=True)

print("exit codes:", *(in_child(child) for _ in range(3)))
stop.set()
""",
        with_several_threads(tmp_path / "model"),
    )
    assert done.returncode == 0, done.stderr
    assert f"parent: {RECORDING.text}\n" in done.stdout
    assert done.stdout.count(f"child: {RECORDING.text}\n") == 6
    assert "exit codes: 0 0 0" in done.stdout


@forks
def test_a_child_may_load_what_its_parent_was_loading_when_it_forked() -> None:
    done = python(
        """
engine = Engine("tiny", backend="onnx")

opening = threading.Event()
logger.add(lambda line: "in ONNX Runtime" in line and opening.set(), level="DEBUG")
loader = threading.Thread(target=lambda: asyncio.run(engine.start()))
loader.start()
opening.wait()

def child():
    print("child:", asyncio.run(speak(engine)), flush=True)

print("exit code:", in_child(child))
loader.join()
"""
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"child: {RECORDING.text}\nexit code: 0\n", done.stderr


@forks
def test_a_child_of_a_process_that_has_used_mlx_gets_an_error_and_may_use_onnx() -> None:
    done = python(
        """
model = load_model("tiny", backend="mlx")
model.transcribe(SAMPLES)

def child():
    for attempt in (lambda: model, lambda: load_model("tiny", backend="mlx", precision="bf16")):
        try:
            attempt().transcribe(SAMPLES)
        except ParakeetError as error:
            print("refused:", error, flush=True)
    print("onnx:", load_model("tiny", backend="onnx").transcribe(SAMPLES).text, flush=True)

print("exit code:", in_child(child))
pid = os.fork()
if pid == 0:
    sys.exit(3)  # With exit handlers and all.
print("exit code:", os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
print("parent:", model.transcribe(SAMPLES).text)
"""
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("refused: this process was forked") == 2
    assert "'spawn'" in done.stdout
    assert f"onnx: {RECORDING.text}\n" in done.stdout
    assert "exit code: 0\n" in done.stdout
    assert "exit code: 3\n" in done.stdout
    assert f"parent: {RECORDING.text}\n" in done.stdout


@forks
def test_a_child_of_a_process_that_has_only_imported_mlx_may_use_it() -> None:
    done = python(
        """
import parakeet_stt.model.mlx.encoder
load_model("tiny", backend="onnx").transcribe(SAMPLES)

def child():
    print("child:", load_model("tiny", backend="mlx").transcribe(SAMPLES).text, flush=True)

print("exit code:", in_child(child))
"""
    )
    assert done.stdout == f"child: {RECORDING.text}\nexit code: 0\n", done.stderr


@pytest.mark.parametrize("backend", ["mlx", "onnx"])
def test_four_loops_in_four_threads_share_an_engine_that_is_not_loaded_yet(backend: str) -> None:
    done = python(
        """
engine = Engine("tiny", backend=sys.argv[1])
start = threading.Barrier(4)

def work():
    start.wait()
    text = asyncio.run(speak(engine))
    sys.stdout.write(f"text: {text}\\n")  # print() writes the end of a line by itself.

threads = [threading.Thread(target=work) for _ in range(4)]
for thread in threads: thread.start()
for thread in threads: thread.join()
""",
        backend,
    )
    assert done.stdout.count(f"text: {RECORDING.text}\n") == 4, done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("backend", ["mlx", "onnx"])
def test_a_loop_that_ends_during_a_load_leaves_the_engine_to_the_next_one(backend: str) -> None:
    done = python(
        """
engine = Engine("tiny", backend=sys.argv[1])

async def begin():
    asyncio.ensure_future(engine.start())
    await asyncio.sleep(0)

asyncio.run(begin())
asyncio.run(begin())
print("text:", asyncio.run(speak(engine)))
""",
        backend,
    )
    assert done.stdout == f"text: {RECORDING.text}\n", done.stderr
    assert "Traceback" not in done.stderr


def test_inference_goes_on_after_a_check_that_was_cancelled_while_it_waited() -> None:
    done = python(
        """
from parakeet_stt.model import device
from parakeet_stt.model.stream import StreamOptions
engine = Engine("tiny", backend="mlx")

async def main():
    await engine.start()
    release = threading.Event()
    device.submit(release.wait)  # The inference thread is busy.
    check = asyncio.ensure_future(engine.check(StreamOptions()))
    await asyncio.sleep(0)
    check.cancel()
    await asyncio.gather(check, return_exceptions=True)
    release.set()
    return await speak(engine)

print("text:", asyncio.run(main()))
"""
    )
    assert done.stdout == f"text: {RECORDING.text}\n", done.stderr


@pytest.mark.parametrize("backend", ["mlx", "onnx"])
@pytest.mark.parametrize("times", [2, pytest.param(8, marks=pytest.mark.nightly)])
def test_the_exit_code_is_the_one_asked_for_while_daemon_threads_transcribe(
    backend: str, times: int
) -> None:
    program = """
model = load_model("tiny", backend=sys.argv[1])
begun = threading.Barrier(4)
data = [[number] for number in range(1_000_000)]  # As in large programs, the end takes a while.

def work():
    begun.wait()
    while True:
        model.transcribe(np.tile(SAMPLES, 8))

for _ in range(3):
    threading.Thread(target=work, daemon=True).start()
begun.wait()
model.transcribe(SAMPLES)
sys.exit(7)
"""
    for _ in range(times):  # It is a race: once is not enough to see it lost.
        done = python(program, backend)
        assert (done.returncode, "Traceback" in done.stderr) == (7, False), done.stderr


@pytest.mark.parametrize("backend", ["mlx", "onnx"])
@pytest.mark.parametrize(
    "seconds", [0, 0.1, *(pytest.param(s, marks=pytest.mark.nightly) for s in (0.02, 0.3, 0.5))]
)
def test_a_program_may_end_while_its_engine_loads(backend: str, seconds: float) -> None:
    """Wherever in the load that is."""
    program = """
engine = Engine("tiny", backend=sys.argv[1])

async def begin():
    asyncio.ensure_future(engine.start())
    await asyncio.sleep(float(sys.argv[2]))

asyncio.run(begin())
sys.exit(7)
"""
    done = python(program, backend, seconds)
    assert (done.returncode, "Traceback" in done.stderr) == (7, False), done.stderr


def broken(folder: Path, module: str, error: str) -> Path:
    """A folder that makes the import of a module fail."""
    (folder / module).mkdir(parents=True)
    (folder / module / "__init__.py").write_text(f"raise {error}\n")
    return folder


MISSING = [
    ("mlx", "ModuleNotFoundError(\"No module named 'mlx'\", name='mlx')"),
    ("mlx", "ImportError('libmlx.so: cannot open shared object file: No such file')"),
    ("parakeet_mlx", "ModuleNotFoundError(\"No module named 'parakeet_mlx'\")"),
]


@pytest.mark.parametrize(("module", "error"), MISSING, ids=["no mlx", "broken mlx", "no parakeet"])
def test_without_mlx_auto_is_onnx_and_mlx_names_the_extra(
    tmp_path: Path, module: str, error: str
) -> None:
    done = python(
        """
model = load_model("tiny", backend="auto")
print(model.encoder.name, model.transcribe(SAMPLES).text)
print(load_model(sys.argv[1], backend="auto").encoder.name)
try:
    load_model("tiny", backend="mlx")
except ParakeetError as error:
    print("refused:", error)
""",
        GOLDEN / "models" / "tdt",
        path=broken(tmp_path, module, error),
    )
    assert done.returncode == 0, done.stderr
    first, checkpoint, refused = done.stdout.splitlines()
    assert first == f"onnx {RECORDING.text}"
    assert checkpoint == "onnx", "a checkpoint without an export"
    assert refused.startswith("refused: ")
    assert "pip install 'pipecat-parakeet-stt[mlx]'" in refused


def slow_export(folder: Path) -> Path:
    """The bundled ONNX export, whose encoder takes ONNX Runtime minutes to load."""
    shutil.copytree(BUNDLED["tiny"], folder, ignore=shutil.ignore_patterns("*.safetensors"))
    model = onnx_files.read(folder / "encoder-model.onnx")
    onnx_files.add_long_load(model)
    onnx_files.write(model, folder / "encoder-model.onnx")
    (folder / "config.json").write_text('{"model_type": "nemo-conformer-tdt"}')
    return folder


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such signals")
@pytest.mark.parametrize(
    ("number", "code", "arguments"),
    [
        (signal.SIGINT, 130, ("transcribe", RECORDING.path)),
        (signal.SIGTERM, -signal.SIGTERM, ("transcribe", RECORDING.path)),
        (signal.SIGINT, 130, ("listen", "--audio", RECORDING.path)),
        (signal.SIGINT, 0, ("serve", "--port", "0")),
        (signal.SIGTERM, 0, ("serve", "--port", "0")),
    ],
    ids=lambda value: str(value[0]) if isinstance(value, tuple) else str(value),
)
def test_a_signal_ends_a_command_that_loads_a_model(
    tmp_path: Path, number: signal.Signals, code: int, arguments: tuple[object, ...]
) -> None:
    folder = slow_export(tmp_path / "model")
    words = ("-v", *arguments, "--backend", "onnx", "--model", folder)
    with subprocess.Popen(
        [sys.executable, "-m", "parakeet_stt", *map(str, words)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stderr is not None
        try:
            opening = f"opening {folder / 'encoder-model.onnx'}"
            assert any(opening in line for line in process.stderr)
            process.send_signal(number)
            _, stderr = process.communicate(timeout=PATIENCE)
        finally:
            process.kill()
    assert process.returncode == code, stderr
    assert "Traceback" not in stderr
