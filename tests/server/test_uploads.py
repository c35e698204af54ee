"""Files of every kind and length over HTTP: what is heard, what is refused, and what is left."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import subprocess
import tempfile
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import httpx2
import jiwer
import numpy as np
import pytest
import soundfile
from loguru import logger

from parakeet_stt import load_model
from tests.support.recordings import RECORDINGS, ROOT, normalised, spoken
from tests.support.serving import PATIENCE, Served, eventually, serving
from tests.support.uploads import content, uploading

DICTATION = ROOT / "samples" / "dictation.flac"
CONVERSATION = ROOT / "samples" / "conversation.flac"
KNOWN = [recording for recording in RECORDINGS if recording.set == "known"]
TRANSCRIBE = "/transcribe"


def offline(file: Path) -> str:
    return load_model("tiny", backend="onnx").transcribe(file).text


async def post(
    served: Served, file: Path | bytes, name: str = "it", path: str = TRANSCRIBE, **fields: Any
) -> httpx2.Response:
    async with httpx2.AsyncClient(base_url=served.http, timeout=PATIENCE) as client:
        return await client.post(path, files={"file": (name, content(file))}, data=fields)


def left_in(folder: Path) -> list[Path]:
    return list(folder.iterdir())


def ffmpeg(*arguments: str | Path) -> None:
    subprocess.run(["ffmpeg", "-y", "-v", "error", *map(str, arguments)], check=True)


@pytest.fixture(scope="module")
def endless_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """So much that it takes a while."""
    path = tmp_path_factory.mktemp("endless") / "endless.flac"
    soundfile.write(path, np.tile(spoken(len(KNOWN))[0], 20), 16_000)
    return path


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where uploads are kept, so that a test can see what is left of them."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


@pytest.mark.parametrize("should_chunk", ["true", "false"])
@pytest.mark.parametrize("file", [DICTATION, CONVERSATION])
async def test_a_file_of_up_to_half_a_minute_says_what_transcribe_says(
    served: Served, file: Path, should_chunk: str
) -> None:
    answer = await post(served, file, should_chunk=should_chunk)
    assert answer.status_code == 200
    assert answer.json()["text"] == offline(file)


@pytest.mark.parametrize(
    ("ending", "subtype"),
    [
        ("wav", "PCM_U8"),
        ("wav", "PCM_16"),
        ("wav", "PCM_24"),
        ("wav", "PCM_32"),
        ("wav", "FLOAT"),
        ("wav", "DOUBLE"),
        ("wav", "ULAW"),
        ("wav", "ALAW"),
        ("aiff", "PCM_16"),
        ("flac", "PCM_24"),
        ("ogg", "VORBIS"),
        ("ogg", "OPUS"),
        ("mp3", "MPEG_LAYER_III"),
    ],
)
async def test_formats_that_need_no_ffmpeg(
    served: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ending: str, subtype: str
) -> None:
    samples, rate = soundfile.read(DICTATION)
    path = tmp_path / f"it.{ending}"
    soundfile.write(path, samples, rate, subtype)
    monkeypatch.setenv("PATH", str(tmp_path))
    answer = await post(served, path, "recording")  # What it is, the content says.
    assert answer.json()["text"] == offline(path)
    assert jiwer.wer(normalised(offline(DICTATION)), normalised(answer.json()["text"])) < 0.1


@pytest.mark.needs("ffmpeg")
@pytest.mark.parametrize("name", ["it.m4a", "it.webm", "it.mp4", "it.wma", "it.aac"])
async def test_formats_that_need_ffmpeg(served: Served, tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    video = ["-f", "lavfi", "-i", "color=c=black:s=64x64:r=5", "-shortest"]
    audio = ["-c:a", "libopus"] if name == "it.webm" else []
    ffmpeg("-i", DICTATION, *(video if name == "it.mp4" else []), *audio, path)
    answer = await post(served, path)
    assert answer.json()["text"] == offline(path)
    assert jiwer.wer(normalised(offline(DICTATION)), normalised(answer.json()["text"])) < 0.1


async def test_headers_that_do_not_tell_the_length_or_lie_about_it(
    served: Served, tmp_path: Path
) -> None:
    wav = tmp_path / "it.wav"
    soundfile.write(wav, *soundfile.read(DICTATION), "PCM_16")
    claims = bytearray(wav.read_bytes())
    size = claims.index(b"data") + 4
    claims[size : size + 4] = b"\xff\xff\xff\xff"
    assert (await post(served, bytes(claims))).json()["text"] == offline(DICTATION)
    # Bits 108 to 143 of FLAC's STREAMINFO are the number of samples; 0 is not known.
    unknown = bytearray(DICTATION.read_bytes())
    unknown[21] &= 0xF0
    unknown[22:26] = bytes(4)
    assert (await post(served, bytes(unknown))).json()["text"] == offline(DICTATION)
    claims = bytearray(unknown)
    claims[21] |= 0x0F
    answer = await post(served, bytes(claims), "huge.flac")
    assert answer.status_code == 413
    assert "huge.flac" in answer.json()["detail"]


async def events(served: Served, file: Path) -> AsyncIterator[dict[str, Any]]:
    async with (
        httpx2.AsyncClient(base_url=served.http, timeout=PATIENCE) as client,
        client.stream(
            "POST",
            "/v1/audio/transcriptions",
            files={"file": (file.name, content(file))},
            data={"stream": "true"},
        ) as answer,
    ):
        assert answer.status_code == 200, await answer.aread()
        async for line in answer.aiter_lines():
            if line:
                yield json.loads(line.removeprefix("data: "))


async def test_a_long_file_is_cut_at_silences_and_told_as_it_is_heard(
    served: Served, long_file: Path
) -> None:
    lines: list[str] = []
    sink = logger.add(lambda line: lines.append(str(line)), format="{message}")
    session, behind, deltas = None, 0.0, []
    async for event in events(served, long_file):
        for session in served.server.engine.sessions:
            behind = max(behind, session.backlog)
        deltas.append(event)
    logger.remove(sink)
    done = deltas.pop()
    assert "".join(delta["delta"] for delta in deltas) == done["text"]
    _, places = spoken(len(KNOWN))
    said = normalised(" ".join(text for _, text in places))
    assert jiwer.wer(said, normalised(done["text"])) < 0.05
    seconds = soundfile.info(long_file).duration
    # Segments of 20 s and a little more, each with whole sentences.
    assert seconds / 30 <= len(deltas) <= seconds / 20 + 1
    assert session is not None
    assert behind <= 35
    progress = [line for line in lines if f"of {seconds:.0f} s transcribed" in line]
    assert len(progress) == seconds // 60
    assert all(line.startswith("'long.flac': ") for line in progress)
    assert any(f"{seconds:.0f} s transcribed in " in line for line in lines)
    await served.settled()


async def test_times_are_those_of_the_file_and_never_go_back(
    served: Served, long_file: Path
) -> None:
    answer = (await post(served, long_file, include_timestamps="true")).json()
    words = answer["timestamps"]["words"]
    assert " ".join(word["text"] for word in words) == answer["text"]
    for kind in ("words", "segments", "chars"):
        parts = answer["timestamps"][kind]
        assert all(part["start"] <= part["end"] for part in parts)
        assert all(a["end"] <= b["start"] + 0.002 for a, b in itertools.pairwise(parts))
    _, places = spoken(len(KNOWN))
    near = 0
    for start, text in places:
        heard = [w["text"] for w in words if start <= w["start"] < start + len(text) * 0.15 + 1]
        near += normalised(text).split()[0] in normalised(" ".join(heard[:4])).split()
    assert near > 0.9 * len(places)


async def test_a_long_file_may_be_left_whole(served: Served, long_file: Path) -> None:
    answer = await post(served, long_file, should_chunk="false")
    assert answer.json()["text"] == offline(long_file)


async def test_files_are_heard_side_by_side(served: Served) -> None:
    answers = await asyncio.gather(*(post(served, recording.path) for recording in KNOWN[:12]))
    assert [a.json()["text"] for a in answers] == [offline(r.path) for r in KNOWN[:12]]
    await served.settled()


async def test_silence_is_no_text(served: Served, tmp_path: Path) -> None:
    path = tmp_path / "silence.wav"
    soundfile.write(path, np.zeros(40 * 16_000), 16_000)
    answer = await post(served, path, include_timestamps="true")
    nothing = {"words": [], "segments": [], "chars": []}
    assert answer.json() == {"text": "", "confidence": 0.0, "timestamps": nothing}


@pytest.mark.parametrize(
    ("make", "complaint"),
    [
        (lambda _: b"", "voice.bin is empty"),
        (lambda _: b"this is no audio", "voice.bin cannot be decoded"),
        (lambda _: np.random.default_rng(1).bytes(50_000), "voice.bin cannot be decoded"),
        (lambda _: bytes(DICTATION.read_bytes()[:60]), "voice.bin cannot be decoded"),
        (lambda _: b"RIFF\xff\xff\xff\xffWAVE", "voice.bin cannot be decoded"),
        (lambda path: floats(path, np.nan), "not finite"),
        (lambda path: floats(path, 1e30), "one of 1e+30"),
        (lambda path: many_channels(path), "20 channels"),
    ],
)
async def test_what_cannot_be_decoded_is_said_by_the_clients_name_for_it(
    served: Served, tmp_path: Path, make: Callable[[Path], bytes], complaint: str
) -> None:
    answer = await post(served, make(tmp_path), "voice.bin")
    assert answer.status_code == 415
    assert complaint in answer.json()["detail"]
    assert tempfile.gettempdir() not in answer.json()["detail"]
    await served.settled()


def floats(folder: Path, value: float) -> bytes:
    samples = np.zeros(16_000)
    samples[8_000] = value
    soundfile.write(folder / "floats.wav", samples, 16_000, "DOUBLE")
    return (folder / "floats.wav").read_bytes()


def many_channels(folder: Path) -> bytes:
    soundfile.write(folder / "many.wav", np.zeros((100, 20)), 16_000)
    return (folder / "many.wav").read_bytes()


@pytest.mark.needs("ffmpeg")
async def test_videos_without_audio_and_playlists_are_no_audio(
    served: Served, tmp_path: Path
) -> None:
    silent = tmp_path / "silent.mp4"
    ffmpeg("-f", "lavfi", "-i", "color=c=black:s=64x64:r=5", "-t", "1", silent)
    answer = await post(served, silent, "film.mp4")
    assert (answer.status_code, answer.json()["detail"]) == (
        415,
        "film.mp4 cannot be decoded: there is no audio in it",
    )
    secret = tmp_path / "secret.mp3"
    soundfile.write(secret, *soundfile.read(DICTATION))
    for playlist in (
        f"#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\n{secret}\n#EXT-X-ENDLIST\n",
        f"ffconcat version 1.0\nfile {secret}\n",
    ):
        answer = await post(served, playlist.encode())
        assert answer.status_code == 415
        assert "a playlist" in answer.json()["detail"]


async def test_without_ffmpeg_it_is_said_what_is_missing(
    served: Served, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    answer = await post(served, b"\0\0\0\x20ftypM4A ", "voice.m4a")
    assert answer.status_code == 415
    assert answer.json()["detail"].startswith("voice.m4a cannot be decoded: ")
    assert "need ffmpeg, which is not installed" in answer.json()["detail"]


async def test_an_upload_too_large_is_refused_with_and_without_its_length() -> None:
    with serving(max_upload_mb=0.1) as served:
        large = bytes(200_000)
        answer = await post(served, large)
        assert (answer.status_code, "0.1 MiB" in answer.json()["detail"]) == (413, True)

        async def pieces() -> AsyncIterator[bytes]:
            yield b'--x\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n'
            for _ in range(20):
                yield bytes(10_000)
            yield b"\r\n--x--\r\n"

        async with httpx2.AsyncClient(base_url=served.http) as client:
            kind = {"Content-Type": "multipart/form-data; boundary=x"}
            answer = await client.post(TRANSCRIBE, content=pieces(), headers=kind)
        assert (answer.status_code, "0.1 MiB" in answer.json()["detail"]) == (413, True)
        await served.settled()


async def test_too_much_audio_is_refused_by_the_header_or_once_it_was_decoded(
    tmp_path: Path,
) -> None:
    with serving(max_file_seconds=10) as served:
        answer = await post(served, DICTATION, "it.flac")
        assert answer.status_code == 413
        wanted = "it.flac has 15 seconds of audio: the maximum is 10"
        assert answer.json()["detail"] == wanted
        unknown = bytearray(DICTATION.read_bytes())
        unknown[21] &= 0xF0
        unknown[22:26] = bytes(4)
        answer = await post(served, bytes(unknown), "it.flac")
        assert answer.status_code == 413
        assert answer.json()["detail"].startswith("it.flac has more seconds of audio")
        assert (await post(served, KNOWN[0].path)).status_code == 200
        await served.settled()


async def test_a_file_that_takes_too_long_is_given_up(endless_file: Path, folder: Path) -> None:
    with serving(request_seconds=1.5) as served:
        answer = await post(served, endless_file)
        assert answer.status_code == 504
        assert answer.json()["detail"] == "the file was not transcribed within 1.5 seconds"
        await served.settled()
        assert not left_in(folder)


async def test_more_requests_than_may_be_are_refused_before_their_files_are_uploaded() -> None:
    with serving(max_requests=2) as served:
        async with uploading(served), uploading(served):
            await eventually(lambda: served.server.admission.requests == 2)
            async with uploading(served) as reader:
                head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
                assert head.startswith("http/1.1 429")
                assert "retry-after: 1" in head
            answer = await post(served, DICTATION)
            assert (answer.status_code, answer.headers["Retry-After"]) == (429, "1")
        await served.settled()
        assert (await post(served, DICTATION)).status_code == 200


async def test_an_upload_that_comes_to_a_standstill_gives_its_place_back() -> None:
    with serving(idle_seconds=0.2, max_requests=1) as served:
        async with uploading(served) as reader:
            head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
            assert head.startswith("http/1.1 408")
            assert "connection: close" in head
            assert (await reader.read()) == b'{"detail":"the upload has stalled"}'
        await served.settled()


async def test_a_client_that_goes_while_it_uploads_leaves_nothing(
    served: Served, folder: Path
) -> None:
    def gone() -> float:
        return served.metric("parakeet_requests_total", endpoint=TRANSCRIBE, status="499")

    before = gone()
    async with uploading(served):
        await eventually(lambda: len(left_in(folder)) == 1)
    await served.settled()
    assert not left_in(folder)
    await eventually(lambda: gone() == before + 1)


def children() -> list[str]:
    """ffmpeg processes of this one, the server's."""
    found = subprocess.run(["pgrep", "-P", str(os.getpid()), "ffmpeg"], capture_output=True)
    return found.stdout.decode().split()


