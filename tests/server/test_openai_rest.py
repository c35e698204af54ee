"""OpenAI's REST with OpenAI's own library, Pipecat's service on top of it, and a fuzzer."""

from __future__ import annotations

import asyncio
import json
import zlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest
import schemathesis
import soundfile
from hypothesis import HealthCheck, given, settings, strategies
from openai import AsyncOpenAI
from pipecat.services.openai.stt import OpenAISTTService
from schemathesis import GenerationMode
from schemathesis.checks import CHECKS

from benchmarks.conditions.recordings import gain
from parakeet_stt import Transcript, load_model
from parakeet_stt.audio import SAMPLE_RATE
from parakeet_stt.bench.pipecat import hear
from parakeet_stt.model.catalog import BUNDLED
from tests.support.recordings import RECORDINGS, ROOT, normalised, spoken
from tests.support.serving import Served, eventually, serving
from tests.support.uploads import content, uploading

FILE = ROOT / "samples" / "dictation.flac"
KNOWN = [recording for recording in RECORDINGS if recording.set == "known"]

# Said softly, the model takes the "mathematics" in it for something else.
(MATHEMATICS,) = (r for r in RECORDINGS if r.set == "unknown" and r.path.stem == "018")


def offline() -> Transcript:
    return load_model("tiny", backend="onnx").transcribe(FILE)


@pytest.fixture
async def client(served: Served) -> AsyncIterator[AsyncOpenAI]:
    async with AsyncOpenAI(base_url=served.http + "/v1", api_key="none", max_retries=0) as client:
        yield client


async def ask(client: AsyncOpenAI, **options: Any) -> Any:
    return await client.audio.transcriptions.create(**{"file": FILE, "model": "any", **options})


@pytest.mark.parametrize("model", ["whisper-1", "gpt-4o-transcribe", "gpt-transcribe", "tiny"])
async def test_json_under_any_models_name(client: AsyncOpenAI, model: str) -> None:
    answer = await ask(client, model=model, language="en", prompt="Well,", temperature=0.2)
    assert answer.text == offline().text
    assert answer.usage.type == "duration"
    assert answer.usage.seconds == pytest.approx(14.586, abs=1e-3)
    assert answer.logprobs is None


async def test_the_path_without_v1(served: Served) -> None:
    async with AsyncOpenAI(base_url=served.http, api_key="none") as client:
        assert (await ask(client)).text == offline().text


async def test_text_and_subtitles(client: AsyncOpenAI) -> None:
    assert await ask(client, response_format="text") == offline().text + "\n"
    assert await ask(client, response_format="srt") == offline().to_srt()
    assert await ask(client, response_format="vtt") == offline().to_vtt()


async def test_verbose_json(client: AsyncOpenAI) -> None:
    answer = await ask(client, response_format="verbose_json")
    transcript = offline()
    assert (answer.text, answer.language) == (transcript.text, "english")
    assert answer.duration == answer.usage.seconds == pytest.approx(14.586, abs=1e-3)
    assert answer.words is None
    assert [s.text for s in answer.segments] == [s.text for s in transcript.sentences]
    assert [s.id for s in answer.segments] == list(range(len(answer.segments)))
    ids = [number for segment in answer.segments for number in segment.tokens]
    assert ids == [token.id for token in transcript.tokens]
    for found, wanted in zip(answer.segments, transcript.sentences, strict=True):
        assert (found.start, found.end) == (round(wanted.start, 3), round(wanted.end, 3))
        likely = [token.logprob for token in wanted.tokens if token.logprob is not None]
        assert found.avg_logprob == pytest.approx(sum(likely) / len(likely), abs=1e-4)
        assert -1 < found.avg_logprob < 0
        data = wanted.text.encode()
        ratio = len(data) / len(zlib.compress(data))
        assert found.compression_ratio == pytest.approx(ratio, abs=1e-4)
        assert found.no_speech_prob is None


async def test_words_with_and_without_segments(client: AsyncOpenAI) -> None:
    both = await ask(
        client, response_format="verbose_json", timestamp_granularities=["word", "segment"]
    )
    assert [w.word for w in both.words] == [w.text for w in offline().words]
    assert [w.start for w in both.words] == [round(w.start, 3) for w in offline().words]
    assert both.segments
    words = await ask(client, response_format="verbose_json", timestamp_granularities=["word"])
    assert words.words == both.words
    assert words.segments is None


async def test_granularities_are_known_without_their_brackets_and_other_fields_passed_over(
    served: Served,
) -> None:
    async with httpx2.AsyncClient(base_url=served.http) as client:
        answer = await client.post(
            "/audio/transcriptions",
            files={"file": ("a.flac", FILE.open("rb"))},
            data={
                "response_format": "verbose_json",
                "timestamp_granularities": ["word", "segment"],
                "hotwords": "of another server",
                "known_speaker_names[]": ["agent"],
            },
        )
    assert answer.status_code == 200
    assert {"words", "segments"} <= set(answer.json())


