"""Where the recordings inside a file start and end.

libsndfile decodes one recording per file and believes the length in its header. Programs that
write to a pipe cannot fill that length in, and files that were joined (``cat``, chained Ogg) hold
several recordings. :func:`parts_of` returns each of them as a :class:`Part` with a true length.
"""

from __future__ import annotations

import io
import os
import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

from parakeet_stt.errors import AudioError


@dataclass(frozen=True)
class Part:
    """One recording inside a file.

    Attributes:
        start: Offset of its first byte.
        end: Offset behind its last byte.
        header: Bytes that replace a header with a wrong length; read before the file's own.
        cut_off: Whether the recording states that it is longer than the file.
        states_length: Whether the header states a length; if not, a decoder can only estimate it.
    """

    start: int
    end: int
    header: bytes = b""
    cut_off: bool = False
    states_length: bool = True


class PartReader(io.RawIOBase):
    """A part as a binary file of its own; it has no name that a decoder could guess from.

    Attributes:
        failure: The error that ended reading, since a decoder's callback cannot raise it.
    """

    def __init__(self, file: BinaryIO, part: Part) -> None:
        self._file = file
        self._part = part
        self._place = 0
        self._size = len(part.header) + part.end - part.start
        self.failure: OSError | None = None

    @property
    def exhausted(self) -> bool:
        """Whether every byte has been read."""
        return self._place >= self._size

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        """Read up to the length of ``buffer``; 0 at the end, or after a failure."""
        part, wanted = self._part, min(len(buffer), self._size - self._place)
        data = part.header[self._place : self._place + wanted]
        try:
            self._file.seek(part.start + self._place + len(data) - len(part.header))
            data += self._file.read(wanted - len(data))
        except OSError as error:
            self.failure = error
            return 0
        buffer[: len(data)] = data
        self._place += len(data)
        return len(data)

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Move to an offset within the part."""
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._place, os.SEEK_END: self._size}[whence]
        self._place = max(0, base + offset)
        return self._place

    def tell(self) -> int:
        """Offset within the part."""
        return self._place


def parts_of(file: BinaryIO) -> list[Part]:
    """Find the recordings in a file: at least one, or none if an MPEG stream has no frames.

    Raises:
        AudioError: More than :data:`MAX_PARTS` recordings.
    """
    size = file.seek(0, os.SEEK_END)
    start = _skip_id3(file, 0)
    magic = _read(file, start, 4)
    if magic in _LAYOUTS:
        parts = _chunked_parts(file, start, size)
    elif magic == b".snd":
        parts = _au_parts(file, size)
    elif magic == b"OggS":
        parts = _ogg_parts(file, size)
    elif magic == b"fLaC":
        parts = _flac_parts(file, size)
    elif re.match(_SYNC, magic) and magic[1] & 6:  # Layer 0 is AAC.
        parts = _mpeg_parts(file, size)
    else:
        return [Part(0, size)]
    found = []
    for part in parts:
        found.append(part)
        if len(found) > MAX_PARTS:
            raise AudioError(f"more than {MAX_PARTS} recordings in one file: split it")
    return found


MAX_PARTS = 10_000
"""Maximum number of recordings in one file."""

_MAX_CHUNKS = 10_000  # Visited per recording.
_MAX_KEPT_CHUNK = 2**16  # Bytes; larger chunks (pictures) are left out of a corrected header.
_UNKNOWN_LENGTH = 0x7FFF_0000  # sox states this and more, ffmpeg 0xFFFFFFFF.
_MAX_RIFF_DATA = 2**31


@dataclass(frozen=True)
class _Layout:
    """How a format divides a file into chunks.

    Attributes:
        magic: The file's first bytes, without 64-bit lengths.
        forms: The four bytes in front of the first chunk.
        head: A chunk's name and length.
        align: Chunks start at a multiple of this many bytes.
        data: Name of the chunk with the samples.
    """

    magic: bytes
    forms: tuple[bytes, ...]
    head: struct.Struct
    align: int
    data: bytes

    @property
    def first(self) -> int:
        """Offset of the first chunk."""
        return 8 if self.magic == b"caff" else 12


_WAV = _Layout(b"RIFF", (b"WAVE",), struct.Struct("<4sI"), 2, b"data")
_LAYOUTS = {
    b"RIFF": _WAV,
    b"RF64": _WAV,
    b"BW64": _WAV,
    b"RIFX": _Layout(b"RIFX", (b"WAVE",), struct.Struct(">4sI"), 2, b"data"),
    b"FORM": _Layout(b"FORM", (b"AIFF", b"AIFC"), struct.Struct(">4sI"), 2, b"SSND"),
    b"caff": _Layout(b"caff", (b"\0\1\0\0",), struct.Struct(">4sq"), 1, b"data"),
}


def _chunked_parts(file: BinaryIO, start: int, size: int) -> Iterator[Part]:
    """WAV, AIFF and CAF: the samples end where their chunk states, if chunks follow there.

    Otherwise the header was never completed, or the file is cut off: it ends with the file.
    """
    while start < size:
        magic = _read(file, start, 4)
        layout = _LAYOUTS[magic]
        kept, stated_64 = _read(file, start, layout.first), None
        if kept[-4:] not in layout.forms:
            yield Part(start, size)  # AVI, for example.
            return
        for name, length, body in _chunks(file, start + layout.first, size, layout):
            if name == layout.data:
                break
            if name == b"ds64":  # RF64: the lengths of the file and of its data, as 64 bits.
                stated_64 = struct.unpack("<QQ", _read(file, body, 16).ljust(16, b"\0"))[1]
            elif 0 <= length <= _MAX_KEPT_CHUNK:
                kept += layout.head.pack(name, length) + _read(file, body, length)
                kept += bytes(-length % layout.align)
        else:
            yield Part(start, size)  # The decoder says what is missing.
            return
        if length == 0xFFFF_FFFF and stated_64 is not None:
            length = stated_64
        following = _end_of_chunks(file, body + length, size, layout) if length >= 0 else None
        if following is not None:
            yield Part(start, following)
            start = following
            continue
        cut_off = size - body < length < _UNKNOWN_LENGTH
        yield from _corrected(kept, body, size, layout, cut_off)
        return


def _corrected(kept: bytes, body: int, size: int, layout: _Layout, cut_off: bool) -> Iterator[Part]:
    """The data from ``body`` to the end, in as many parts as the header's length requires."""
    if layout.magic == b"caff":
        yield Part(body, size, kept + layout.head.pack(layout.data, size - body), cut_off)
        return
    order = "<" if layout is _WAV else ">"
    block = kept[kept.find(b"fmt ") :][20:22].ljust(2, b"\0")  # Bytes of one frame or block.
    align = max(1, struct.unpack(f"{order}H", block)[0])
    most = _MAX_RIFF_DATA // align * align
    for start in range(body, size, most):
        end = min(start + most, size)
        data = layout.head.pack(layout.data, end - start)
        length = len(kept) - 8 + len(data) + end - start
        header = layout.head.pack(layout.magic, length) + kept[8:] + data
        yield Part(start, end, header, cut_off)


