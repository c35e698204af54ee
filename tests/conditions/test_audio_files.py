"""Audio files as users have them: piped, joined, cut off, damaged, misnamed, oddly mixed."""

from __future__ import annotations

import asyncio
import contextlib
import io
import struct
import subprocess
import sys
from functools import partial
from pathlib import Path

import httpx2
import numpy as np
import pytest
import soundfile
import soxr
from hypothesis import given
from hypothesis import strategies as st
from pipecat.frames.frames import (
    InputAudioRawFrame,
    TranscriptionFrame,
    VADUserStartedSpeakingFrame,
    VADUserStoppedSpeakingFrame,
)
from pipecat.tests.utils import run_test
from websockets.asyncio.client import connect

from parakeet_stt import Model, ParakeetSTTService, load_model
from parakeet_stt.audio import SAMPLE_RATE, AudioDecoder, AudioFile, read_audio
from parakeet_stt.errors import AudioError
from tests.support.recordings import RECORDINGS
from tests.support.serving import PATIENCE, Served

QUESTION, WEATHER = RECORDINGS[1], RECORDINGS[3]
SPEECH = QUESTION.samples()[:-1]  # An even number.
UNKNOWN = b"\xff\xff\xff\xff"


def encode(
    samples: np.ndarray,
    form: str,
    encoding: str | None = None,
    rate: int = SAMPLE_RATE,
    **more: str,
) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, samples, rate, format=form, subtype=encoding, **more)
    return file.getvalue()


def patched(data: bytes, mark: bytes, offset: int, value: bytes) -> bytes:
    """Overwrite what is ``offset`` bytes behind the start of a mark."""
    place = data.index(mark) + offset
    return data[:place] + value + data[place + len(value) :]


def ffmpeg(*arguments: str | Path) -> None:
    subprocess.run(["ffmpeg", "-y", "-v", "error", *map(str, arguments)], check=True)


async def post(served: Served, data: bytes, name: str = "it") -> httpx2.Response:
    async with httpx2.AsyncClient(base_url=served.http, timeout=PATIENCE) as client:
        return await client.post("/transcribe", files={"file": (name, data)})


@pytest.fixture(scope="module")
def tiny() -> Model:
    return load_model("tiny", backend="onnx")


WAV = encode(SPEECH, "WAV")
PIPED = {
    "wav, length 0": patched(WAV, b"data", 4, bytes(4)),
    "wav, every length 0": patched(patched(WAV, b"data", 4, bytes(4)), b"RIFF", 4, bytes(4)),
    "wav of ffmpeg": patched(patched(WAV, b"data", 4, UNKNOWN), b"RIFF", 4, UNKNOWN),
    "wav of sox": patched(WAV, b"data", 4, struct.pack("<I", 0x7FFFFFFF - 36)),
    "wav that was never completed": patched(WAV, b"data", 4, struct.pack("<I", 8000)),
    "float wav": patched(encode(SPEECH, "WAV", "FLOAT"), b"data", 4, bytes(4)),
    "mu-law wav": patched(encode(SPEECH, "WAV", "ULAW"), b"data", 4, bytes(4)),
    "ADPCM wav": patched(encode(SPEECH, "WAV", "MS_ADPCM"), b"data", 4, bytes(4)),
    "extensible wav": patched(encode(SPEECH, "WAVEX"), b"data", 4, bytes(4)),
    "big-endian wav": patched(encode(SPEECH, "WAV", endian="BIG"), b"data", 4, bytes(4)),
    "rf64": patched(encode(SPEECH, "RF64"), b"ds64", 8, bytes(24)),
    "rf64, all bits": patched(encode(SPEECH, "RF64"), b"ds64", 8, UNKNOWN * 6),
    "aiff": patched(patched(encode(SPEECH, "AIFF"), b"SSND", 4, bytes(4)), b"COMM", 10, bytes(4)),
    "aiff, 8": patched(
        patched(encode(SPEECH, "AIFF"), b"SSND", 4, struct.pack(">I", 8)), b"COMM", 10, bytes(4)
    ),
    "caf": patched(encode(SPEECH, "CAF"), b"data", 4, UNKNOWN * 2),
    "au": patched(encode(SPEECH, "AU"), b".snd", 8, UNKNOWN),
    "au, length 0": patched(encode(SPEECH, "AU"), b".snd", 8, bytes(4)),
}
WHOLE = {
    "float wav": encode(SPEECH, "WAV", "FLOAT"),
    "mu-law wav": encode(SPEECH, "WAV", "ULAW"),
    "ADPCM wav": encode(SPEECH, "WAV", "MS_ADPCM"),
}


