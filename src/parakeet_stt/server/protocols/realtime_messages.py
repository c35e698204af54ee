"""Client events and session options of OpenAI's Realtime protocol, under OpenAI's own names.

Sessions are described in two forms: nested, since 2025, and flat, in the beta before. Unknown
fields are ignored.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal

import pydantic
from pydantic import BaseModel, Field

from parakeet_stt.audio import AudioDecoder
from parakeet_stt.server.messages import BadMessageError, Base64
from parakeet_stt.server.settings import ServerSettings
from parakeet_stt.settings import DEFAULT_BOOST

_SILENCES = {"low": 1200, "medium": 700, "auto": 700, "high": 400}
"""Milliseconds of silence that stand for a semantic VAD's eagerness: there is no semantic VAD."""

_ENCODINGS = {"audio/pcm": "pcm16", "audio/pcmu": "mulaw", "audio/pcma": "alaw"}
_BETA_FORMATS = {"audio/pcm": "pcm16", "audio/pcmu": "g711_ulaw", "audio/pcma": "g711_alaw"}
_PCM_RATE, _G711_RATE = 24_000, 8_000

_MIN_THRESHOLD, _MAX_THRESHOLD = 0.01, 0.99


class UnsupportedValueError(BadMessageError):
    """A valid request that this server does not support.

    Attributes:
        param: The field that is not supported.
    """

    def __init__(self, message: str, param: str) -> None:
        super().__init__(message)
        self.param = param


class AudioFormat(BaseModel):
    """Encoding of audio: 16-bit PCM, or G.711 at 8 kHz."""

    type: Literal["audio/pcm", "audio/pcmu", "audio/pcma"] = "audio/pcm"
    rate: int | None = Field(None, ge=4_000, le=384_000)

    def complete(self) -> AudioFormat:
        """Return the format with its default rate filled in."""
        if self.type != "audio/pcm":
            return AudioFormat(type=self.type)
        return AudioFormat(rate=self.rate or _PCM_RATE)

    def decoder(self) -> AudioDecoder:
        """Return a decoder for audio of this format."""
        return AudioDecoder(_ENCODINGS[self.type], self.rate or _G711_RATE)

    def describe(self) -> dict[str, Any]:
        """Return the fields for the client."""
        return self.model_dump(exclude_none=True)


class AudioTranscription(BaseModel):
    """Options of the transcription. Only keywords have an effect; the rest is sent back."""

    model: str | None = None
    language: str | None = None
    languages: list[str] | None = None
    prompt: str | None = None
    delay: str | None = None
    keywords: list[str] | None = Field(None, max_length=1000)

    @property
    def boost(self) -> dict[str, float]:
        """The keywords as phrases to boost, with their weights."""
        return {word: DEFAULT_BOOST for word in self.keywords or () if word.strip()}


class TurnDetection(BaseModel):
    """How the server detects turns."""

    type: Literal["server_vad", "semantic_vad"] = "server_vad"
    threshold: float | None = Field(None, ge=0, le=1)
    prefix_padding_ms: int | None = Field(None, ge=0, le=30_000)
    silence_duration_ms: int | None = Field(None, ge=0, le=60_000)
    eagerness: Literal["low", "medium", "high", "auto"] | None = None

    def complete(self, settings: ServerSettings) -> TurnDetection:
        """Return the options with the server's settings filled in."""
        threshold, prefix = self.threshold, self.prefix_padding_ms
        silence, eagerness = self.silence_duration_ms, None
        if self.type == "semantic_vad":
            eagerness = self.eagerness or "auto"
            silence = _SILENCES[eagerness]
        threshold = settings.vad_threshold if threshold is None else threshold
        return TurnDetection(
            type=self.type,
            threshold=min(max(threshold, _MIN_THRESHOLD), _MAX_THRESHOLD),
            prefix_padding_ms=settings.preroll_ms if prefix is None else prefix,
            silence_duration_ms=settings.vad_stop_ms if silence is None else silence,
            eagerness=eagerness,
        )

    def describe(self) -> dict[str, Any]:
        """Return the fields for the client."""
        return self.model_dump(exclude_none=True)


class AudioInput(BaseModel):
    """Options of a session's input audio, in the nested form."""

    format: AudioFormat | None = None
    transcription: AudioTranscription | None = None
    turn_detection: TurnDetection | None = None


class Audio(BaseModel):
    """Options of a session's audio, in the nested form."""

    input: AudioInput | None = None


