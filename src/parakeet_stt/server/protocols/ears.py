"""``/v1/ears``: eaRS's protocol, word by word, for speakers and their listeners.

Speakers send floats at 24 kHz and receive words, segments and pauses, and at the end the whole text
again. docs/protocols.md describes every message.
"""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

import pydantic
from pydantic import BaseModel, Field
from starlette.datastructures import QueryParams

from parakeet_stt.audio import AudioDecoder
from parakeet_stt.engine.events import Event, Failed, Final, SpeechStopped
from parakeet_stt.errors import ParakeetError
from parakeet_stt.language import LanguageWatch
from parakeet_stt.server.auth import holds_key
from parakeet_stt.server.broadcast import Broadcast
from parakeet_stt.server.connection import Connection
from parakeet_stt.server.endings import DONE, Ending
from parakeet_stt.server.messages import BadMessageError, Message, parse
from parakeet_stt.server.protocol import Protocol
from parakeet_stt.transcript import Hypothesis, Transcript, Word, words_of

SAMPLE_RATE = 24_000
"""Sample rate of eaRS's clients, Hz."""

ENGINE = "parakeet"
_OUR_NAMES = (ENGINE, "prkt")
_OTHER_ENGINES = ("kyutai", "moshi")  # Engines of eaRS that this server does not have.


class Command(BaseModel):
    """A command without arguments.

    ``stop`` ends the stream after the whole text; ``restart`` sends the whole text and starts a new
    one; audio between ``pause`` and ``resume`` is replaced by silence; ``getstatus`` and
    ``liststreams`` are answered.
    """

    type: Literal["stop", "restart", "pause", "resume", "getstatus", "liststreams"]


class SetLanguage(BaseModel):
    """Set the spoken language, which ends its detection."""

    type: Literal["setlanguage"]
    lang: str = Field(min_length=2, max_length=35)


class SetVadTimeout(BaseModel):
    """Set the seconds of silence that end a segment."""

    type: Literal["setvadtimeout"]
    seconds: float = Field(ge=0.05, le=60)


class SetEngine(BaseModel):
    """Choose an engine; this server has one."""

    type: Literal["setengine"]
    engine: str


class Authenticate(BaseModel):
    """A listener's token, its first message."""

    type: Literal["authenticate"]
    token: str


class Subscribe(BaseModel):
    """Listen to another client's stream."""

    type: Literal["subscribe"]
    stream_id: int


ClientMessage = Annotated[
    Command | SetLanguage | SetVadTimeout | SetEngine | Authenticate | Subscribe,
    Field(discriminator="type"),
]

_MESSAGE: pydantic.TypeAdapter[ClientMessage] = pydantic.TypeAdapter(ClientMessage)
_STOP = Command(type="stop")

_RESTART = "restart"


