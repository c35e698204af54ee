"""Audio in the format of Pipecat's frames, which may change from one frame to the next."""

from __future__ import annotations

import numpy as np
import pytest
from pipecat.frames.frames import InputAudioRawFrame

from parakeet_stt.errors import AudioError
from parakeet_stt.pipecat.audio_input import AudioInput


def frame(rate: int, channels: int = 1, seconds: float = 0.1) -> InputAudioRawFrame:
    pcm = np.zeros(int(rate * seconds) * channels, "<i2").tobytes()
    return InputAudioRawFrame(pcm, rate, channels)


def received(audio: AudioInput, *frames: InputAudioRawFrame) -> int:
    """Samples that come out for these frames."""
    samples = 0
    for one in frames:
        audio.set_format(one, default_rate=0)
        samples += len(audio.convert(one.audio))
    return samples + len(audio.flush())


@pytest.mark.parametrize(("rate", "channels"), [(8_000, 1), (16_000, 2), (48_000, 1), (44_100, 2)])
def test_seconds_are_those_of_the_frames_own_format(rate: int, channels: int) -> None:
    audio, one = AudioInput(), frame(rate, channels)
    audio.set_format(one, default_rate=16_000)
    assert audio.seconds(one.audio) == pytest.approx(0.1)


def test_a_frame_without_a_rate_has_that_of_the_pipeline() -> None:
    audio, one = AudioInput(), frame(24_000)
    one.sample_rate = 0
    audio.set_format(one, default_rate=24_000)
    assert audio.seconds(one.audio) == pytest.approx(0.1)


def test_a_change_of_format_loses_no_audio() -> None:
    formats = [frame(48_000), frame(8_000, 2), frame(16_000), frame(44_100)]
    assert received(AudioInput(), *formats) == pytest.approx(4 * 1_600, abs=4)


def test_after_a_format_that_is_not_supported_the_audio_goes_on() -> None:
    audio = AudioInput()
    before = received(audio, frame(48_000))
    audio.set_format(frame(100, seconds=1), default_rate=0)
    with pytest.raises(AudioError, match="sample rate 100 Hz"):
        audio.convert(b"\0\0")
    assert before + received(audio, frame(48_000)) == pytest.approx(2 * 1_600, abs=2)


@pytest.mark.parametrize(("size", "channels"), [(3, 1), (6, 2)])
def test_an_incomplete_sample_is_refused_and_shifts_nothing(size: int, channels: int) -> None:
    audio, one = AudioInput(), frame(16_000, channels)
    audio.set_format(one, default_rate=0)
    with pytest.raises(AudioError, match=f"{size} bytes of audio: expected a multiple of"):
        audio.convert(bytes(size))
    ramp = np.repeat(np.arange(160, dtype="<i2"), channels)
    samples = np.concatenate((audio.convert(ramp.tobytes()), audio.flush()))
    assert np.array_equal(samples * 32_768, np.arange(160))


def test_nothing_of_before_a_reset_comes_after_it() -> None:
    audio = AudioInput()
    audio.set_format(frame(48_000), default_rate=0)
    audio.convert(frame(48_000).audio)
    audio.reset()
    assert not len(audio.flush())
