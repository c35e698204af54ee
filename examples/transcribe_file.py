"""Transcribe a file, first as a whole and then as a stream.

uv run examples/transcribe_file.py samples/dictation.flac
"""

import argparse

import soundfile

from parakeet_stt import load_model

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("file")
parser.add_argument("--model", default="tiny", help="for example parakeet-tdt-0.6b-v2")
arguments = parser.parse_args()

model = load_model(arguments.model)
transcript = model.transcribe(arguments.file)
for sentence in transcript.sentences:
    print(f"{sentence.start:6.2f} to {sentence.end:6.2f} s  {sentence.text}")

# A stream takes float32 samples at 16 kHz, mono, in chunks of any size.
samples, rate = soundfile.read(arguments.file, dtype="float32")
if rate != 16_000 or samples.ndim != 1:
    raise SystemExit("the second part needs a mono file at 16 kHz")
with model.transcribe_stream() as stream:
    for start in range(0, len(samples), 8_000):
        hypothesis = stream.add_audio(samples[start : start + 8_000])
        print(f"{start / rate:6.2f} s  {hypothesis.committed}|{hypothesis.tentative}")
    # The final equals the transcript of the whole file.
    assert stream.finish().text == transcript.text
