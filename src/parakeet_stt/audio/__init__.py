"""Audio at the edge: files, arrays and PCM in, float32 mono at 16 kHz out.

Conversion and resampling happen here and once; everything behind this module sees only
``float32 [samples]`` at :data:`SAMPLE_RATE`.
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
import soxr

from parakeet_stt.audio import ffmpeg
from parakeet_stt.audio.containers import parts_of
from parakeet_stt.audio.downmix import Downmix
from parakeet_stt.audio.ffmpeg import Ffmpeg, Track
from parakeet_stt.audio.libsndfile import Recording, UnsupportedError
from parakeet_stt.errors import AudioError

Samples = npt.NDArray[np.float32]

AudioSource = npt.ArrayLike | str | os.PathLike[str] | bytes | bytearray | BinaryIO
"""What can be transcribed: an array, a path, the bytes of a file, or an open binary file."""

SAMPLE_RATE = 16_000
"""Hz; what every Parakeet model hears."""

_MIN_RATE, _MAX_RATE = 4_000, 384_000
_MOST_CHANNELS = 16
_DTYPES = {"pcm16": "<i2", "f32": "<f4", "mulaw": "u1", "alaw": "u1"}
_LOUDEST = 2.0**31  # 32-bit samples that were not scaled; far beyond, power spectra overflow.


def as_samples(audio: Any) -> Samples:
    """Check samples that are said to be mono at 16 kHz and give them as ``float32 [samples]``.

    Args:
        audio: One-dimensional array; floats within -1 to 1, int16, int32 or uint8.

    Raises:
        AudioError: Another shape or kind of number, or a value that is not finite.
    """
    array = _as_array(audio, "mono samples of shape [samples]")
    if array.ndim != 1:
        raise AudioError(f"expected mono samples of shape [samples], got shape {array.shape}")
    return _as_floats(array)


def _as_array(audio: Any, expected: str) -> npt.NDArray[Any]:
    try:
        return np.asarray(audio)
    except (ValueError, TypeError, RuntimeError) as error:  # Lists of several lengths; a tensor.
        raise AudioError(f"expected {expected}, got {error}") from error


def _as_floats(array: npt.NDArray[Any]) -> Samples:
    """Scale numbers of a known range to -1 to 1, as float32."""
    if array.dtype == np.uint8:  # The middle is 128, as in a WAV file.
        array = array.astype(np.int16) - 128
        return array.astype(np.float32) / np.float32(128)
    if array.dtype in (np.int16, np.int32):
        return array.astype(np.float32) / np.float32(2.0 ** (8 * array.dtype.itemsize - 1))
    if not np.issubdtype(array.dtype, np.floating):
        raise AudioError(f"expected samples as float32, int16, int32 or uint8, got {array.dtype}")
    with np.errstate(over="ignore"):
        samples = array.astype(np.float32, copy=False)
    finite = np.isfinite(samples)
    if not finite.all():
        raise AudioError(
            f"expected samples within -1 to 1, got some that are not finite numbers, the first of "
            f"them at {np.argwhere(~finite)[0][0]} of {len(samples)}"
        )
    if (loudest := np.abs(samples).max(initial=0)) > _LOUDEST:
        raise AudioError(f"expected samples within -1 to 1, got one of {loudest:.3g}")
    return samples


def pcm16(data: bytes, channels: int = 1) -> Samples:
    """Little-endian 16-bit PCM as interleaved floats, ``float32 [frames * channels]``.

    Raises:
        AudioError: The bytes are not a whole number of samples of all channels.
    """
    if channels < 1:
        raise AudioError(f"audio needs at least one channel, got {channels}")
    if len(data) % (2 * channels):
        raise AudioError(
            f"{len(data)} bytes are not a whole number of 16-bit samples of {channels} channel(s)"
        )
    return _as_floats(np.frombuffer(data, "<i2"))


class Converter:
    """Audio of any rate and number of channels, in pieces of any size, to mono at 16 kHz.

    Args:
        rate: Sample rate, Hz.
        channels: Number of channels; see :class:`~parakeet_stt.audio.downmix.Downmix`.

    Raises:
        AudioError: A rate outside 4 to 384 kHz, or more than 16 channels.
    """

    def __init__(self, rate: int, channels: int) -> None:
        _check_format(rate, channels)
        self.rate = rate
        self.channels = channels
        self._mix = Downmix(channels, rate)
        self._resample = Resampler(rate)

    def __call__(self, frames: Samples) -> Samples:
        """Convert ``float32 [frames, channels]`` or interleaved samples; returns what is ready."""
        return self._resample(self._mix(frames.reshape(-1, self.channels)))

    def flush(self) -> Samples:
        """Return what is still held back; afterwards the converter starts anew."""
        return np.concatenate([self._resample(self._mix.flush()), self._resample.flush()])


def _check_format(rate: int, channels: int) -> None:
    if not isinstance(rate, int | np.integer) or not _MIN_RATE <= rate <= _MAX_RATE:
        raise AudioError(f"sample rate {rate} Hz: expected {_MIN_RATE} to {_MAX_RATE} Hz")
    if not 1 <= channels <= _MOST_CHANNELS:
        raise AudioError(f"{channels} channels: expected 1 to {_MOST_CHANNELS}")


class AudioDecoder:
    """Raw audio in pieces of any number of bytes to ``float32 [samples]``, mono, 16 kHz.

    Args:
        encoding: ``pcm16`` or ``f32`` (little-endian), ``mulaw`` or ``alaw`` (G.711).
        rate: Sample rate, Hz.
        channels: Interleaved channels; mixed as :class:`Converter` does.

    Raises:
        AudioError: An encoding, rate or number of channels that cannot be had.
    """

    def __init__(self, encoding: str = "pcm16", rate: int = SAMPLE_RATE, channels: int = 1) -> None:
        if encoding not in _DTYPES:
            raise AudioError(f"encoding {encoding!r}: expected one of {', '.join(_DTYPES)}")
        self._encoding = encoding
        self._convert = Converter(rate, channels)
        self._rest = b""

    def __call__(self, data: bytes) -> Samples:
        """Decode more; part of a sample is kept until the rest of it comes.

        Raises:
            AudioError: Floats that are not finite numbers, or far from -1 to 1.
        """
        data = self._rest + data
        size = np.dtype(_DTYPES[self._encoding]).itemsize * self._convert.channels
        whole = len(data) // size * size
        self._rest = data[whole:]
        raw = np.frombuffer(data[:whole], _DTYPES[self._encoding])
        match self._encoding:
            case "mulaw":
                samples = _MULAW[raw]
            case "alaw":
                samples = _ALAW[raw]
            case _:
                samples = _as_floats(raw)
        return self._convert(samples)

    def flush(self) -> Samples:
        """Return what the converter holds back; part of a sample waits for the rest of it."""
        return self._convert.flush()


class Resampler:
    """Streaming resampler to 16 kHz that keeps its state between pieces (soxr, high quality).

    Args:
        rate: Sample rate of what is fed, Hz.

    Raises:
        AudioError: A rate outside 4 to 384 kHz.
    """

    def __init__(self, rate: int) -> None:
        _check_format(rate, 1)
        self.rate = rate
        self._stream = self._open()

    def __call__(self, samples: Samples) -> Samples:
        """Feed ``float32 [samples]`` at :attr:`rate`; returns what is ready at 16 kHz."""
        return samples if self._stream is None else self._stream.resample_chunk(samples)

    def flush(self) -> Samples:
        """What is still held back; afterwards the resampler starts anew."""
        if self._stream is None:
            return np.zeros(0, np.float32)
        rest: Samples = self._stream.resample_chunk(np.zeros(0, np.float32), last=True)
        self._stream = self._open()
        return rest

    def _open(self) -> Any:
        if self.rate == SAMPLE_RATE:
            return None
        return soxr.ResampleStream(self.rate, SAMPLE_RATE, 1, dtype="float32")


def _mulaw() -> Samples:
    """Every byte's value by ITU-T G.711's mu-law."""
    codes = ~np.arange(256, dtype=np.uint8)
    exponent, mantissa = (codes >> 4) & 7, codes & 15
    magnitude = (((mantissa.astype(np.int32) << 3) + 132) << exponent) - 132
    return (np.where(codes & 128, -magnitude, magnitude) / 32768).astype(np.float32)


def _alaw() -> Samples:
    """Every byte's value by ITU-T G.711's A-law."""
    codes = np.arange(256, dtype=np.uint8) ^ 0x55
    exponent, mantissa = ((codes >> 4) & 7).astype(np.int32), (codes & 15).astype(np.int32)
    linear = (mantissa << 4) + np.where(exponent > 0, 264, 8)
    magnitude = linear << np.maximum(exponent - 1, 0)
    return (np.where(codes & 128, magnitude, -magnitude) / 32768).astype(np.float32)


_MULAW, _ALAW = _mulaw(), _alaw()


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
    array = _as_array(audio, shapes)
    if array.ndim not in (1, 2):
        raise AudioError(f"expected {shapes}, got shape {array.shape}")
    channels = 1 if array.ndim == 1 else array.shape[1]
    if array.ndim == 2 and not 1 <= channels <= _MOST_CHANNELS:
        raise AudioError(
            f"expected {shapes} with 1 to {_MOST_CHANNELS} channels, got shape {array.shape}: "
            f"transpose an array of shape [channels, samples]"
        )
    convert = Converter(sample_rate, channels)
    return np.concatenate([convert(_as_floats(array)), convert.flush()])


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
        """Length in seconds by its header, or None if only decoding the file can tell.

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
        """Its audio, ``float32 [samples]``, mono, 16 kHz, about so many seconds at a time.

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
            _check_format(rate, channels)
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
