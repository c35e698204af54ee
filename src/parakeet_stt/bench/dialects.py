"""The wire formats that ``bench server`` speaks, behind one face.

A dialect says how audio and a flush are written, and what a message of the server means. It knows
nothing of sockets, clocks and scores.
"""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass
from typing import Any, ClassVar, Literal
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

from parakeet_stt.audio import SAMPLE_RATE
from parakeet_stt.errors import ConfigurationError

Wire = str | bytes
"""A message: text or binary."""


@dataclass(frozen=True)
class Message:
    """What a message of the server means.

    Attributes:
        kind: ``interim`` and ``final`` bring text, ``queued`` announces a final, ``error`` is the
            server's complaint, ``other`` is everything else.
        type: The message's own name for itself, where it has one.
        text: What was heard, or the complaint.
        answers_flush: Whether nothing more is to come for what was sent before the last flush.
        lag: Seconds of audio that wait on the server, where it says so.
    """

    kind: Literal["interim", "final", "queued", "error", "other"]
    type: str = ""
    text: str = ""
    answers_flush: bool = False
    lag: float | None = None


class Dialect:
    """One connection's side of a protocol; what differs is overridden.

    Attributes:
        about: Its name for people.
        path: Where it is served.
        rate: Sample rate of its audio, Hz.
        query: Parameters that the URL needs, unless it has them already.
        scheme: Word before the key in the header ``Authorization``.
        greeting: Type of the message with which the server begins.
        setup: What the client sends then.
        ready: Type of the server's answer to that.
        closing: What the client sends to end the session and get what is still to come.
    """

    about: ClassVar[str]
    path: ClassVar[str]
    rate: ClassVar[int] = SAMPLE_RATE
    query: ClassVar[dict[str, str]] = {}
    scheme: ClassVar[str] = "Bearer"
    greeting: ClassVar[str] = ""
    setup: ClassVar[Wire] = ""
    ready: ClassVar[str] = ""
    closing: ClassVar[Wire] = ""

    def audio(self, pcm: bytes) -> Wire:
        """Write little-endian 16-bit PCM, mono, at :attr:`rate`."""
        return pcm

    def flush(self) -> Wire | None:
        """Write "end the segment now"; None where only the server's VAD can."""
        return None

    def read(self, message: dict[str, Any]) -> Message:
        """Say what a message of the server means."""
        raise NotImplementedError


class VadSegments(Dialect):
    """``/ws`` of the FastAPI services: the server's VAD ends segments, and only finals come."""

    about = "/ws (queued, then text)"
    path = "/ws"

    def read(self, message: dict[str, Any]) -> Message:
        """As :class:`Dialect`."""
        if message.get("status") == "queued":
            return Message("queued", "queued")
        if "text" in message:
            return Message("final", "text", str(message["text"]))
        if "partial" in message:
            return Message("interim", "partial", str(message["partial"]))
        if "error" in message:
            return _complaint("error", message["error"])
        return Message("other", str(message.get("status", "")))


class Native(Dialect):
    """``/v1/stream``: binary audio, JSON for everything else, flushes with an id."""

    about = "/v1/stream (native)"
    path = "/v1/stream"
    greeting = "hello"
    closing = json.dumps({"type": "close"})

    def __init__(self) -> None:
        self._flushes = 0

    def flush(self) -> Wire:
        """As :class:`Dialect`."""
        self._flushes += 1
        return json.dumps({"type": "flush", "id": self._flushes})

    def read(self, message: dict[str, Any]) -> Message:
        """As :class:`Dialect`."""
        match message.get("type"):
            case "result":
                return Message(
                    "final" if message.get("is_final") else "interim",
                    "result",
                    str(message.get("text", "")),
                    lag=message.get("lag"),
                )
            case "flushed":
                return Message("other", "flushed", answers_flush=message["id"] == self._flushes)
            case "error":
                return _complaint("error", message.get("message"))
            case kind:
                return Message("other", str(kind))


