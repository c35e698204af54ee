"""``/v1/stream``: this server's own protocol, over WebSocket and as lines of JSON on TCP.

A superset of parakeet-streaming's (system 004), whose clients work unmodified. docs/protocols.md
has every message.
"""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal, get_args

import numpy as np
import pydantic
from pydantic import BaseModel, Field
from starlette.datastructures import QueryParams

from parakeet_stt.audio import AudioDecoder
from parakeet_stt.engine.events import Event, Failed, Final, SpeechStarted, SpeechStopped
from parakeet_stt.errors import ConfigurationError, ParakeetError
from parakeet_stt.server.auth import holds_key
from parakeet_stt.server.conversation import DONE, Base64, Conversation, Dialect, Ending, parse
from parakeet_stt.server.state import RefusedError
from parakeet_stt.settings import parse_boost
from parakeet_stt.transcript import Hypothesis, Token, Word

Encoding = Literal["pcm16", "f32", "mulaw", "alaw"]


class Audio(BaseModel):
    """Audio, as base64 or as numbers; ``final`` ends the stream after it."""

    type: Literal["audio"]
    data: Base64 | None = None
    samples: list[float] | None = None
    encoding: Encoding | None = None
    final: bool = False


class Configure(BaseModel):
    """How to listen from here on; what is not given stays as it was."""

    type: Literal["configure"]
    encoding: Encoding | None = None
    sample_rate: int | None = Field(None, ge=4_000, le=384_000)
    channels: int | None = Field(None, ge=1, le=16)
    interims: bool | None = None
    vad: bool | None = None
    vad_threshold: float | None = Field(None, gt=0, lt=1)
    vad_stop_ms: int | None = Field(None, ge=50, le=10_000)
    boost: dict[str, float] | None = None


class Flush(BaseModel):
    """End the segment; acknowledged with the same id after its final."""

    type: Literal["flush"]
    id: str | int | None = None


class Ping(BaseModel):
    """Answered with a pong."""

    type: Literal["ping"]
    id: str | int | None = None


class Close(BaseModel):
    """End the stream: the final, then the connection is closed."""

    type: Literal["close"]


class Authenticate(BaseModel):
    """The key, as the first line on TCP where keys are set."""

    type: Literal["authenticate"]
    key: str


Message = Annotated[
    Audio | Configure | Flush | Ping | Close | Authenticate, Field(discriminator="type")
]

_MESSAGE: pydantic.TypeAdapter[Message] = pydantic.TypeAdapter(Message)
_CONFIGURE = pydantic.TypeAdapter(Configure)