def _chunks(
    file: BinaryIO, place: int, size: int, layout: _Layout
) -> Iterator[tuple[bytes, int, int]]:
    """Name, stated length and offset of the content of each chunk from ``place`` on."""
    for _ in range(_MAX_CHUNKS):
        head = _read(file, place, layout.head.size)
        if len(head) < layout.head.size:
            return
        name, length = layout.head.unpack(head)
        body = place + layout.head.size
        yield name, length, body
        place = body + length + -length % layout.align
        if length < 0 or place >= size:
            return


def _end_of_chunks(file: BinaryIO, place: int, size: int, layout: _Layout) -> int | None:
    """Where the chunks behind the data end: at the file's end or at another recording.

    Returns None if something else than chunks is there.
    """
    if place > size:
        return None
    place += -place % layout.align
    if place >= size or _read(file, place, 4) in _LAYOUTS:
        return min(place, size)
    for name, length, body in _chunks(file, place, size, layout):
        if not re.fullmatch(rb"[ -~]{4}", name) or not 0 <= length <= size - body:
            return None
        place = body + length + -length % layout.align
        if place >= size or _read(file, place, 4) in _LAYOUTS:
            return min(place, size)
    return None


def _au_parts(file: BinaryIO, size: int) -> Iterator[Part]:
    """AU: everything behind the header is samples, whatever length it states."""
    offset, stated = struct.unpack(">II", _read(file, 4, 8).ljust(8, b"\0"))
    if offset + stated == size or not 24 <= offset <= min(size, _MAX_KEPT_CHUNK):
        yield Part(0, size)
        return
    header = _read(file, 0, 8) + b"\xff\xff\xff\xff" + _read(file, 12, offset - 12)
    yield Part(offset, size, header, size - offset < stated < _UNKNOWN_LENGTH)


def _ogg_parts(file: BinaryIO, size: int) -> Iterator[Part]:
    """Chained Ogg: a link starts with pages that begin a stream ("BOS"), one for each stream."""
    starts: list[int] = []
    behind = -1  # Offset behind the newest page that begins a stream.
    for place in _find(file, rb"OggS\x00\x02", 6, size):
        if place != behind:
            starts.append(place)
        head = _read(file, place, 27)
        sizes = _read(file, place + 27, head[26]) if len(head) == 27 else b""
        behind = place + 27 + len(sizes) + sum(sizes)
    starts[:1] = [0]
    for start, end in zip(starts, [*starts[1:], size], strict=True):
        yield Part(start, end, cut_off=end == size and not _ends_ogg(file, size))


