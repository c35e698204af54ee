"""The server's process: its ports, and how signals end it."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import logging
import signal
import socket
import ssl
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Any

import uvicorn
from loguru import logger
from starlette.datastructures import QueryParams
from starlette.types import ASGIApp
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.http11 import Request

from parakeet_stt.errors import ConfigurationError
from parakeet_stt.server.app import EARS_PATH, NATIVE_PATH, at_root, make_app
from parakeet_stt.server.connection import (
    ABNORMAL_CLOSURE,
    TRANSPORT,
    GoneError,
    LineConnection,
    M,
    TcpConnection,
    Transport,
)
from parakeet_stt.server.conversation import Conversation, Dialect
from parakeet_stt.server.protocols.native import NativeLines, refusal_004
from parakeet_stt.server.protocols.wyoming import Wyoming, WyomingConnection, wyoming_refusal
from parakeet_stt.server.settings import ServerSettings
from parakeet_stt.server.state import RefusedError, Server

_LOOPBACK = ("127.0.0.1", "::1", "localhost")

Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class _Uvicorn(uvicorn.Server):
    """Uvicorn without signal handlers of its own: it ends when the server has been drained."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class _WebSockets(WebSocketsSansIOProtocol):
    """Uvicorn's WebSockets, with what a client needs that sends or reads too slowly or too fast:
    a keepalive that counts every byte, pongs that are bounded, and a :class:`Transport`."""

    _received_at = 0.0
    _late_pongs: Sequence[bytes] = ()

    def handle_connect(self, event: Request) -> None:
        super().handle_connect(event)
        if self.response.status_code == 101:
            extensions: Any = self.scope["extensions"]
            extensions[TRANSPORT] = Transport(self.transport.abort, self._close_code)

    def data_received(self, data: bytes) -> None:
        self._received_at = self.loop.time()
        super().data_received(data)

    def keepalive_timeout(self) -> None:
        """Give up a client of which nothing was received since the ping; any byte will do, as its
        pong may be behind data that the server has not read yet."""
        if not self.read_paused and self._received_at < self.ping_sent_at:
            super().keepalive_timeout()
            return
        assert self.ping_timeout is not None
        self.ping_sent_at = self.loop.time()
        self.pong_timer = self.loop.call_later(self.ping_timeout, self.keepalive_timeout)

    def handle_ping(self) -> None:
        """Answer; while the client does not read, only its newest pings (RFC 6455, 5.5.3)."""
        if self.writable.is_set():
            super().handle_ping()
        else:
            self._late_pongs = self.conn.data_to_send()

    def resume_writing(self) -> None:
        super().resume_writing()
        pongs, self._late_pongs = self._late_pongs, ()
        self.transport.write(b"".join(pongs))

    def _close_code(self) -> int:
        first = self.conn.close_rcvd if self.conn.close_rcvd_then_sent else self.conn.close_sent
        return ABNORMAL_CLOSURE if first is None else first.code