class Native(Dialect):
    """The server's own protocol on a WebSocket, where binary messages are audio.

    The URL may hold what a ``configure`` message may, such as ``?vad=true&encoding=f32``.
    """

    protocol = "stream"

    def __init__(self, talk: Conversation, query: QueryParams) -> None:
        super().__init__(talk, query)
        settings = talk.server.settings
        self._id = next(talk.server.stream_ids)
        self._wanted = Configure(
            type="configure",
            encoding="pcm16",
            sample_rate=settings.sample_rate,
            channels=1,
            interims=True,
            vad=False,
            boost={},
        )
        known: dict[str, Any] = {k: v for k, v in query.items() if k in Configure.model_fields}
        if "boost" in known:
            try:
                known["boost"] = parse_boost(known["boost"])
            except ValueError as error:
                raise ConfigurationError(f"boost: {error}") from error
            talk.server.options(known["boost"])  # Refused here where it cannot be used.
        asked = parse(_CONFIGURE, json.dumps({**known, "type": "configure"}))
        self._wanted = self._with(asked)
        self._decoders = self._make_decoders()
        self._told = 0  # Tokens of the segment that the client has been told of.
        self._shown = ("", "")  # Its text and what of it is committed, as the client knows them.

    def greet(self) -> None:
        """Say hello."""
        self._listen()
        model = self.talk.server.model_name
        self._say("hello", sample_rate=self._wanted.sample_rate, model=model)

    def receive(self, message: str | bytes) -> None:
        """Take audio or a JSON object."""
        if isinstance(message, bytes):
            self._decode(None, message)
            return
        match parse(_MESSAGE, message):
            case Audio() as audio:
                self._hear(audio)
            case Configure() as asked:
                self._configure(asked)
            case Flush() as flush:
                self.rest()
                assert self.talk.session is not None
                self.talk.session.flush(flush)
            case Ping(id=number):
                assert self.talk.session is not None
                self._say("pong", id=number, lag=round(self.talk.session.backlog, 3))
            case Close():
                self.talk.end(DONE)
            case Authenticate():
                self._say("authenticated")  # Who gets here is.

    def tell(self, event: Event) -> None:
        """Send results, and when speech begins and ends."""
        match event:
            case Hypothesis(text=text, committed=committed):
                if (text, committed) == self._shown:
                    return
                self._shown = (text, committed)
                self._result(
                    text,
                    event.committed_tokens,
                    event.words,
                    end=event.end,
                    committed=committed,
                    tentative=event.tentative,
                )
            case Final(transcript=transcript):
                self._result(
                    transcript.text,
                    transcript.tokens,
                    transcript.words,
                    end=transcript.end,
                    committed=transcript.text,
                    tentative="",
                    is_final=True,
                    start=round(transcript.start, 3),
                    confidence=round(transcript.confidence, 4),
                    language=transcript.language,
                )
                self._begin_anew()
                if isinstance(event.tag, Flush):
                    self._say("flushed", id=event.tag.id)
            case Failed(segment=0, error=error):
                self._say("error", message=f"speech could not be detected: {error}")
            case Failed(error=error):
                self._begin_anew()
                self._say("error", message=f"a segment got no final: {error}")
                if isinstance(event.tag, Flush):
                    self._say("flushed", id=event.tag.id)
            case SpeechStarted(at=at):
                self._say("speech_started", time=round(at, 3))
            case SpeechStopped(at=at):
                self._say("speech_stopped", time=round(at, 3))

    def complain(self, error: ParakeetError) -> None:
        """Send an error; the stream goes on."""
        self._say("error", message=str(error))

    def rest(self) -> None:
        """Hand over what the resamplers hold back."""
        for decoder in self._decoders.values():
            self.talk.hear(decoder.flush())

    def leave(self, ending: Ending) -> None:
        """Say why, where the client did not ask for it."""
        if ending is not DONE:
            self._say("error", message=ending.reason)

    def _begin_anew(self) -> None:
        """What comes is of the next segment."""
        self._told = 0
        self._shown = ("", "")

    def _hear(self, audio: Audio) -> None:
        if audio.samples is not None:
            with np.errstate(over="ignore"):  # Infinite numbers are refused below.
                samples = np.array(audio.samples, np.float64).astype("<f4")
            self._decode("f32", samples.tobytes())
        elif audio.data is not None:
            self._decode(audio.encoding, audio.data)
        if audio.final:
            self.talk.end(DONE)

    def _decode(self, encoding: Encoding | None, data: bytes) -> None:
        encoding = encoding or self._wanted.encoding
        assert encoding
        self.talk.hear(self._decoders[encoding](data))

    def _configure(self, asked: Configure) -> None:
        """Change how to listen, all of it or nothing."""
        before, self._wanted = self._wanted, self._with(asked)
        try:
            self._listen()
        except ParakeetError:
            self._wanted = before
            raise
        if asked.sample_rate is not None or asked.channels is not None:
            self.rest()
            self._decoders = self._make_decoders()
        self._say("configured", **self._wanted.model_dump(exclude={"type"}))

    def _with(self, asked: Configure) -> Configure:
        return self._wanted.model_copy(update=asked.model_dump(exclude_none=True))

    def _make_decoders(self) -> dict[Encoding, AudioDecoder]:
        """One for each encoding: every message may have its own."""
        wanted = self._wanted
        assert wanted.sample_rate
        assert wanted.channels
        return {
            encoding: AudioDecoder(encoding, wanted.sample_rate, wanted.channels)
            for encoding in get_args(Encoding)
        }

    def _listen(self) -> None:
        wanted, server = self._wanted, self.talk.server
        stop = None if wanted.vad_stop_ms is None else wanted.vad_stop_ms / 1000
        self.talk.open(
            endpointing=server.endpointing(wanted.vad_threshold, stop) if wanted.vad else None,
            interims=bool(wanted.interims),
            boost=wanted.boost,
        )

    def _result(
        self, text: str, tokens: tuple[Token, ...], words: tuple[Word, ...], **more: Any
    ) -> None:
        """Tell what is believed; ids and confidences are those that are new and will not change."""
        assert self.talk.session is not None
        new = tokens[self._told :]
        self._told = max(self._told, len(tokens))
        self._say(
            "result",
            text=text,
            token_ids=[token.id for token in new],
            confidence_scores=[round(token.confidence, 4) for token in new],
            words=[
                {
                    "text": word.text,
                    "start": round(word.start, 3),
                    "end": round(word.end, 3),
                    "confidence": round(word.confidence, 4),
                }
                for word in words
            ],
            lag=round(self.talk.session.backlog, 3),
            **{"is_final": False, **more, "end": round(more["end"], 3)},
        )

    def _say(self, kind: str, **content: Any) -> None:
        message = {"type": kind, "stream_id": self._id, **content}
        self.talk.say(json.dumps(message, ensure_ascii=False, separators=(",", ":")))


class NativeLines(Native):
    """The same on TCP: every message is a line of JSON."""

    protocol = "tcp"

    def __init__(self, talk: Conversation, query: QueryParams) -> None:
        super().__init__(talk, query)
        self._known = not talk.server.settings.api_keys

    def receive(self, message: str | bytes) -> None:
        """Take a JSON object; the first shows the key where one is needed."""
        assert isinstance(message, str)
        if self._known:
            super().receive(message)
            return
        asked = parse(_MESSAGE, message)
        keys = self.talk.server.settings.api_keys
        if not isinstance(asked, Authenticate) or not holds_key(keys, [asked.key]):
            self.talk.end(Ending(1008, "a valid API key is needed"))
            return
        self._known = True
        super().receive(message)


def refusal_004(error: RefusedError) -> str:
    """No place on TCP: full in system 004's words, which its clients may look for."""
    full = error.reason == "sessions"
    message = "No free streaming state available." if full else str(error)
    return json.dumps({"type": "error", "message": message})