class Deepgram(Dialect):
    """``/v1/listen``: Deepgram's, with ``Finalize``."""

    about = "/v1/listen (Deepgram)"
    path = "/v1/listen"
    query: ClassVar[dict[str, str]] = {
        "encoding": "linear16",
        "sample_rate": str(SAMPLE_RATE),
        "channels": "1",
        "interim_results": "true",
        "endpointing": "false",
    }
    scheme = "Token"
    closing = json.dumps({"type": "CloseStream"})

    def flush(self) -> Wire:
        """As :class:`Dialect`."""
        return json.dumps({"type": "Finalize"})

    def read(self, message: dict[str, Any]) -> Message:
        """As :class:`Dialect`."""
        match message.get("type"):
            case "Results":
                return Message(
                    "final" if message.get("is_final") else "interim",
                    "Results",
                    str(message["channel"]["alternatives"][0]["transcript"]),
                    answers_flush=bool(message.get("from_finalize")),
                )
            case "Error":
                return _complaint("Error", message.get("description"))
            case kind:
                return Message("other", str(kind))


class Realtime(Dialect):
    """``/v1/realtime``: OpenAI's transcription sessions, with ``commit`` and no turn detection."""

    about = "/v1/realtime (OpenAI)"
    path = "/v1/realtime"
    rate = 24_000  # The only one that OpenAI takes as PCM.
    query: ClassVar[dict[str, str]] = {"intent": "transcription"}
    greeting = "session.created"
    setup = json.dumps(
        {
            "type": "session.update",
            "session": {
                "type": "transcription",
                "audio": {
                    "input": {
                        "format": {"type": "audio/pcm", "rate": rate},
                        "transcription": {"model": "parakeet"},
                        "turn_detection": None,
                    }
                },
            },
        }
    )
    ready = "session.updated"
    _TRANSCRIPTION = "conversation.item.input_audio_transcription."

    def __init__(self) -> None:
        self._text = ""

    def audio(self, pcm: bytes) -> Wire:
        """As :class:`Dialect`."""
        audio = base64.b64encode(pcm).decode()
        return f'{{"type": "input_audio_buffer.append", "audio": "{audio}"}}'

    def flush(self) -> Wire:
        """As :class:`Dialect`."""
        return json.dumps({"type": "input_audio_buffer.commit"})

    def read(self, message: dict[str, Any]) -> Message:
        """As :class:`Dialect`."""
        kind = str(message.get("type"))
        match kind.removeprefix(self._TRANSCRIPTION):
            case "delta":
                self._text += str(message.get("delta", ""))
                return Message("interim", "delta", self._text)
            case "completed":
                self._text = ""
                return Message("final", "completed", str(message["transcript"]), answers_flush=True)
            case "failed" | "error":
                error = message.get("error") or {}
                return _complaint(kind, error.get("message"))
        return Message("other", kind)


_DIALECTS: dict[str, type[Dialect]] = {
    "ws": VadSegments,
    "native": Native,
    "deepgram": Deepgram,
    "realtime": Realtime,
}
"""By the names of :data:`parakeet_stt.bench.DIALECTS`."""


def find_dialect(url: str, name: str | None = None) -> tuple[type[Dialect], str]:
    """The dialect that is spoken at a URL, and the URL to connect to.

    Args:
        url: ``ws://``, ``wss://``, ``http://`` or ``https://``.
        name: One of :data:`parakeet_stt.bench.DIALECTS`; None to go by the URL's path.

    Raises:
        ConfigurationError: It is no such URL, or its path tells nothing.
    """
    parts = urlsplit(url)
    scheme = {"http": "ws", "https": "wss"}.get(parts.scheme, parts.scheme)
    if scheme not in ("ws", "wss") or not parts.hostname:
        raise ConfigurationError(f"--url {url}: expected something like ws://localhost:8000/ws")
    if name is not None:
        dialect = _DIALECTS[name]
    elif parts.path in ("", "/"):
        dialect = Native
    else:
        path = parts.path.rstrip("/")
        found = [dialect for dialect in _DIALECTS.values() if path.endswith(dialect.path)]
        if not found:
            raise ConfigurationError(
                f"--url {url}: the path {parts.path} tells no protocol; expected one of "
                f"{', '.join(dialect.path for dialect in _DIALECTS.values())}, or --dialect "
                f"{' | '.join(_DIALECTS)}"
            )
        dialect = found[0]
    query = dialect.query | dict(parse_qsl(parts.query, keep_blank_values=True))
    return dialect, urlunsplit((scheme, parts.netloc, parts.path or "/", urlencode(query), ""))


def _complaint(kind: str, text: Any) -> Message:
    return Message("error", kind, str(text or "an error without a message"))
