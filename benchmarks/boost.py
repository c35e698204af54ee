"""``python -m benchmarks boost``: what boosting phrases gains and what it costs.

Names, places, weekdays and months are the rare words. Each recording is heard with those that it
says, alone and among others, and with others only; clean, and in white noise, where the model
misses more of them.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import jiwer
import numpy as np
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from parakeet_stt.audio import Samples
from parakeet_stt.bench.report import machine, write_json
from parakeet_stt.model.loading import load_model
from parakeet_stt.model.model import Model
from parakeet_stt.settings import DEFAULT_BOOST, ParakeetSettings
from tests.support.recordings import Recording, normalised, read_recordings

WEIGHTS = (DEFAULT_BOOST, 2 * DEFAULT_BOOST)

NOISES = {0.0: 1, 0.005: 3, 0.01: 3}
"""Standard deviation of the noise that is added, and how often each recording is heard in it."""

_OTHERS = """
Nadia Omar Elena Victor Sofia Marcus Hannah Oliver Priya Daniel Amelia Samuel Henry Thomas Laura
Peter Nina Rosa Ingrid Hugo Leah Simon Vera Martin Adam Fiona Gloria Patrick Vincent Wanda Zachary
Charlotte Carter Foster Hughes Morgan Russell Sullivan Turner Watson Coleman Fisher Harrison Jenkins
Kennedy Lawson Mitchell Newton Patterson Berlin Boston Denver Toronto Vienna Sydney Houston Atlanta
Miami Helsinki February March April June July August September December jacket umbrella wallet
pillow mirror pencil package guitar helmet bracelet towel candle basket hammer battery envelope
telescope necklace lantern curtain doorbell keyboard dishwasher pharmacy stadium cathedral castle
dentist lawyer plumber carpenter librarian surgeon parrot hamster monkey penguin dolphin Kubernetes
Pipecat Lovelace Zanzibar Nguyen Ljubljana Siobhan Postgres Terraform Grafana Wojciech Reykjavik
""".split()
"""What else somebody may expect: words that the bundled model knows, and some that it does not."""


@dataclass(frozen=True)
class Figures:
    """What was heard of the recordings in one kind of noise, with one kind of list.

    Attributes:
        noise: Standard deviation of the noise.
        phrases: What was boosted.
        weight: The phrases' weight.
        said: How many names were said.
        found: How many of them were written.
        words: How many other words were said.
        errors: Word errors apart from names that were said: what else got worse, or better.
        alarms: How often a phrase of the list was written where something else was said.
    """

    noise: float
    phrases: str
    weight: float
    said: int
    found: int
    words: int
    errors: int
    alarms: int


def names(text: str) -> list[str]:
    """The words of a text that are written with a capital though no sentence begins there."""
    words = text.split()
    return [
        word.strip(".,?!")
        for before, word in itertools.pairwise(words)
        if before[-1] not in ".?!" and word[0].isupper() and word.strip(".,?!")[1:].isalpha()
    ]


def lists(recordings: Sequence[Recording]) -> dict[str, list[list[str]]]:
    """The phrases to boost for each recording, by kind of list."""
    made: dict[str, list[list[str]]] = {
        kind: [] for kind in ("none", "said", "said + 20", "said + 100", "20 others", "100 others")
    }
    for index, recording in enumerate(recordings):
        spoken = set(normalised(recording.text).split())
        others = [word for word in _OTHERS if word.lower() not in spoken]
        others = random.Random(index).sample(others, 100)
        said = names(recording.text)
        made["none"].append([])
        made["said"].append(said)
        made["said + 20"].append(said + others[:20])
        made["said + 100"].append(said + others)
        made["20 others"].append(others[:20])
        made["100 others"].append(others)
    return made


def measure(
    model: Model,
    recordings: Sequence[Recording],
    phrases: Mapping[str, Sequence[Sequence[str]]],
    weight: float,
    noise: float,
    times: int,
) -> list[Figures]:
    """Hear every recording with every list.

    Args:
        model: The model.
        recordings: What it hears.
        phrases: As :func:`lists` makes them.
        weight: Of each phrase.
        noise: Standard deviation of the noise.
        times: How often each recording is heard, in other noise each time.
    """
    figures = {kind: Figures(noise, kind, weight, 0, 0, 0, 0, 0) for kind in phrases}
    for index, recording in enumerate(recordings):
        samples = recording.samples()
        for time in range(times):
            noisy = _with_noise(samples, noise, [index, time])
            for kind, chosen in phrases.items():
                text = model.transcribe(noisy, boost=dict.fromkeys(chosen[index], weight)).text
                figures[kind] = _counted(figures[kind], recording.text, text, chosen[index])
    return list(figures.values())


def _with_noise(samples: Samples, deviation: float, seed: list[int]) -> Samples:
    noise = np.random.default_rng(seed).standard_normal(len(samples))
    return (samples + deviation * noise).astype(np.float32)


def _counted(so_far: Figures, said: str, heard: str, phrases: Sequence[str]) -> Figures:
    """The figures with one more recording."""
    rare = {name.lower() for name in names(said)}
    listed = {phrase.lower() for phrase in phrases}
    aligned = jiwer.process_words(normalised(said), normalised(heard))
    reference, hypothesis = aligned.references[0], aligned.hypotheses[0]
    found = errors = alarms = 0
    for chunk in aligned.alignments[0]:
        meant = reference[chunk.ref_start_idx : chunk.ref_end_idx]
        written = hypothesis[chunk.hyp_start_idx : chunk.hyp_end_idx]
        if chunk.type == "equal":
            found += sum(word in rare for word in meant)
            continue
        alarms += sum(word in listed for word in written)
        # An insertion means nothing, and is an error of its own.
        errors += sum(word not in rare for word in meant) or (len(written) if not meant else 0)
    names_said = sum(word in rare for word in reference)
    return Figures(
        so_far.noise,
        so_far.phrases,
        so_far.weight,
        so_far.said + names_said,
        so_far.found + found,
        so_far.words + len(reference) - names_said,
        so_far.errors + errors,
        so_far.alarms + alarms,
    )


def run(
    settings: ParakeetSettings,
    folder: Path,
    limit: int | None,
    report: Path | None,
    console: Console,
) -> int:
    """Measure, print a table, and write it as JSON where that is wanted.

    Raises:
        ParakeetError: The model cannot be loaded, or the folder holds no recordings.
    """
    recordings = read_recordings(folder, limit)
    model = load_model(settings.model, backend=settings.backend, precision=settings.precision)
    phrases = lists(recordings)
    figures: list[Figures] = []
    with Progress(console=console, transient=True) as bar:
        for noise, weight in bar.track([*itertools.product(NOISES, WEIGHTS)], description="heard"):
            kinds = {k: v for k, v in phrases.items() if k != "none" or weight == WEIGHTS[0]}
            figures += measure(model, recordings, kinds, weight, noise, NOISES[noise])
    table = Table(
        "noise", "weight", "boosted", "names found", "other words", "false alarms", box=None
    )
    for row in figures:
        table.add_row(
            f"{row.noise:g}",
            "" if row.phrases == "none" else f"{row.weight:g}",
            row.phrases,
            f"{row.found} of {row.said}",
            f"{row.errors / row.words:.2%}",
            str(row.alarms),
        )
    out = Console()
    out.print(repr(model), markup=False)
    out.print(table)
    if report is not None:
        rows = [asdict(row) for row in figures]
        write_json(report, {"machine": machine(), "model": repr(model), "figures": rows})
    return 0