def _ends_ogg(file: BinaryIO, size: int) -> bool:
    """Whether the last page is complete and marked as the end of a stream."""
    tail = _read(file, max(0, size - 2**17), 2**17)
    page = tail[tail.rfind(b"OggS\x00") :]
    if len(page) < 27 or not page[5] & 4:
        return False
    return len(page) >= 27 + page[26] + sum(page[27 : 27 + page[26]])


def _flac_parts(file: BinaryIO, size: int) -> Iterator[Part]:
    """Joined FLAC files: each starts with its mark and a STREAMINFO block of 34 bytes."""
    starts = list(_find(file, rb"fLaC[\x00\x80]\x00\x00\x22", 8, size))
    starts[:1] = [0]
    for start, end in zip(starts, [*starts[1:], size], strict=True):
        yield Part(start, end)


def _mpeg_parts(file: BinaryIO, size: int) -> Iterator[Part]:
    """Joined MP3 files: mpg123 stops after as many frames as the first one's Xing header states."""
    start, tries = 0, iter(range(_MAX_SYNCS))
    while (frame := _find_frame(file, start, size, tries)) is not None:
        stated = _xing_length(file, frame)
        end = size if stated is None else min(frame + stated, size)
        cut_off = stated is not None and frame + stated > size
        yield Part(0 if start == 0 else frame, end, b"", cut_off, stated is not None)
        start = end


_MAX_SYNCS = 200_000  # Tried per file.
_SYNC = rb"\xff[\xe2-\xef\xf2-\xff]"  # MPEG 1, 2 and 2.5.
_KBPS = {  # By whether this is MPEG 1, and by layer.
    (True, 1): (32, 64, 96, 128, 160, 192, 224, 256, 288, 320, 352, 384, 416, 448),
    (True, 2): (32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    (True, 3): (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (False, 1): (32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256),
    (False, 2): (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
    (False, 3): (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
_RATES = {3: (44_100, 48_000, 32_000), 2: (22_050, 24_000, 16_000), 0: (11_025, 12_000, 8_000)}


def _frame_length(head: bytes) -> int | None:
    """Bytes of the MPEG audio frame that starts with ``head``, or None if none does."""
    if len(head) < 4 or not re.match(_SYNC, head):
        return None
    version, layer = head[1] >> 3 & 3, 4 - (head[1] >> 1 & 3)
    rate, padding = head[2] >> 2 & 3, head[2] >> 1 & 1
    if version not in _RATES or layer == 4 or rate == 3 or not 0 < head[2] >> 4 < 15:
        return None
    bits = 1000 * _KBPS[version == 3, layer][(head[2] >> 4) - 1]
    if layer == 1:
        return (12 * bits // _RATES[version][rate] + padding) * 4
    samples = 72 if layer == 3 and version != 3 else 144
    return samples * bits // _RATES[version][rate] + padding


def _find_frame(file: BinaryIO, start: int, size: int, tries: Iterator[int]) -> int | None:
    """Offset of the next MPEG audio frame that another one, or the file's end, follows.

    Each place that looks like a frame takes one of ``tries``.
    """
    place = _skip_id3(file, start)
    while place < size:
        data = _read(file, place, 2**16 + 4)
        for sync in re.finditer(_SYNC, data[: 2**16 + 1]):
            if next(tries, None) is None:
                return None
            length = _frame_length(data[sync.start() : sync.start() + 4])
            if length is None:
                continue
            following = place + sync.start() + length
            if following == size or _frame_length(_read(file, following, 4)) is not None:
                return place + sync.start()
        place += 2**16
    return None


def _xing_length(file: BinaryIO, frame: int) -> int | None:
    """Bytes of an MP3 file by the Xing (or Info) header in its first frame, if it has one."""
    data = _read(file, frame, 64)
    found = re.search(rb"Xing|Info", data[:40])
    if found is None:
        return None
    flags, *fields = struct.unpack(">3I", data[found.end() : found.end() + 12].ljust(12, b"\0"))
    if not flags & 2:
        return None
    return fields[flags & 1] or None  # The number of frames, if stated, comes first.


def _skip_id3(file: BinaryIO, place: int) -> int:
    """Offset behind the ID3v2 tags at ``place``."""
    while (head := _read(file, place, 10))[:3] == b"ID3" and len(head) == 10:
        a, b, c, d = head[6:]
        place += 10 + (a << 21 | b << 14 | c << 7 | d) + (10 if head[5] & 16 else 0)
    return place


def _find(file: BinaryIO, pattern: bytes, length: int, size: int) -> Iterator[int]:
    """Offsets of a pattern that matches ``length`` bytes; one more than the maximum of parts."""
    count = 0
    for place in range(0, size, 2**20):
        data = _read(file, place, 2**20 + length - 1)
        for match in re.finditer(pattern, data):
            yield place + match.start()
            count += 1
            if count > MAX_PARTS:
                return


def _read(file: BinaryIO, place: int, length: int) -> bytes:
    file.seek(place)
    return file.read(length)
