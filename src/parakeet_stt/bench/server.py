"""``parakeet-stt bench server``: how a running server does with ever more people at once.

A client of any server that speaks one of the dialects, ours or another. All who speak at a level
do so from before the first to after the last utterance that counts, and each in a phase of their
own.
"""

from __future__ import annotations

import asyncio
import csv
import random
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from loguru import logger
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from parakeet_stt.bench.clips import STOP_SECONDS, Clip, recorded, spoken
from parakeet_stt.bench.dialects import find_dialect
from parakeet_stt.bench.gpu import GpuWatch, find_gpu
from parakeet_stt.bench.levels import Level, csv_row, level_figures, plot, show
from parakeet_stt.bench.report import machine, write_json
from parakeet_stt.bench.scores import Figures, word_error_rate
from parakeet_stt.bench.talker import Conversation, Line, ServerError, Trace, talk
from parakeet_stt.bench.utterance import Utterance
from parakeet_stt.errors import ConfigurationError

SPREAD_SECONDS = 2.0
"""Within so long all who speak at a level have begun."""

_GOLDEN = 0.618034  # Its multiples are spread evenly, over a level's beginning and over a frame.


@dataclass(frozen=True)
class Options:
    """What is asked of whom.

    Attributes:
        url: The server's.
        dialect: One of :data:`parakeet_stt.bench.DIALECTS`; None to go by the URL's path.
        key: Its key.
        concurrency: How many people speak at once, level by level: ``1,5,10``.
        seconds: Least time for which a level is measured; recordings longer than it are left out.
        frame_ms: Audio that is sent at a time, milliseconds.
        timeout: As :class:`~parakeet_stt.bench.talker.Line`.
        post_wait: As :class:`~parakeet_stt.bench.talker.Line`.
        data: Folder of the recordings; None for those of the package.
        tts_url: TTS service that speaks texts instead.
        gpu: Which to watch; None to find the server's.
    """

    url: str
    dialect: str | None
    key: str | None
    concurrency: str
    seconds: float
    frame_ms: int
    timeout: float
    post_wait: float
    data: Path | None
    tts_url: str | None
    gpu: int | None


def run(
    options: Options, output: Path, report: Path | None, plots: Path | None, console: Console
) -> int:
    """Measure level by level, print a table, write CSV, and JSON and a plot where wanted.

    Args:
        options: What to measure.
        output: CSV file; a level is in it as soon as it is over.
        report: JSON file.
        plots: Folder.
        console: Where progress is shown.

    Raises:
        ServerError: The server is not there, refuses, or gave no final at all.
        ParakeetError: An argument cannot be used, or there is nothing to say.
    """
    line = _line(options)
    levels = levels_of(options.concurrency)
    asyncio.run(_call(line))
    clips = _clips(options, line, max(levels))
    gpu = options.gpu if options.gpu is not None else find_gpu()
    if gpu is None:
        console.print("nvidia-smi tells of no GPU here: its figures are left out")
    with _rows(output) as write:
        measured, interrupted = asyncio.run(
            _climb(line, clips, levels, options, gpu, write, console)
        )
    figures = {
        "machine": machine(),
        "url": line.address,
        "dialect": line.dialect.about,
        "audio": options.tts_url or str(options.data or "packaged recordings"),
        "frame_ms": options.frame_ms,
        "seconds": options.seconds,
        "quiet_before_flush_seconds": STOP_SECONDS,
        "gpu": gpu,
        "levels": measured,
    }
    show(figures)
    if interrupted:
        console.print(interrupted, markup=False, soft_wrap=True)
    console.print(f"written to {output}", markup=False)
    if report is not None:
        write_json(report, figures)
    if plots is not None:
        plot(measured, plots)
    return 0


def probe(options: Options, console: Console) -> int:
    """Let one person speak once, and print every message and when it came.

    Args:
        options: What to ask of whom.
        console: Where to print.

    Raises:
        ServerError: The server is not there or refuses.
        ParakeetError: An argument cannot be used, or there is nothing to say.
    """
    line = _line(options)

    def trace(event: str) -> None:
        console.print(event, markup=False, soft_wrap=True)

    async def speak(clip: Clip) -> Utterance:
        conversation = await Conversation.open(line, trace)
        try:
            return await conversation.say(clip)
        finally:
            await conversation.close()

    clip = _clips(options, line, 1)[0]
    console.print(f"{line.address}, {line.dialect.about}", markup=False)
    about = f"{clip.seconds:.1f} s, speech ends at {clip.end:.2f} s: {clip.text}"
    console.print(about, markup=False)
    utterance = asyncio.run(speak(clip))
    if utterance.failure:
        raise ServerError(f"{utterance.failure}: {utterance.reason}")
    console.print(f"heard: {utterance.text}", markup=False)
    console.print(f"WER {word_error_rate([clip.text], [utterance.text]):.1%}")
    for name, seconds in (
        ("end of speech to final", utterance.eos_seconds),
        ("flush to final", utterance.flush_seconds),
        ("beginning of speech to first interim", utterance.first_interim_seconds),
    ):
        if seconds is not None:
            console.print(f"{name}: {seconds * 1000:.0f} ms")
    return 0


