"""``/ws``: the WebSocket of systems 001 and 002, where the server finds the segments.

16-bit audio in; ``{"status":"queued"}`` when speech has ended, then its text. docs/protocols.md has
every message.
"""

from __future__ import annotations

import json
from typing import Any, Literal

import pydantic
from pydantic import BaseModel, Field
from starlette.datastructures import QueryParams

from parakeet_stt.audio import AudioDecoder
from parakeet_stt.engine.events import Event, Failed, Final, SegmentEnded
from parakeet_stt.errors import ParakeetError
from parakeet_stt.server.conversation import DONE, Conversation, Dialect, Ending, parse
from parakeet_stt.transcript import Hypothesis, Transcript


class Options(BaseModel):
    """What the URL may ask for."""

    interims: bool = False
    sample_rate: int | None = Field(None, ge=4_000, le=384_000)


class Request(BaseModel):
    """``flush`` ends the segment now; ``finish`` ends the connection after the last result."""

    type: Literal["flush", "finish"]


_OPTIONS = pydantic.TypeAdapter(Options)
_REQUEST = pydantic.TypeAdapter(Request)

_FLUSH = "flush"


class Ws(Dialect):
    """A protocol whose clients count: every ``queued`` is followed by exactly one ``text``.

    002's benchmark leaves when it has as many results as it was promised, so that a segment in
    which nothing was said, and one that failed, are answered too, with an empty text.
    """

    protocol = "ws"

    def __init__(self, talk: Conversation, query: QueryParams) -> None:
        super().__init__(talk, query)
        self._options = parse(_OPTIONS, json.dumps(dict(query)))
        rate = self._options.sample_rate or talk.server.settings.sample_rate
        self._decoder = AudioDecoder("pcm16", rate)
        self._promised: set[int] = set()  # Segments whose results are on their way.
        self._shown = ""

    def greet(self) -> None:
        """Listen; nothing is said."""
        self.talk.open(endpointing=self.talk.server.endpointing(), interims=self._options.interims)

    def receive(self, message: str | bytes) -> None:
        """Take audio or a request."""
        if isinstance(message, bytes):
            self.talk.hear(self._decoder(message))
        elif parse(_REQUEST, message).type == "finish":
            self.talk.end(DONE)
        else:
            assert self.talk.session is not None
            self.rest()
            self.talk.session.flush(_FLUSH)

    def tell(self, event: Event) -> None:
        """Send what was said, and that it will be."""
        match event:
            case Hypothesis(text=text):
                if text != self._shown:
                    self._shown = text
                    self._say(partial=text)
            case SegmentEnded(segment=segment, tag=tag):
                self._shown = ""
                # The end of the connection flushes too: without a segment, there is no result.
                if event.end > event.start or tag == _FLUSH:
                    self._promised.add(segment)
                    self._say(status="queued")
            case Final(segment=segment, transcript=transcript) if segment in self._promised:
                self._result(segment, transcript)
            case Failed(segment=segment, error=error) if segment in self._promised:
                self._result(segment, Transcript(()), error=f"a segment got no text: {error}")
            case Failed(error=error):
                self._say(error=str(error))

    def complain(self, error: ParakeetError) -> None:
        """Send an error; the stream goes on."""
        self._say(error=str(error))

    def rest(self) -> None:
        """Hand over what the resampler holds back."""
        self.talk.hear(self._decoder.flush())

    def leave(self, ending: Ending) -> None:
        """Say why, where the client did not ask for it."""
        if ending is not DONE:
            self._say(error=ending.reason)

    def _result(self, segment: int, transcript: Transcript, **more: str) -> None:
        self._promised.remove(segment)
        self._say(
            text=transcript.text,
            confidence=round(transcript.confidence, 4),
            words=[round(word.confidence, 4) for word in transcript.words],
            **more,
        )

    def _say(self, **message: Any) -> None:
        self.talk.say(json.dumps(message, ensure_ascii=False, separators=(",", ":")))