async def test_log_probabilities_of_every_token(client: AsyncOpenAI) -> None:
    answer = await ask(client, include=["logprobs"])
    assert "".join(entry.token for entry in answer.logprobs).strip() == answer.text
    assert [entry.logprob for entry in answer.logprobs] == [t.logprob for t in offline().tokens]
    assert all(entry.logprob <= 0 for entry in answer.logprobs)
    assert b"".join(bytes(map(int, e.bytes)) for e in answer.logprobs).decode().strip() == (
        answer.text
    )


async def test_a_stream_tells_a_short_file_at_once(client: AsyncOpenAI) -> None:
    events = [event async for event in await ask(client, stream=True, include=["logprobs"])]
    assert [event.type for event in events] == ["transcript.text.delta", "transcript.text.done"]
    assert events[0].delta == events[1].text == offline().text
    assert len(events[0].logprobs) == len(events[1].logprobs) == len(offline().tokens)


async def test_keywords_are_boosted(client: AsyncOpenAI, tmp_path: Path) -> None:
    soft = tmp_path / "soft.wav"
    soundfile.write(soft, gain(MATHEMATICS.samples(), -20), SAMPLE_RATE)
    assert "mathematics" not in (await ask(client, file=soft)).text
    answer = await ask(client, file=soft, keywords=["Ada Lovelace", "mathematics"])
    assert "mathematics" in answer.text


@pytest.mark.parametrize(
    "strategy", ["auto", {"type": "server_vad", "threshold": 0.6, "silence_duration_ms": 300}]
)
async def test_chunking_strategies(client: AsyncOpenAI, strategy: Any) -> None:
    answer = await ask(client, chunking_strategy=strategy)
    assert answer.text == offline().text


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"response_format": "diarized_json"}, "diarized_json is not supported"),
        ({"response_format": "mp3"}, "response_format: "),
        ({"timestamp_granularities": ["word"]}, "needs response_format verbose_json"),
        (
            {"timestamp_granularities": ["phone"], "response_format": "verbose_json"},
            "timestamp_granularities",
        ),
        ({"stream": True, "response_format": "srt"}, "stream: "),
        ({"include": ["logprobs"], "response_format": "vtt"}, "include: "),
        ({"include": ["mood"]}, "include"),
        ({"language": "de"}, "'de', but tiny transcribes 'en' only"),
        ({"temperature": 3}, "temperature: "),
        ({"chunking_strategy": "never"}, "Invalid JSON"),
        ({"chunking_strategy": {"type": "client_vad"}}, "server_vad"),
        ({"chunking_strategy": {"type": "server_vad", "threshold": 7}}, "threshold 7"),
        ({"keywords": ["x" * 300]}, "keywords"),
    ],
)
async def test_what_cannot_be_had_is_an_error_in_openais_shape(
    client: AsyncOpenAI, options: dict[str, Any], complaint: str
) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        await ask(client, **options)
    error = refused.value.body
    assert isinstance(error, dict)
    assert error["type"] == "invalid_request_error"
    assert complaint in error["message"]


async def test_a_form_without_a_file_and_a_body_that_is_no_form(served: Served) -> None:
    async with httpx2.AsyncClient(base_url=served.http + "/v1") as client:
        for body in ({"data": {"model": "any"}}, {"json": {"file": "a"}}, {"content": b"\xff"}):
            answer = await client.post("/audio/transcriptions", **body)
            assert answer.status_code == 400
            assert answer.json()["error"]["message"].startswith("file: ")


async def test_files_that_are_no_audio(client: AsyncOpenAI) -> None:
    with pytest.raises(openai.APIStatusError) as refused:
        await ask(client, file=("talk.mp3", b"no audio"))
    assert refused.value.status_code == 415
    assert "talk.mp3 cannot be decoded" in refused.value.message
    with pytest.raises(openai.APIStatusError) as refused:
        await ask(client, file=("talk.mp3", b"no audio"), stream=True)
    assert refused.value.status_code == 415


async def test_a_key_is_asked_for_in_openais_shape() -> None:
    with serving(api_keys="secret") as served:
        base = served.http + "/v1"
        async with AsyncOpenAI(base_url=base, api_key="wrong") as client:
            with pytest.raises(openai.AuthenticationError, match="a valid API key is needed"):
                await ask(client)
        async with AsyncOpenAI(base_url=base, api_key="secret") as client:
            assert (await ask(client)).text == offline().text


async def test_a_client_that_is_told_to_come_again_comes_again() -> None:
    with serving(max_requests=1) as served:
        base = served.http + "/v1"
        async with uploading(served):
            await eventually(lambda: served.server.admission.requests == 1)
            async with AsyncOpenAI(base_url=base, api_key="none", max_retries=0) as client:
                with pytest.raises(openai.RateLimitError) as refused:
                    await ask(client)
            assert refused.value.response.headers["Retry-After"] == "1"
            patient = AsyncOpenAI(base_url=base, api_key="none", max_retries=2)
            asking = asyncio.create_task(ask(patient))
            await eventually(
                lambda: served.metric("parakeet_rejected_total", reason="requests") == 2
            )
        assert (await asking).text == offline().text
        await patient.close()