@pytest.mark.parametrize("name", PIPED)
def test_a_file_from_a_program_that_wrote_to_a_pipe_is_read_to_its_end(
    name: str, warnings: list[str]
) -> None:
    np.testing.assert_array_equal(read_audio(PIPED[name]), read_audio(WHOLE.get(name, WAV)))
    assert not warnings


async def test_a_piped_wav_is_transcribed_by_the_server(served: Served) -> None:
    answer = await post(served, PIPED["wav, length 0"])
    assert (answer.status_code, answer.json()["text"]) == (200, QUESTION.text)


@pytest.mark.needs("ffmpeg")
@pytest.mark.parametrize("form", ["wav", "aiff", "caf", "au", "mp3", "flac", "ogg", "rf64"])
def test_what_ffmpeg_writes_to_a_pipe_is_read_to_its_end(
    tiny: Model, tmp_path: Path, form: str
) -> None:
    (tmp_path / "it.wav").write_bytes(WAV)
    options = ["-rf64", "always", "-f", "wav"] if form == "rf64" else ["-f", form]
    command = ["ffmpeg", "-v", "error", "-i", str(tmp_path / "it.wav"), *options, "-"]
    piped = subprocess.run(command, capture_output=True, check=True).stdout
    assert tiny.transcribe(piped).text == QUESTION.text


@pytest.mark.parametrize("length", [0, 4])
def test_chunks_behind_the_samples_of_a_wav_are_no_samples(length: int) -> None:
    chunk = b"LIST" + struct.pack("<I", length) + b"INFO"[:length]
    np.testing.assert_array_equal(read_audio(WAV + chunk), read_audio(WAV))


JOINED = {
    "ogg": [encode(SPEECH, "OGG"), encode(WEATHER.samples(), "OGG")],
    "ogg of several kinds": [
        encode(SPEECH, "OGG", "OPUS"),
        encode(soxr.resample(np.stack([SPEECH, SPEECH], 1), 16_000, 44_100), "OGG", rate=44_100),
        encode(WEATHER.samples(), "OGG"),
    ],
    "mp3": [encode(SPEECH, "MP3"), encode(WEATHER.samples(), "MP3")],
    "flac": [encode(SPEECH, "FLAC"), encode(WEATHER.samples(), "FLAC")],
    "wav": [WAV, encode(WEATHER.samples(), "WAV", "FLOAT"), PIPED["wav, length 0"]],
    "aiff": [encode(SPEECH, "AIFF"), encode(WEATHER.samples(), "AIFF")],
    "caf": [encode(SPEECH, "CAF"), encode(WEATHER.samples(), "CAF")],
}


@pytest.mark.parametrize("name", JOINED)
def test_of_joined_files_all_are_read(name: str, tmp_path: Path, warnings: list[str]) -> None:
    path = tmp_path / "it"
    path.write_bytes(b"".join(JOINED[name]))
    parts = [read_audio(part) for part in JOINED[name]]
    np.testing.assert_array_equal(read_audio(path), np.concatenate(parts))
    assert not warnings
    if name != "wav":  # The last one does not state its length.
        length = sum(map(len, parts)) / SAMPLE_RATE
        assert AudioFile(path).duration() == pytest.approx(length, abs=0.01)


async def test_a_chained_ogg_is_transcribed_by_the_server_and_on_the_command_line(
    served: Served, tmp_path: Path
) -> None:
    path = tmp_path / "chained.ogg"
    path.write_bytes(b"".join(JOINED["ogg"]))
    text = f"{QUESTION.text} {WEATHER.text}"
    assert (await post(served, path.read_bytes())).json()["text"] == text
    command = [sys.executable, "-m", "parakeet_stt", "transcribe", "--model", "tiny", str(path)]
    run = partial(subprocess.run, command, capture_output=True, text=True, check=True)
    done = await asyncio.to_thread(run)
    assert done.stdout == text + "\n"


def test_a_file_of_countless_recordings_is_refused() -> None:
    with pytest.raises(AudioError, match="more than 10000 recordings"):
        read_audio(encode(np.zeros(10), "WAV") * 10_001)


