"""Measure the exported model on freshly made held-out speech, and write its model card.

    python -m training.evaluate --model src/parakeet_stt/data/tiny --json training/figures.json

Needs the package itself (``pip install .``), not torch. Another seed than that of ``tests/data``,
so the sentences are others; none was trained on (:func:`training.sentences.is_held_out`).
"""

from __future__ import annotations

import argparse
import json
import random
from pathlib import Path
from typing import Any

import jiwer
import numpy as np

from parakeet_stt import load_model
from training.data import noise
from training.recordings import held_out, record
from training.sentences import Sentences, normalise, vocabulary
from training.synthesise import RATE, known_voice, unknown_voice

CHOICES = (("onnx", "fp32"), ("mlx", "fp32"), ("mlx", "bf16"))
COUNTS = {"known": 300, "unknown": 300, "several": 80}
SILENT = 200

CARD = """# tiny

A Parakeet-TDT of {parameters:.2f} million parameters that hears synthetic voices say the
sentences of a voice agent's day. It comes with parakeet_stt so that everything runs and is tested
on any machine without a download. **It is no product**: it knows {words} words and has never heard
a human being. For real use take `mlx-community/parakeet-tdt-0.6b-v2` (the default) or another
Parakeet model.

## What it is

FastConformer, 128 wide, 6 layers, 4 heads, convolution kernel 9, 8x subsampling, relative
positions, batch norm; LSTM prediction network and joint of 128; 256 BPE pieces with capitals and
punctuation; durations 0 to 4. Frontend as in NeMo (80 mel bins). Weights are stored as bfloat16
values that float16 holds exactly too, so the MLX and the ONNX files are the same numbers.

- `config.json`: configuration for parakeet-mlx and, in the same file, for onnx-asr
- `model.safetensors`: weights in parakeet-mlx's format
- `encoder-model.onnx`, `decoder_joint-model.onnx`, `vocab.txt`: the same in onnx-asr's layout

## What it was made of

Sentences from templates and word salad (`training/sentences.py`), read by flite (kal, kal16, awb,
slt; BSD-like licences) and by espeak-ng (8 English bases, 25 variants; GPL), at varied speed and
pitch, placed in silence and noise, filtered and mixed. No recording of a person, no weights from
elsewhere. `training/README.md` says how to make it again.

## Figures

Word error rates (lower case, no punctuation) of greedy decoding on sentences that were never
trained on, freshly synthesised by `training/evaluate.py`; in brackets, with capitals and
punctuation.

| set | recordings | {choices} |
|---|---|{rule}|
{rows}

With white noise 10 dB below the speech, known voices: {noisy:.1%}. Of {silent} clips of silence
and noise of many kinds, {spoken} got any text. Worst of the unknown voices: {worst}.

## What it is not for

Transcribing people; words outside its vocabulary (they come out as the nearest words that it
knows); languages other than English; judging the accuracy of real Parakeet models.
"""


def make(kind: str, count: int) -> list[dict[str, Any]]:
    """Held-out recordings of one kind: ``samples`` float32, ``text`` and ``voice``."""
    choose = random.Random(f"{kind} evaluation")
    sentences = Sentences(choose.randrange(1 << 30), salad=0.05)
    made = []
    for number in range(count):
        draw = unknown_voice if kind == "unknown" or number % 3 == 2 else known_voice
        voice = (known_voice if kind == "known" else draw)(choose)
        many = 2 + number % 4 if kind == "several" else 1
        turns = [(held_out(sentences), choose.uniform(0.25, 1.4), voice) for _ in range(many)]
        audio, told = record(turns, choose, 10 ** (choose.uniform(-14, 0) / 20))
        made.append(
            {
                "samples": audio.astype(np.float32) / 32768,
                "text": " ".join(turn["text"] for turn in told),
                "voice": f"{voice.program} {voice.name}",
            }
        )
    return made


