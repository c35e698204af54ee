"""What clients of OpenAI's Realtime protocol say, and how a session listens as they ask.

Sessions are described in two forms: nested, as since 2025, and flat, as in the beta before. What is
not known here is passed over.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal

import pydantic
from pydantic import BaseModel, Field

from parakeet_stt.audio import AudioDecoder
from parakeet_stt.server.connection import BadMessageError
from parakeet_stt.server.conversation import Base64
from parakeet_stt.server.settings import ServerSettings
from parakeet_stt.settings import DEFAULT_BOOST

_SILENCES = {"low": 1200, "medium": 700, "auto": 700, "high": 400}
"""Milliseconds of silence for a semantic VAD's eagerness: there is no semantic VAD here."""

_ENCODINGS = {"audio/pcm": "pcm16", "audio/pcmu": "mulaw", "audio/pcma": "alaw"}
_BETA_FORMATS = {"audio/pcm": "pcm16", "audio/pcmu": "g711_ulaw", "audio/pcma": "g711_alaw"}
_PCM_RATE, _G711_RATE = 24_000, 8_000

_LEAST_THRESHOLD, _MOST_THRESHOLD = 0.01, 0.99


class UnusableError(BadMessageError):
    """A request that is understood and cannot be done.

    Attributes:
        param: What of it is wrong.
    """

    def __init__(self, message: str, param: str) -> None:
        super().__init__(message)
        self.param = param


class Format(BaseModel):
    """How audio is written: PCM of 16 bits, or G.711 at 8 kHz."""

    type: Literal["audio/pcm", "audio/pcmu", "audio/pcma"] = "audio/pcm"
    rate: int | None = Field(None, ge=4_000, le=384_000)

    @property
    def full(self) -> Format:
        """With its rate."""
        if self.type != "audio/pcm":
            return Format(type=self.type)
        return Format(rate=self.rate or _PCM_RATE)

    def decoder(self) -> AudioDecoder:
        """What reads it."""
        return AudioDecoder(_ENCODINGS[self.type], self.rate or _G711_RATE)

    def shown(self) -> dict[str, Any]:
        """For the client."""
        return self.model_dump(exclude_none=True)


class Transcription(BaseModel):
    """What is known of what will be said. Only keywords make a difference; the rest is echoed."""

    model: str | None = None
    language: str | None = None
    languages: list[str] | None = None
    prompt: str | None = None
    delay: str | None = None
    keywords: list[str] | None = Field(None, max_length=1000)

    @property
    def boost(self) -> dict[str, float]:
        """The keywords as phrases to boost."""
        return {word: DEFAULT_BOOST for word in self.keywords or () if word.strip()}


class TurnDetection(BaseModel):
    """How the server finds the ends of turns."""

    type: Literal["server_vad", "semantic_vad"] = "server_vad"
    threshold: float | None = Field(None, ge=0, le=1)
    prefix_padding_ms: int | None = Field(None, ge=0, le=30_000)
    silence_duration_ms: int | None = Field(None, ge=0, le=60_000)
    eagerness: Literal["low", "medium", "high", "auto"] | None = None

    def full(self, settings: ServerSettings) -> TurnDetection:
        """With the server's settings for what is not said."""
        threshold, prefix = self.threshold, self.prefix_padding_ms
        silence, eagerness = self.silence_duration_ms, None
        if self.type == "semantic_vad":
            eagerness = self.eagerness or "auto"
            silence = _SILENCES[eagerness]
        threshold = settings.vad_threshold if threshold is None else threshold
        return TurnDetection(
            type=self.type,
            threshold=min(max(threshold, _LEAST_THRESHOLD), _MOST_THRESHOLD),
            prefix_padding_ms=settings.preroll_ms if prefix is None else prefix,
            silence_duration_ms=settings.vad_stop_ms if silence is None else silence,
            eagerness=eagerness,
        )

    def shown(self) -> dict[str, Any]:
        """For the client."""
        return self.model_dump(exclude_none=True)


class Input(BaseModel):
    """A session's audio, in the nested form."""

    format: Format | None = None
    transcription: Transcription | None = None
    turn_detection: TurnDetection | None = None


class Audio(BaseModel):
    """What the nested form wraps the input in."""

    input: Input | None = None


