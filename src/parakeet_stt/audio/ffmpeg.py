"""Decode what libsndfile cannot with the program ffmpeg, if it is installed."""

from __future__ import annotations

import os
import re
import shutil
import struct
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Self

import numpy as np
import numpy.typing as npt
from loguru import logger

from parakeet_stt.errors import AudioError

DEMUXERS = (
    "aac,ac3,aiff,amr,ape,asf,au,avi,caf,dts,eac3,flac,flv,matroska,webm,mov,mp4,m4a,3gp,3g2,mj2,"
    "mp3,mpeg,mpegts,ogg,rm,tta,w64,wav,wv"
)
"""Formats that ffmpeg may read: they are recognised by their content, and contain their audio
themselves. A playlist would make ffmpeg read other files."""

MAX_TRACKS = 8
"""Audio tracks that are searched for sound."""

_SILENCE = 1e-4  # Peak, -80 dB: a track below it is silent.
_MAX_MESSAGE = 500  # Bytes of ffmpeg's newest messages that are reported.


def is_installed() -> bool:
    """Whether ffmpeg is on the path."""
    return shutil.which("ffmpeg") is not None


class NoSuchTrackError(Exception):
    """The file has fewer audio tracks."""


class Ffmpeg:
    """ffmpeg for one file. :meth:`stop` may be called from any thread.

    Args:
        path: The file.
        name: What messages call it.
        check: Called with a track's sample rate and number of channels before it is decoded;
            raises if they are out of range.
    """

    def __init__(self, path: Path, name: str, check: Callable[[int, int], None]) -> None:
        self.name = name
        self.check = check
        self._path = path
        self._stopped = False
        self._process: subprocess.Popen[bytes] | None = None
        self._lock = threading.Lock()

    @property
    def stopped(self) -> bool:
        """Whether :meth:`stop` was called."""
        return self._stopped

    def stop(self) -> None:
        """End decoding, now or as soon as it starts."""
        with self._lock:
            self._stopped = True
            if self._process is not None:
                self._process.kill()

    def start(self, command: list[str], messages: IO[bytes]) -> subprocess.Popen[bytes]:
        """Start a program that :meth:`stop` ends; its messages go to a file."""
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=messages
        )
        with self._lock:
            self._process = process
            if self._stopped:
                process.kill()
        return process

    @contextmanager
    def open(self, seconds: float) -> Iterator[Track]:
        """Open the first audio track with sound; the first one if all are silent.

        Args:
            seconds: How much is decoded at a time to find it.

        Raises:
            AudioError: ffmpeg cannot decode the file, or there is no audio in it. Also raised by
                the track's blocks.
        """
        with tempfile.TemporaryDirectory(prefix="parakeet-") as folder:
            path = Path(folder) / "audio"  # Without an extension that ffmpeg could guess from.
            try:
                path.symlink_to(self._path.absolute())
            except OSError:  # Windows allows links to few.
                shutil.copyfile(self._path, path)
            number = self._find_track(path, seconds)
            with Track(self, path, number) as track:
                yield track

    def _find_track(self, path: Path, seconds: float) -> int:
        """Number of the first audio track with sound."""
        for number in range(MAX_TRACKS):
            try:
                with Track(self, path, number) as track:
                    blocks = track.blocks(seconds)
                    if any(np.abs(block).max() > _SILENCE for block in blocks):
                        return number
            except NoSuchTrackError as error:
                if number == 0:
                    raise AudioError(
                        f"{self.name} cannot be decoded: there is no audio in it"
                    ) from error
                break
        return 0


class Track:
    """An audio track while ffmpeg decodes it, as a context manager.

    Args:
        ffmpeg: What it belongs to.
        path: The file.
        number: Which of the audio tracks.

    Attributes:
        rate: Sample rate, Hz.
        channels: Number of channels.
    """

    def __init__(self, ffmpeg: Ffmpeg, path: Path, number: int) -> None:
        self._ffmpeg = ffmpeg
        self._path = path
        self._number = number

    def __enter__(self) -> Self:
        command = ["ffmpeg", "-nostdin", "-v", "error"]
        command += ["-format_whitelist", DEMUXERS, "-protocol_whitelist", "file"]
        command += ["-i", f"file:{self._path}", "-map", f"0:a:{self._number}"]
        # At the track's own rate: nothing is resampled before the rate has been checked.
        command += ["-c:a", "pcm_f32le", "-f", "wav", "-"]
        # A file for its messages: nobody reads a pipe meanwhile, and a full one blocks.
        self._messages = tempfile.TemporaryFile()
        self._process = self._ffmpeg.start(command, self._messages)
        assert self._process.stdout is not None
        self._output = self._process.stdout
        try:
            form = _read_header(self._output)
            if form is None:
                self._finish()
                raise AudioError(f"{self._ffmpeg.name} cannot be decoded: it holds no audio")
            self.rate, self.channels = form
            self._ffmpeg.check(self.rate, self.channels)
        except BaseException:
            self._close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._close()

    def blocks(self, seconds: float) -> Iterator[npt.NDArray[np.float32]]:
        """The track's audio, ``float32 [frames, channels]``, about so many seconds at a time.

        Raises:
            AudioError: ffmpeg failed.
        """
        frame = 4 * self.channels
        size = frame * max(1, int(self.rate * seconds))
        while data := self._output.read(size):
            yield np.frombuffer(data[: len(data) // frame * frame], "<f4").reshape(
                -1, self.channels
            )
        self._finish()

    def _finish(self) -> None:
        """Raise why ffmpeg failed; log what it could not decode."""
        status = self._process.wait()
        if self._ffmpeg.stopped:
            return
        message = self._message()
        name = self._ffmpeg.name
        if status and "matches no streams" in message:
            raise NoSuchTrackError
        if status and re.search("not on whitelist|m3u8", message):
            message = "a playlist, or a format that is not accepted"
        if status:
            raise AudioError(f"{name} cannot be decoded: {message or 'ffmpeg failed'}")
        if message:
            logger.warning(f"{name!r} is damaged or cut off; the rest is transcribed: {message}")

    def _message(self) -> str:
        """ffmpeg's newest messages in one line, without addresses in memory and paths."""
        messages = self._messages
        messages.seek(max(0, messages.seek(0, os.SEEK_END) - _MAX_MESSAGE))
        if messages.tell():
            messages.readline()  # The rest of one.
        text = messages.read().decode(errors="replace")
        text = text.replace(f"file:{self._path}: ", "")
        text = text.replace(f"file:{self._path}", self._ffmpeg.name)
        text = re.sub(r"\[[^]]* @ 0x[0-9a-f]+\] *", "", text)
        lines = (line.strip() for line in text.splitlines())
        return "; ".join(filter(None, dict.fromkeys(lines)))  # It repeats itself.

    def _close(self) -> None:
        self._process.kill()  # If nobody wanted the rest; otherwise it has ended.
        self._process.wait()
        self._output.close()
        self._messages.close()


def _read_header(output: IO[bytes]) -> tuple[int, int] | None:
    """Read a WAV header up to the samples; returns sample rate and channels, or None at the end."""
    form = None
    output.read(12)
    while len(head := output.read(8)) == 8:
        name, length = struct.unpack("<4sI", head)
        if name == b"data":
            return form
        content = output.read(length + length % 2)
        if name == b"fmt ":
            channels, rate = struct.unpack("<HI", content[2:8])
            form = (rate, channels)
    return None
