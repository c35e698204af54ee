"""Audio at the edge: formats, rates, and what is refused."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from parakeet_stt.audio import Resampler, as_samples, pcm16, read_audio
from parakeet_stt.errors import AudioError


def tone(rate: int, seconds: float = 1.0) -> np.ndarray:
    return 0.5 * np.sin(2 * np.pi * 440 * np.arange(int(rate * seconds)) / rate).astype(np.float32)


@pytest.mark.parametrize("rate", [8_000, 16_000, 22_050, 24_000, 44_100, 48_000])
@settings(max_examples=10, deadline=None)
@given(sizes=st.lists(st.integers(1, 5_000), min_size=1, max_size=30))
def test_resampling_in_pieces_is_resampling_at_once(rate: int, sizes: list[int]) -> None:
    samples, resampler, found, place = tone(rate), Resampler(rate), [], 0
    for size in sizes:
        found.append(resampler(samples[place : place + size]))
        place += size
    found += [resampler(samples[place:]), resampler.flush()]
    whole = np.concatenate(found)
    assert abs(len(whole) - 16_000) <= 2
    wanted = tone(16_000)
    middle = slice(1_000, 15_000)
    np.testing.assert_allclose(whole[middle], wanted[middle], atol=2e-3)


def test_channels_are_averaged() -> None:
    left_right = np.array([[100, 300], [-200, 0]], "<i2")
    np.testing.assert_allclose(pcm16(left_right.tobytes(), 2) * 32768, [200, -100])


@pytest.mark.parametrize(("data", "channels"), [(b"\0", 1), (b"\0\0", 2), (b"\0\0", 0)])
def test_bytes_that_are_no_samples_are_refused(data: bytes, channels: int) -> None:
    with pytest.raises(AudioError):
        pcm16(data, channels)


def test_int16_samples_are_scaled() -> None:
    np.testing.assert_array_equal(as_samples(np.array([16384], np.int16)), [np.float32(0.5)])


@pytest.mark.parametrize("rate", [0, 100, 1_000_000])
def test_rates_out_of_range_are_refused(rate: int) -> None:
    with pytest.raises(AudioError, match=f"sample rate {rate}"):
        Resampler(rate)


@pytest.mark.parametrize("ending", ["wav", "flac", "ogg", "mp3"])
def test_common_formats_are_read_at_any_rate_and_in_stereo(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"tone.{ending}"
    soundfile.write(path, np.stack([tone(44_100)] * 2, axis=1), 44_100)
    samples = read_audio(path)
    assert samples.dtype == np.float32
    assert abs(len(samples) - 16_000) < 2_500
    assert np.sqrt((samples**2).mean()) == pytest.approx(0.5 / np.sqrt(2), rel=0.1)


def test_other_formats_need_ffmpeg_and_say_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wav, path = tmp_path / "tone.wav", tmp_path / "tone.m4a"
    soundfile.write(wav, tone(16_000), 16_000)
    if shutil.which("ffmpeg"):
        subprocess.run(["ffmpeg", "-v", "error", "-i", wav, path], check=True)
        assert abs(len(read_audio(path)) - 16_000) < 2_500
    else:
        path.write_bytes(b"\0\0\0\x20ftypM4A ")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(AudioError, match="need ffmpeg, which is not installed"):
        read_audio(path)


def test_files_that_are_no_audio_or_not_there_are_refused(tmp_path: Path) -> None:
    with pytest.raises(AudioError, match="no such audio file"):
        read_audio(tmp_path / "nothing.wav")
    text = tmp_path / "text.wav"
    text.write_text("this is no audio")
    with pytest.raises(AudioError, match="cannot be decoded"):
        read_audio(text)