class Running:
    """A server with its ports open. :func:`serve` has one until it is told to stop.

    Attributes:
        server: What is behind the ports.
        ports: The port that each of ``port``, ``ws_port`` and so on came to be.

    Args:
        settings: Which ports, and everything else.
    """

    def __init__(self, settings: ServerSettings) -> None:
        self.server = Server(settings)
        self.ports: dict[str, int] = {}
        self._settings = settings
        self._web: list[tuple[_Uvicorn, asyncio.Task[None]]] = []
        self._tcp: list[asyncio.Server] = []

    async def open(self) -> None:
        """Open the ports, then load the model.

        Raises:
            ConfigurationError: A port cannot be had, or the certificate cannot be used.
            ParakeetError: The model cannot be loaded.
        """
        settings = self._settings
        app = make_app(self.server)
        exposed = settings.host not in _LOOPBACK
        try:
            await self._open_web("port", app, settings.port)
            for name, path in (("ws_port", NATIVE_PATH), ("ears_port", EARS_PATH)):
                await self._open_web(name, at_root(app, path), getattr(settings, name))
            lines = self._talking(LineConnection, NativeLines, refusal_004)
            await self._open_tcp("tcp_port", settings.host, lines, self._tls())
            keyless = settings.tcp_host
            if keyless is None:
                keyless = "127.0.0.1" if settings.api_keys else settings.host
            await self._open_tcp("status_port", keyless, self._tell_status, None)
            framed = functools.partial(WyomingConnection, most=settings.max_message_kb * 1024)
            wyoming = self._talking(framed, Wyoming, wyoming_refusal)
            await self._open_tcp("wyoming_port", keyless, wyoming, None)
            if exposed and not settings.api_keys:
                logger.warning(
                    f"listening on {settings.host} without a key: whoever reaches this machine may "
                    f"use it; PARAKEET_API_KEYS sets keys"
                )
            await self.server.start()
        except BaseException:
            await self.close()
            raise
        scheme = "https" if settings.tls_cert else "http"
        ports = ", ".join(f"{name} {port}" for name, port in self.ports.items() if name != "port")
        logger.info(
            f"ready: {scheme}://{settings.host}:{self.ports['port']}"
            + (f" ({ports})" if ports else "")
            + ("" if exposed else "; this machine only, --host 0.0.0.0 opens it to others")
        )

    async def drain(self) -> None:
        """Let what is open come to its end, then close the ports."""
        await self.server.drain()
        await self.close()

    async def close(self) -> None:
        """Close the ports, whatever is open."""
        for tcp in self._tcp:
            tcp.close()
        for web, _ in self._web:
            web.should_exit = True
        if self._web:
            await asyncio.wait([task for _, task in self._web])

    async def _open_web(self, name: str, app: ASGIApp, port: int | None) -> None:
        if port is None:
            return
        settings = self._settings
        config = uvicorn.Config(
            app,
            host=settings.host,
            port=port,
            lifespan="off",
            log_config=None,
            access_log=False,
            ws=_WebSockets,
            ws_max_size=settings.max_message_kb * 1024,
            ws_per_message_deflate=False,
            ssl_certfile=settings.tls_cert,
            ssl_keyfile=settings.tls_key,
            timeout_graceful_shutdown=1,
            server_header=False,
        )
        try:
            config.load()
        except ssl.SSLError as error:
            raise ConfigurationError(
                f"the certificate or its key cannot be used: {error}"
            ) from error
        family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
        try:
            listening = socket.create_server((settings.host, port), family=family)
        except OSError as error:
            raise _unavailable(name, settings.host, port, error) from error
        # Accepted sockets inherit it; asyncio does not set it on those of a socket that it was
        # given, and a second small message would then wait 40 ms for the first one's receipt.
        listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        web = _Uvicorn(config)
        task = asyncio.create_task(web.serve([listening]), name=f"uvicorn-{name}")
        self._web.append((web, task))
        self.ports[name] = listening.getsockname()[1]

    async def _open_tcp(
        self, name: str, host: str, handler: Handler, tls: ssl.SSLContext | None
    ) -> None:
        port = getattr(self._settings, name)
        if port is None:
            return
        limit = self._settings.max_message_kb * 1024
        try:
            tcp = await asyncio.start_server(handler, host, port, limit=limit, ssl=tls)
        except OSError as error:
            raise _unavailable(name, host, port, error) from error
        self._tcp.append(tcp)
        self.ports[name] = tcp.sockets[0].getsockname()[1]

    def _tls(self) -> ssl.SSLContext | None:
        settings = self._settings
        if settings.tls_cert is None:
            return None
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(settings.tls_cert, settings.tls_key)
        return context

    def _talking(
        self,
        connect: Callable[[asyncio.StreamReader, asyncio.StreamWriter], TcpConnection[M]],
        dialect: type[Dialect[M]],
        refusal: Callable[[RefusedError], M],
    ) -> Handler:
        """What serves a client of a TCP port: its framing, its protocol, and how that says no."""

        async def converse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            connection = connect(reader, writer)
            try:
                with self.server.admit(dialect.protocol):
                    await Conversation(self.server, dialect, QueryParams()).run(connection)
            except RefusedError as error:
                with contextlib.suppress(GoneError):
                    await connection.send(refusal(error))
                await connection.close(1013, str(error))

        return converse

    async def _tell_status(self, _: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        status = {"type": "status", "connected_streams": self.server.sessions}
        writer.write(json.dumps(status).encode() + b"\n")
        writer.close()


def _unavailable(name: str, host: str, port: int, error: OSError) -> ConfigurationError:
    return ConfigurationError(f"{name} {port} of {host} cannot be opened: {error.strerror}")


async def serve(settings: ServerSettings) -> None:
    """Serve until SIGTERM or SIGINT; a second one does not wait for open sessions.

    Raises:
        ParakeetError: As :meth:`Running.open`.
    """
    loop = asyncio.get_running_loop()
    asked = asyncio.Event()
    running = Running(settings)

    def stop() -> None:
        if asked.is_set():
            signals.cancel()
        asked.set()

    async def until_drained() -> None:
        opening = asyncio.create_task(running.open())
        stopping = asyncio.create_task(asked.wait())
        await asyncio.wait([opening, stopping], return_when=asyncio.FIRST_COMPLETED)
        if opening.done():
            opening.result()
            await stopping
        else:
            opening.cancel()
        await running.drain()

    for number in (signal.SIGTERM, signal.SIGINT):
        # Not by the loop: Windows' cannot.
        signal.signal(number, lambda *_: loop.call_soon_threadsafe(stop))
    # Uvicorn's own words, where there are any, go where ours go.
    logging.getLogger("uvicorn").addHandler(_Forward())
    signals = asyncio.create_task(until_drained())
    with contextlib.suppress(asyncio.CancelledError):
        await signals
    await running.close()


class _Forward(logging.Handler):
    """Python's logging to loguru's."""

    def emit(self, record: logging.LogRecord) -> None:
        if "without completing handshake" in record.getMessage():
            return  # What uvicorn says of every WebSocket that is refused.
        level = "DEBUG" if record.levelno <= logging.INFO else record.levelname
        logger.opt(exception=record.exc_info).log(level, record.getMessage())
