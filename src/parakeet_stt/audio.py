"""Audio at the edge: files and PCM in, float32 mono at 16 kHz out.

Conversion and resampling happen here and once; everything behind this module sees only
``float32 [samples]`` at :data:`SAMPLE_RATE`.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt
import soundfile
import soxr

from parakeet_stt.errors import AudioError

Samples = npt.NDArray[np.float32]

SAMPLE_RATE = 16_000
"""Hz; what every Parakeet model hears."""

_MIN_RATE, _MAX_RATE = 4_000, 384_000
_MOST_CHANNELS = 16
_DTYPES = {"pcm16": "<i2", "f32": "<f4", "mulaw": "u1", "alaw": "u1"}
_LOUDEST = 2.0**31  # 32-bit samples that were not scaled; far beyond, power spectra overflow.


def as_samples(audio: Any) -> Samples:
    """Check samples that are said to be mono at 16 kHz and give them as ``float32 [samples]``.

    Args:
        audio: One-dimensional array; floats within -1 to 1, or int16.

    Raises:
        AudioError: Another shape or kind of number, or a value that is not finite.
    """
    try:
        array = np.asarray(audio)
    except ValueError as error:  # Lists of several lengths.
        raise AudioError(f"expected mono samples of shape [samples], got {error}") from error
    if array.ndim != 1:
        raise AudioError(f"expected mono samples of shape [samples], got shape {array.shape}")
    if array.dtype == np.int16:
        scaled: Samples = array.astype(np.float32) / np.float32(32768)
        return scaled
    if not np.issubdtype(array.dtype, np.floating):
        raise AudioError(f"expected samples as float32 or int16, got {array.dtype}")
    with np.errstate(over="ignore"):
        samples = array.astype(np.float32, copy=False)
    if not np.isfinite(samples).all():
        raise AudioError(
            f"expected samples within -1 to 1, got some that are not finite numbers, the first of "
            f"them at {np.flatnonzero(~np.isfinite(samples))[0]} of {len(samples)}"
        )
    if (loudest := np.abs(samples).max(initial=0)) > _LOUDEST:
        raise AudioError(f"expected samples within -1 to 1, got one of {loudest:.3g}")
    return samples


def pcm16(data: bytes, channels: int = 1) -> Samples:
    """Little-endian 16-bit PCM as ``float32 [samples]``; channels are averaged.

    Raises:
        AudioError: The bytes are not a whole number of samples of all channels.
    """
    if channels < 1:
        raise AudioError(f"audio needs at least one channel, got {channels}")
    if len(data) % (2 * channels):
        raise AudioError(
            f"{len(data)} bytes are not a whole number of 16-bit samples of {channels} channel(s)"
        )
    samples: Samples = np.frombuffer(data, "<i2").astype(np.float32) / np.float32(32768)
    if channels > 1:
        samples = samples.reshape(-1, channels).mean(axis=1, dtype=np.float32)
    return samples


class AudioDecoder:
    """Raw audio in pieces of any number of bytes to ``float32 [samples]``, mono, 16 kHz.

    Args:
        encoding: ``pcm16`` or ``f32`` (little-endian), ``mulaw`` or ``alaw`` (G.711).
        rate: Sample rate, Hz.
        channels: Interleaved channels; they are averaged.

    Raises:
        AudioError: An encoding, rate or number of channels that cannot be had.
    """

    def __init__(self, encoding: str = "pcm16", rate: int = SAMPLE_RATE, channels: int = 1) -> None:
        if encoding not in _DTYPES:
            raise AudioError(f"encoding {encoding!r}: expected one of {', '.join(_DTYPES)}")
        if not 1 <= channels <= _MOST_CHANNELS:
            raise AudioError(f"{channels} channels: expected 1 to {_MOST_CHANNELS}")
        self._encoding = encoding
        self._resampler = Resampler(rate)
        self._channels = channels
        self._rest = b""

    def __call__(self, data: bytes) -> Samples:
        """Decode more; part of a sample is kept until the rest of it comes.

        Raises:
            AudioError: Floats that are not finite numbers, or far from -1 to 1.
        """
        data = self._rest + data
        size = np.dtype(_DTYPES[self._encoding]).itemsize * self._channels
        whole = len(data) // size * size
        self._rest = data[whole:]
        raw = np.frombuffer(data[:whole], _DTYPES[self._encoding])
        match self._encoding:
            case "mulaw":
                samples = _MULAW[raw]
            case "alaw":
                samples = _ALAW[raw]
            case _:
                samples = as_samples(raw)
        if self._channels > 1:
            samples = samples.reshape(-1, self._channels).mean(axis=1, dtype=np.float32)
        return self._resampler(samples)

    def flush(self) -> Samples:
        """What the resampler still holds back; part of a sample waits for the rest of it."""
        return self._resampler.flush()


class Resampler:
    """Streaming resampler to 16 kHz that keeps its state between pieces (soxr, high quality).

    Args:
        rate: Sample rate of what is fed, Hz.

    Raises:
        AudioError: A rate outside 4 to 384 kHz.
    """

    def __init__(self, rate: int) -> None:
        if not _MIN_RATE <= rate <= _MAX_RATE:
            raise AudioError(f"sample rate {rate} Hz: expected {_MIN_RATE} to {_MAX_RATE} Hz")
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


def read_audio(path: str | Path) -> Samples:
    """Decode a file of any common format to ``float32 [samples]``, mono, 16 kHz.

    Raises:
        AudioError: No such file, or nothing here can decode it; the message says what is missing.
    """
    blocks = list(read_blocks(path))
    return np.concatenate(blocks) if blocks else np.zeros(0, np.float32)


def read_blocks(path: str | Path, seconds: float = 10.0) -> Iterator[Samples]:
    """Decode a file piece by piece; as :meth:`AudioFile.blocks`.

    Args:
        path: The file.
        seconds: About how much audio a piece holds.

    Raises:
        AudioError: As :func:`read_audio`.
    """
    return AudioFile(path).blocks(seconds)


def duration_of(path: str | Path) -> float | None:
    """Length of a file in seconds, or None where only decoding it would tell."""
    try:
        info = soundfile.info(str(path))
    except (soundfile.LibsndfileError, TypeError):
        return None
    # A FLAC or Ogg file that was written to a pipe does not know; libsndfile's largest number.
    return None if info.frames >= 2**62 else float(info.duration)


class _Forward(soundfile.SoundFile):  # type: ignore[misc]
    """A file that is read from its beginning to its end; of one that was written to a pipe, the
    length is not known, and soundfile's seeking to where it has read to already fails."""

    def seekable(self) -> bool:
        return False


