"""``/v1/realtime``: OpenAI's Realtime protocol, for transcription.

Items are the session's segments. Deltas hold committed text only, since the protocol cannot take
any of it back. docs/protocols.md has every message.
"""

from __future__ import annotations

import json
import time
import uuid
from dataclasses import dataclass
from typing import Any

import pydantic
from starlette.datastructures import QueryParams

from parakeet_stt.engine.events import Discarded, Event, Failed, Final, SegmentEnded, SpeechStarted
from parakeet_stt.engine.preroll import HISTORY_SECONDS
from parakeet_stt.errors import ParakeetError
from parakeet_stt.server.auth import subprotocols
from parakeet_stt.server.connection import BadMessageError
from parakeet_stt.server.conversation import Conversation, Dialect, parse
from parakeet_stt.server.protocols.realtime_messages import (
    EVENT,
    Answer,
    Append,
    Clear,
    Commit,
    Format,
    Listening,
    Transcription,
    TurnDetection,
    UnusableError,
    Update,
    event_id_of,
)
from parakeet_stt.transcript import Hypothesis

_TRANSCRIPTION = "conversation.item.input_audio_transcription"
_BETA_PROTOCOL = "openai-beta.realtime-v1"
_CODES = {"json_invalid": "invalid_json", "missing": "missing_required_parameter"}


@dataclass
class _Item:
    """A segment, as the client knows it.

    Attributes:
        id: Its name.
        announced: Whether the client was told that speech began.
        told: Text that the client was told of.
    """

    id: str
    announced: bool = False
    told: str = ""


