"""``/v1/listen`` on a WebSocket: Deepgram's live protocol.

docs/protocols.md lists the differences from Deepgram's own server.
"""

from __future__ import annotations

import hashlib
import json
from collections import deque
from collections.abc import Sequence
from typing import Any

from starlette.datastructures import QueryParams

from parakeet_stt.audio import AudioDecoder
from parakeet_stt.engine.events import (
    Event,
    Failed,
    Final,
    SegmentEnded,
    SpeechStarted,
    TimeReached,
)
from parakeet_stt.engine.session import Session
from parakeet_stt.engine.vad import Endpointing
from parakeet_stt.errors import ParakeetError
from parakeet_stt.server.connection import Connection
from parakeet_stt.server.endings import DONE, Ending
from parakeet_stt.server.messages import BadMessageError, Message, parse
from parakeet_stt.server.protocol import Protocol
from parakeet_stt.server.protocols.deepgram_messages import (
    MESSAGE,
    CloseStream,
    Configure,
    Finalize,
    KeepAlive,
    Metadata,
    Options,
    alternative,
    boost_of,
    check_options,
    live_options,
)
from parakeet_stt.transcript import Hypothesis, Word

MIN_STOP_SECONDS = 0.2
"""Minimum silence that ends a segment. Shorter pauses are within sentences, and Deepgram's clients
request 10 or 25 ms by default."""

MAX_OPEN_SECONDS = 20.0
"""With ``endpointing=false``, a segment of this length ends at the next pause."""

_ENCODINGS = {"linear16": "pcm16", "linear32": "f32", "mulaw": "mulaw", "alaw": "alaw"}
_TELEPHONE = ("mulaw", "alaw")


