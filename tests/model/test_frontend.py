"""The frontend against NeMo's own preprocessor, and in pieces against itself."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from parakeet_stt.audio import as_samples
from parakeet_stt.model.frontend import LogMelStream
from tests.support.features import log_mel, normalize
from tests.support.recordings import GOLDEN

ARRAYS = np.load(GOLDEN / "frontend.npz")
SIGNALS = sorted(name.split(".")[0] for name in ARRAYS.files if name.endswith(".samples"))


def samples_of(signal: str) -> np.ndarray:
    return as_samples(ARRAYS[f"{signal}.samples"])


@pytest.mark.parametrize("bins", [80, 128])
@pytest.mark.parametrize("signal", SIGNALS)
def test_raw_log_mel_is_nemos(signal: str, bins: int) -> None:
    wanted = ARRAYS[f"{signal}.raw.{bins}"]
    found = log_mel(samples_of(signal), bins)
    assert found.shape == wanted.shape
    assert found.dtype == np.float32
    # NeMo computes in float32: where a bin holds next to nothing, its own rounding shows.
    loud = wanted > wanted.max() - 13
    np.testing.assert_allclose(found[loud], wanted[loud], atol=1e-4)
    np.testing.assert_allclose(found, wanted, atol=1e-3)


@pytest.mark.parametrize("bins", [80, 128])
@pytest.mark.parametrize("signal", SIGNALS)
def test_normalised_log_mel_is_nemos(signal: str, bins: int) -> None:
    wanted = ARRAYS[f"{signal}.normal.{bins}"]
    found = normalize(log_mel(samples_of(signal), bins))
    np.testing.assert_allclose(found, wanted, atol=2e-3)
    assert np.abs(found - wanted).mean() < 1e-4


@given(
    signal=st.sampled_from(SIGNALS),
    sizes=st.lists(st.integers(1, 4000), min_size=1, max_size=40),
)
def test_pieces_give_the_frames_of_feeding_at_once(signal: str, sizes: list[int]) -> None:
    samples = samples_of(signal)
    stream, found, place = LogMelStream(80), [], 0
    for size in sizes:
        found.append(stream.push(samples[place : place + size]))
        place += size
    found += [stream.push(samples[place:]), stream.finish()]
    np.testing.assert_array_equal(np.concatenate(found), log_mel(samples, 80))


def test_one_sample_at_a_time_gives_the_same_frames() -> None:
    samples = samples_of("short")[:1500]
    stream = LogMelStream(80)
    found = [stream.push(samples[i : i + 1]) for i in range(len(samples))]
    found.append(stream.finish())
    np.testing.assert_array_equal(np.concatenate(found), log_mel(samples, 80))


@pytest.mark.parametrize("count", [0, 1, 159, 160, 161, 199, 200, 201, 319, 320, 48_000])
def test_there_is_a_frame_for_every_whole_hop(count: int) -> None:
    assert log_mel(np.zeros(count, np.float32), 80).shape == (count // 160, 80)


def test_bins_that_never_change_are_zero() -> None:
    assert not normalize(np.full((50, 80), -16.6, np.float32)).any()
