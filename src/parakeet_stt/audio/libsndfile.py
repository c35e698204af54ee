"""Decode the recordings inside a file with libsndfile."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
import soundfile
from loguru import logger

from parakeet_stt.audio.containers import Part, PartReader
from parakeet_stt.errors import AudioError

FORMATS = frozenset(
    {"WAV", "WAVEX", "RF64", "W64", "AIFF", "AU", "CAF", "NIST", "FLAC", "OGG", "MP3"}
)
"""Formats that are accepted, of those that libsndfile reads."""

ENCODINGS = frozenset(
    {"PCM_S8", "PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE", "ULAW", "ALAW"}
    | {"IMA_ADPCM", "MS_ADPCM", "GSM610", "ALAC_16", "ALAC_20", "ALAC_24", "ALAC_32"}
    | {"VORBIS", "OPUS", "MPEG_LAYER_I", "MPEG_LAYER_II", "MPEG_LAYER_III"}
)
"""Encodings of samples that are accepted."""

_UNKNOWN_FRAMES = 2**62  # libsndfile's largest number: a FLAC or Ogg file does not state a length.
_MAX_BLOCK = 2**22  # Samples of all channels.
_SKIP = 4096  # Frames; a FLAC block has no more by default.
_MAX_DAMAGE = 50  # Places in one recording.
_MAX_SEEKS = 10  # To get past one of them; each goes twice as far.


class UnsupportedError(Exception):
    """libsndfile cannot decode this, or it is not accepted; the message says why."""


class _Forward(soundfile.SoundFile):  # type: ignore[misc]
    """A file that is read from its beginning to its end.

    If it does not state its length, soundfile's seeking to where it has read to already fails.
    """

    def seekable(self) -> bool:
        return False


class Recording:
    """One recording inside a file.

    Args:
        file: The file.
        part: Where the recording is.
        name: What messages call the file.

    Attributes:
        rate: Sample rate, Hz.
        channels: Number of channels.
        frames: Its length by its header, or None if that does not state it.

    Raises:
        UnsupportedError: It cannot be decoded.
    """

    def __init__(self, file: BinaryIO, part: Part, name: str) -> None:
        self._file = file
        self._part = part
        self._name = name
        self._sound = self._open()
        self.rate: int = self._sound.samplerate
        self.channels: int = self._sound.channels
        known = part.states_length and self._sound.frames < _UNKNOWN_FRAMES
        self.frames: int | None = self._sound.frames if known else None

    def _open(self) -> Any:
        self._reader = PartReader(self._file, self._part)
        try:
            sound = _Forward(self._reader)
        except soundfile.LibsndfileError as error:
            raise UnsupportedError(error.error_string) from error
        if sound.format not in FORMATS or sound.subtype not in ENCODINGS:
            raise UnsupportedError(f"{sound.format_info}, {sound.subtype_info}, is not accepted.")
        return sound

    def blocks(self, seconds: float) -> Iterator[npt.NDArray[np.float32]]:
        """Its audio, ``float32 [frames, channels]``, at its own rate, past damage to its end.

        Args:
            seconds: Length of a block.

        Raises:
            AudioError: The file cannot be read, or is damaged in too many places.
        """
        size = max(1, min(int(self.rate * seconds), _MAX_BLOCK // self.channels))
        position, stuck = 0, False
        damage: list[int] = []  # Positions of errors.
        while True:
            # After an error, nothing tells how much was decoded: all but what is not a number.
            block = np.full((size, self.channels), np.nan, np.float32)
            try:
                count, failed = len(self._sound.read(out=block, always_2d=True)), False
            except soundfile.LibsndfileError:
                count, failed = int((~np.isnan(block[:, 0])).sum()), True
            if count:
                yield block[:count]
            position += count
            if failed and not self._reader.exhausted:
                damage.append(position)
                stuck = True
                if len(damage) > _MAX_DAMAGE:
                    raise AudioError(f"{self._name} is damaged in too many places")
            elif count:
                stuck = False
            elif stuck and not self._reader.exhausted:
                # FLAC: libsndfile does not get past an error. Silence takes the place of the gap.
                skipped = self._skip(position)
                yield np.zeros((skipped, self.channels), np.float32)
                position += skipped
                stuck = False
            else:
                break
        self._report(position, damage)

    def _skip(self, position: int) -> int:
        """Start anew behind a damaged place; returns how many frames that is."""
        for skipped in (_SKIP << seek for seek in range(_MAX_SEEKS)):
            if self.frames is not None and position + skipped >= self.frames:
                return self.frames - position
            self._sound.close()
            self._sound = self._open()
            try:
                self._sound.seek(position + skipped)
            except soundfile.LibsndfileError:
                continue
            return skipped
        raise AudioError(
            f"{self._name} is damaged at {position / self.rate:.1f} s: nothing behind that can be "
            f"decoded"
        )

    def _report(self, position: int, damage: list[int]) -> None:
        """Log what could not be decoded.

        Raises:
            AudioError: The file could not be read.
        """
        if self._reader.failure is not None:
            raise AudioError(f"{self._name} cannot be read: {self._reader.failure.strerror}")
        if damage:
            logger.warning(
                f"{self._name!r} is damaged at {damage[0] / self.rate:.1f} s: what cannot be "
                f"decoded is left out"
            )
        flac = self._sound.format == "FLAC"  # Of other formats, the number may be an estimate.
        if self._part.cut_off or (flac and self.frames is not None and position < self.frames):
            logger.warning(
                f"{self._name!r} is cut off at {position / self.rate:.1f} s: it states that it is "
                f"longer"
            )