class Realtime(Dialect):
    """OpenAI's Realtime protocol: a transcription session, in today's form or that of the beta."""

    protocol = "realtime"

    def __init__(self, talk: Conversation, query: QueryParams) -> None:
        super().__init__(talk, query)
        settings, headers = talk.server.settings, talk.headers
        self._beta = "realtime=v1" in headers.get("openai-beta", "")
        self._beta |= _BETA_PROTOCOL in subprotocols(headers)
        self._transcribes = query.get("intent") == "transcription"
        self._id = _name("sess")
        self._expires = int(time.time() + settings.max_session_seconds)
        self._listening = Listening(
            Format().full,
            Transcription(model=query.get("model") or talk.server.model_name),
            TurnDetection().full(settings),
        )
        self._decoder = self._listening.format.decoder()
        self._asked: str | None = None  # Id of the event that is being dealt with.
        self._item: _Item | None = None
        self._previous: str | None = None
        self._committed: dict[int, _Item] = {}  # By segment, until their transcripts are there.

    def greet(self) -> None:
        """Describe the session: clients wait for that."""
        self._listen(self._listening)
        flat = self._beta and self._transcribes
        kind = "transcription_session.created" if flat else "session.created"
        self._say(kind, session=self._shown())

    def receive(self, message: str | bytes) -> None:
        """Take an event."""
        self._asked = None
        if isinstance(message, bytes):
            raise BadMessageError(
                "a binary message: expected JSON, with audio in input_audio_buffer.append"
            )
        try:
            event = parse(EVENT, message)
        except BadMessageError:
            self._asked = event_id_of(message)
            raise
        self._asked = event.event_id
        session = self.talk.session
        assert session is not None
        match event:
            case Append():
                self.talk.hear(self._decoder(event.audio))
            case Commit():
                self.rest()
                session.flush(event)
            case Clear():
                self.rest()
                session.discard()
            case Update():
                self._update(event)
            case Answer():
                raise UnusableError(
                    f"{event.type}: this server transcribes and does not answer", "type"
                )

    def tell(self, event: Event) -> None:
        """Send what happens to items. That speech stopped is told when its segment has ended."""
        match event:
            case SpeechStarted(start=start):
                item = self._current()
                if not item.announced:
                    item.announced = True
                    self._tell_speech("started", item, audio_start_ms=round(start * 1000))
            case Hypothesis(committed=committed) if committed:
                self._extend(self._current(), committed)
            case SegmentEnded():
                self._commit(event)
            case Final(transcript=transcript, segment=segment) if segment in self._committed:
                item = self._committed.pop(segment)
                self._extend(item, transcript.text)
                seconds = round(transcript.end - transcript.start, 3)
                content: dict[str, Any] = {"usage": {"type": "duration", "seconds": seconds}}
                if transcript.language is not None:
                    content["languages"] = [{"code": transcript.language}]
                self._transcribed("completed", item, transcript=transcript.text, **content)
            case Failed(error=error, segment=segment) if segment in self._committed:
                item = self._committed.pop(segment)
                content = _error("transcription_error", f"there is no transcript: {error}")
                self._transcribed("failed", item, error=content)
            case Failed(error=error, segment=0):
                content = _error("server_error", f"turns could not be detected: {error}")
                self._say("error", error={**content, "event_id": None})
            case Discarded():
                self._item = None
                self._say("input_audio_buffer.cleared")

    def complain(self, error: ParakeetError) -> None:
        """Send an error; the session goes on."""
        code, param = "invalid_value", None
        cause = error.__cause__
        if isinstance(error, UnusableError):
            param = error.param
        elif isinstance(cause, pydantic.ValidationError):
            first = cause.errors(include_url=False, include_context=False)[0]
            code = _CODES.get(first["type"], code)
            if code != "invalid_json":
                # The event's type comes first; where that is all, it is what is wrong.
                param = ".".join(str(part) for part in first["loc"][1:]) or "type"
        content = _error("invalid_request_error", str(error), code, param)
        self._say("error", error={**content, "event_id": self._asked})

    def rest(self) -> None:
        """Hand over what the resampler holds back."""
        self.talk.hear(self._decoder.flush())

    def _update(self, event: Update) -> None:
        """Listen in another way, all of it or nothing."""
        before = self._listening
        after = before.asked(event.session, self.talk.server.settings)
        self._listen(after)
        self._listening = after
        if after.format != before.format:
            self.rest()
            self._decoder = after.format.decoder()
        if before.turn_detection is not None and after.turn_detection is None:
            # What no speech was found in yet is the client's to commit from here on.
            assert self.talk.session is not None
            self.talk.session.start_segment(HISTORY_SECONDS)
        if event.type == "transcription_session.update":
            self._beta = True
        elif event.session.nested:
            self._beta = False
        self._say(event.type + "d", session=self._shown())

    def _listen(self, wanted: Listening) -> None:
        turns, endpointing, preroll = wanted.turn_detection, None, None
        if turns is not None:
            assert turns.silence_duration_ms is not None
            assert turns.prefix_padding_ms is not None
            stop, preroll = turns.silence_duration_ms / 1000, turns.prefix_padding_ms / 1000
            endpointing = self.talk.server.endpointing(turns.threshold, stop)
        self.talk.open(
            endpointing=endpointing,
            interims=True,
            preroll=preroll,
            boost=wanted.transcription.boost,
        )

    def _current(self) -> _Item:
        """The item that audio belongs to now."""
        if self._item is None:
            self._item = _Item(_name("item"))
        return self._item

    def _commit(self, ended: SegmentEnded) -> None:
        """Tell that an item is complete; its transcript follows."""
        if ended.tag is None and ended.start == ended.end:
            return  # Nobody asked, and nothing was heard: the session's own end.
        item, self._item = self._current(), None
        if item.announced:
            self._tell_speech("stopped", item, audio_end_ms=round(ended.end * 1000))
        follows = {"previous_item_id": self._previous}
        self._say("input_audio_buffer.committed", item_id=item.id, **follows)
        content = {
            "id": item.id,
            "object": "realtime.item",
            "type": "message",
            "status": "completed",
            "role": "user",
            "content": [{"type": "input_audio", "transcript": None}],
        }
        for change in ("created",) if self._beta else ("added", "done"):
            self._say(f"conversation.item.{change}", item=content, **follows)
        self._previous = item.id
        self._committed[ended.segment] = item

    def _extend(self, item: _Item, text: str) -> None:
        """Tell what of a text is new, where it goes on from what was told."""
        if text.startswith(item.told) and text != item.told:
            self._transcribed("delta", item, delta=text[len(item.told) :])
            item.told = text

    def _tell_speech(self, change: str, item: _Item, **when: int) -> None:
        self._say(f"input_audio_buffer.speech_{change}", item_id=item.id, **when)

    def _transcribed(self, kind: str, item: _Item, **content: Any) -> None:
        self._say(f"{_TRANSCRIPTION}.{kind}", item_id=item.id, content_index=0, **content)

    def _shown(self) -> dict[str, Any]:
        kind = "realtime.transcription_session"
        known = {"id": self._id, "object": kind, "expires_at": self._expires}
        return {**known, **self._listening.shown(self._beta)}

    def _say(self, kind: str, **content: Any) -> None:
        message = {"type": kind, "event_id": _name("event"), **content}
        self.talk.say(json.dumps(message, ensure_ascii=False, separators=(",", ":")))


def _name(kind: str) -> str:
    """A name that nothing else has."""
    return f"{kind}_{uuid.uuid4().hex[:20]}"


def _error(
    kind: str, message: str, code: str | None = None, param: str | None = None
) -> dict[str, str | None]:
    return {"type": kind, "code": code, "message": message, "param": param}
