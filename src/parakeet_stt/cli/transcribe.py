"""``parakeet-stt transcribe``: audio files to text, JSON or subtitles."""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from parakeet_stt import Model, Transcript, load_model
from parakeet_stt.audio import AudioFile
from parakeet_stt.cli import console
from parakeet_stt.cli.arguments import add_boost_argument, add_model_arguments, settings_of
from parakeet_stt.errors import AudioError, ConfigurationError, ParakeetError
from parakeet_stt.settings import ParakeetSettings

_STDIN = "-"
_ALL = "all"
_PROGRESS_SECONDS = 30.0  # Files of at least this length get a progress bar.

_AUDIO_SUFFIXES = frozenset(
    ".wav .wave .rf64 .bw64 .w64 .aif .aiff .aifc .au .snd .caf .sph .flac .ogg .oga .opus .mp3 "
    ".mp2 .m4a .m4b .mp4 .mov .3gp .mka .mkv .webm .avi .flv .wma .asf .mpg .mpeg .ts .rm .aac "
    ".ac3 .eac3 .dts .amr .ape .wv .tta".split()
)
"""Suffixes of the files that are transcribed in a folder. The content decides what a file is."""


@dataclass(frozen=True)
class _Format:
    """A format of transcripts.

    Attributes:
        suffix: That of its files.
        write: Turns a transcript into text, without a newline at the end.
        join: The same for one of several inputs without files of their own, given its name. None
            if the format has no place for a name.
    """

    suffix: str
    write: Callable[[Transcript], str]
    join: Callable[[str, Transcript], str] | None = None


def _tsv(transcript: Transcript) -> str:
    """Subtitles as tab-separated values in Whisper's columns: start and end in ms, text."""
    rows = (
        f"{round(cue.start * 1000)}\t{round(cue.end * 1000)}\t{cue.text}" for cue in transcript.cues
    )
    return "\n".join(("start\tend\ttext", *rows))


_FORMATS = {
    "text": _Format(
        ".txt", lambda transcript: transcript.text, lambda name, t: f"{name}: {t.text}"
    ),
    "json": _Format(
        ".json",
        Transcript.to_json,
        lambda name, t: json.dumps({"file": name, **t.to_dict()}, ensure_ascii=False),
    ),
    "srt": _Format(".srt", lambda transcript: transcript.to_srt().rstrip("\n")),
    "vtt": _Format(".vtt", lambda transcript: transcript.to_vtt().rstrip("\n")),
    "tsv": _Format(".tsv", _tsv),
}


