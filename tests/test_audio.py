"""Audio at the edge: formats, rates, and what is refused."""

from __future__ import annotations

import os
import subprocess
import threading
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st

from parakeet_stt.audio import (
    AudioDecoder,
    AudioFile,
    Resampler,
    as_samples,
    read_audio,
)
from parakeet_stt.errors import AudioError


def tone(rate: int, seconds: float = 1.0) -> np.ndarray:
    return 0.5 * np.sin(2 * np.pi * 440 * np.arange(int(rate * seconds)) / rate).astype(np.float32)


@pytest.mark.parametrize("rate", [8_000, 16_000, 22_050, 24_000, 44_100, 48_000])
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
    left_right = np.array([[100, 300], [200, 0]] * 8000, "<i2")
    found = converted(left_right.tobytes(), 2) * 32768
    np.testing.assert_allclose(found, [200, 100] * 8000)


def converted(data: bytes, channels: int) -> np.ndarray:
    decode = AudioDecoder("pcm16", 16_000, channels)
    return np.concatenate([decode(data), decode.flush()])


@pytest.mark.parametrize("channels", [0, 17])
def test_numbers_of_channels_out_of_range_are_refused(channels: int) -> None:
    with pytest.raises(AudioError, match=f"{channels} channels: expected 1 to 16"):
        AudioDecoder("pcm16", 16_000, channels)


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
    path = tmp_path / "tone.m4a"
    path.write_bytes(b"\0\0\0\x20ftypM4A ")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(AudioError, match="need ffmpeg, which is not installed"):
        read_audio(path)


@pytest.mark.needs("ffmpeg")
def test_other_formats_are_read_with_ffmpeg(tmp_path: Path) -> None:
    wav, path = tmp_path / "tone.wav", tmp_path / "tone.m4a"
    soundfile.write(wav, tone(16_000), 16_000)
    subprocess.run(["ffmpeg", "-v", "error", "-i", wav, path], check=True)
    assert abs(len(read_audio(path)) - 16_000) < 2_500


def test_files_that_are_no_audio_or_not_there_are_refused(tmp_path: Path) -> None:
    with pytest.raises(AudioError, match="no such audio file"):
        read_audio(tmp_path / "nothing.wav")
    text = tmp_path / "text.wav"
    text.write_text("this is no audio")
    with pytest.raises(AudioError, match="cannot be decoded"):
        read_audio(text)


def test_a_flac_file_that_was_written_to_a_pipe_does_not_know_its_length(tmp_path: Path) -> None:
    path = tmp_path / "piped.flac"
    soundfile.write(path, tone(16_000, 25), 16_000)
    header = bytearray(path.read_bytes())
    header[21] &= 0xF0  # STREAMINFO's number of samples is 0 where it is not known.
    header[22:26] = bytes(4)
    path.write_bytes(header)
    assert AudioFile(path).duration() is None
    np.testing.assert_allclose(read_audio(path), tone(16_000, 25), atol=1e-4)


def test_a_length_that_is_claimed_is_not_believed(tmp_path: Path) -> None:
    path = tmp_path / "claims.flac"
    soundfile.write(path, tone(16_000, 25), 16_000)
    header = bytearray(path.read_bytes())
    header[21] |= 0x0F
    header[22:26] = b"\xff" * 4
    path.write_bytes(header)
    np.testing.assert_allclose(read_audio(path), tone(16_000, 25), atol=1e-4)


def test_empty_files_and_raw_audio_say_what_they_are(tmp_path: Path) -> None:
    (tmp_path / "empty.wav").touch()
    with pytest.raises(AudioError, match=r"empty\.wav is empty"):
        read_audio(tmp_path / "empty.wav")
    (tmp_path / "it.raw").write_bytes(bytes(1000))
    with pytest.raises(AudioError, match=r"it\.raw cannot be decoded"):
        read_audio(tmp_path / "it.raw")


@pytest.fixture(scope="module")
def movie(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five minutes that only ffmpeg can read."""
    folder = tmp_path_factory.mktemp("movie")
    wav, path = folder / "tone.wav", folder / "tone.mkv"
    soundfile.write(wav, tone(16_000, 300), 16_000)
    subprocess.run(["ffmpeg", "-v", "error", "-i", wav, "-c:a", "aac", path], check=True)
    return path


@pytest.mark.needs("ffmpeg")
def test_a_damaged_file_of_which_ffmpeg_has_much_to_say(movie: Path, tmp_path: Path) -> None:
    """More than a pipe holds, so that nobody may wait for it to be read."""
    data = bytearray(movie.read_bytes())
    for place in range(5_000, len(data), 40):
        data[place] ^= 0xFF
    path = tmp_path / "damaged.mkv"
    path.write_bytes(data)
    said = subprocess.run(
        ["ffmpeg", "-v", "error", "-i", path, "-f", "null", "-"], capture_output=True, check=False
    )
    assert len(said.stderr) > 2**16
    with pytest.raises(AudioError, match=r"damaged\.mkv cannot be decoded: [A-Z]") as refused:
        read_audio(path)
    assert len(str(refused.value)) < 700


def children() -> list[str]:
    """ffmpeg processes of this one."""
    found = subprocess.run(["pgrep", "-P", str(os.getpid()), "ffmpeg"], capture_output=True)
    return found.stdout.decode().split()


@pytest.mark.needs("ffmpeg")
def test_reading_is_stopped_from_another_thread_and_ffmpeg_with_it(movie: Path) -> None:
    file = AudioFile(movie, "a film")
    blocks = file.blocks(1.0)
    assert len(next(blocks)) == 16_000
    assert len(children()) == 1
    stopping = threading.Thread(target=file.stop)
    stopping.start()
    stopping.join()
    # Only what was in the pipe already: the film has 300 s.
    assert sum(map(len, blocks)) < 250 * 16_000
    assert not children()


@pytest.mark.needs("ffmpeg")
def test_ffmpeg_does_not_outlive_who_wanted_its_audio(movie: Path) -> None:
    file = AudioFile(movie)
    blocks = file.blocks(1.0)
    next(blocks)
    assert len(children()) == 1
    blocks.close()
    assert not children()
