"""Transcribe the microphone, or a recording through the same code, until Ctrl-C.

uv run --extra mic examples/microphone.py
uv run examples/microphone.py --audio samples/dictation.flac
"""

import argparse
import queue
from collections.abc import Iterator

import numpy as np
import soundfile

from parakeet_stt import load_model


def microphone() -> Iterator[np.ndarray]:
    import sounddevice

    blocks: queue.Queue[np.ndarray] = queue.Queue()
    with sounddevice.InputStream(
        16_000, 3_200, channels=1, callback=lambda data, *_: blocks.put(data[:, 0].copy())
    ):
        while True:
            yield blocks.get()


parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--audio", help="a mono file at 16 kHz instead of the microphone")
parser.add_argument("--model", default="tiny", help="for example parakeet-tdt-0.6b-v2")
arguments = parser.parse_args()
file = arguments.audio
chunks = soundfile.blocks(file, 3_200, dtype="float32") if file else microphone()
with load_model(arguments.model).transcribe_stream() as stream:
    try:
        for chunk in chunks:
            print("\r" + stream.add_audio(chunk).text[-79:].ljust(79), end="", flush=True)
    except KeyboardInterrupt:
        pass
    print("\n" + stream.finish().text)