async def test_what_goes_wrong_in_mid_stream_is_an_event(long_file: Path) -> None:
    unknown = bytearray(content(long_file))
    unknown[21] &= 0xF0  # FLAC's number of samples, so that only decoding tells that it is long.
    unknown[22:26] = bytes(4)
    with serving(max_file_seconds=120) as served:
        async with AsyncOpenAI(base_url=served.http + "/v1", api_key="none") as client:
            events = aiter(await ask(client, file=bytes(unknown), stream=True))
            assert (await anext(events)).delta
            with pytest.raises(openai.APIError, match="the maximum is 120"):
                await _drain(events)
        await served.settled()


async def _drain(events: Any) -> None:
    async for _ in events:
        pass


async def test_the_model_is_listed_under_its_own_name(client: AsyncOpenAI) -> None:
    (model,) = (await client.models.list()).data
    assert (model.id, model.object, model.owned_by) == ("tiny", "model", "parakeet_stt")
    assert await client.models.retrieve("tiny") == model
    with pytest.raises(openai.NotFoundError, match="'nvidia/other' is not served: 'tiny' is"):
        await client.models.retrieve("nvidia/other")


async def test_a_models_folder_is_not_shown(tmp_path: Path) -> None:
    folder = tmp_path / "my-parakeet"
    folder.symlink_to(BUNDLED["tiny"])
    with serving(model=str(folder)) as served:
        async with AsyncOpenAI(base_url=served.http + "/v1", api_key="none") as client:
            assert [model.id for model in (await client.models.list()).data] == ["my-parakeet"]
            # Of a model that is not known by its name, the client says the language.
            answer = await ask(client, response_format="verbose_json", language="fr")
            assert answer.language == "french"


@pytest.mark.realtime
async def test_pipecats_service_hears_every_turn_of_the_sample(served: Served) -> None:
    turns = [recording.text for recording in KNOWN[:2]]
    samples = spoken(2)[0]
    service = OpenAISTTService(
        api_key="none", base_url=served.http + "/v1", include_prob_metrics=True
    )
    heard = await hear(samples, service)  # type: ignore[arg-type]
    assert normalised(" ".join(heard.finals)) == normalised(" ".join(turns))
    assert len(heard.finals) >= len(turns)
    await served.settled()


RECORDING = KNOWN[0].path.read_bytes()
FILES = ("/v1/audio/transcriptions", "/audio/transcriptions", "/transcribe")
OTHERS = ("/v1/models", "/v1/models/{model}", "/healthz", "/config", "/metrics")
VALID, WRONG = GenerationMode.POSITIVE, GenerationMode.NEGATIVE


@pytest.mark.parametrize(
    ("path", "method", "mode"),
    [
        *((path, "POST", mode) for path in FILES for mode in (VALID, WRONG)),
        *((path, "GET", VALID) for path in OTHERS),
    ],
)
def test_every_answer_is_as_documented(
    served: Served, path: str, method: str, mode: GenerationMode
) -> None:
    """What is asked for as documented (mostly with a file that can be heard), and otherwise."""
    schema = schemathesis.openapi.from_url(served.http + "/openapi.json")
    operation = schema[path][method]
    statuses = set()
    # What fits the description need not be audio, and what is audio is no text.
    unfit = ["positive_data_acceptance"] + ["negative_data_rejection"] * (mode is VALID)

    @settings(suppress_health_check=list(HealthCheck))
    @given(case=operation.as_strategy(generation_mode=mode), audible=strategies.integers(0, 3))
    def ask_for(case: schemathesis.Case, audible: int) -> None:
        if audible and mode is VALID and path in FILES:
            # The description cannot say what audio is, nor which texts name a language.
            body: dict[str, Any] = case.body  # type: ignore[assignment]
            kept = {k: v for k, v in body.items() if k not in ("language", "chunking_strategy")}
            case.body = {**kept, "file": RECORDING}  # type: ignore[dict-item]
        answer = case.call_and_validate(excluded_checks=CHECKS.get_by_names(unfit))  # type: ignore[arg-type]
        statuses.add(answer.status_code)
        assert answer.status_code < 500
        if case.method == method:
            assert str(answer.status_code) in operation.definition.raw["responses"]

    ask_for()
    if mode is VALID and path in FILES:
        assert {200, 415} <= statuses


def test_the_description_names_fields_formats_and_errors(served: Served) -> None:
    document = json.loads(served_document(served))
    for path in ("/v1/audio/transcriptions", "/audio/transcriptions", "/transcribe"):
        operation = document["paths"][path]["post"]
        answers = operation["responses"]
        wanted = {"200", "400", "401", "408", "413", "415", "429", "500", "503", "504"}
        assert wanted <= set(answers)
        assert ("422" in answers) == (path == "/transcribe")
        (kind,) = operation["requestBody"]["content"]
        assert kind == "multipart/form-data"
    formats = document["paths"]["/v1/audio/transcriptions"]["post"]["responses"]["200"]["content"]
    assert set(formats) == {
        "application/json",
        "text/plain",
        "application/x-subrip",
        "text/vtt",
        "text/event-stream",
    }


def served_document(served: Served) -> str:
    return httpx2.get(served.http + "/openapi.json").text
