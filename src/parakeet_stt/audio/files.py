"""Audio files, decoded in blocks, and arrays of any accepted shape.

:func:`read_audio` and :func:`read_blocks` accept everything that ``transcribe()`` does.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from parakeet_stt.audio import ffmpeg
from parakeet_stt.audio.containers import parts_of
from parakeet_stt.audio.conversion import MAX_CHANNELS, Converter, check_format
from parakeet_stt.audio.ffmpeg import Ffmpeg, Track
from parakeet_stt.audio.libsndfile import Recording, UnsupportedError
from parakeet_stt.audio.samples import SAMPLE_RATE, Samples, as_array, to_floats
from parakeet_stt.errors import AudioError

AudioSource = npt.ArrayLike | str | os.PathLike[str] | bytes | bytearray | BinaryIO
"""What can be transcribed: an array, a path, the bytes of a file, or an open binary file."""


def read_audio(source: AudioSource, sample_rate: int | None = None) -> Samples:
    """Convert a file or an array to ``float32 [samples]``, mono, 16 kHz.

    Arguments and errors are those of :func:`read_blocks`.
    """
    return np.concatenate([np.zeros(0, np.float32), *read_blocks(source, sample_rate)])


def read_blocks(
    source: AudioSource, sample_rate: int | None = None, seconds: float = 10.0
) -> Iterator[Samples]:
    """Convert a file, piece by piece, or an array to ``float32 [samples]``, mono, 16 kHz.

    Args:
        source: A path; the bytes of a file; an open binary file, read from its position on; or an
            array ``[samples]`` or ``[samples, channels]`` of floats within -1 to 1, int16, int32
            or uint8.
        sample_rate: That of an array, Hz; 16,000 by default. A file states its own.
        seconds: About how much audio of a file a piece holds.

    Raises:
        AudioError: A file that does not exist, cannot be decoded or holds no audio; an array of
            another shape or kind; a sample rate out of range, or of a file.
    """
    if not isinstance(source, str | os.PathLike | bytes | bytearray) and not hasattr(
        source, "read"
    ):
        return iter([_convert_array(source, SAMPLE_RATE if sample_rate is None else sample_rate)])
    if sample_rate is not None:
        raise AudioError(
            f"sample_rate={sample_rate} is that of an array: a file states its own, leave it out. "
            f"Raw PCM is an array: numpy.frombuffer(data, numpy.int16)"
        )
    if isinstance(source, str | os.PathLike):
        return AudioFile(source).blocks(seconds)
    return _read_copy(source, seconds)


def _convert_array(audio: Any, sample_rate: int) -> Samples:
    shapes = "samples of shape [samples] or [samples, channels]"
    array = as_array(audio, shapes)
    if array.ndim not in (1, 2):
        raise AudioError(f"expected {shapes}, got shape {array.shape}")
    channels = 1 if array.ndim == 1 else array.shape[1]
    if array.ndim == 2 and not 1 <= channels <= MAX_CHANNELS:
        raise AudioError(
            f"expected {shapes} with 1 to {MAX_CHANNELS} channels, got shape {array.shape}: "
            f"transpose an array of shape [channels, samples]"
        )
    convert = Converter(sample_rate, channels)
    return np.concatenate([convert(to_floats(array)), convert.flush()])


def _read_copy(source: Any, seconds: float) -> Iterator[Samples]:
    """Read bytes or an open file from a copy: a decoder has to seek in it."""
    name = getattr(source, "name", None)
    with tempfile.TemporaryDirectory(prefix="parakeet-") as folder:
        path = Path(folder) / "audio"
        with path.open("wb") as copy:
            if isinstance(source, bytes | bytearray):
                copy.write(source)
            elif isinstance(source.read(0), bytes):
                shutil.copyfileobj(source, copy, 2**20)
            else:
                raise AudioError(
                    f"expected a file opened in binary mode ('rb'), got one in text mode: {name}"
                )
        file = AudioFile(path, name if isinstance(name, str) else "the file")
        yield from file.blocks(seconds)


class AudioFile:
    """A file of a common format, decoded piece by piece: hours of audio need no memory.

    libsndfile decodes WAV, AIFF, AU, CAF, W64, NIST, FLAC, Ogg and MP3; other formats need ffmpeg.
    What a file is, its content decides; its name never does.

    All of the audio in it is returned, whatever its header states, and of joined files (chained
    Ogg, ``cat a.mp3 b.mp3``) all of them. What is damaged or cut off is left out, and the log says
    so; a file of which nothing can be decoded is refused.

    Args:
        path: The file.
        name: What messages call it; its path by default.
    """

    def __init__(self, path: str | os.PathLike[str], name: str | None = None) -> None:
        self._path = Path(path)
        self._name = str(path) if name is None else name
        self._stopped = False
        self._ffmpeg = Ffmpeg(self._path, self._name, self._check)

    def duration(self) -> float | None:
        """Length in seconds by its header; None if the header does not state it.

        Raises:
            AudioError: The file does not exist, or its sample rate or number of channels is out
                of range.
        """
        seconds = 0.0
        with self._open() as file:
            for part in parts_of(file):
                try:
                    recording = Recording(file, part, self._name)
                except UnsupportedError:
                    return None
                self._check(recording.rate, recording.channels)
                if recording.frames is None:
                    return None
                seconds += recording.frames / recording.rate
        return seconds

    def blocks(self, seconds: float = 10.0) -> Generator[Samples, None, None]:
        """Read the audio, ``float32 [samples]``, mono, 16 kHz, in blocks.

        Args:
            seconds: Approximate length of a block.

        Raises:
            AudioError: The file does not exist, cannot be decoded or holds no audio.
        """
        empty = True
        try:
            with self._open() as file:
                for block in self._decode(file, seconds):
                    if self._stopped:
                        return
                    if len(block):
                        empty = False
                        yield block
            if empty:
                raise AudioError(f"{self._name} holds no audio")
        except AudioError:
            if not self._stopped:  # What ffmpeg is killed in the middle of counts for nothing.
                raise

    def stop(self) -> None:
        """End :meth:`blocks` early; may be called from any thread, while another one reads.

        No more pieces come then, and no program is left at work.
        """
        self._stopped = True
        self._ffmpeg.stop()

    @contextmanager
    def _open(self) -> Iterator[BinaryIO]:
        if not self._path.exists():
            raise AudioError(f"no such audio file: {self._name}")
        if not self._path.is_file():
            raise AudioError(f"{self._name} is a folder or a device: expected an audio file")
        try:
            file = self._path.open("rb")
        except OSError as error:
            raise AudioError(f"{self._name} cannot be read: {error.strerror}") from error
        with file:
            if os.fstat(file.fileno()).st_size == 0:
                raise AudioError(f"{self._name} is empty")
            yield file

    def _check(self, rate: int, channels: int) -> None:
        try:
            check_format(rate, channels)
        except AudioError as error:
            raise AudioError(f"{self._name}: {error}") from error

    def _decode(self, file: BinaryIO, seconds: float) -> Iterator[Samples]:
        parts = parts_of(file)
        try:
            if not parts:
                raise UnsupportedError("Format not recognised.")
            Recording(file, parts[0], self._name)
        except UnsupportedError as error:
            if not ffmpeg.is_installed():
                raise AudioError(
                    f"{self._name} cannot be decoded: {error} WAV, AIFF, AU, CAF, W64, NIST, FLAC, "
                    f"Ogg and MP3 are read as they are; other formats need ffmpeg, which is not "
                    f"installed."
                ) from error
            with self._ffmpeg.open(seconds) as track:
                yield from _convert(track, seconds)
            return
        for part in parts:
            try:
                recording = Recording(file, part, self._name)
            except UnsupportedError as error:
                raise AudioError(
                    f"{self._name} cannot be decoded from byte {part.start} on: {error}"
                ) from error
            self._check(recording.rate, recording.channels)
            yield from _convert(recording, seconds)


def _convert(source: Recording | Track, seconds: float) -> Iterator[Samples]:
    convert = Converter(source.rate, source.channels)
    for block in source.blocks(seconds):
        yield convert(block)
    yield convert.flush()
