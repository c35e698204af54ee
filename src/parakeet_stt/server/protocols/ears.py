"""``/v1/ears``: eaRS's protocol (system 003), word by word, for speakers and their listeners.

Floats at 24 kHz in; words, segments and pauses out, and at the end everything once more.
docs/protocols.md has every message.
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
from parakeet_stt.server.connection import BadMessageError
from parakeet_stt.server.conversation import DONE, Conversation, Dialect, Ending, parse
from parakeet_stt.transcript import Hypothesis, Transcript, Word, words_of

SAMPLE_RATE = 24_000
"""Hz; what eaRS's clients send."""

ENGINE = "parakeet"
_OUR_NAMES = (ENGINE, "prkt")
_OTHER_ENGINES = ("kyutai", "moshi")  # eaRS has them.


class Command(BaseModel):
    """What needs no more than its name.

    ``stop`` ends the stream after the whole text, ``restart`` begins it anew; ``pause`` and
    ``resume`` say whether to listen; ``getstatus`` and ``liststreams`` are answered.
    """

    type: Literal["stop", "restart", "pause", "resume", "getstatus", "liststreams"]


class SetLanguage(BaseModel):
    """The language that is spoken, which then is not detected."""

    type: Literal["setlanguage"]
    lang: str = Field(min_length=2, max_length=35)


class SetVadTimeout(BaseModel):
    """Silence that ends a segment."""

    type: Literal["setvadtimeout"]
    seconds: float = Field(ge=0.05, le=60)


class SetEngine(BaseModel):
    """Another engine; there is one only."""

    type: Literal["setengine"]
    engine: str


class Authenticate(BaseModel):
    """A listener's token, before anything else."""

    type: Literal["authenticate"]
    token: str


class Subscribe(BaseModel):
    """Listen to a stream."""

    type: Literal["subscribe"]
    stream_id: int


Message = Annotated[
    Command | SetLanguage | SetVadTimeout | SetEngine | Authenticate | Subscribe,
    Field(discriminator="type"),
]

_MESSAGE: pydantic.TypeAdapter[Message] = pydantic.TypeAdapter(Message)
_STOP = Command(type="stop")


_RESTART = "restart"


