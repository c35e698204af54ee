"""Wyoming, Home Assistant's voice protocol, on a TCP port of its own.

The events are those of the ``wyoming`` package. Wyoming has neither keys nor TLS. A client cannot
request partial text; all clients receive it, and ignore events that they do not wait for.
"""

from __future__ import annotations

import asyncio
from typing import Any

import pydantic
from pydantic import BaseModel, Field
from starlette.datastructures import QueryParams
from wyoming.asr import Transcribe, Transcript, TranscriptChunk, TranscriptStart, TranscriptStop
from wyoming.audio import AudioChunk, AudioFormat, AudioStart, AudioStop
from wyoming.error import Error
from wyoming.event import Event, Eventable, async_write_event
from wyoming.info import AsrModel, AsrProgram, Attribution, Describe, Info
from wyoming.ping import Ping, Pong

import parakeet_stt
from parakeet_stt.audio import AudioDecoder
from parakeet_stt.engine.events import Event as SessionEvent
from parakeet_stt.engine.events import Failed, Final
from parakeet_stt.errors import AudioError, ParakeetError
from parakeet_stt.model import catalog
from parakeet_stt.server.admission import RefusedError
from parakeet_stt.server.connection import Connection
from parakeet_stt.server.endings import DONE, Ending
from parakeet_stt.server.messages import (
    BadMessageError,
    MessageTooLargeError,
    UnreadableError,
    parse,
    validate,
)
from parakeet_stt.server.protocol import Protocol
from parakeet_stt.server.transport import DisconnectedError, TcpTransport
from parakeet_stt.settings import DEFAULT_BOOST
from parakeet_stt.transcript import Hypothesis

_SAMPLE_BYTES = 2  # The only width that implies the number format: 4 may be integers or floats.

_ANY_LANGUAGE = ("auto", "multi", "mul", "und")  # Sent by clients that do not know the language.


class _Header(BaseModel):
    """The line that an event starts with; the event's own fields are validated later."""

    type: Any = None
    data: Any = {}
    data_length: int | None = Field(None, ge=0)
    payload_length: int | None = Field(None, ge=0)


_HEADER = pydantic.TypeAdapter(_Header)
_DATA = pydantic.TypeAdapter(dict[str, Any])
_EVENT = pydantic.TypeAdapter(Event)
_FORMAT = pydantic.TypeAdapter(AudioFormat)
_TRANSCRIBE = pydantic.TypeAdapter(Transcribe)
_PING = pydantic.TypeAdapter(Ping)


class WyomingTransport(TcpTransport[Event]):
    """Wyoming's framing: a line of JSON, then data and payload of the lengths it declares.

    Args:
        reader: Its limit bounds a header.
        writer: The writer of the same connection.
        max_bytes: Maximum length of data and of payload, each.
    """

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, max_bytes: int
    ) -> None:
        super().__init__(reader, writer)
        self._max_bytes = max_bytes

    async def receive(self) -> Event | None:
        """Receive an event."""
        line = await self._read_line()
        if line is None:
            return None
        try:
            header = parse(_HEADER, line)
        except BadMessageError as error:
            raise UnreadableError(f"not the header of an event: {error}") from error
        data = await self._read_bytes("data", header.data_length or 0)
        payload = await self._read_bytes("payload", header.payload_length or 0)
        try:
            more = parse(_DATA, data) if data else {}
        except BadMessageError as error:
            raise BadMessageError(f"data: {error}") from error
        event = validate(_EVENT, {"type": header.type, "data": header.data, "payload": payload})
        event.data.update(more)
        return event

    def size(self, message: Event) -> int:
        """Return the bytes of memory that an event takes."""
        return len(message.payload or b"") + len(str(message.data))

    async def send(self, message: Event) -> None:
        """Send an event."""
        try:
            await async_write_event(message, self._writer)
        except OSError as error:
            raise DisconnectedError from error

    async def _read_bytes(self, what: str, length: int) -> bytes:
        if length > self._max_bytes:
            raise MessageTooLargeError(
                f"{length} bytes of {what}: expected at most {self._max_bytes}"
            )
        try:
            return await self._reader.readexactly(length)
        except asyncio.IncompleteReadError as error:
            received = len(error.partial)
            raise UnreadableError(
                f"{length} bytes of {what} were announced, {received} received"
            ) from error
        except OSError as error:
            raise DisconnectedError from error