def errors(recordings: list[dict[str, Any]], heard: list[str]) -> dict[str, float]:
    """Word error rates, normalised and raw."""
    texts = [r["text"] for r in recordings]
    return {
        "wer": jiwer.wer([normalise(t) for t in texts], [normalise(h) for h in heard]),
        "raw": jiwer.wer(texts, heard),
    }


def silences() -> list[np.ndarray]:
    """Clips in which nothing is said: float32 [samples] each."""
    state = np.random.default_rng(99)
    clips = []
    for number in range(SILENT):
        samples = int(state.uniform(0.5, 12) * RATE)
        level = 0.0 if number % 10 == 0 else 10 ** (state.uniform(-90, -10) / 20)
        clips.append((noise(state, samples) * level).astype(np.float32))
    return clips


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--json", type=Path, required=True)
    arguments = parser.parse_args()
    sets = {kind: make(kind, count) for kind, count in COUNTS.items()}
    figures: dict[str, Any] = {"recordings": COUNTS, "wer": {}}
    heard: dict[str, list[str]] = {}
    for backend, precision in CHOICES:
        model = load_model(arguments.model, backend=backend, precision=precision)  # type: ignore[arg-type]
        for kind, recordings in sets.items():
            heard[kind] = [model.transcribe(r["samples"]).text for r in recordings]
            figures["wer"].setdefault(kind, {})[f"{backend} {precision}"] = errors(
                recordings, heard[kind]
            )
        print(backend, precision, json.dumps({k: figures["wer"][k] for k in sets}), flush=True)

    model = load_model(arguments.model, backend="onnx")
    heard["unknown"] = [model.transcribe(r["samples"]).text for r in sets["unknown"]]
    by_voice: dict[str, float] = {}
    for voice in sorted({r["voice"] for r in sets["unknown"]}):
        chosen = [i for i, r in enumerate(sets["unknown"]) if r["voice"] == voice]
        by_voice[voice] = errors(
            [sets["unknown"][i] for i in chosen], [heard["unknown"][i] for i in chosen]
        )["wer"]
    figures["unknown voices"] = by_voice
    state = np.random.default_rng(5)
    noisy = []
    for r in sets["known"]:
        level = np.sqrt((r["samples"] ** 2).mean()) * 10 ** (-10 / 20)
        white = state.normal(0, level, len(r["samples"])).astype(np.float32)
        noisy.append(model.transcribe(r["samples"] + white).text)
    figures["white noise 10 dB"] = errors(sets["known"], noisy)["wer"]
    figures["text on silence and noise"] = sum(bool(model.transcribe(c).text) for c in silences())

    arguments.json.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    names = [f"{b} {p}" for b, p in CHOICES]
    rows = [
        f"| {kind} | {COUNTS[kind]} | "
        + " | ".join(f"{cells[n]['wer']:.2%} ({cells[n]['raw']:.2%})" for n in names)
        + " |"
        for kind, cells in figures["wer"].items()
    ]
    worst = max(by_voice, key=lambda voice: by_voice[voice])
    card = CARD.format(
        parameters=_parameters(arguments.model / "model.safetensors") / 1e6,
        words=len(vocabulary()) + 24,
        choices=" | ".join(names),
        rule="---|" * (len(names) - 1) + "---",
        rows="\n".join(rows),
        noisy=figures["white noise 10 dB"],
        silent=SILENT,
        spoken=figures["text on silence and noise"] or "none",
        worst=f"{worst}, {by_voice[worst]:.1%}",
    )
    (arguments.model / "README.md").write_text(card, encoding="utf-8")


def _parameters(path: Path) -> int:
    """How many numbers a safetensors file holds, batch-norm statistics left out."""
    with open(path, "rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    header.pop("__metadata__", None)
    return sum(
        int(np.prod(entry["shape"])) for name, entry in header.items() if ".running_" not in name
    )


if __name__ == "__main__":
    main()