class Ears(Dialect):
    """eaRS. As there, what the first message is decides between a speaker and a listener."""

    protocol = "ears"

    def __init__(self, talk: Conversation, query: QueryParams) -> None:
        super().__init__(talk, query)
        self._decoder = AudioDecoder("f32", SAMPLE_RATE)
        self._stop_seconds = talk.server.endpointing().stop_seconds
        self._paused = False
        self._language: str | None = None  # As the client set it.
        self._watch = LanguageWatch(talk.server.model.languages)
        # Seconds of the session at which the client's time begins: now, and after restarts whose
        # finals are on their way.
        self._zeros = [0.0]
        self._texts: list[str] = []
        self._words: list[dict[str, Any]] = []
        self._told: list[Word] = []  # Of the segment that is open.
        self._stream_id: int | None = None  # Only speakers have one.
        self._listeners: list[Ears] = []
        self._is_listener = self._is_known = False

    def receive(self, message: str | bytes) -> None:
        """Take audio, ``stop``, or a JSON object."""
        if isinstance(message, bytes):
            self._begin()
            self._hear(message)
            return
        stops = message.strip().strip('"').lower() == "stop"
        match _STOP if stops else parse(_MESSAGE, message):
            case Authenticate() | Subscribe() | Command(type="liststreams") as request:
                self._listen(request)
            case Command(type="stop") if self._is_listener:
                self.talk.end(DONE)
            case request:
                self._begin()
                self._obey(request)

    def tell(self, event: Event) -> None:
        """Send the words that are new, and what else there is to say."""
        match event:
            case Hypothesis(committed_tokens=tokens):
                # The last of them may still grow.
                self._tell_words(words_of(tokens)[:-1])
            case SpeechStopped(at=at):
                self._tell("pause", timestamp=self._time(at, at))
            case Final(transcript=transcript, tag=tag):
                self._end_segment(transcript)
                self._go_on(tag)
            case Failed(segment=0, error=error):  # The endpointer; the segment goes on.
                self._tell("error", message=str(error))
            case Failed(error=error, tag=tag):
                self._told = []
                self._tell("error", message=f"a segment got no text: {error}")
                self._go_on(tag)

    def complain(self, error: ParakeetError) -> None:
        """Send an error; the stream goes on."""
        self._say("error", message=str(error))

    def rest(self) -> None:
        """Hand over what the resampler holds back."""
        self.talk.hear(self._decoder.flush())

    def leave(self, ending: Ending) -> None:
        """Send everything that was said, the reason before it where the client did not ask."""
        if ending is not DONE:
            self._say("error", message=ending.reason)
        if not self._is_listener:
            self._tell_whole()

    # --- speakers ---------------------------------------------------------------------------------

    def _begin(self) -> None:
        """Open the stream, with the first message that is a speaker's."""
        if self._is_listener:
            raise BadMessageError("this connection listens to others; open another one to speak")
        if self._stream_id is None:
            self._stream_id = next(self.talk.server.stream_ids)
            self._configure()
            self._tell("enginechanged", engine=ENGINE)

    def _configure(self) -> None:
        endpointing = self.talk.server.endpointing(stop_seconds=self._stop_seconds)
        self.talk.open(endpointing=endpointing, interims=True)

    def _hear(self, data: bytes) -> None:
        samples = self._decoder(data)
        # Silence takes the place of what is not to be heard, so that times stay as they are.
        self.talk.hear(samples * 0 if self._paused else samples)

    def _obey(self, request: Message) -> None:
        match request:
            case Command(type="stop"):
                self.talk.end(DONE)
            case Command(type="restart"):
                self._paused = False
                self._flush(restart=True)
            case Command(type="pause"):
                self._flush()
                self._paused = True
            case Command(type="resume"):
                self._paused = False
            case Command(type="getstatus"):
                self._say(
                    "status",
                    paused=self._paused,
                    vad=True,
                    timestamps=True,
                    vad_timeout=self._stop_seconds,
                    lang=self._language or self._watch.language,
                    engine=ENGINE,
                )
            case SetLanguage(lang=lang):
                known = self.talk.server.model.languages
                if known and lang not in known:
                    raise BadMessageError(f"language {lang!r}: the model knows {', '.join(known)}")
                self._language = lang
                self._tell("languagechanged", lang=lang)
            case SetVadTimeout(seconds=seconds):
                self._stop_seconds = seconds
                self._configure()
            case SetEngine(engine=engine) if engine.lower() in _OUR_NAMES:
                self._tell("enginechanged", engine=ENGINE)
            case SetEngine(engine=engine):
                known_there = engine.lower() in _OTHER_ENGINES
                raise BadMessageError("engine not available" if known_there else "unknown engine")

    def _flush(self, restart: bool = False) -> None:
        session = self.talk.session
        assert session is not None
        self.rest()
        session.flush(_RESTART if restart else None)
        if restart:
            self._zeros.append(session.seconds)

    def _tell_words(self, words: tuple[Word, ...]) -> None:
        """Send those that the client does not have."""
        told = self._told
        if [word.text for word in words[: len(told)]] == [word.text for word in told]:
            new = list(words[len(told) :])
        else:  # The final reads otherwise: what was said after them is new.
            new = [word for word in words if word.start + word.end > 2 * told[-1].end]
        for word in new:
            self._tell("word", **self._word(word))
        self._told = told + new

    def _end_segment(self, transcript: Transcript) -> None:
        words = transcript.words
        self._tell_words(words)
        self._told = []
        if not words:
            return
        self._texts.append(transcript.text)
        self._words += map(self._word, words)
        self._tell_language(transcript)
        end = words[-1].end
        start, end = self._time(words[0].start, end), self._time(end, end)
        self._tell("segment", text=transcript.text, start_time=start, end_time=end)

    def _tell_language(self, transcript: Transcript) -> None:
        news = self._watch(transcript) if self._language is None else None
        if news is not None:
            language, confidence = news
            # eaRS's plan has both names for it.
            told = {"language": language, "lang": language}
            self._tell("language_detected", **told, confidence=round(confidence, 4))

    def _go_on(self, tag: Any) -> None:
        """After a segment; where a restart ended it, with a stream that is as new."""
        if tag == _RESTART:
            self._tell_whole()
            self._texts, self._words = [], []
            self._zeros.pop(0)
            self._watch = LanguageWatch(self.talk.server.model.languages)
            self._tell("enginechanged", engine=ENGINE)

    def _tell_whole(self) -> None:
        self._tell("final", text=" ".join(self._texts), words=self._words)

    def _word(self, word: Word) -> dict[str, Any]:
        return {
            "word": word.text,
            "start_time": self._time(word.start, word.end),
            "end_time": self._time(word.end, word.end),
            "confidence": round(word.confidence, 4),
        }

    def _time(self, seconds: float, end: float) -> float:
        """A time of something that ended then, in seconds since the restart before it."""
        zero = max((zero for zero in self._zeros if zero < end), default=self._zeros[0])
        return round(max(0.0, seconds - zero), 3)

    # --- listeners --------------------------------------------------------------------------------

    def _listen(self, request: Authenticate | Subscribe | Command) -> None:
        tokens = self.talk.server.settings.ears_listener_tokens
        if self._stream_id is not None:
            raise BadMessageError("this connection speaks; open another one to listen to others")
        if not tokens:
            raise BadMessageError("listener mode is not enabled")
        self._is_listener = True
        if isinstance(request, Authenticate):
            if not holds_key(tokens, [request.token]):
                raise BadMessageError("invalid token")
            self._is_known = True
            self._say("authenticated", success=True)
            return
        if not self._is_known:
            raise BadMessageError("not authenticated")
        streams = self._streams()
        if isinstance(request, Command):
            self._say("streams", stream_ids=sorted(streams))
            return
        stream = streams.get(request.stream_id)
        if stream is None:
            raise BadMessageError(f"subscription failed: Stream {request.stream_id} not found")
        self.silent = True
        if self not in stream._listeners:
            stream._listeners.append(self)
        self._say("subscribed", stream_id=request.stream_id)

    def _streams(self) -> dict[int, Ears]:
        """Those who speak now."""
        dialects = [conversation.dialect for conversation in self.talk.server.conversations]
        speakers = [dialect for dialect in dialects if isinstance(dialect, Ears)]
        return {s._stream_id: s for s in speakers if s._stream_id is not None}

    # --- messages ---------------------------------------------------------------------------------

    def _tell(self, kind: str, **content: Any) -> None:
        """Send to the client and to everybody who listens to it."""
        message = self._say(kind, **content)
        self._listeners = [other for other in self._listeners if other.talk.copy(message)]

    def _say(self, kind: str, **content: Any) -> str:
        content = {"type": kind, **content}
        message = json.dumps(content, ensure_ascii=False, separators=(",", ":"))
        self.talk.say(message)
        return message