FORMS = ["WAV", "RF64", "AIFF", "AU", "CAF", "FLAC", "OGG", "MP3"]


@pytest.mark.parametrize("form", FORMS)
def test_a_file_that_is_cut_off_gives_what_is_there_and_the_log_says_so(
    form: str, warnings: list[str]
) -> None:
    whole = encode(np.tile(SPEECH, 3), form)
    cut = read_audio(whole[: len(whole) * 2 // 3])
    assert len(cut) > len(SPEECH)
    full = read_audio(whole)
    np.testing.assert_allclose(cut[: len(SPEECH)], full[: len(SPEECH)], atol=1e-4)
    assert len(cut) < len(full)
    [line] = warnings
    assert "is cut off at" in line


@pytest.mark.parametrize("form", ["FLAC", "MP3", "OGG"])
@pytest.mark.parametrize("length", [1, 400, 4000])
async def test_what_is_before_and_behind_a_damaged_place_is_transcribed(
    served: Served, form: str, length: int, warnings: list[str]
) -> None:
    gap = np.random.default_rng(0).normal(0, 0.01, 5 * SAMPLE_RATE).astype(np.float32)
    data = bytearray(encode(np.concatenate([SPEECH, gap, WEATHER.samples()]), form))
    middle = len(data) // 2
    data[middle : middle + length] = bytes(byte ^ 0x5A for byte in data[middle : middle + length])
    answer = await post(served, bytes(data))
    text = answer.json()["text"]
    assert text.startswith(QUESTION.text)
    assert text[len(QUESTION.text) :].startswith(" What is the weather like in ")
    assert text.endswith(" today?")
    if form == "FLAC" or (form, length) == ("MP3", 4000):
        assert any("is damaged at" in line for line in warnings)


def test_behind_a_damaged_place_of_a_flac_file_times_are_right() -> None:
    data = bytearray(encode(np.tile(SPEECH, 3), "FLAC"))
    data[len(data) // 2] ^= 0xFF
    found = read_audio(bytes(data))
    assert len(found) == 3 * len(SPEECH)
    np.testing.assert_allclose(found[-len(SPEECH) :], SPEECH, atol=1e-4)


@pytest.mark.parametrize("form", FORMS)
@given(data=st.data())
def test_a_broken_file_is_read_or_refused(form: str, data: st.DataObject) -> None:
    broken = bytearray(encode(SPEECH[:16_000], form))
    for place in data.draw(st.lists(st.integers(0, len(broken) - 1), max_size=20)):
        broken[place] = data.draw(st.integers(0, 255))
    del broken[data.draw(st.integers(0, len(broken))) :]
    with contextlib.suppress(AudioError):
        samples = read_audio(bytes(broken))
        assert len(samples) > 0


@pytest.mark.parametrize("ending", ["gsm", "raw", "vox", "au", "mp3", "sd2", "snd", "ul"])
def test_a_name_does_not_decide_what_a_file_is(
    ending: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / f"it.{ending}"
    path.write_bytes(encode(SPEECH, "FLAC"))
    np.testing.assert_array_equal(read_audio(path), SPEECH)
    monkeypatch.setenv("PATH", str(tmp_path))
    path.write_bytes(b"\0\0\0\x20ftypM4A " + np.random.default_rng(0).bytes(20_000))
    with pytest.raises(AudioError, match="cannot be decoded"):
        read_audio(path)


@pytest.mark.parametrize("ending", ["raw", "pcm", "aac", "mp3", "gsm", "amr", "dts"])
@pytest.mark.parametrize("start", [b"", b"\xff\xfb\x90\x64", b"\xff\xf3\x84\xc4"])
def test_raw_pcm_is_refused_even_if_it_starts_like_an_mp3(
    start: bytes, ending: str, tmp_path: Path
) -> None:
    path = tmp_path / f"it.{ending}"
    for seed in range(4):
        noise = np.random.default_rng(seed).normal(0, 3000, 20_000).astype("<i2")
        path.write_bytes(start + noise.tobytes())
        with pytest.raises(AudioError, match="cannot be decoded"):
            read_audio(path)


@pytest.mark.needs("ffmpeg")
@pytest.mark.parametrize("ending", ["gsm", "raw", "vox", "au", "aac", "mp3", "s16le"])
def test_a_name_does_not_decide_what_ffmpeg_takes_a_file_for(
    tiny: Model, ending: str, tmp_path: Path
) -> None:
    (tmp_path / "it.wav").write_bytes(WAV)
    ffmpeg("-i", tmp_path / "it.wav", tmp_path / "it.m4a")
    path = (tmp_path / "it.m4a").rename(tmp_path / f"it.{ending}")
    assert tiny.transcribe(path).text == QUESTION.text


@pytest.mark.parametrize(
    "form",
    ["XI", "PAF", "SVX", "MAT4", "MAT5", "VOC", "AVR", "HTK", "IRCAM", "PVF", "MPC2K", "SDS"],
)
def test_formats_that_are_not_listed_are_refused(
    form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    path = tmp_path / "it"
    soundfile.write(path, SPEECH[:16_000], SAMPLE_RATE, format=form)
    with pytest.raises(AudioError, match="is not accepted"):
        read_audio(path)


async def test_a_file_without_audio_is_an_error_and_silence_is_not(
    served: Served, tiny: Model
) -> None:
    for form in ("WAV", "AIFF", "CAF", "AU", "OGG"):
        answer = await post(served, encode(np.zeros(0), form), "nothing")
        assert answer.status_code == 415
        assert answer.json()["detail"] == "nothing holds no audio"
    assert tiny.transcribe(encode(np.zeros(16_000), "WAV")).text == ""


@pytest.mark.parametrize("rate", [1, 3_999, 400_000])
async def test_absurd_rates_are_refused_whatever_length_they_make(
    served: Served, rate: int
) -> None:
    answer = await post(served, encode(np.tile(SPEECH, 20), "WAV", rate=rate), "slow.wav")
    assert answer.status_code == 415
    assert answer.json()["detail"].startswith(f"slow.wav: sample rate {rate} Hz: expected")


@pytest.mark.needs("ffmpeg")
def test_absurd_rates_are_refused_before_ffmpeg_resamples_them(tmp_path: Path) -> None:
    (tmp_path / "it.wav").write_bytes(encode(SPEECH, "WAV", rate=1))
    ffmpeg("-i", tmp_path / "it.wav", "-c:a", "copy", tmp_path / "it.mkv")
    with pytest.raises(AudioError, match="sample rate 1 Hz"):
        read_audio(tmp_path / "it.mkv")


def test_a_length_that_can_only_be_estimated_is_not_stated(tmp_path: Path) -> None:
    data = encode(np.tile(SPEECH, 3), "MP3")
    tag = next(data.index(mark) for mark in (b"Xing", b"Info") if mark in data)
    (tmp_path / "it.mp3").write_bytes(data[data.index(b"\xff\xf3", tag) :])
    assert AudioFile(tmp_path / "it.mp3").duration() is None


@pytest.mark.parametrize("form", ["WAV", "FLAC", "OGG"])
@pytest.mark.parametrize(
    "channels",
    [
        np.stack([SPEECH, -SPEECH], 1),
        np.stack([SPEECH, -0.8 * SPEECH], 1),
        np.stack([SPEECH + 0.02, 0.02 - SPEECH], 1),
        np.stack([SPEECH, -SPEECH, SPEECH, -SPEECH], 1),
        np.stack([0 * SPEECH, SPEECH, -SPEECH], 1),
    ],
    ids=["opposite", "weaker", "with an offset", "four channels", "a silent first one"],
)
def test_channels_in_opposite_phase_do_not_cancel_out(
    tiny: Model, form: str, channels: np.ndarray
) -> None:
    assert tiny.transcribe(encode(channels, form)).text == QUESTION.text


def test_a_speaker_in_each_channel_is_heard(tiny: Model) -> None:
    silence = np.zeros_like(SPEECH), np.zeros_like(WEATHER.samples())
    left = np.concatenate([SPEECH, silence[1]])
    right = np.concatenate([silence[0], WEATHER.samples()])
    text = tiny.transcribe(np.stack([left, right], 1)).text
    assert text == f"{QUESTION.text} {WEATHER.text}"


@given(st.lists(st.integers(1, 6_000), max_size=30), st.sampled_from([8_000, 16_000, 44_100]))
def test_how_channels_are_mixed_does_not_depend_on_the_size_of_pieces(
    sizes: list[int], rate: int
) -> None:
    rng = np.random.default_rng(0)
    voice = SPEECH[:16_000]
    other = np.repeat([-1, 1, -1, 0.2], 4_000) * voice + rng.normal(0, 0.01, 16_000)
    data = np.stack((voice, other), 1).astype("<f4").tobytes()
    whole, pieces = AudioDecoder("f32", rate, 2), AudioDecoder("f32", rate, 2)
    found, place = [], 0
    for size in sizes:
        found.append(pieces(data[place : place + size]))
        place += size
    found += [pieces(data[place:]), pieces.flush()]
    np.testing.assert_array_equal(
        np.concatenate(found), np.concatenate([whole(data), whole.flush()])
    )


def stereo_pcm(left: np.ndarray, right: np.ndarray) -> bytes:
    return (np.stack([left, right], 1) * 32767).astype("<i2").tobytes()


async def test_a_stream_in_opposite_phase_is_transcribed_by_the_server(served: Served) -> None:
    data = stereo_pcm(SPEECH, -SPEECH)
    async with connect(
        f"{served.ws}/v1/listen?encoding=linear16&sample_rate=16000&channels=2"
    ) as ws:
        for start in range(0, len(data), 3_001):
            await ws.send(data[start : start + 3_001])
        await ws.send('{"type": "CloseStream"}')
        messages = "".join([str(message) async for message in ws])
    assert QUESTION.text in messages


async def test_a_stream_in_opposite_phase_is_transcribed_in_a_pipeline() -> None:
    data = stereo_pcm(SPEECH, -SPEECH)
    frames = [InputAudioRawFrame(data[i : i + 1280], 16_000, 2) for i in range(0, len(data), 1280)]
    down, _ = await run_test(
        ParakeetSTTService(settings=ParakeetSTTService.Settings(model="tiny", backend="onnx")),
        frames_to_send=[
            *frames[:20],
            VADUserStartedSpeakingFrame(start_secs=0.2),
            *frames[20:],
            VADUserStoppedSpeakingFrame(stop_secs=0.2),
        ],
        start_timeout=PATIENCE,
    )
    assert [f.text for f in down if isinstance(f, TranscriptionFrame)] == [QUESTION.text]


@pytest.mark.needs("ffmpeg")
def test_a_film_in_opposite_phase_is_transcribed(tiny: Model, tmp_path: Path) -> None:
    (tmp_path / "it.wav").write_bytes(encode(np.stack([SPEECH, -SPEECH], 1), "WAV"))
    ffmpeg("-i", tmp_path / "it.wav", tmp_path / "it.m4a")
    assert tiny.transcribe(tmp_path / "it.m4a").text == QUESTION.text


@pytest.mark.needs("ffmpeg")
@pytest.mark.parametrize(("tracks", "text"), [("silent speech other", True), ("silent", False)])
def test_the_first_audio_track_with_sound_is_transcribed(
    tiny: Model, tmp_path: Path, tracks: str, text: bool
) -> None:
    late = np.concatenate([np.zeros(12 * SAMPLE_RATE), SPEECH])  # Sound behind the first block.
    content = {"silent": np.zeros_like(late), "speech": late, "other": WEATHER.samples()}
    inputs: list[str | Path] = []
    for name in tracks.split():
        (tmp_path / name).write_bytes(encode(content[name], "WAV"))
        inputs += ["-i", tmp_path / name]
    maps = [part for number in range(len(tracks.split())) for part in ("-map", f"{number}:a")]
    ffmpeg(*inputs, *maps, "-c:a", "aac", tmp_path / "it.mp4")
    assert tiny.transcribe(tmp_path / "it.mp4").text == (QUESTION.text if text else "")


@pytest.mark.needs("ffmpeg")
def test_a_film_that_is_cut_off_gives_what_is_there_and_the_log_says_so(
    tmp_path: Path, warnings: list[str]
) -> None:
    (tmp_path / "it.wav").write_bytes(encode(np.tile(SPEECH, 3), "WAV"))
    ffmpeg("-i", tmp_path / "it.wav", "-movflags", "+faststart", tmp_path / "it.m4a")
    data = (tmp_path / "it.m4a").read_bytes()
    assert len(SPEECH) < len(read_audio(data[: len(data) * 2 // 3])) < 3 * len(SPEECH)
    assert any("is damaged or cut off" in line for line in warnings)


@pytest.mark.parametrize("rate", [8_000, 22_050, 44_100, 48_000, np.int64(96_000)])
def test_an_array_of_any_rate_is_resampled(tiny: Model, rate: int) -> None:
    samples = soxr.resample(SPEECH, SAMPLE_RATE, rate)
    path = encode(samples, "WAV", "FLOAT", int(rate))
    assert tiny.transcribe(samples, sample_rate=rate).text == tiny.transcribe(path).text
    if rate > 8_000:
        assert tiny.transcribe(samples, sample_rate=rate).text == QUESTION.text


@pytest.mark.parametrize(
    "samples",
    [
        (SPEECH * 32767).astype(np.int16),
        (SPEECH * 2.0**31).astype(np.int32),
        (SPEECH * 127 + 128).astype(np.uint8),
        SPEECH.astype(np.float64),
        SPEECH.astype(np.float16),
        np.stack([SPEECH, -SPEECH], 1),
        (np.stack([SPEECH, SPEECH], 1) * 32767).astype(np.int16),
        SPEECH[:, None],
        SPEECH.tolist(),
        np.asfortranarray(np.stack([SPEECH, SPEECH], 1)),
    ],
    ids=lambda samples: f"{getattr(samples, 'dtype', 'list')}{np.shape(samples)}",
)
def test_arrays_of_every_usual_kind_are_transcribed(tiny: Model, samples: np.ndarray) -> None:
    assert tiny.transcribe(samples).text == QUESTION.text


@pytest.mark.parametrize(
    ("samples", "options", "complaint"),
    [
        (np.zeros((2, 16_000), np.float32), {}, r"shape \(2, 16000\): transpose"),
        (np.zeros((1, 1, 10), np.float32), {}, r"got shape \(1, 1, 10\)"),
        (np.zeros(10, np.int64), {}, "got int64"),
        (np.zeros(10, np.complex64), {}, "got complex64"),
        (np.zeros(10, bool), {}, "got bool"),
        (np.array([[0, np.nan]], np.float32), {}, "not finite"),
        (None, {}, "got shape"),
        (np.float32(1), {}, "got shape"),
        ([[1.0], [1.0, 2.0]], {}, "expected samples of shape"),
        (np.zeros(10, np.float32), {"sample_rate": 100}, "sample rate 100 Hz"),
        (np.zeros(10, np.float32), {"sample_rate": 16_000.5}, "sample rate 16000.5 Hz"),
        (np.zeros(10, np.float32), {"sample_rate": "16000"}, "sample rate 16000 Hz"),
        (WAV, {"sample_rate": 16_000}, "a file states its own"),
        (b"", {}, "is empty"),
        (SPEECH.tobytes(), {}, "the file cannot be decoded"),
        (io.StringIO("RIFF"), {}, "opened in binary mode"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_arrays_and_options_that_cannot_be_used_are_refused_and_the_next_are_not(
    tiny: Model, samples: object, options: dict[str, int], complaint: str
) -> None:
    with pytest.raises(AudioError, match=complaint):
        tiny.transcribe(samples, **options)  # type: ignore[arg-type]
    assert tiny.transcribe(SPEECH).text == QUESTION.text


def test_bytes_and_open_files_are_transcribed(tiny: Model, tmp_path: Path) -> None:
    for source in (WAV, bytearray(WAV), io.BytesIO(WAV)):
        assert tiny.transcribe(source).text == QUESTION.text
    with QUESTION.path.open("rb") as file:
        assert tiny.transcribe(file).text == QUESTION.text
        with pytest.raises(AudioError, match=r"001\.flac is empty"):
            tiny.transcribe(file)  # It has been read to its end.
    command = [sys.executable, "-c", _TRANSCRIBE_STDIN]
    done = subprocess.run(command, input=PIPED["wav, length 0"], capture_output=True, check=True)
    assert done.stdout.decode().strip() == QUESTION.text


_TRANSCRIBE_STDIN = """
import sys
from parakeet_stt import load_model
print(load_model("tiny", backend="onnx").transcribe(sys.stdin.buffer).text)
"""


def test_what_is_no_file_says_so(tiny: Model, tmp_path: Path) -> None:
    with pytest.raises(AudioError, match="is a folder or a device"):
        tiny.transcribe(tmp_path)
    with pytest.raises(AudioError, match="no such audio file"):
        tiny.transcribe(tmp_path / "nothing")