@dataclass(frozen=True)
class _Input:
    """Something to transcribe.

    Attributes:
        name: What messages and output call it.
        audio: A file, or standard input.
        output: Path of its output without a suffix, relative to the output folder.
    """

    name: str
    audio: Path | BinaryIO
    output: Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add inputs and output."""
    parser.add_argument(
        "inputs",
        nargs="+",
        metavar="FILE",
        help="audio files, folders (every audio file in them) or - for standard input",
    )
    parser.add_argument(
        *("-f", "--format"),
        choices=(*_FORMATS, _ALL),
        default="text",
        help="what to write (default: text); all needs --output-dir",
    )
    parser.add_argument(
        *("-o", "--output-dir"),
        type=Path,
        metavar="FOLDER",
        help="write a file for each input there, named after it, instead of standard output; "
        "existing files are overwritten",
    )
    add_model_arguments(parser)
    add_boost_argument(parser)
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    settings = settings_of(arguments)
    inputs, failed = _find_inputs(arguments.inputs)
    several = len(inputs) + failed > 1 or any(Path(name).is_dir() for name in arguments.inputs)
    if arguments.output_dir is None:
        write = _writer_to_stdout(arguments.format, several)
    else:
        names = tuple(_FORMATS) if arguments.format == _ALL else (arguments.format,)
        write = _writer_to_files(arguments.output_dir, names, inputs)
    if not inputs:
        return 1
    model = load_model(
        settings.model,
        backend=settings.backend,
        precision=settings.precision,
        device=settings.device,
        cache_dir=settings.cache_dir,
    )
    for item in inputs:
        try:
            write(item, _transcribe(item, model, settings))
        except ParakeetError as error:
            console.report(error)
            failed += 1
    return 1 if failed else 0


def _find_inputs(names: Sequence[str]) -> tuple[list[_Input], int]:
    """Find the files that arguments name. Arguments that name none are reported and counted."""
    inputs: list[_Input] = []
    failed = 0
    for name in dict.fromkeys(names):
        try:
            inputs += _expand(name)
        except AudioError as error:
            console.report(error)
            failed += 1
    return inputs, failed


def _expand(name: str) -> Iterator[_Input]:
    """Find the inputs of one argument.

    Raises:
        AudioError: There is no such file, or no audio file in the folder.
    """
    path = Path(name)
    if name == _STDIN:
        if sys.stdin is None or sys.stdin.isatty():
            raise AudioError("nothing is piped to standard input: parakeet-stt transcribe - < FILE")
        yield _Input(_STDIN, sys.stdin.buffer, Path("stdin"))
    elif path.is_dir():
        files = [
            file
            for file in sorted(path.rglob("*"))
            if file.suffix.lower() in _AUDIO_SUFFIXES
            and not any(part.startswith(".") for part in file.relative_to(path).parts)
            and file.is_file()
        ]
        if not files:
            raise AudioError(f"no audio file in folder {name}")
        for file in files:
            yield _Input(str(file), file, file.relative_to(path))
    elif path.exists():
        yield _Input(name, path, Path(path.name))
    else:
        raise AudioError(f"no such audio file: {name}")


def _writer_to_stdout(name: str, several: bool) -> Callable[[_Input, Transcript], None]:
    """Return what prints the transcript of an input.

    Raises:
        ConfigurationError: The format cannot be printed, or not for several inputs.
    """
    if name == _ALL:
        raise ConfigurationError("--format all writes files: give it --output-dir FOLDER")
    chosen = _FORMATS[name]
    if several and chosen.join is None:
        raise ConfigurationError(
            f"--format {name} of several inputs would run together: --output-dir FOLDER writes a "
            f"file for each"
        )

    def write(item: _Input, transcript: Transcript) -> None:
        text = chosen.write(transcript)
        if several and chosen.join is not None:
            text = chosen.join(item.name, transcript)
        print(text, flush=True)

    return write


def _writer_to_files(
    folder: Path, names: Sequence[str], inputs: Sequence[_Input]
) -> Callable[[_Input, Transcript], None]:
    """Return what writes the transcript of an input to files, and prints their paths.

    Raises:
        ConfigurationError: The folder cannot be created, two inputs would be written to the same
            file, or an input would be overwritten.
    """
    outputs = _outputs(folder, inputs)
    audio = {item.audio.resolve() for item in inputs if isinstance(item.audio, Path)}
    for item in inputs:
        for path in (
            outputs[item].with_name(outputs[item].name + _FORMATS[n].suffix) for n in names
        ):
            if path.resolve() in audio:
                raise ConfigurationError(f"the transcript of {item.name} would overwrite {path}")
    _make_folder(folder)

    def write(item: _Input, transcript: Transcript) -> None:
        _make_folder(outputs[item].parent)
        for name in names:
            path = outputs[item].with_name(outputs[item].name + _FORMATS[name].suffix)
            try:
                path.write_text(_FORMATS[name].write(transcript) + "\n", encoding="utf-8")
            except OSError as error:
                raise ConfigurationError(f"{path} cannot be written: {error.strerror}") from error
            print(path, flush=True)

    return write


def _outputs(folder: Path, inputs: Sequence[_Input]) -> dict[_Input, Path]:
    """Choose where the output of each input goes, without the format's suffix.

    ``talk.mp3`` gives ``talk``. If another input has the same name but for the suffix, it gives
    ``talk.mp3``.

    Raises:
        ConfigurationError: Two inputs have the same name.
    """
    stems = Counter(item.output.with_suffix("") for item in inputs)
    outputs: dict[_Input, Path] = {}
    taken: dict[Path, _Input] = {}
    for item in inputs:
        stem = item.output.with_suffix("")
        path = folder / (stem if stems[stem] == 1 else item.output)
        if path in taken:
            raise ConfigurationError(
                f"{taken[path].name} and {item.name} would be written to the same file; "
                f"transcribe them into two folders"
            )
        outputs[item], taken[path] = path, item
    return outputs


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigurationError(
            f"the output folder {folder} cannot be created: {error.strerror}"
        ) from error


def _transcribe(item: _Input, model: Model, settings: ParakeetSettings) -> Transcript:
    """Transcribe an input, with a progress bar if it is long and stderr is a terminal."""
    seconds = AudioFile(item.audio).duration() if isinstance(item.audio, Path) else None
    bar = Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TextColumn("{task.completed:.0f} of {task.total:.0f} s"),
        TimeRemainingColumn(),
        console=console.err,
        transient=True,
        disable=not console.err.is_terminal or (seconds or 0) < _PROGRESS_SECONDS,
    )
    with bar:
        task = bar.add_task(item.name, total=seconds)
        return model.transcribe(
            item.audio,
            settings.context_size,
            settings.attention_mode,
            settings.boost,
            progress=lambda done: bar.update(task, completed=done),
        )
