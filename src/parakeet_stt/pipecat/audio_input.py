"""The service's audio: from the format of Pipecat's frames to the session's."""

from __future__ import annotations

import numpy as np
from pipecat.frames.frames import InputAudioRawFrame

from parakeet_stt.audio import SAMPLE_RATE, AudioDecoder, Samples
from parakeet_stt.errors import AudioError

_BYTES = 2  # Pipecat's audio frames are 16-bit PCM.


class AudioInput:
    """Converts 16-bit PCM of any format, frame by frame.

    The format may change from one frame to the next. Nothing is received before the first
    :meth:`set_format`.
    """

    def __init__(self) -> None:
        self._rate = 0
        self._channels = 1
        self._decoder: AudioDecoder | None = None
        self.frame_seconds = 0.0
        """Length of the newest converted audio."""

    def set_format(self, frame: InputAudioRawFrame, default_rate: int) -> None:
        """Set the format of the audio that comes next to that of a frame.

        Args:
            frame: The frame.
            default_rate: Sample rate of a frame that does not state its own, Hz.
        """
        self._rate = frame.sample_rate or default_rate
        self._channels = frame.num_channels or 1

    def seconds(self, audio: bytes | bytearray) -> float:
        """Return the length of audio in the current format."""
        return len(audio) / (_BYTES * self._channels * self._rate)

    def convert(self, audio: bytes) -> Samples:
        """Convert audio in the current format; returns ``float32 [samples]``, mono, 16 kHz.

        Raises:
            AudioError: Bytes that are no whole samples of each channel, or a format that is not
                supported.
        """
        size = _BYTES * self._channels
        if len(audio) % size:
            raise AudioError(
                f"{len(audio)} bytes of audio: expected a multiple of {size}, as 16-bit PCM with "
                f"{self._channels} channel(s) has"
            )
        rest = np.empty(0, np.float32)
        decoder = self._decoder
        if decoder is None or (decoder.rate, decoder.channels) != (self._rate, self._channels):
            decoder = AudioDecoder("pcm16", self._rate, self._channels)
            rest, self._decoder = self.flush(), decoder
        samples = decoder(audio)
        self.frame_seconds = len(samples) / SAMPLE_RATE
        return np.concatenate((rest, samples))

    def flush(self) -> Samples:
        """Return the samples that the resampler still holds."""
        return np.empty(0, np.float32) if self._decoder is None else self._decoder.flush()

    def reset(self) -> None:
        """Forget the audio that the resampler still holds."""
        self._decoder = None
