"""One client of ``bench server``: says clips over a WebSocket in real time, notes what is heard.

Frames keep to absolute deadlines; how late they were sent is told. Knows nothing of how many others
there are.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus, WebSocketException
from websockets.http11 import Response

from parakeet_stt.bench.clips import Clip
from parakeet_stt.bench.dialects import Dialect, Message
from parakeet_stt.bench.utterance import Utterance
from parakeet_stt.errors import ParakeetError

Trace = Callable[[str], None]

_CLOSING_SECONDS = 5.0  # For what a server still has to say when it is told that this was all.
_SHOWN = 300  # Characters of a message that are shown.


class ServerError(ParakeetError):
    """The server is not there, or will not have us."""


@dataclass(frozen=True)
class Line:
    """How a server is called.

    Attributes:
        url: ``ws://`` or ``wss://``, with all parameters.
        dialect: What is spoken there.
        key: What it wants to see in the header ``Authorization``.
        frame_seconds: Audio that is sent at a time.
        timeout: Seconds to wait for a connection, and for a word where one is due.
        post_wait: Seconds after the end of speech at which a final counts as lost.
    """

    url: str
    dialect: type[Dialect]
    key: str | None = None
    frame_seconds: float = 0.1
    timeout: float = 30.0
    post_wait: float = 30.0

    @property
    def address(self) -> str:
        """The URL without its parameters, among which may be a key."""
        parts = urlsplit(self.url)
        return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


class Conversation:
    """An open connection. Made by :meth:`open`, ended by :meth:`close`."""

    def __init__(
        self, socket: ClientConnection, dialect: Dialect, line: Line, trace: Trace | None
    ) -> None:
        self._socket = socket
        self._dialect = dialect
        self._line = line
        self._trace = trace
        self._loop = asyncio.get_running_loop()
        self._opened = self._clock = self._free = self._loop.time()
        self._utterance: Utterance | None = None
        self._listening: asyncio.Task[None] | None = None
        size = round(line.frame_seconds * dialect.rate) * 2
        self._silence = bytes(size)

    @classmethod
    async def open(cls, line: Line, trace: Trace | None = None) -> Conversation:
        """Connect and agree on the format.

        Args:
            line: Whom to call.
            trace: Called with a line for everything that happens.

        Raises:
            ServerError: Nobody is there, or it is not the server that was expected.
        """
        dialect = line.dialect()
        headers = {"Authorization": f"{dialect.scheme} {line.key}"} if line.key else {}
        try:
            socket = await connect(
                line.url,
                additional_headers=headers,
                open_timeout=line.timeout,
                ping_timeout=line.timeout,
                close_timeout=_CLOSING_SECONDS,
                compression=None,  # Speech does not shrink, and trying costs both sides.
                proxy=None,  # It is the server that is measured.
            )
        except InvalidStatus as error:
            raise ServerError(f"{line.address} {_refusal(error.response)}") from error
        except (OSError, WebSocketException) as error:
            raise ServerError(
                f"{line.address} cannot be reached: {error}; is the server running?"
            ) from error
        conversation = cls(socket, dialect, line, trace)
        try:
            await conversation._greet()
        except BaseException:
            await socket.close()
            raise
        conversation._listening = asyncio.create_task(conversation._listen())
        return conversation

    async def say(self, clip: Clip) -> Utterance:
        """Say a clip in real time and wait for its final, in a silence that is sent as well."""
        if self._utterance is None:
            self._clock = self._loop.time()  # Somebody who waited to be connected begins now.
        utterance = self._utterance = Utterance(clip, self._clock)
        size = len(self._silence)
        try:
            for start in range(0, len(clip.pcm), size):
                if utterance.failure:
                    return utterance
                await self._send(clip.pcm[start : start + size])
            self._note("all was said")
            flush = self._dialect.flush()
            if flush is not None:
                utterance.flush_due = self._clock
                self._note(f"> {flush!s}")
                await self._socket.send(flush)
            while not utterance.failure and not utterance.is_over(self._loop.time()):
                self._check_patience(utterance)
                await self._send(self._silence)
        except ConnectionClosed:
            utterance.fail("closed", self._farewell())
        return utterance

    async def close(self) -> None:
        """Say that this was all, wait for what the server has left, and hang up."""
        try:
            if self._dialect.closing and self._listening is not None:
                self._note(f"> {self._dialect.closing!s}")
                # The server may have closed the connection already; its reason is shown below.
                with contextlib.suppress(ConnectionClosed):
                    await self._socket.send(self._dialect.closing)
                # So that no work of ours is left on the server when the next clients come.
                await asyncio.wait([self._listening], timeout=_CLOSING_SECONDS)
        finally:
            await self._socket.close()
        if self._listening is not None:
            await self._listening
        self._note(f"closed: {self._farewell()}")

    async def _send(self, pcm: bytes) -> None:
        """Send audio when its last sample has been spoken."""
        utterance = self._utterance
        assert utterance is not None
        self._clock += len(pcm) / 2 / self._dialect.rate
        # While the server would not take the last frame, this client was not late.
        due = max(self._clock, self._free)
        await asyncio.sleep(due - self._loop.time())
        now = self._loop.time()
        utterance.lateness.append(now - due)
        await self._socket.send(self._dialect.audio(pcm))
        self._free = self._loop.time()
        utterance.stalled = max(utterance.stalled, self._free - now)

    def _check_patience(self, utterance: Utterance) -> None:
        now = self._loop.time()
        ended = utterance.begun + utterance.clip.seconds
        if now > ended + self._line.post_wait:
            utterance.fail("no final", f"no final {self._line.post_wait:g} s after speech")
        elif now > max(ended, utterance.last_heard) + self._line.timeout:
            utterance.fail("no final", f"no word from the server for {self._line.timeout:g} s")

    async def _greet(self) -> None:
        """Exchange what the protocol wants before any audio."""
        dialect = self._dialect
        wanted = dialect.greeting
        try:
            async with asyncio.timeout(self._line.timeout):
                await self._expect(wanted)
                if dialect.setup:
                    self._note(f"> {dialect.setup!s}")
                    await self._socket.send(dialect.setup)
                wanted = dialect.ready
                await self._expect(wanted)
        except TimeoutError as error:
            raise ServerError(
                f"{self._line.address} sends no {wanted!r} within {self._line.timeout:g} s; does "
                f"it speak {dialect.about}? --dialect names another"
            ) from error
        except ConnectionClosed as error:
            raise ServerError(f"{self._line.address} hangs up: {self._farewell()}") from error

    async def _expect(self, kind: str) -> None:
        while kind:
            message = self._read(await self._socket.recv())
            if message.kind == "error":
                raise ServerError(f"{self._line.address} says: {message.text}")
            if message.type == kind:
                return

    async def _listen(self) -> None:
        # An utterance that is under way fails when its next audio is sent: see `say`.
        with contextlib.suppress(ConnectionClosed):
            async for raw in self._socket:
                message = self._read(raw)
                if self._utterance is not None:
                    self._utterance.hear(message, self._loop.time())

    def _read(self, raw: str | bytes) -> Message:
        self._note(f"< {raw if isinstance(raw, str) else f'{len(raw)} bytes'}")
        try:
            message: dict[str, Any] = json.loads(raw)
            return self._dialect.read(message)
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            return Message(
                "error",
                text=f"not a message of {self._dialect.about} ({type(error).__name__}: {error}): "
                f"{raw[:_SHOWN]!r}",
            )

    def _note(self, event: str) -> None:
        if self._trace is not None:
            shown = event if len(event) <= _SHOWN else f"{event[:_SHOWN]}..."
            self._trace(f"[{self._loop.time() - self._opened:8.3f} s] {shown}")

    def _farewell(self) -> str:
        """With what code and words the connection was closed."""
        if self._socket.close_code in (None, 1006):
            return "the connection broke"
        return f"{self._socket.close_code} {self._socket.close_reason or ''}".strip()


async def talk(
    line: Line,
    clips: Iterable[Clip],
    begin: float,
    note: Callable[[Utterance], None],
    trace: Trace | None = None,
) -> None:
    """Say one clip after the other, over and over, until cancelled.

    Args:
        line: Whom to call; again after every failure.
        clips: What to say.
        begin: The event loop's time at which to connect.
        note: Called with what became of each.
        trace: As :meth:`Conversation.open`.
    """
    loop = asyncio.get_running_loop()
    await asyncio.sleep(begin - loop.time())
    conversation: Conversation | None = None
    try:
        for clip in itertools.cycle(clips):
            begun = loop.time()
            try:
                conversation = conversation or await Conversation.open(line, trace)
            except ServerError as error:
                utterance = Utterance(clip, begun)
                utterance.fail("connect", str(error))
            else:
                utterance = await conversation.say(clip)
            note(utterance)
            if utterance.failure:
                if conversation is not None:
                    await conversation.close()
                    conversation = None
                # Whoever is not heard still needs the time to speak: no storm of new attempts.
                await asyncio.sleep(utterance.begun + clip.seconds - loop.time())
    finally:
        if conversation is not None:
            await conversation.close()


def _refusal(response: Response) -> str:
    """What a server answers that does not take the connection."""
    body = (response.body or b"").decode(errors="replace").strip()
    try:
        said = json.loads(body)
    except ValueError:
        said = body
    while isinstance(said, dict):  # {"error": {"message": ...}}, {"detail": ...}
        said = next((said[key] for key in ("error", "message", "detail") if key in said), body)
    words = " ".join(str(said).split())[:_SHOWN]
    answer = f"answers {response.status_code} {response.reason_phrase}".strip()
    answer = f"{answer}: {words}" if words else answer
    match response.status_code:
        case 401:
            return f"{answer}; --api-key gives one"
        case 403 | 404:
            return f"{answer}; is the path right, and the --api-key?"
    return answer