class SessionConfig(BaseModel):
    """A description of a session, in either form; null is not the same as nothing."""

    type: str | None = None
    audio: Audio | None = None
    input_audio_format: Literal["pcm16", "g711_ulaw", "g711_alaw"] | None = None
    input_audio_transcription: Transcription | None = None
    turn_detection: TurnDetection | None = None

    @property
    def nested(self) -> bool:
        """Whether it has what only the nested form has."""
        return bool({"type", "audio"} & self.model_fields_set)

    def given(self) -> dict[str, Any]:
        """What it describes, by the nested form's names."""
        flat = {name: getattr(self, name) for name in self.model_fields_set}
        found: dict[str, Any] = {}
        if "input_audio_format" in flat:
            kinds = {beta: kind for kind, beta in _BETA_FORMATS.items()}
            kind = kinds.get(flat["input_audio_format"])
            found["format"] = Format.model_validate({"type": kind}) if kind else None
        if "input_audio_transcription" in flat:
            found["transcription"] = flat["input_audio_transcription"]
        if "turn_detection" in flat:
            found["turn_detection"] = flat["turn_detection"]
        if self.audio is not None and self.audio.input is not None:
            nested = self.audio.input
            found |= {name: getattr(nested, name) for name in nested.model_fields_set}
        return found


@dataclass(frozen=True)
class Listening:
    """How a session listens.

    Attributes:
        format: Of the audio that comes.
        transcription: What is known of what will be said.
        turn_detection: How ends of turns are found; None where the client commits.
    """

    format: Format
    transcription: Transcription
    turn_detection: TurnDetection | None

    def asked(self, session: SessionConfig, settings: ServerSettings) -> Listening:
        """The same with what a client asks for.

        Raises:
            UnusableError: It asks for a session of another kind.
        """
        if session.type not in (None, "transcription"):
            raise UnusableError(
                f"session.type {session.type!r}: this server transcribes and does not answer; "
                f"expected 'transcription'",
                "session.type",
            )
        given = session.given()
        if "format" in given:
            given["format"] = (given["format"] or Format()).full
        if "transcription" in given:
            asked = given["transcription"] or Transcription()
            given["transcription"] = asked.model_copy(
                update={"model": asked.model or self.transcription.model}
            )
        if given.get("turn_detection") is not None:
            given["turn_detection"] = given["turn_detection"].full(settings)
        return replace(self, **given)

    def shown(self, beta: bool) -> dict[str, Any]:
        """For the client, in the flat form of the beta or in the nested one."""
        transcription = self.transcription.model_dump(exclude_unset=True)
        turn_detection = None if self.turn_detection is None else self.turn_detection.shown()
        if beta:
            return {
                "input_audio_format": _BETA_FORMATS[self.format.type],
                "input_audio_transcription": transcription,
                "input_audio_noise_reduction": None,
                "turn_detection": turn_detection,
                "include": None,
            }
        audio = {
            "format": self.format.shown(),
            "transcription": transcription,
            "noise_reduction": None,
            "turn_detection": turn_detection,
        }
        return {"type": "transcription", "audio": {"input": audio}, "include": None}


class ClientEvent(BaseModel):
    """What every event has."""

    event_id: str | None = None


class Update(ClientEvent):
    """Listen in another way; what is not given stays as it was."""

    type: Literal["session.update", "transcription_session.update"]
    session: SessionConfig


class Append(ClientEvent):
    """Audio, in base64."""

    type: Literal["input_audio_buffer.append"]
    audio: Base64


class Commit(ClientEvent):
    """End the item: its transcript is wanted now."""

    type: Literal["input_audio_buffer.commit"]


class Clear(ClientEvent):
    """Forget the audio since the last commit."""

    type: Literal["input_audio_buffer.clear"]


class Answer(ClientEvent):
    """What only a session that answers has."""

    type: Literal[
        "response.create",
        "response.cancel",
        "conversation.item.create",
        "conversation.item.retrieve",
        "conversation.item.truncate",
        "conversation.item.delete",
        "output_audio_buffer.clear",
    ]


EVENT: pydantic.TypeAdapter[Update | Append | Commit | Clear | Answer] = pydantic.TypeAdapter(
    Annotated[Update | Append | Commit | Clear | Answer, Field(discriminator="type")]
)


def event_id_of(message: str) -> str | None:
    """The id of an event that cannot be used, where it has one."""
    try:
        return ClientEvent.model_validate_json(message).event_id
    except pydantic.ValidationError:
        return None