class AudioFile:
    """A file of any common format, decoded piece by piece: hours of audio need no memory.

    libsndfile reads WAV, FLAC, Ogg and MP3; for everything else ffmpeg is asked where installed.

    Args:
        path: The file.
        name: What messages call it; its path by default.
    """

    def __init__(self, path: str | Path, name: str | None = None) -> None:
        self._path = Path(path)
        self._name = str(path) if name is None else name
        self._stopped = False
        self._process: subprocess.Popen[bytes] | None = None
        self._lock = threading.Lock()

    def blocks(self, seconds: float = 10.0) -> Generator[Samples, None, None]:
        """Its audio, ``float32 [samples]``, mono, 16 kHz, about so many seconds at a time.

        Raises:
            AudioError: No such file, or nothing here can decode it; the message says what is
                missing.
        """
        if not self._path.exists():
            raise AudioError(f"no such audio file: {self._name}")
        if not self._path.is_file():
            raise AudioError(f"{self._name} is a folder or a device: expected an audio file")
        if self._path.stat().st_size == 0:
            raise AudioError(f"{self._name} is empty")
        try:
            sound = _Forward(self._path)
        except soundfile.LibsndfileError as error:
            yield from self._read_with_ffmpeg(seconds, error.error_string)
            return
        except TypeError:  # What soundfile says of a name that ends in .raw.
            yield from self._read_with_ffmpeg(seconds, "Raw audio does not say what it is.")
            return
        with sound:
            yield from self._read(sound, seconds)

    def stop(self) -> None:
        """End :meth:`blocks` early; may be called from any thread, while another one reads.

        No more pieces come then, and no program is left at work.
        """
        with self._lock:
            self._stopped = True
            if self._process is not None:
                self._process.kill()

    def _read(self, sound: Any, seconds: float) -> Iterator[Samples]:
        if sound.channels > _MOST_CHANNELS:
            raise AudioError(
                f"{self._name} has {sound.channels} channels: expected {_MOST_CHANNELS} at most"
            )
        resample = Resampler(sound.samplerate)
        size = max(1, int(sound.samplerate * seconds))
        # Until nothing comes: the length that a file claims need not be true.
        while not self._stopped:
            try:
                block = sound.read(size, dtype="float32", always_2d=True)
            except soundfile.LibsndfileError as error:
                raise AudioError(f"{self._name} is damaged: {error.error_string}") from error
            if len(block) == 0:
                break
            yield resample(block.mean(axis=1))
        yield resample.flush()

    def _read_with_ffmpeg(self, seconds: float, reason: str) -> Iterator[Samples]:
        program = shutil.which("ffmpeg")
        if program is None:
            raise AudioError(
                f"{self._name} cannot be decoded: {reason.strip()} WAV, FLAC, Ogg and MP3 are read "
                f"as they are; other formats need ffmpeg, which is not installed."
            )
        command = [program, "-nostdin", "-v", "error"]
        # Formats that hold their audio themselves: a playlist would have other files read.
        command += ["-format_whitelist", _FFMPEG_FORMATS, "-protocol_whitelist", "file"]
        command += ["-i", f"file:{self._path}", "-map", "0:a:0"]
        command += ["-f", "f32le", "-ac", "1", "-ar", str(SAMPLE_RATE), "-"]
        size = int(SAMPLE_RATE * seconds) * 4
        # A file for what it complains of: nobody reads a pipe meanwhile, and a full one blocks.
        with tempfile.TemporaryFile() as complaints:
            process = self._start(command, complaints)
            assert process.stdout is not None
            try:
                while data := process.stdout.read(size):
                    yield np.frombuffer(data[: len(data) // 4 * 4], "<f4")
                status = process.wait()
            finally:
                with self._lock:
                    self._process = None
                process.kill()  # Where nobody wanted the rest; otherwise it has ended.
                process.wait()
                process.stdout.close()
            complaints.seek(max(0, complaints.seek(0, os.SEEK_END) - _LONGEST_COMPLAINT))
            if complaints.tell():
                complaints.readline()  # The rest of one.
            message = self._readable(complaints.read().decode(errors="replace"))
        if status and not self._stopped:
            raise AudioError(f"{self._name} cannot be decoded: {message or 'ffmpeg failed'}")

    def _start(self, command: list[str], complaints: IO[bytes]) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=complaints
        )
        with self._lock:
            self._process = process
            if self._stopped:
                process.kill()
        return process

    def _readable(self, complaint: str) -> str:
        """What ffmpeg says, in one line, without addresses in memory and places of files."""
        if "matches no streams" in complaint:
            return "there is no audio in it"
        if "not on whitelist" in complaint:
            return "a playlist, or a format that is not accepted"
        complaint = complaint.replace(f"file:{self._path}: ", "")
        complaint = complaint.replace(f"file:{self._path}", self._name)
        complaint = re.sub(r"\[[^]]* @ 0x[0-9a-f]+\] *", "", complaint)
        lines = (line.strip() for line in complaint.splitlines())
        return "; ".join(filter(None, dict.fromkeys(lines)))  # It repeats itself.


_LONGEST_COMPLAINT = 500  # Bytes of the last that ffmpeg said.

_FFMPEG_FORMATS = (
    "aac,ac3,aiff,amr,amrnb,amrwb,ape,asf,au,avi,caf,dts,eac3,flac,flv,gsm,matroska,webm,"
    "mov,mp4,m4a,3gp,3g2,mj2,mp3,mpeg,mpegts,ogg,rm,tta,voc,w64,wav,wv"
)