def levels_of(concurrency: str) -> list[int]:
    """The levels of ``1,5,10``.

    Raises:
        ConfigurationError: It is no list of whole numbers from 1.
    """
    try:
        levels = [int(level) for level in concurrency.split(",")]
    except ValueError:
        levels = []
    if not levels or min(levels) < 1:
        raise ConfigurationError(
            f"--concurrency {concurrency}: expected numbers from 1, such as 1,5,10"
        )
    return levels


def _line(options: Options) -> Line:
    if not 10 <= options.frame_ms <= 1000:
        raise ConfigurationError(f"--frame-ms {options.frame_ms}: expected 10 to 1000")
    for name in ("seconds", "timeout", "post_wait"):
        if not getattr(options, name) > 0:
            raise ConfigurationError(
                f"--{name.replace('_', '-')} {getattr(options, name):g}: expected more than 0"
            )
    dialect, url = find_dialect(options.url, options.dialect)
    return Line(
        url, dialect, options.key, options.frame_ms / 1000, options.timeout, options.post_wait
    )


def _clips(options: Options, line: Line, most: int) -> list[Clip]:
    if options.tts_url is not None:
        return spoken(options.tts_url, most, line.dialect.rate)
    return recorded(options.data, line.dialect.rate, options.seconds)


async def _call(line: Line) -> None:
    """Find out whether the server is there, before anything takes long."""
    conversation = await Conversation.open(line)
    await conversation.close()


@contextmanager
def _rows(path: Path) -> Iterator[Callable[[Figures], None]]:
    """A CSV file that has each row as soon as it is known."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("w", newline="", encoding="utf-8")
    except OSError as error:
        raise ConfigurationError(f"--output {path} cannot be written: {error.strerror}") from error
    with file:
        writer: csv.DictWriter[str] | None = None

        def write(figures: Figures) -> None:
            nonlocal writer
            row = csv_row(figures)
            if writer is None:
                writer = csv.DictWriter(file, list(row))
                writer.writeheader()
            writer.writerow(row)
            file.flush()

        yield write


async def _climb(
    line: Line,
    clips: list[Clip],
    levels: list[int],
    options: Options,
    gpu: int | None,
    write: Callable[[Figures], None],
    console: Console,
) -> tuple[list[Figures], str]:
    """Measure level after level; also says why not all of them, if so."""
    measured: list[Figures] = []
    async with AsyncExitStack() as stack:
        watch = await stack.enter_async_context(GpuWatch(gpu)) if gpu is not None else None
        bar = stack.enter_context(
            Progress(
                SpinnerColumn(),
                TextColumn("{task.description}"),
                TimeElapsedColumn(),
                console=console,
                transient=True,
            )
        )
        for sessions in levels:
            if watch is not None:
                watch.take()
            level = await _hold(line, clips, sessions, options.seconds, bar)
            figures = level_figures(level, watch.take() if watch is not None else {})
            measured.append(figures)
            write(figures)
            if figures["finals"] == 0:
                reason = f"no final with {sessions} at once: {next(iter(figures['reasons']))}"
                if len(measured) == 1:
                    raise ServerError(reason)
                return measured, f"stopped: {reason}"
    return measured, ""


async def _hold(
    line: Line, clips: list[Clip], sessions: int, seconds: float, bar: Progress
) -> Level:
    """Let so many speak at once, so long and until everybody has said something."""
    loop = asyncio.get_running_loop()
    begun = loop.time()
    level = Level(sessions, begun + SPREAD_SECONDS)
    task = bar.add_task("", total=None)

    def tell() -> None:
        fails = sum(utterance.failure is not None for utterance in level.utterances)
        finals = len(level.utterances) - fails
        bar.update(task, description=f"{sessions} at once: {finals} finals, {fails} fails")

    def note_of(number: int) -> Callable[[Utterance], None]:
        def note(utterance: Utterance) -> None:
            level.note(number, utterance)
            tell()

        return note

    tell()
    async with asyncio.TaskGroup() as group:
        talking = [
            group.create_task(
                talk(
                    line,
                    random.Random(number).sample(clips, len(clips)),
                    begun + SPREAD_SECONDS * (number * _GOLDEN % 1),
                    note_of(number),
                    _trace_of(number),
                )
            )
            for number in range(sessions)
        ]
        await asyncio.sleep(level.warm + seconds - loop.time())
        await level.everybody.wait()
        for talker in talking:
            talker.cancel()
    bar.remove_task(task)
    return level


def _trace_of(number: int) -> Trace:
    def trace(event: str) -> None:
        logger.debug("session {}: {}", number, event)

    return trace