class SessionConfig(BaseModel):
    """A client's description of a session, in either form. A null differs from a missing field."""

    type: str | None = None
    audio: Audio | None = None
    input_audio_format: Literal["pcm16", "g711_ulaw", "g711_alaw"] | None = None
    input_audio_transcription: AudioTranscription | None = None
    turn_detection: TurnDetection | None = None

    @property
    def nested(self) -> bool:
        """Whether it has fields that only the nested form has."""
        return bool({"type", "audio"} & self.model_fields_set)

    def given(self) -> dict[str, Any]:
        """Return the fields that are given, by the names of the nested form."""
        flat = {name: getattr(self, name) for name in self.model_fields_set}
        found: dict[str, Any] = {}
        if "input_audio_format" in flat:
            kinds = {beta: kind for kind, beta in _BETA_FORMATS.items()}
            kind = kinds.get(flat["input_audio_format"])
            found["format"] = AudioFormat.model_validate({"type": kind}) if kind else None
        if "input_audio_transcription" in flat:
            found["transcription"] = flat["input_audio_transcription"]
        if "turn_detection" in flat:
            found["turn_detection"] = flat["turn_detection"]
        if self.audio is not None and self.audio.input is not None:
            nested = self.audio.input
            found |= {name: getattr(nested, name) for name in nested.model_fields_set}
        return found


@dataclass(frozen=True)
class TranscriptionSession:
    """The options in effect of a session.

    Attributes:
        format: Format of the input audio.
        transcription: Options of the transcription.
        turn_detection: How turns are detected; None if the client commits.
    """

    format: AudioFormat
    transcription: AudioTranscription
    turn_detection: TurnDetection | None

    def updated(self, session: SessionConfig, settings: ServerSettings) -> TranscriptionSession:
        """Return the options with a client's changes.

        Raises:
            UnsupportedValueError: The client requests a session of another type.
        """
        if session.type not in (None, "transcription"):
            raise UnsupportedValueError(
                f"session.type {session.type!r}: this server transcribes and does not answer; "
                f"expected 'transcription'",
                "session.type",
            )
        given = session.given()
        if "format" in given:
            given["format"] = (given["format"] or AudioFormat()).complete()
        if "transcription" in given:
            requested = given["transcription"] or AudioTranscription()
            given["transcription"] = requested.model_copy(
                update={"model": requested.model or self.transcription.model}
            )
        if given.get("turn_detection") is not None:
            given["turn_detection"] = given["turn_detection"].complete(settings)
        return replace(self, **given)

    def describe(self, beta: bool) -> dict[str, Any]:
        """Return the options for the client, in the flat form of the beta or in the nested one."""
        transcription = self.transcription.model_dump(exclude_unset=True)
        turn_detection = None if self.turn_detection is None else self.turn_detection.describe()
        if beta:
            return {
                "input_audio_format": _BETA_FORMATS[self.format.type],
                "input_audio_transcription": transcription,
                "input_audio_noise_reduction": None,
                "turn_detection": turn_detection,
                "include": None,
            }
        audio = {
            "format": self.format.describe(),
            "transcription": transcription,
            "noise_reduction": None,
            "turn_detection": turn_detection,
        }
        return {"type": "transcription", "audio": {"input": audio}, "include": None}


class ClientEvent(BaseModel):
    """Fields of every client event."""

    event_id: str | None = None


class SessionUpdate(ClientEvent):
    """Change options of the session; those that are not given keep their values."""

    type: Literal["session.update", "transcription_session.update"]
    session: SessionConfig


class InputAudioBufferAppend(ClientEvent):
    """Audio as base64."""

    type: Literal["input_audio_buffer.append"]
    audio: Base64


class InputAudioBufferCommit(ClientEvent):
    """End the item; its transcript follows."""

    type: Literal["input_audio_buffer.commit"]


class InputAudioBufferClear(ClientEvent):
    """Discard the audio since the last commit."""

    type: Literal["input_audio_buffer.clear"]


class UnsupportedEvent(ClientEvent):
    """An event of sessions that answer, which this server does not have."""

    type: Literal[
        "response.create",
        "response.cancel",
        "conversation.item.create",
        "conversation.item.retrieve",
        "conversation.item.truncate",
        "conversation.item.delete",
        "output_audio_buffer.clear",
    ]


AnyClientEvent = Annotated[
    SessionUpdate
    | InputAudioBufferAppend
    | InputAudioBufferCommit
    | InputAudioBufferClear
    | UnsupportedEvent,
    Field(discriminator="type"),
]

CLIENT_EVENT: pydantic.TypeAdapter[AnyClientEvent] = pydantic.TypeAdapter(AnyClientEvent)


def event_id_of(message: str) -> str | None:
    """Return the id of an invalid event, if it has one."""
    try:
        return ClientEvent.model_validate_json(message).event_id
    except pydantic.ValidationError:
        return None
