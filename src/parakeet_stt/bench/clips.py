"""What ``bench server`` says to a server: recordings, or texts spoken by a TTS service.

A clip knows where its speech ends, because that is when a speaker begins to wait.
"""

from __future__ import annotations

import hashlib
import json
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import soxr

from parakeet_stt.audio import SAMPLE_RATE, Samples, read_audio
from parakeet_stt.bench.recordings import read_recordings, speech_bounds
from parakeet_stt.errors import AudioError, ConfigurationError, ParakeetError

STOP_SECONDS = 0.2
"""Of quiet at a clip's end: so long a voice agent's VAD waits before it asks for the final."""

CACHE = Path(".benchmark_cache")
"""Where spoken texts are kept."""

_TEXTS = (
    "The early train to the coast leaves from platform nine. Please keep your ticket ready.",
    "She painted the garden gate a bright shade of green. Her neighbours liked it very much.",
    "Our meeting has been moved to Thursday afternoon. Bring the signed contract with you.",
    "The river rose quickly after three days of rain. Most of the bridges are closed now.",
    "He forgot his umbrella in the library again. Somebody will surely bring it back tomorrow.",
    "Fresh bread and warm soup were waiting in the kitchen. Nobody had to go to bed hungry.",
    "The old clock in the tower is ten minutes slow. A watchmaker is going to repair it.",
    "Two engineers inspected the turbine before sunrise. They found a crack near the bearing.",
    "My sister is learning to play the violin. She practises for an hour every evening.",
    "The museum opens its new gallery next month. Visitors under twelve years pay nothing.",
)
"""Everybody in turn says another one, so that a text that ends up with somebody else shows."""

_TTS_SECONDS = 120.0
_TTS_AT_ONCE = 5


@dataclass(frozen=True)
class Clip:
    """Something that is said, cut off :data:`STOP_SECONDS` after its last word.

    Attributes:
        text: What is said.
        pcm: Little-endian 16-bit PCM at ``rate``.
        rate: Hz.
        start: Where speech begins, seconds.
        end: Where it ends, seconds.
    """

    text: str
    pcm: bytes
    rate: int
    start: float
    end: float

    @property
    def seconds(self) -> float:
        """Its length."""
        return len(self.pcm) / 2 / self.rate


def recorded(folder: Path | None, rate: int, longest: float) -> list[Clip]:
    """Clips of a folder's recordings.

    Args:
        folder: The folder.
        rate: Sample rate to make, Hz.
        longest: Recordings of more seconds are left out.

    Raises:
        ConfigurationError: There are no such recordings.
    """
    clips = [
        _clip(recording.text, recording.samples(), recording.start, recording.end, rate)
        for recording in read_recordings(folder)
        if recording.end <= longest
    ]
    if not clips:
        raise ConfigurationError(
            f"{folder} has no recordings of at most {longest:g} s; give more --seconds"
        )
    return clips


def spoken(url: str, count: int, rate: int) -> list[Clip]:
    """Clips of texts that a TTS service speaks, which is asked once for each.

    Args:
        url: Of a service that answers a POST of JSON with a ``text`` with audio, as Chatterbox
            does at ``/tts``.
        count: How many speakers there will be; no more clips are made than there are texts.
        rate: Sample rate to make, Hz.

    Raises:
        ParakeetError: The service is not there, refuses, or answers something else than speech.
    """
    texts = _TEXTS[:count]
    with ThreadPoolExecutor(_TTS_AT_ONCE) as pool:
        voices = list(pool.map(partial(_speak, url), texts))
    return [
        _clip(text, samples, *speech_bounds(samples), rate)
        for text, samples in zip(texts, voices, strict=True)
    ]


def _clip(text: str, samples: Samples, start: float, end: float, rate: int) -> Clip:
    length = round((end + STOP_SECONDS) * SAMPLE_RATE)
    samples = np.pad(samples[:length], (0, max(0, length - len(samples))))
    if rate != SAMPLE_RATE:
        samples = soxr.resample(samples, SAMPLE_RATE, rate)
    pcm = (np.clip(samples, -1, 1) * 32767).astype("<i2").tobytes()
    return Clip(text, pcm, rate, start, end)


def _speak(url: str, text: str) -> Samples:
    """One text's audio, from the cache where it is there."""
    path = CACHE / f"{hashlib.sha256(f'{url}|{text}'.encode()).hexdigest()[:16]}.wav"
    if not path.is_file():
        answer = _ask(url, text)
        path.parent.mkdir(exist_ok=True)
        new = path.with_suffix(".new")
        new.write_bytes(answer)
        try:
            read_audio(new)
        except AudioError as error:
            new.unlink()
            raise AudioError(f"--tts-url {url} answers no audio that can be read") from error
        new.rename(path)
    return read_audio(path)


def _ask(url: str, text: str) -> bytes:
    # What Chatterbox' server needs beside the text; others pass over it.
    voice = {"voice_mode": "predefined", "predefined_voice_id": "Emily.wav"}
    body = json.dumps({"text": text, "output_format": "wav", **voice}).encode()
    try:
        request = urllib.request.Request(url, body, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=_TTS_SECONDS) as response:
            answer: bytes = response.read()
    except urllib.error.HTTPError as error:
        said = error.read(300).decode(errors="replace").strip()
        raise ParakeetError(
            f"--tts-url {url} answers {error.code} {error.reason}: {said}"
        ) from error
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", error)
        raise ParakeetError(f"--tts-url {url} cannot be asked: {reason}") from error
    return answer
