"""``/v1/listen`` on a WebSocket: Deepgram's live protocol, for its own and everybody's clients.

docs/protocols.md says what differs from Deepgram's own server.
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
from parakeet_stt.server.connection import BadMessageError
from parakeet_stt.server.conversation import DONE, Conversation, Dialect, Ending, parse
from parakeet_stt.server.protocols.deepgram_messages import (
    MESSAGE,
    CloseStream,
    Configure,
    Finalize,
    KeepAlive,
    Options,
    Summary,
    alternative,
    boost_of,
    check_options,
    live_options,
)
from parakeet_stt.transcript import Hypothesis, Word

LEAST_STOP_SECONDS = 0.2
"""A pause ends a segment after so long at least: shorter ones are within sentences, and Deepgram's
clients ask for 10 or 25 ms by default."""

UNENDED_SECONDS = 20.0
"""With ``endpointing=false``, a segment that the client has not ended by now ends at a pause."""

_ENCODINGS = {"linear16": "pcm16", "linear32": "f32", "mulaw": "mulaw", "alaw": "alaw"}
_TELEPHONE = ("mulaw", "alaw")


class Deepgram(Dialect):
    """Deepgram's live protocol: binary messages are audio, text messages control the stream.

    An interim is all that is believed since the last final, and may be revised by the next one.
    """

    protocol = "deepgram"
    idle_code = 1011  # As Deepgram's NET-0001: its clients connect anew.

    def __init__(self, talk: Conversation, query: QueryParams) -> None:
        super().__init__(talk, query)
        server = talk.server
        self._options = options = live_options(query)
        check_options(options, server)
        self._boost = boost_of(options)
        server.options(self._boost)  # Whether it can be used.
        rate = options.sample_rate
        if rate is None:
            rate = 8_000 if options.encoding in _TELEPHONE else server.settings.sample_rate
        encoding = _ENCODINGS[options.encoding or "linear16"]
        self._decoder = AudioDecoder(encoding, rate, options.channels)
        self._summary = Summary(server)
        self.answer["dg-request-id"] = self._summary.request_id
        self._digest = hashlib.sha256()  # Of the audio as it is received.
        self._received = ""  # The newest text message.
        self._told = 0.0  # Seconds of audio that finals have been about.
        self._interim = ""  # What the client was shown since then.
        self._unmade = 0  # Finals of segments that have ended; interims are not of them.
        self._starts: deque[float] = deque()  # Of speech, since then.
        self._last_word: float | None = None  # Where it ended, until its utterance has.

    def greet(self) -> None:
        """Listen."""
        self._listen()

    def receive(self, message: str | bytes) -> None:
        """Take audio or a JSON object."""
        if isinstance(message, bytes):
            self._digest.update(message)
            self.talk.hear(self._decoder(message))
            return
        self._received = message
        match parse(MESSAGE, message):
            case Finalize() as finalize:
                self.rest()
                self._session.flush(finalize)
            case CloseStream() as close:
                self.rest()
                self._session.flush(close)
                self.talk.end(DONE)
            case Configure() as configure:
                self._configure(configure)
            case KeepAlive():
                pass  # That it came is what counts.

    def tell(self, event: Event) -> None:
        """Send results, and the beginnings and ends of utterances."""
        match event:
            case Hypothesis(text=text) if text and text != self._interim and not self._unmade:
                self._interim = text
                self._result(event.words, text, event.end)
            case SegmentEnded():
                self._unmade += 1
            case Final():
                self._unmade -= 1
                self._final(event)
            case Failed(error=error):
                self._unmade -= event.segment > 0
                self._error("SegmentFailed", f"a segment got no final: {error}")
                if isinstance(event.tag, Finalize):
                    self._result(
                        (), "", self._told, is_final=True, speech_final=True, from_finalize=True
                    )
                self._begin_anew(self._session.seconds)
                self._end_utterance(self._told)
            case SpeechStarted(at=at):
                self._end_utterance(at)
                self._starts.append(at)
                if self._options.vad_events:
                    self._say("SpeechStarted", channel=[0, 1], timestamp=round(at, 3))
            case TimeReached(at=at):
                self._end_utterance(min([at, *self._starts]))

    def complain(self, error: ParakeetError) -> None:
        """Send an error; the stream goes on."""
        if isinstance(error, BadMessageError):
            self._error("SchemaError", str(error), self._received)
        else:
            self._error(type(error).__name__, str(error))

    def rest(self) -> None:
        """Hand over what the resampler holds back."""
        self.talk.hear(self._decoder.flush())

    def leave(self, ending: Ending) -> None:
        """Send the summary; the close code and reason say why."""
        self._end_utterance(self._session.seconds)
        digest, seconds = self._digest.hexdigest(), self._session.seconds
        summary = self._summary.content(digest, seconds, self._options.channels)
        self._say("Metadata", **summary)

    @property
    def _session(self) -> Session:
        assert self.talk.session is not None
        return self.talk.session

    def _listen(self) -> None:
        options = self._options
        self.talk.open(
            endpointing=self._when_to_end(), interims=options.interim_results, boost=self._boost
        )

    def _when_to_end(self) -> Endpointing:
        """What ends a segment beside a Finalize.

        The session looks for speech in any case, so that silence costs nothing and no segment grows
        without end, whatever the client does.
        """
        options, server = self._options, self.talk.server
        if options.endpointing is True:
            return server.endpointing()
        if options.endpointing is not False:
            return server.endpointing(
                stop_seconds=max(options.endpointing / 1000, LEAST_STOP_SECONDS)
            )
        if options.utterance_end_ms is None:
            return server.endpointing(min_segment_seconds=UNENDED_SECONDS)
        # The words of an utterance are final before it ends.
        return server.endpointing(stop_seconds=options.utterance_end_ms / 1000)

    def _configure(self, configure: Configure) -> None:
        """Change the phrases, all of them or nothing."""
        changed = {}
        if configure.keyterms is not None:
            boost = boost_of(Options(keyterm=configure.keyterms))
            before, self._boost = self._boost, boost
            try:
                self._listen()
            except ParakeetError:
                self._boost = before
                raise
            changed["keyterms"] = list(boost)
        self._say("ConfigureSuccess", request_id=self._summary.request_id, **changed)

    def _final(self, final: Final) -> None:
        """Send a final, unless it is empty and nobody waits for it."""
        transcript = final.transcript
        words = transcript.words
        self._end_utterance(words[0].start if words else transcript.end)
        if words or self._is_awaited(final):
            self._result(
                words,
                transcript.text,
                transcript.end,
                is_final=True,
                speech_final=final.tag is not None or self._options.endpointing is not False,
                from_finalize=isinstance(final.tag, Finalize),
                language=transcript.language,
            )
        self._begin_anew(max(self._told, transcript.end))
        if words and self._options.utterance_end_ms is not None:
            self._last_word = words[-1].end
            self._session.notify_at(self._last_word + self._options.utterance_end_ms / 1000)

    def _is_awaited(self, final: Final) -> bool:
        """Whether the client waits for a final, even for one that is empty."""
        match final.tag:
            case Finalize():
                return True
            case CloseStream() if final.transcript.end > self._told:
                return True
        # It knows of speech, and should learn that this came to nothing.
        begun = bool(self._starts) and self._starts[0] < final.transcript.end
        return bool(self._interim) or (begun and self._options.vad_events)

    def _begin_anew(self, told: float) -> None:
        self._told = told
        self._interim = ""
        while self._starts and self._starts[0] < told:
            self._starts.popleft()

    def _end_utterance(self, now: float) -> None:
        """Say that the utterance is over, if nothing was said for long enough by now."""
        gap = self._options.utterance_end_ms
        if gap is None or self._last_word is None or now - self._last_word < gap / 1000:
            return
        self._say("UtteranceEnd", channel=[0, 1], last_word_end=round(self._last_word, 3))
        self._last_word = None

    def _result(
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
        self._say(
            "Results",
            channel_index=[0, 1],
            duration=round(max(0.0, end - self._told), 3),
            start=round(self._told, 3),
            is_final=is_final,
            speech_final=speech_final,
            channel={"alternatives": [alternative(words, text, language)]},
            metadata=self._summary.source,
            from_finalize=from_finalize,
        )

    def _error(self, variant: str, description: str, message: str = "") -> None:
        self._say("Error", variant=variant, description=description, message=message[:500])

    def _say(self, kind: str, **content: Any) -> None:
        message = {"type": kind, **content}
        self.talk.say(json.dumps(message, ensure_ascii=False, separators=(",", ":")))
