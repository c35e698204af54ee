"""What recordings under conditions lose: clicks, soft voices, long silence, chunks of any size.

``python -m benchmarks.conditions.recognition [--backend mlx] [--json FILE]``; about five minutes on
ONNX Runtime and an hour on MLX on two cores.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jiwer
import numpy as np

from parakeet_stt import Model, load_model
from parakeet_stt.audio import Samples
from tests.support.recordings import Recording, normalised, read_recordings

from .recordings import Case, clicks, fading, joined, long_silence, offset, softer_speaker
from .reference import streamed, untrimmed

Row = dict[str, Any]


def loud_sounds(model: Model, recordings: Sequence[Recording]) -> Iterator[Row]:
    """Word error rates beside those of the same audio with nothing left out."""
    for make in (clicks, softer_speaker, fading, offset):
        for condition, cases in _by_condition(make(recordings, np.random.default_rng(1))):
            texts = [normalised(case.text) for case in cases]
            heard = [normalised(model.transcribe(case.samples).text) for case in cases]
            whole = [normalised(untrimmed(model, case.samples)) for case in cases]
            yield {
                "condition": condition,
                "recordings": len(cases),
                "WER %": _wer(texts, heard),
                "WER %, nothing left out": _wer(texts, whole),
                "empty finals": sum(not text for text in heard),
                "last word missing": sum(map(_ends_earlier, heard, whole)),
            }


def silences(model: Model, recordings: Sequence[Recording]) -> Iterator[Row]:
    """Word error rates with long silence around sentences, and without it (0 s)."""
    cases = long_silence(recordings, np.random.default_rng(1))
    for condition, chosen in _by_condition(cases):
        texts = [normalised(case.text) for case in chosen]
        heard = [normalised(model.transcribe(case.samples).text) for case in chosen]
        yield {"condition": condition, "recordings": len(chosen), "WER %": _wer(texts, heard)}


def chunks(model: Model, recordings: Sequence[Recording]) -> Iterator[Row]:
    """Streams fed in random chunks beside ``transcribe()``."""
    random = np.random.default_rng(2)
    kinds: dict[str, list[Samples]] = {
        "recordings": [r.samples() for r in recordings],
        "joined to 30 to 180 s, wide and 4 kHz": list(joined(recordings, random)),
    }
    for condition, several in kinds.items():
        tokens = bits = streams = 0
        for samples in several:
            offline = model.transcribe(samples)
            for _ in range(3):
                final = streamed(model, samples, random)
                streams += 1
                tokens += [t.id for t in final.tokens] == [t.id for t in offline.tokens]
                bits += final == offline
        yield {
            "condition": condition,
            "streams": streams,
            "tokens as offline %": 100 * tokens / streams,
            "bit for bit %": 100 * bits / streams,
        }


TABLES: dict[str, Callable[[Model, Sequence[Recording]], Iterable[Row]]] = {
    "loud sounds": loud_sounds,
    "silence": silences,
    "chunks": chunks,
}


def _by_condition(cases: Iterable[Case]) -> Iterable[tuple[str, list[Case]]]:
    groups: dict[str, list[Case]] = {}
    for case in cases:
        groups.setdefault(case.condition, []).append(case)
    return groups.items()


def _wer(texts: list[str], heard: list[str]) -> float:
    return round(100 * jiwer.wer(texts, heard), 2)


def _ends_earlier(heard: str, whole: str) -> bool:
    """Whether the last word is missing, and not merely another one."""
    return bool(whole) and f"{whole} ".startswith(f"{heard} ") and heard != whole


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--backend", choices=("onnx", "mlx"), default="onnx")
    parser.add_argument("--every", type=int, default=1, help="only every n-th recording")
    parser.add_argument("--only", choices=tuple(TABLES), help="one of the tables")
    parser.add_argument("--json", type=Path, help="write the rows to this file as well")
    arguments = parser.parse_args()
    model = load_model("tiny", backend=arguments.backend)
    recordings = read_recordings()
    single = [r for r in recordings if r.set != "several"][:: arguments.every]
    results: dict[str, list[Row]] = {}
    for name, measure in TABLES.items():
        if arguments.only in (None, name):
            chosen = recordings[:: arguments.every] if name == "chunks" else single
            results[name] = list(measure(model, chosen))
            print(f"\n### {name.capitalize()}\n\n{_markdown(results[name])}")
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=1) + "\n")


def _markdown(rows: list[Row]) -> str:
    head = f"| {' | '.join(rows[0])} |\n|{'---|' * len(rows[0])}\n"
    return head + "\n".join(f"| {' | '.join(map(str, row.values()))} |" for row in rows)


if __name__ == "__main__":
    main()
