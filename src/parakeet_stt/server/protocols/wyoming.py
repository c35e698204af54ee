"""Wyoming, Home Assistant's voice protocol, on a TCP port of its own.

The events are the ``wyoming`` package's. It knows no keys and no TLS, and a client cannot say
whether it wants text while it comes: all of them pass over events that they do not wait for.
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
from parakeet_stt.server.connection import (
    BadMessageError,
    GoneError,
    MessageTooLargeError,
    TcpConnection,
    UnreadableError,
)
from parakeet_stt.server.conversation import DONE, Conversation, Dialect, Ending, check, parse
from parakeet_stt.server.state import RefusedError
from parakeet_stt.settings import DEFAULT_BOOST
from parakeet_stt.transcript import Hypothesis

_SAMPLE_BYTES = 2  # Of the widths that there are, the one that means one thing only.

_ANY_LANGUAGE = ("auto", "multi", "mul", "und")  # What clients say where they do not know.


class _Header(BaseModel):
    """The line that an event begins with; what it says of the event is looked at afterwards."""

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


class WyomingConnection(TcpConnection[Event]):
    """Wyoming's framing: a line of JSON, then as many bytes of data and payload as it says.

    Args:
        reader: Of the connection.
        writer: Of the same connection.
        most: Bytes that a header, its data and its payload may have, each.
    """

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, most: int
    ) -> None:
        super().__init__(reader, writer)
        self._most = most

    async def receive(self) -> Event | None:
        """As :meth:`Connection.receive`."""
        line = await self._line()
        if line is None:
            return None
        try:
            header = parse(_HEADER, line)
        except BadMessageError as error:
            raise UnreadableError(f"not an event's header: {error}") from error
        data = await self._bytes("data", header.data_length or 0)
        payload = await self._bytes("payload", header.payload_length or 0)
        try:
            more = parse(_DATA, data) if data else {}
        except BadMessageError as error:
            raise BadMessageError(f"data: {error}") from error
        event = check(_EVENT, {"type": header.type, "data": header.data, "payload": payload})
        event.data.update(more)
        return event

    def size(self, message: Event) -> int:
        """Bytes that an event takes."""
        return len(message.payload or b"") + len(str(message.data))

    async def send(self, message: Event) -> None:
        """As :meth:`Connection.send`."""
        try:
            await async_write_event(message, self._writer)
        except OSError as error:
            raise GoneError from error

    async def _line(self) -> bytes | None:
        """The next line that is not empty; None at the end."""
        while True:
            try:
                line = await self._reader.readuntil(b"\n")
            except asyncio.IncompleteReadError as error:
                line = error.partial
                if not line.strip():
                    return None
            except asyncio.LimitOverrunError as error:
                raise MessageTooLargeError(f"a header of over {self._most} bytes") from error
            except OSError as error:
                raise GoneError from error
            if line.strip():
                return line

    async def _bytes(self, what: str, length: int) -> bytes:
        if length > self._most:
            raise MessageTooLargeError(f"{length} bytes of {what}: expected {self._most} at most")
        try:
            return await self._reader.readexactly(length)
        except asyncio.IncompleteReadError as error:
            come = len(error.partial)
            raise UnreadableError(
                f"{length} bytes of {what} were announced, {come} came"
            ) from error
        except OSError as error:
            raise GoneError from error


class Wyoming(Dialect[Event]):
    """One connection, which may bring utterance after utterance."""

    protocol = "wyoming"

    def __init__(self, talk: Conversation[Event], query: QueryParams) -> None:
        super().__init__(talk, query)
        self._format: AudioFormat | None = None
        self._decoder: AudioDecoder | None = None  # None as well where the format is no good.
        self._told: str | None = None  # Text that was sent of the utterance; None before its start.

    def greet(self) -> None:
        """Listen; nothing is said before the client asks."""
        self.talk.open(endpointing=None, interims=True)

    def receive(self, message: Event) -> None:
        """Take an event; those that are not for a recogniser are dropped, as Wyoming has it."""
        kind, data = message.type, message.data
        if AudioChunk.is_type(kind):
            self._hear(check(_FORMAT, data), message.payload or b"")
        elif AudioStart.is_type(kind):
            self._use(check(_FORMAT, data))
        elif AudioStop.is_type(kind):
            self._stop()
        elif Transcribe.is_type(kind):
            self._listen(check(_TRANSCRIBE, data))
        elif Describe.is_type(kind):
            self._say(self._info())
        elif Ping.is_type(kind):
            self._say(Pong(check(_PING, data).text))

    def tell(self, event: SessionEvent) -> None:
        """Send text as soon as it is certain, and the transcript that every utterance gets."""
        match event:
            case Hypothesis(committed=committed) if committed:
                self._send_text(committed)
            case Final(transcript=transcript, tag=tag):
                # The one that ends the session answers nobody, unless something was said.
                if tag is not None or transcript.text or self._told is not None:
                    self._end(Transcript(transcript.text, language=transcript.language))
            case Failed(error=error):
                # Half a command may mean something else: better no text at all.
                self._say(Error(f"an utterance got no transcript: {error}", "transcription-failed"))
                self._end(Transcript(""))

    def complain(self, error: ParakeetError) -> None:
        """Send an error; the connection goes on."""
        code = "unsupported-audio" if isinstance(error, AudioError) else "bad-event"
        self._say(Error(str(error), code))

    def rest(self) -> None:
        """Hand over what the resampler holds back."""
        if self._decoder is not None:
            self.talk.hear(self._decoder.flush())

    def leave(self, ending: Ending) -> None:
        """Say why, where the client did not ask for it."""
        if ending is not DONE:
            self._say(Error(ending.reason, "closed"))

    def _listen(self, asked: Transcribe) -> None:
        """What the next utterance is about; the model is the server's, whatever name is given."""
        phrases = (*(asked.transcript_names or ()), *(asked.transcript_terms or ()))
        boost = {phrase: DEFAULT_BOOST for phrase in phrases if phrase.strip()}
        self.talk.open(endpointing=None, interims=True, boost=boost)
        known = self.talk.server.model.languages
        language = (asked.language or "auto").replace("_", "-").partition("-")[0].lower()
        if known and language not in (*known, *_ANY_LANGUAGE):
            raise BadMessageError(
                f"language {language!r:.40}: this model knows {', '.join(known)}, and hears one of "
                f"these"
            )

    def _use(self, form: AudioFormat) -> None:
        """Decode what comes as this; a format that is no good is told of once."""
        if form == self._format:
            return
        self.rest()
        self._format, self._decoder = form, None
        if form.width != _SAMPLE_BYTES:
            raise AudioError(
                f"samples of {form.width} bytes: expected {_SAMPLE_BYTES} (16-bit PCM); what comes "
                f"like this is not heard"
            )
        self._decoder = AudioDecoder("pcm16", form.rate, form.channels)

    def _hear(self, form: AudioFormat, audio: bytes) -> None:
        self._use(form)
        if self._decoder is not None:
            self.talk.hear(self._decoder(audio))

    def _stop(self) -> None:
        self.rest()
        self._format = self._decoder = None
        assert self.talk.session is not None
        self.talk.session.flush(AudioStop)

    def _send_text(self, text: str) -> None:
        """Send what is new of a text, where it goes on from what was sent."""
        if self._told is None:
            self._say(TranscriptStart(language=self.talk.server.model.language))
            self._told = ""
        if text.startswith(self._told) and text != self._told:
            self._say(TranscriptChunk(text[len(self._told) :]))
            self._told = text

    def _end(self, transcript: Transcript) -> None:
        """The transcript, which is all that a client needs that does not want text as it comes."""
        self._send_text(transcript.text)
        self._say(transcript)
        self._say(TranscriptStop())
        self._told = None

    def _info(self) -> Info:
        model = self.talk.server.model
        ours = model.name in catalog.BUNDLED
        recogniser = AsrModel(
            name=self.talk.server.model_name,
            attribution=_PARAKEET_STT if ours else _NVIDIA,
            installed=True,
            description=f"Parakeet {model.config.kind.upper()}",
            version=None,
            # Of a model that nobody knows, all that Parakeets know: where none is listed, Home
            # Assistant would offer none.
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

    def _say(self, event: Eventable) -> None:
        self.talk.say(event.event())


_PARAKEET_STT = Attribution("parakeet_stt", "")
_NVIDIA = Attribution("NVIDIA", "https://huggingface.co/nvidia")


def wyoming_refusal(error: RefusedError) -> Event:
    """No place: the only thing that is said before the connection is closed."""
    return Error(str(error), error.reason).event()