@pytest.fixture(scope="module")
def endless_mkv(endless_file: Path) -> Path:
    path = endless_file.with_suffix(".mkv")
    ffmpeg("-i", endless_file, "-c", "copy", path)
    return path


@pytest.mark.needs("ffmpeg")
@pytest.mark.parametrize("streaming", ["true", "false"])
async def test_a_client_that_goes_in_mid_file_leaves_no_session_and_no_ffmpeg(
    served: Served, endless_mkv: Path, folder: Path, streaming: str
) -> None:
    asking = asyncio.create_task(
        post(served, endless_mkv, path="/v1/audio/transcriptions", stream=streaming)
    )
    await eventually(lambda: any(s.seconds > 60 for s in served.server.engine.sessions))
    assert len(children()) == 1
    asking.cancel()
    await asyncio.wait([asking])
    await served.settled()
    await eventually(lambda: not children())
    assert not left_in(folder)


async def test_a_file_that_is_not_done_when_the_server_ends_is_told_so(
    endless_file: Path, folder: Path
) -> None:
    with serving(drain_seconds=0.3) as served:
        asking = asyncio.create_task(post(served, endless_file))
        await eventually(lambda: any(s.seconds > 10 for s in served.server.engine.sessions))
        draining = served.start(served.server.drain())
        await eventually(lambda: served.server.admission.state.value == "draining")
        assert (await post(served, DICTATION)).status_code == 503
        await draining
        answer = await asking
        assert (answer.status_code, answer.headers["Retry-After"]) == (503, "5")
        assert answer.json()["detail"] == "the server is shutting down"
        await served.settled()
        assert not left_in(folder)


async def test_a_file_that_is_nearly_done_gets_its_answer_when_the_server_ends(
    long_file: Path,
) -> None:
    with serving(drain_seconds=PATIENCE) as served:
        asking = asyncio.create_task(post(served, long_file))
        await eventually(lambda: any(s.seconds > 10 for s in served.server.engine.sessions))
        await served.start(served.server.drain())
        answer = await asking
        assert answer.status_code == 200
        assert len(answer.json()["text"]) > 1000