class Deepgram(Protocol[Message]):
    """Deepgram's live protocol: binary messages are audio, text messages control the stream.

    An interim is the current text since the last final, and the next one may revise it.
    """

    name = "deepgram"
    idle_code = 1011  # Deepgram's NET-0001, after which its clients reconnect.

    def __init__(self, connection: Connection[Message], query: QueryParams) -> None:
        super().__init__(connection, query)
        server = connection.server
        self._options = options = live_options(query)
        check_options(options, server.model.language)
        self._boost = boost_of(options)
        server.options(self._boost)  # Raises before the connection is accepted.
        rate = options.sample_rate
        if rate is None:
            rate = 8_000 if options.encoding in _TELEPHONE else server.settings.sample_rate
        encoding = _ENCODINGS[options.encoding or "linear16"]
        self._decoder = AudioDecoder(encoding, rate, options.channels)
        self._metadata = Metadata(server.model_name)
        self.response_headers["dg-request-id"] = self._metadata.request_id
        self._digest = hashlib.sha256()  # Of the audio as it is received.
        self._received = ""  # The newest text message.
        self._final_end = 0.0  # Time up to which the client has finals, seconds.
        self._interim = ""  # The newest interim since then.
        self._finals_due = 0  # Segments that have ended and have no final yet.
        self._starts: deque[float] = deque()  # Times at which speech started since then.
        self._last_word: float | None = None  # End of the utterance's last word.

    def on_open(self) -> None:
        """Open the session."""
        self._open_session()

    def on_message(self, message: Message) -> None:
        """Handle audio (bytes) or a JSON object (text)."""
        if isinstance(message, bytes):
            self._digest.update(message)
            self.connection.send_audio(self._decoder(message))
            return
        self._received = message
        match parse(MESSAGE, message):
            case Finalize() as finalize:
                self.flush_audio()
                self._session.flush(finalize)
            case CloseStream() as close:
                self.flush_audio()
                self._session.flush(close)
                self.connection.end(DONE)
            case Configure() as configure:
                self._configure(configure)
            case KeepAlive():
                pass  # Its arrival restarts the idle timeout.

    def on_event(self, event: Event) -> None:
        """Send results, and the starts and ends of utterances."""
        match event:
            case Hypothesis(text=text) if text and text != self._interim and not self._finals_due:
                self._interim = text
                self._send_result(event.words, text, event.end)
            case SegmentEnded():
                self._finals_due += 1
            case Final():
                self._finals_due -= 1
                self._send_final(event)
            case Failed(error=error):
                self._finals_due -= event.segment > 0
                self._send_error("SegmentFailed", f"a segment got no final: {error}")
                if isinstance(event.tag, Finalize):
                    self._send_result(
                        (),
                        "",
                        self._final_end,
                        is_final=True,
                        speech_final=True,
                        from_finalize=True,
                    )
                self._start_after(self._session.seconds)
                self._end_utterance(self._final_end)
            case SpeechStarted(at=at):
                self._end_utterance(at)
                self._starts.append(at)
                if self._options.vad_events:
                    self._send("SpeechStarted", channel=[0, 1], timestamp=round(at, 3))
            case TimeReached(at=at):
                self._end_utterance(min([at, *self._starts]))

    def on_error(self, error: ParakeetError) -> None:
        """Send an error; the stream goes on."""
        if isinstance(error, BadMessageError):
            self._send_error("SchemaError", str(error), self._received)
        else:
            self._send_error(type(error).__name__, str(error))

    def flush_audio(self) -> None:
        """Send the audio that the resampler holds to the session."""
        self.connection.send_audio(self._decoder.flush())

    def on_close(self, ending: Ending) -> None:
        """Send ``Metadata``; the close code and reason say why the stream ends."""
        self._end_utterance(self._session.seconds)
        digest, seconds = self._digest.hexdigest(), self._session.seconds
        self._send("Metadata", **self._metadata.complete(digest, seconds, self._options.channels))

    @property
    def _session(self) -> Session:
        return self.connection.session

    def _open_session(self) -> None:
        options = self._options
        self.connection.open(
            endpointing=self._endpointing(), interims=options.interim_results, boost=self._boost
        )

    def _endpointing(self) -> Endpointing:
        """Return what ends a segment besides a Finalize.

        The session always detects speech, so that silence needs no inference and no segment grows
        without bound.
        """
        options, server = self._options, self.connection.server
        if options.endpointing is True:
            return server.endpointing()
        if options.endpointing is not False:
            return server.endpointing(
                stop_seconds=max(options.endpointing / 1000, MIN_STOP_SECONDS)
            )
        if options.utterance_end_ms is None:
            return server.endpointing(min_segment_seconds=MAX_OPEN_SECONDS)
        # The words of an utterance have to be final before it ends.
        return server.endpointing(stop_seconds=options.utterance_end_ms / 1000)

    def _configure(self, configure: Configure) -> None:
        """Replace the phrases; if one is invalid, keep the old ones."""
        changed = {}
        if configure.keyterms is not None:
            boost = boost_of(Options(keyterm=configure.keyterms))
            before, self._boost = self._boost, boost
            try:
                self._open_session()
            except ParakeetError:
                self._boost = before
                raise
            changed["keyterms"] = list(boost)
        self._send("ConfigureSuccess", request_id=self._metadata.request_id, **changed)

    def _send_final(self, final: Final) -> None:
        """Send a final, unless it is empty and the client does not wait for it."""
        transcript = final.transcript
        words = transcript.words
        self._end_utterance(words[0].start if words else transcript.end)
        if words or self._is_awaited(final):
            self._send_result(
                words,
                transcript.text,
                transcript.end,
                is_final=True,
                speech_final=final.tag is not None or self._options.endpointing is not False,
                from_finalize=isinstance(final.tag, Finalize),
                language=transcript.language,
            )
        self._start_after(max(self._final_end, transcript.end))
        if words and self._options.utterance_end_ms is not None:
            self._last_word = words[-1].end
            self._session.notify_at(self._last_word + self._options.utterance_end_ms / 1000)

    def _is_awaited(self, final: Final) -> bool:
        """Return whether the client waits for a final even if it is empty."""
        match final.tag:
            case Finalize():
                return True
            case CloseStream() if final.transcript.end > self._final_end:
                return True
        # The client received a start of speech; an empty result ends it.
        started = bool(self._starts) and self._starts[0] < final.transcript.end
        return bool(self._interim) or (started and self._options.vad_events)

    def _start_after(self, final_end: float) -> None:
        """Expect results of audio after a time."""
        self._final_end = final_end
        self._interim = ""
        while self._starts and self._starts[0] < final_end:
            self._starts.popleft()

    def _end_utterance(self, now: float) -> None:
        """Send ``UtteranceEnd`` if the gap after the last word is long enough at a time."""
        gap = self._options.utterance_end_ms
        if gap is None or self._last_word is None or now - self._last_word < gap / 1000:
            return
        self._send("UtteranceEnd", channel=[0, 1], last_word_end=round(self._last_word, 3))
        self._last_word = None

    def _send_result(
        self,
        words: Sequence[Word],
        text: str,
        end: float,
        *,
        is_final: bool = False,
        speech_final: bool = False,
        from_finalize: bool = False,
        language: str | None = None,
    ) -> None:
        self._send(
            "Results",
            channel_index=[0, 1],
            duration=round(max(0.0, end - self._final_end), 3),
            start=round(self._final_end, 3),
            is_final=is_final,
            speech_final=speech_final,
            channel={"alternatives": [alternative(words, text, language)]},
            metadata=self._metadata.source,
            from_finalize=from_finalize,
        )

    def _send_error(self, variant: str, description: str, message: str = "") -> None:
        self._send("Error", variant=variant, description=description, message=message[:500])

    def _send(self, kind: str, **content: Any) -> None:
        message = {"type": kind, **content}
        self.connection.send(json.dumps(message, ensure_ascii=False, separators=(",", ":")))
