"""Audio input: files, arrays and raw streams to ``float32 [samples]``, mono, 16 kHz.

The layers above receive only that; decoding, mixing and resampling happen here.
"""

from parakeet_stt.audio.conversion import Converter, Resampler
from parakeet_stt.audio.files import AudioFile, AudioSource, read_audio, read_blocks
from parakeet_stt.audio.raw import AudioDecoder
from parakeet_stt.audio.samples import SAMPLE_RATE, Samples, as_samples

__all__ = [
    "SAMPLE_RATE",
    "AudioDecoder",
    "AudioFile",
    "AudioSource",
    "Converter",
    "Resampler",
    "Samples",
    "as_samples",
    "read_audio",
    "read_blocks",
]
