"""``/v1/realtime``: OpenAI's Realtime protocol, for transcription.

An item is a segment of the session. Deltas contain committed text only, because the protocol cannot
revise them. docs/protocols.md describes every message.
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
from parakeet_stt.server.connection import Connection
from parakeet_stt.server.messages import BadMessageError, Message, parse
from parakeet_stt.server.protocol import Protocol
from parakeet_stt.server.protocols.realtime_messages import (
    CLIENT_EVENT,
    AudioFormat,
    AudioTranscription,
    InputAudioBufferAppend,
    InputAudioBufferClear,
    InputAudioBufferCommit,
    SessionUpdate,
    TranscriptionSession,
    TurnDetection,
    UnsupportedEvent,
    UnsupportedValueError,
    event_id_of,
)
from parakeet_stt.server.responses import openai_error
from parakeet_stt.transcript import Hypothesis

_TRANSCRIPTION = "conversation.item.input_audio_transcription"
_BETA_PROTOCOL = "openai-beta.realtime-v1"
_CODES = {"json_invalid": "invalid_json", "missing": "missing_required_parameter"}


@dataclass
class _Item:
    """An item: a segment as the client sees it.

    Attributes:
        id: Its id.
        announced: Whether ``speech_started`` was sent.
        sent_text: The text of the deltas that were sent.
    """

    id: str
    announced: bool = False
    sent_text: str = ""


class Realtime(Protocol[Message]):
    """A transcription session of OpenAI's Realtime protocol, in its current or its beta form."""

    name = "realtime"

    def __init__(self, connection: Connection[Message], query: QueryParams) -> None:
        super().__init__(connection, query)
        settings, headers = connection.server.settings, connection.headers
        self._beta = "realtime=v1" in headers.get("openai-beta", "")
        self._beta |= _BETA_PROTOCOL in subprotocols(headers)
        self._is_transcription = query.get("intent") == "transcription"
        self._id = _new_id("sess")
        self._expires = int(time.time() + settings.max_session_seconds)
        self._options = TranscriptionSession(
            AudioFormat().complete(),
            AudioTranscription(model=query.get("model") or connection.server.model_name),
            TurnDetection().complete(settings),
        )
        self._decoder = self._options.format.decoder()
        self._event_id: str | None = None  # Id of the client's event that is being handled.
        self._item: _Item | None = None  # The item that audio belongs to now.
        self._previous: str | None = None
        self._committed: dict[int, _Item] = {}  # Items without a transcript yet, by segment.

    def on_open(self) -> None:
        """Open the session and send ``session.created``, which clients wait for."""
        self._open_session(self._options)
        flat = self._beta and self._is_transcription
        kind = "transcription_session.created" if flat else "session.created"
        self._send(kind, session=self._session_object())

    def on_message(self, message: Message) -> None:
        """Handle a client event."""
        self._event_id = None
        if isinstance(message, bytes):
            raise BadMessageError(
                "a binary message: expected JSON, with audio in input_audio_buffer.append"
            )
        try:
            event = parse(CLIENT_EVENT, message)
        except BadMessageError:
            self._event_id = event_id_of(message)
            raise
        self._event_id = event.event_id
        match event:
            case InputAudioBufferAppend():
                self.connection.send_audio(self._decoder(event.audio))
            case InputAudioBufferCommit():
                self.flush_audio()
                self.connection.session.flush(event)
            case InputAudioBufferClear():
                self.flush_audio()
                self.connection.session.discard()
            case SessionUpdate():
                self._update(event)
            case UnsupportedEvent():
                raise UnsupportedValueError(
                    f"{event.type}: this server transcribes and does not answer", "type"
                )

    def on_event(self, event: Event) -> None:
        """Send the events of items; ``speech_stopped`` is sent when the segment has ended."""
        match event:
            case SpeechStarted(start=start):
                item = self._current_item()
                if not item.announced:
                    item.announced = True
                    self._send_speech("started", item, audio_start_ms=round(start * 1000))
            case Hypothesis(committed=committed) if committed:
                self._send_delta(self._current_item(), committed)
            case SegmentEnded():
                self._commit(event)
            case Final(transcript=transcript, segment=segment) if segment in self._committed:
                item = self._committed.pop(segment)
                self._send_delta(item, transcript.text)
                seconds = round(transcript.end - transcript.start, 3)
                content: dict[str, Any] = {"usage": {"type": "duration", "seconds": seconds}}
                if transcript.language is not None:
                    content["languages"] = [{"code": transcript.language}]
                self._send_transcription("completed", item, transcript=transcript.text, **content)
            case Failed(error=error, segment=segment) if segment in self._committed:
                item = self._committed.pop(segment)
                content = openai_error("transcription_error", f"there is no transcript: {error}")
                self._send_transcription("failed", item, error=content)
            case Failed(error=error, segment=0):
                content = openai_error("server_error", f"turns could not be detected: {error}")
                self._send("error", error={**content, "event_id": None})
            case Discarded():
                self._item = None
                self._send("input_audio_buffer.cleared")

    def on_error(self, error: ParakeetError) -> None:
        """Send an error; the session goes on."""
        code, param = "invalid_value", None
        cause = error.__cause__
        if isinstance(error, UnsupportedValueError):
            param = error.param
        elif isinstance(cause, pydantic.ValidationError):
            first = cause.errors(include_url=False, include_context=False)[0]
            code = _CODES.get(first["type"], code)
            if code != "invalid_json":
                # The first part is the event's type; if it is the only one, the type is wrong.
                param = ".".join(str(part) for part in first["loc"][1:]) or "type"
        content = openai_error("invalid_request_error", str(error), code, param)
        self._send("error", error={**content, "event_id": self._event_id})

    def flush_audio(self) -> None:
        """Send the audio that the resampler holds to the session."""
        self.connection.send_audio(self._decoder.flush())

    def _update(self, event: SessionUpdate) -> None:
        """Change options; if one is invalid, change none."""
        before = self._options
        after = before.updated(event.session, self.connection.server.settings)
        self._open_session(after)
        self._options = after
        if after.format != before.format:
            self.flush_audio()
            self._decoder = after.format.decoder()
        if before.turn_detection is not None and after.turn_detection is None:
            # From here on the client commits, including audio in which no speech was detected.
            self.connection.session.start_segment(HISTORY_SECONDS)
        if event.type == "transcription_session.update":
            self._beta = True
        elif event.session.nested:
            self._beta = False
        self._send(event.type + "d", session=self._session_object())

    def _open_session(self, options: TranscriptionSession) -> None:
        turns, endpointing, preroll = options.turn_detection, None, None
        if turns is not None:
            assert turns.silence_duration_ms is not None
            assert turns.prefix_padding_ms is not None
            stop, preroll = turns.silence_duration_ms / 1000, turns.prefix_padding_ms / 1000
            endpointing = self.connection.server.endpointing(turns.threshold, stop)
        self.connection.open(
            endpointing=endpointing,
            interims=True,
            preroll=preroll,
            boost=options.transcription.boost,
        )

    def _current_item(self) -> _Item:
        """Return the item that audio belongs to now."""
        if self._item is None:
            self._item = _Item(_new_id("item"))
        return self._item

    def _commit(self, ended: SegmentEnded) -> None:
        """Send that an item is complete; its transcript follows."""
        if ended.tag is None and ended.start == ended.end:
            return  # The end of the session, without audio since the last commit.
        item, self._item = self._current_item(), None
        if item.announced:
            self._send_speech("stopped", item, audio_end_ms=round(ended.end * 1000))
        follows = {"previous_item_id": self._previous}
        self._send("input_audio_buffer.committed", item_id=item.id, **follows)
        content = {
            "id": item.id,
            "object": "realtime.item",
            "type": "message",
            "status": "completed",
            "role": "user",
            "content": [{"type": "input_audio", "transcript": None}],
        }
        for change in ("created",) if self._beta else ("added", "done"):
            self._send(f"conversation.item.{change}", item=content, **follows)
        self._previous = item.id
        self._committed[ended.segment] = item

    def _send_delta(self, item: _Item, text: str) -> None:
        """Send the new part of a text, if the text starts with the deltas that were sent."""
        if text.startswith(item.sent_text) and text != item.sent_text:
            self._send_transcription("delta", item, delta=text[len(item.sent_text) :])
            item.sent_text = text

    def _send_speech(self, change: str, item: _Item, **when: int) -> None:
        self._send(f"input_audio_buffer.speech_{change}", item_id=item.id, **when)

    def _send_transcription(self, kind: str, item: _Item, **content: Any) -> None:
        self._send(f"{_TRANSCRIPTION}.{kind}", item_id=item.id, content_index=0, **content)

    def _session_object(self) -> dict[str, Any]:
        kind = "realtime.transcription_session"
        common = {"id": self._id, "object": kind, "expires_at": self._expires}
        return {**common, **self._options.describe(self._beta)}

    def _send(self, kind: str, **content: Any) -> None:
        message = {"type": kind, "event_id": _new_id("event"), **content}
        self.connection.send(json.dumps(message, ensure_ascii=False, separators=(",", ":")))


def _new_id(kind: str) -> str:
    """Return a unique id."""
    return f"{kind}_{uuid.uuid4().hex[:20]}"
