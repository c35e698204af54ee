"""espeak-ng as a library, which tells when each word begins (the program does not)."""

from __future__ import annotations

import ctypes
import ctypes.util

import numpy as np
import soxr

from training.sentences import spoken
from training.synthesise import RATE, Voice

_RETRIEVAL, _CHARS_UTF8, _END, _WORD, _PLAIN_POSITION = 1, 1, 0, 1, 1
_RATE_PARAMETER, _PITCH_PARAMETER = 1, 3


class _Event(ctypes.Structure):
    _fields_ = (
        ("type", ctypes.c_int),
        ("identifier", ctypes.c_uint),
        ("text_position", ctypes.c_int),
        ("length", ctypes.c_int),
        ("audio_position", ctypes.c_int),  # Milliseconds.
        ("sample", ctypes.c_int),
        ("user_data", ctypes.c_void_p),
        ("id", ctypes.c_uint64),
    )


_CALLBACK = ctypes.CFUNCTYPE(
    ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.POINTER(_Event)
)


def say_with_words(text: str, voice: Voice) -> tuple[np.ndarray, list[float]]:
    """Synthesise a sentence; float32 [samples] at 16 kHz, and where its words begin, in seconds."""
    library = ctypes.CDLL(ctypes.util.find_library("espeak-ng") or "libespeak-ng.so.1")
    rate = library.espeak_Initialize(_RETRIEVAL, 0, None, 0)
    pieces: list[np.ndarray] = []
    starts: list[float] = []

    @_CALLBACK
    def heard(data, count, events):  # type: ignore[no-untyped-def]
        if data and count:
            pieces.append(np.ctypeslib.as_array(data, (count,)).copy())
        index = 0
        while events[index].type != _END:
            if events[index].type == _WORD:
                starts.append(events[index].audio_position / 1000)
            index += 1
        return 0

    library.espeak_SetSynthCallback(heard)
    library.espeak_SetVoiceByName(voice.name.encode())
    library.espeak_SetParameter(_RATE_PARAMETER, int(165 * voice.speed), 0)
    library.espeak_SetParameter(_PITCH_PARAMETER, int(50 * voice.pitch), 0)
    encoded = spoken(text).encode()
    library.espeak_Synth(encoded, len(encoded) + 1, 0, _PLAIN_POSITION, 0, _CHARS_UTF8, None, None)
    library.espeak_Synchronize()
    library.espeak_Terminate()
    samples = np.concatenate(pieces).astype(np.float32) / 32768
    return soxr.resample(samples, rate, RATE), starts