class Ears(Protocol[Message]):
    """eaRS's protocol. The first message decides whether the client is a speaker or a listener."""

    name = "ears"

    def __init__(self, connection: Connection[Message], query: QueryParams) -> None:
        super().__init__(connection, query)
        self._decoder = AudioDecoder("f32", SAMPLE_RATE)
        self._stop_seconds = connection.server.endpointing().stop_seconds
        self._paused = False
        self._language: str | None = None  # Set by the client.
        self._watch = LanguageWatch(connection.server.model.languages)
        # Session times at which the client's time starts: that of the current text first, then
        # those after restarts whose finals have not come yet.
        self._zeros = [0.0]
        self._texts: list[str] = []
        self._words: list[dict[str, Any]] = []
        self._sent_words: list[Word] = []  # Words of the open segment.
        self._broadcast: Broadcast | None = None  # Only speakers have one.
        self._is_listener = self._is_authenticated = False

    def on_message(self, message: Message) -> None:
        """Handle audio (bytes), ``stop``, or a JSON object."""
        if isinstance(message, bytes):
            self._start_stream()
            self._receive_audio(message)
            return
        stops = message.strip().strip('"').lower() == "stop"
        match _STOP if stops else parse(_MESSAGE, message):
            case Authenticate() | Subscribe() | Command(type="liststreams") as request:
                self._handle_listener(request)
            case Command(type="stop") if self._is_listener:
                self.connection.end(DONE)
            case request:
                self._start_stream()
                self._handle_speaker(request)

    def on_event(self, event: Event) -> None:
        """Send new words, pauses, segments and errors."""
        match event:
            case Hypothesis(committed_tokens=tokens):
                # The last word may still grow.
                self._publish_words(words_of(tokens)[:-1])
            case SpeechStopped(at=at):
                self._publish("pause", timestamp=self._time(at, at))
            case Final(transcript=transcript, tag=tag):
                self._end_segment(transcript)
                self._restart_if(tag)
            case Failed(segment=0, error=error):  # The endpointer failed; the segment goes on.
                self._publish("error", message=str(error))
            case Failed(error=error, tag=tag):
                self._sent_words = []
                self._publish("error", message=f"a segment got no text: {error}")
                self._restart_if(tag)

    def on_error(self, error: ParakeetError) -> None:
        """Send an error; the stream goes on."""
        self._send("error", message=str(error))

    def flush_audio(self) -> None:
        """Send the audio that the resampler holds to the session."""
        self.connection.send_audio(self._decoder.flush())

    def on_close(self, ending: Ending) -> None:
        """Send the reason if the client did not end the stream, then the whole text."""
        if ending is not DONE:
            self._send("error", message=ending.reason)
        if not self._is_listener:
            self._publish_text()

    # --- speakers ---------------------------------------------------------------------------------

    def _start_stream(self) -> None:
        """Open the session with a speaker's first message."""
        if self._is_listener:
            raise BadMessageError("this connection listens to others; open another one to speak")
        if self._broadcast is None:
            server = self.connection.server
            stream_id = next(server.stream_ids)
            self._configure()
            self._broadcast = server.broadcasts[stream_id] = Broadcast()
            self.connection.cleanup.callback(server.broadcasts.pop, stream_id)
            self._publish("enginechanged", engine=ENGINE)

    def _configure(self) -> None:
        endpointing = self.connection.server.endpointing(stop_seconds=self._stop_seconds)
        self.connection.open(endpointing=endpointing, interims=True)

    def _receive_audio(self, data: bytes) -> None:
        samples = self._decoder(data)
        # While paused, silence replaces the audio, so that times do not shift.
        self.connection.send_audio(samples * 0 if self._paused else samples)

    def _handle_speaker(self, request: ClientMessage) -> None:
        match request:
            case Command(type="stop"):
                self.connection.end(DONE)
            case Command(type="restart"):
                self._paused = False
                self._flush(restart=True)
            case Command(type="pause"):
                self._flush()
                self._paused = True
            case Command(type="resume"):
                self._paused = False
            case Command(type="getstatus"):
                self._send(
                    "status",
                    paused=self._paused,
                    vad=True,
                    timestamps=True,
                    vad_timeout=self._stop_seconds,
                    lang=self._language or self._watch.language,
                    engine=ENGINE,
                )
            case SetLanguage(lang=lang):
                known = self.connection.server.model.languages
                if known and lang not in known:
                    raise BadMessageError(
                        f"language {lang!r}: the model transcribes {', '.join(known)}"
                    )
                self._language = lang
                self._publish("languagechanged", lang=lang)
            case SetVadTimeout(seconds=seconds):
                self._stop_seconds = seconds
                self._configure()
            case SetEngine(engine=engine) if engine.lower() in _OUR_NAMES:
                self._publish("enginechanged", engine=ENGINE)
            case SetEngine(engine=engine):
                exists = engine.lower() in _OTHER_ENGINES
                raise BadMessageError("engine not available" if exists else "unknown engine")

    def _flush(self, restart: bool = False) -> None:
        session = self.connection.session
        self.flush_audio()
        session.flush(_RESTART if restart else None)
        if restart:
            self._zeros.append(session.seconds)

    def _publish_words(self, words: tuple[Word, ...]) -> None:
        """Send the words that the client does not have."""
        sent = self._sent_words
        if [word.text for word in words[: len(sent)]] == [word.text for word in sent]:
            new = list(words[len(sent) :])
        else:  # The final differs from the words sent: words spoken after them are new.
            new = [word for word in words if word.start + word.end > 2 * sent[-1].end]
        for word in new:
            self._publish("word", **self._word(word))
        self._sent_words = sent + new

    def _end_segment(self, transcript: Transcript) -> None:
        words = transcript.words
        self._publish_words(words)
        self._sent_words = []
        if not words:
            return
        self._texts.append(transcript.text)
        self._words += map(self._word, words)
        self._publish_language(transcript)
        end = words[-1].end
        start, end = self._time(words[0].start, end), self._time(end, end)
        self._publish("segment", text=transcript.text, start_time=start, end_time=end)

    def _publish_language(self, transcript: Transcript) -> None:
        detected = self._watch(transcript) if self._language is None else None
        if detected is not None:
            language, confidence = detected
            # eaRS's plan for Parakeet has both names.
            names = {"language": language, "lang": language}
            self._publish("language_detected", **names, confidence=round(confidence, 4))

    def _restart_if(self, tag: Any) -> None:
        """Send the whole text and start a new one if a restart ended the segment."""
        if tag == _RESTART:
            self._publish_text()
            self._texts, self._words = [], []
            self._zeros.pop(0)
            self._watch = LanguageWatch(self.connection.server.model.languages)
            self._publish("enginechanged", engine=ENGINE)

    def _publish_text(self) -> None:
        self._publish("final", text=" ".join(self._texts), words=self._words)

    def _word(self, word: Word) -> dict[str, Any]:
        return {
            "word": word.text,
            "start_time": self._time(word.start, word.end),
            "end_time": self._time(word.end, word.end),
            "confidence": round(word.confidence, 4),
        }

    def _time(self, seconds: float, end: float) -> float:
        """Convert a session time to the client's time, which starts at the restart before it.

        Args:
            seconds: The session time.
            end: The session time at which the thing it belongs to ends.
        """
        zero = max((zero for zero in self._zeros if zero < end), default=self._zeros[0])
        return round(max(0.0, seconds - zero), 3)

    # --- listeners --------------------------------------------------------------------------------

    def _handle_listener(self, request: Authenticate | Subscribe | Command) -> None:
        server = self.connection.server
        tokens = server.settings.ears_listener_tokens
        if self._broadcast is not None:
            raise BadMessageError("this connection speaks; open another one to listen to others")
        if not tokens:
            raise BadMessageError("listener mode is not enabled")
        self._is_listener = True
        if isinstance(request, Authenticate):
            if not holds_key(tokens, [request.token]):
                raise BadMessageError("invalid token")
            self._is_authenticated = True
            self._send("authenticated", success=True)
            return
        if not self._is_authenticated:
            raise BadMessageError("not authenticated")
        if isinstance(request, Command):
            self._send("streams", stream_ids=sorted(server.broadcasts))
            return
        broadcast = server.broadcasts.get(request.stream_id)
        if broadcast is None:
            raise BadMessageError(f"subscription failed: Stream {request.stream_id} not found")
        self.may_be_silent = True
        broadcast.subscribe(self.connection.forward)
        self._send("subscribed", stream_id=request.stream_id)

    # --- messages ---------------------------------------------------------------------------------

    def _publish(self, kind: str, **content: Any) -> None:
        """Send a message to the client and to its listeners."""
        message = self._send(kind, **content)
        if self._broadcast is not None:
            self._broadcast.send(message)

    def _send(self, kind: str, **content: Any) -> str:
        content = {"type": kind, **content}
        message = json.dumps(content, ensure_ascii=False, separators=(",", ":"))
        self.connection.send(message)
        return message
