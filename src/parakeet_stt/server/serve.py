"""The server's process: ports and signals."""

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
from typing import Any, TypeVar

import uvicorn
from loguru import logger
from starlette.datastructures import QueryParams
from starlette.types import ASGIApp
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.http11 import Request

from parakeet_stt.errors import ConfigurationError
from parakeet_stt.server.admission import RefusedError
from parakeet_stt.server.app import EARS_PATH, NATIVE_PATH, at_root, make_app
from parakeet_stt.server.conversation import Conversation
from parakeet_stt.server.protocol import Protocol
from parakeet_stt.server.protocols.native import NativeLines, refuse_line
from parakeet_stt.server.protocols.wyoming import Wyoming, WyomingTransport, refuse_event
from parakeet_stt.server.settings import ServerSettings
from parakeet_stt.server.state import Server
from parakeet_stt.server.transport import (
    ABNORMAL_CLOSURE,
    SOCKET_CONTROL,
    DisconnectedError,
    LineTransport,
    SocketControl,
    TcpTransport,
)

M = TypeVar("M")

_LOOPBACK = ("127.0.0.1", "::1", "localhost")

Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class _Uvicorn(uvicorn.Server):
    """Uvicorn without its signal handlers: it stops when the server has been drained."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class _WebSockets(WebSocketsSansIOProtocol):
    """Uvicorn's WebSockets, made robust against clients that send or read too slowly or too fast.

    The keepalive counts every received byte, queued pongs are bounded, and the ASGI scope has a
    :class:`SocketControl`.
    """

    _received_at = 0.0
    _late_pongs: Sequence[bytes] = ()

    def handle_connect(self, event: Request) -> None:
        super().handle_connect(event)
        if self.response.status_code == 101:
            extensions: Any = self.scope["extensions"]
            extensions[SOCKET_CONTROL] = SocketControl(self.transport.abort, self._close_code)

    def data_received(self, data: bytes) -> None:
        self._received_at = self.loop.time()
        super().data_received(data)

    def keepalive_timeout(self) -> None:
        """Close the connection if no byte was received since the ping.

        Any byte counts: the pong may be behind data that the server has not read yet.
        """
        if not self.read_paused and self._received_at < self.ping_sent_at:
            super().keepalive_timeout()
            return
        assert self.ping_timeout is not None
        self.ping_sent_at = self.loop.time()
        self.pong_timer = self.loop.call_later(self.ping_timeout, self.keepalive_timeout)

    def handle_ping(self) -> None:
        """Answer a ping; if the client does not read, only the newest (RFC 6455, 5.5.3)."""
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
    """A server and its ports.

    Attributes:
        server: The server behind the ports.
        ports: The number of each open port by its setting: ``port``, ``ws_port`` and so on.

    Args:
        settings: The settings of the engine and the server.
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
            ConfigurationError: A port cannot be opened, or the certificate is invalid.
            ParakeetError: The model cannot be loaded.
        """
        settings = self._settings
        app = make_app(self.server)
        exposed = settings.host not in _LOOPBACK
        try:
            await self._open_web("port", app, settings.port)
            for name, path in (("ws_port", NATIVE_PATH), ("ears_port", EARS_PATH)):
                await self._open_web(name, at_root(app, path), getattr(settings, name))
            lines = self._stream_handler(LineTransport, NativeLines, refuse_line)
            await self._open_tcp("tcp_port", settings.host, lines, self._tls())
            unprotected = settings.tcp_host
            if unprotected is None:
                unprotected = "127.0.0.1" if settings.api_keys else settings.host
            await self._open_tcp("status_port", unprotected, self._send_status, None)
            framed = functools.partial(WyomingTransport, max_bytes=settings.max_message_kb * 1024)
            wyoming = self._stream_handler(framed, Wyoming, refuse_event)
            await self._open_tcp("wyoming_port", unprotected, wyoming, None)
            if exposed and not settings.api_keys:
                logger.warning(
                    f"listening on {settings.host} without keys: everybody who reaches this "
                    f"machine can use the server; set PARAKEET_API_KEYS to require keys"
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
            + ("" if exposed else "; for this machine only (--host 0.0.0.0 opens it to others)")
        )

    async def drain(self) -> None:
        """Finish open sessions and requests, then close the ports."""
        await self.server.drain()
        await self.close()

    async def close(self) -> None:
        """Close the ports at once."""
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
                f"the TLS certificate or its key is invalid: {error}"
            ) from error
        family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
        try:
            listening = socket.create_server((settings.host, port), family=family)
        except OSError as error:
            raise _unavailable(name, settings.host, port, error) from error
        # Accepted sockets inherit TCP_NODELAY. Asyncio does not set it if it is given a socket, and
        # a second small message would then wait 40 ms until the first one is acknowledged.
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

    def _stream_handler(
        self,
        make_transport: Callable[[asyncio.StreamReader, asyncio.StreamWriter], TcpTransport[M]],
        protocol: type[Protocol[M]],
        refuse: Callable[[RefusedError], M],
    ) -> Handler:
        """Return the handler of a TCP port.

        Args:
            make_transport: Its framing.
            protocol: Its protocol.
            refuse: Makes the message for a client that is not admitted.
        """

        async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            transport = make_transport(reader, writer)
            try:
                with self.server.admission.admit(protocol.name):
                    await Conversation(self.server, protocol, QueryParams()).run(transport)
            except RefusedError as error:
                with contextlib.suppress(DisconnectedError):
                    await transport.send(refuse(error))
                await transport.close(1013, str(error))

        return handle

    async def _send_status(self, _: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        status = {"type": "status", "connected_streams": self.server.admission.sessions}
        writer.write(json.dumps(status).encode() + b"\n")
        writer.close()


def _unavailable(name: str, host: str, port: int, error: OSError) -> ConfigurationError:
    return ConfigurationError(f"{name} {port} on {host} cannot be opened: {error.strerror}")


async def serve(settings: ServerSettings) -> None:
    """Serve until SIGTERM or SIGINT; a second signal stops without waiting for open sessions.

    Raises:
        ParakeetError: A port cannot be opened, or the model cannot be loaded.
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
        # Not loop.add_signal_handler(): Windows' event loop has none.
        signal.signal(number, lambda *_: loop.call_soon_threadsafe(stop))
    # Log uvicorn's messages like ours.
    logging.getLogger("uvicorn").addHandler(_Forward())
    signals = asyncio.create_task(until_drained())
    with contextlib.suppress(asyncio.CancelledError):
        await signals
    await running.close()


class _Forward(logging.Handler):
    """Forwards Python's logging to loguru."""

    def emit(self, record: logging.LogRecord) -> None:
        if "without completing handshake" in record.getMessage():
            return  # Uvicorn logs this for every WebSocket that we refuse.
        level = "DEBUG" if record.levelno <= logging.INFO else record.levelname
        logger.opt(exception=record.exc_info).log(level, record.getMessage())
