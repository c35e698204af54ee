"""``/v1/stream``: this server's own protocol, on WebSockets and as lines of JSON on TCP.

A superset of parakeet-streaming's protocol, whose clients work unmodified. docs/protocols.md
describes every message.
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
from parakeet_stt.server.admission import RefusedError
from parakeet_stt.server.auth import holds_key
from parakeet_stt.server.connection import Connection
from parakeet_stt.server.endings import DONE, Ending
from parakeet_stt.server.messages import Base64, Message, parse
from parakeet_stt.server.protocol import Protocol
from parakeet_stt.settings import parse_boost
from parakeet_stt.transcript import Hypothesis, Token, Word

Encoding = Literal["pcm16", "f32", "mulaw", "alaw"]


class Audio(BaseModel):
    """Audio, as base64 or as a list of floats; ``final`` ends the stream after it."""

    type: Literal["audio"]
    data: Base64 | None = None
    samples: list[float] | None = None
    encoding: Encoding | None = None
    final: bool = False


class Configure(BaseModel):
    """Change options from here on; those that are not given keep their values."""

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
    """End the segment; answered with the same id after its final."""

    type: Literal["flush"]
    id: str | int | None = None


class Ping(BaseModel):
    """Request a pong."""

    type: Literal["ping"]
    id: str | int | None = None


class Close(BaseModel):
    """End the stream: the final is sent, then the connection is closed."""

    type: Literal["close"]


class Authenticate(BaseModel):
    """The API key: the first line on TCP if the server has keys."""

    type: Literal["authenticate"]
    key: str


ClientMessage = Annotated[
    Audio | Configure | Flush | Ping | Close | Authenticate, Field(discriminator="type")
]

_MESSAGE: pydantic.TypeAdapter[ClientMessage] = pydantic.TypeAdapter(ClientMessage)
_CONFIGURE = pydantic.TypeAdapter(Configure)


class Native(Protocol[Message]):
    """The server's own protocol on a WebSocket, where binary messages are audio.

    The URL may have the fields of a ``configure`` message, such as ``?vad=true&encoding=f32``.
    """

    name = "stream"

    def __init__(self, connection: Connection[Message], query: QueryParams) -> None:
        super().__init__(connection, query)
        settings = connection.server.settings
        self._id = next(connection.server.stream_ids)
        self._options = Configure(
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
            connection.server.options(known["boost"])  # Raises before the connection is accepted.
        requested = parse(_CONFIGURE, json.dumps({**known, "type": "configure"}))
        self._options = self._with(requested)
        self._decoders = self._make_decoders()
        self._sent_tokens = 0  # Committed tokens of the segment that the client has.
        self._sent_text = ("", "")  # The segment's text and its committed part that it has.

    def on_open(self) -> None:
        """Open the session and send ``hello``."""
        self._open_session()
        model = self.connection.server.model_name
        self._send("hello", sample_rate=self._options.sample_rate, model=model)

    def on_message(self, message: Message) -> None:
        """Handle audio (bytes) or a JSON object (text)."""
        if isinstance(message, bytes):
            self._decode(None, message)
            return
        match parse(_MESSAGE, message):
            case Audio() as audio:
                self._receive_audio(audio)
            case Configure() as requested:
                self._configure(requested)
            case Flush() as flush:
                self.flush_audio()
                self.connection.session.flush(flush)
            case Ping(id=number):
                self._send("pong", id=number, lag=round(self.connection.session.backlog, 3))
            case Close():
                self.connection.end(DONE)
            case Authenticate():
                self._send("authenticated")  # Others are refused before.

    def on_event(self, event: Event) -> None:
        """Send results, and when speech starts and stops."""
        match event:
            case Hypothesis(text=text, committed=committed):
                if (text, committed) == self._sent_text:
                    return
                self._sent_text = (text, committed)
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
                self._start_segment()
                if isinstance(event.tag, Flush):
                    self._send("flushed", id=event.tag.id)
            case Failed(segment=0, error=error):
                self._send("error", message=f"speech could not be detected: {error}")
            case Failed(error=error):
                self._start_segment()
                self._send("error", message=f"a segment got no final: {error}")
                if isinstance(event.tag, Flush):
                    self._send("flushed", id=event.tag.id)
            case SpeechStarted(at=at):
                self._send("speech_started", time=round(at, 3))
            case SpeechStopped(at=at):
                self._send("speech_stopped", time=round(at, 3))

    def on_error(self, error: ParakeetError) -> None:
        """Send an error; the stream goes on."""
        self._send("error", message=str(error))

    def flush_audio(self) -> None:
        """Send the audio that the resamplers hold to the session."""
        for decoder in self._decoders.values():
            self.connection.send_audio(decoder.flush())

    def on_close(self, ending: Ending) -> None:
        """Send the reason if the client did not end the stream."""
        if ending is not DONE:
            self._send("error", message=ending.reason)

    def _start_segment(self) -> None:
        """Expect results of the next segment."""
        self._sent_tokens = 0
        self._sent_text = ("", "")

    def _receive_audio(self, audio: Audio) -> None:
        if audio.samples is not None:
            with np.errstate(over="ignore"):  # The decoder refuses infinite numbers.
                samples = np.array(audio.samples, np.float64).astype("<f4")
            self._decode("f32", samples.tobytes())
        elif audio.data is not None:
            self._decode(audio.encoding, audio.data)
        if audio.final:
            self.connection.end(DONE)

    def _decode(self, encoding: Encoding | None, data: bytes) -> None:
        encoding = encoding or self._options.encoding
        assert encoding
        self.connection.send_audio(self._decoders[encoding](data))

    def _configure(self, requested: Configure) -> None:
        """Change options; if one is invalid, change none."""
        before, self._options = self._options, self._with(requested)
        try:
            self._open_session()
        except ParakeetError:
            self._options = before
            raise
        if requested.sample_rate is not None or requested.channels is not None:
            self.flush_audio()
            self._decoders = self._make_decoders()
        self._send("configured", **self._options.model_dump(exclude={"type"}))

    def _with(self, requested: Configure) -> Configure:
        return self._options.model_copy(update=requested.model_dump(exclude_none=True))

    def _make_decoders(self) -> dict[Encoding, AudioDecoder]:
        """Make a decoder for each encoding: every message may have its own."""
        options = self._options
        assert options.sample_rate
        assert options.channels
        return {
            encoding: AudioDecoder(encoding, options.sample_rate, options.channels)
            for encoding in get_args(Encoding)
        }

    def _open_session(self) -> None:
        options, server = self._options, self.connection.server
        stop = None if options.vad_stop_ms is None else options.vad_stop_ms / 1000
        self.connection.open(
            endpointing=server.endpointing(options.vad_threshold, stop) if options.vad else None,
            interims=bool(options.interims),
            boost=options.boost,
        )

    def _result(
        self, text: str, tokens: tuple[Token, ...], words: tuple[Word, ...], **more: Any
    ) -> None:
        """Send a result; its token ids and confidences are those of newly committed tokens."""
        new = tokens[self._sent_tokens :]
        self._sent_tokens = max(self._sent_tokens, len(tokens))
        self._send(
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
            lag=round(self.connection.session.backlog, 3),
            **{"is_final": False, **more, "end": round(more["end"], 3)},
        )

    def _send(self, kind: str, **content: Any) -> None:
        message = {"type": kind, "stream_id": self._id, **content}
        self.connection.send(json.dumps(message, ensure_ascii=False, separators=(",", ":")))


class NativeLines(Native):
    """The server's own protocol on TCP, where every message is a line of JSON."""

    name = "tcp"

    def __init__(self, connection: Connection[Message], query: QueryParams) -> None:
        super().__init__(connection, query)
        self._authenticated = not connection.server.settings.api_keys

    def on_message(self, message: Message) -> None:
        """Handle a JSON object; if the server has keys, the first one must contain a key."""
        assert isinstance(message, str)
        if self._authenticated:
            super().on_message(message)
            return
        request = parse(_MESSAGE, message)
        keys = self.connection.server.settings.api_keys
        if not isinstance(request, Authenticate) or not holds_key(keys, [request.key]):
            self.connection.end(Ending(1008, "a valid API key is needed"))
            return
        self._authenticated = True
        super().on_message(message)


def refuse_line(error: RefusedError) -> str:
    """Return the message for a TCP client that is not admitted.

    A full server sends parakeet-streaming's text, which its clients may look for.
    """
    full = error.reason == "sessions"
    message = "No free streaming state available." if full else str(error)
    return json.dumps({"type": "error", "message": message})