class Wyoming(Protocol[Event]):
    """Wyoming's speech-to-text: any number of utterances on one connection."""

    name = "wyoming"

    def __init__(self, connection: Connection[Event], query: QueryParams) -> None:
        super().__init__(connection, query)
        self._format: AudioFormat | None = None
        self._decoder: AudioDecoder | None = None  # None also if the format is not supported.
        self._sent_text: str | None = None  # Text sent of the utterance; None before its start.

    def on_open(self) -> None:
        """Open the session; the client sends the first event."""
        self.connection.open(endpointing=None, interims=True)

    def on_message(self, message: Event) -> None:
        """Handle an event; those that are not for a recogniser are dropped, as in Wyoming."""
        kind, data = message.type, message.data
        if AudioChunk.is_type(kind):
            self._receive_audio(validate(_FORMAT, data), message.payload or b"")
        elif AudioStart.is_type(kind):
            self._set_format(validate(_FORMAT, data))
        elif AudioStop.is_type(kind):
            self._flush()
        elif Transcribe.is_type(kind):
            self._configure(validate(_TRANSCRIBE, data))
        elif Describe.is_type(kind):
            self._send(self._info())
        elif Ping.is_type(kind):
            self._send(Pong(validate(_PING, data).text))

    def on_event(self, event: SessionEvent) -> None:
        """Send committed text, and a transcript for every utterance."""
        match event:
            case Hypothesis(committed=committed) if committed:
                self._send_text(committed)
            case Final(transcript=transcript, tag=tag):
                # No client waits for the final that ends the session, unless it has text.
                if tag is not None or transcript.text or self._sent_text is not None:
                    self._end_utterance(Transcript(transcript.text, language=transcript.language))
            case Failed(error=error):
                # Half a command may mean something else: send no text at all.
                self._send(
                    Error(f"an utterance got no transcript: {error}", "transcription-failed")
                )
                self._end_utterance(Transcript(""))

    def on_error(self, error: ParakeetError) -> None:
        """Send an error; the connection goes on."""
        code = "unsupported-audio" if isinstance(error, AudioError) else "bad-event"
        self._send(Error(str(error), code))

    def flush_audio(self) -> None:
        """Send the audio that the resampler holds to the session."""
        if self._decoder is not None:
            self.connection.send_audio(self._decoder.flush())

    def on_close(self, ending: Ending) -> None:
        """Send the reason if the client did not end the connection."""
        if ending is not DONE:
            self._send(Error(ending.reason, "closed"))

    def _configure(self, request: Transcribe) -> None:
        """Set phrases and language of the next utterance; the requested model is ignored."""
        phrases = (*(request.transcript_names or ()), *(request.transcript_terms or ()))
        boost = {phrase: DEFAULT_BOOST for phrase in phrases if phrase.strip()}
        self.connection.open(endpointing=None, interims=True, boost=boost)
        known = self.connection.server.model.languages
        language = (request.language or "auto").replace("_", "-").partition("-")[0].lower()
        if known and language not in (*known, *_ANY_LANGUAGE):
            raise BadMessageError(
                f"language {language!r:.40}: the model transcribes {', '.join(known)}, and will "
                f"use one of these"
            )

    def _set_format(self, audio_format: AudioFormat) -> None:
        """Set the format of the following audio; raise once if it is not supported."""
        if audio_format == self._format:
            return
        self.flush_audio()
        self._format, self._decoder = audio_format, None
        if audio_format.width != _SAMPLE_BYTES:
            raise AudioError(
                f"samples of {audio_format.width} bytes: expected {_SAMPLE_BYTES} (16-bit PCM); "
                f"audio in this format is ignored"
            )
        self._decoder = AudioDecoder("pcm16", audio_format.rate, audio_format.channels)

    def _receive_audio(self, audio_format: AudioFormat, audio: bytes) -> None:
        self._set_format(audio_format)
        if self._decoder is not None:
            self.connection.send_audio(self._decoder(audio))

    def _flush(self) -> None:
        self.flush_audio()
        self._format = self._decoder = None
        self.connection.session.flush(AudioStop)

    def _send_text(self, text: str) -> None:
        """Send the new part of a text, if the text starts with what was sent."""
        if self._sent_text is None:
            self._send(TranscriptStart(language=self.connection.server.model.language))
            self._sent_text = ""
        if text.startswith(self._sent_text) and text != self._sent_text:
            self._send(TranscriptChunk(text[len(self._sent_text) :]))
            self._sent_text = text

    def _end_utterance(self, transcript: Transcript) -> None:
        """Send the transcript; clients that ignore partial text need nothing else."""
        self._send_text(transcript.text)
        self._send(transcript)
        self._send(TranscriptStop())
        self._sent_text = None

    def _info(self) -> Info:
        model = self.connection.server.model
        bundled = model.name in catalog.BUNDLED
        recogniser = AsrModel(
            name=self.connection.server.model_name,
            attribution=_PARAKEET_STT if bundled else _NVIDIA,
            installed=True,
            description=f"Parakeet {model.config.kind.upper()}",
            version=None,
            # For an unknown model, list all languages of Parakeet models: Home Assistant does not
            # offer a model without languages.
            languages=list(model.languages or catalog.LANGUAGES),
        )
        program = AsrProgram(
            name="parakeet-stt",
            attribution=_PARAKEET_STT,
            installed=True,
            description="Speech-to-text with NVIDIA's Parakeet models",
            version=parakeet_stt.__version__,
            models=[recogniser],
            supports_transcript_streaming=True,
        )
        return Info(asr=[program])

    def _send(self, event: Eventable) -> None:
        self.connection.send(event.event())


_PARAKEET_STT = Attribution("parakeet_stt", "")
_NVIDIA = Attribution("NVIDIA", "https://huggingface.co/nvidia")


def refuse_event(error: RefusedError) -> Event:
    """Return the event for a client that is not admitted."""
    return Error(str(error), error.reason).event()
