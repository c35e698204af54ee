"""Middleware: authentication, allowed origins, request size limit."""

from __future__ import annotations

import hmac
from collections.abc import Mapping, Sequence

from fastapi import HTTPException
from loguru import logger
from starlette.datastructures import Headers, QueryParams
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from parakeet_stt.server.responses import error_response
from parakeet_stt.server.state import Server

_OPEN = ("/healthz", "/v1/health/live", "/v1/health/ready")
"""Paths that need no key, for the health checks of orchestrators."""

_KEY_PROTOCOL = "openai-insecure-api-key."
"""OpenAI's libraries put this before a key that they send as a subprotocol."""


class Gate:
    """Middleware: authentication, allowed origins, request size limit, request counter.

    A WebSocket is refused with an HTTP status before it is accepted.

    Args:
        app: The application behind it.
        server: Its settings and metrics.
    """

    def __init__(self, app: ASGIApp, server: Server) -> None:
        self._app = app
        self._server = server

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request or WebSocket."""
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        status = 0

        async def record_status(message: Message) -> None:
            nonlocal status
            if message["type"].endswith("response.start"):
                status = message["status"]
            await send(message)

        refusal = self._refusal(scope)
        if refusal is not None:
            await refusal(scope, receive, record_status)
        else:
            await self._app(scope, self._bounded(scope, receive), record_status)
        if status:
            path = getattr(scope.get("route"), "path", "other")
            self._server.metrics.requests.labels(path, str(status)).inc()

    def _refusal(self, scope: Scope) -> Response | None:
        settings = self._server.settings
        headers, path = Headers(scope=scope), scope["path"]
        if settings.api_keys and path not in _OPEN:
            query = QueryParams(scope["query_string"]) if scope["type"] == "websocket" else {}
            if not holds_key(settings.api_keys, _keys(headers, query)):
                self._server.metrics.rejected.labels("key").inc()
                logger.info(f"refused {path!r}: no valid key")
                return error_response(path, 401, "a valid API key is needed")
        origin = headers.get("origin")
        allowed = settings.allowed_origins
        if scope["type"] == "websocket" and origin and not {"*", origin} & set(allowed):
            self._server.metrics.rejected.labels("origin").inc()
            logger.info(f"refused {path!r}: origin {origin!r} is not allowed")
            return error_response(
                path, 403, f"origin {origin} is not listed in PARAKEET_ALLOWED_ORIGINS"
            )
        length = headers.get("content-length", "")
        if length.isdigit() and int(length) > self._max_bytes:
            return error_response(path, 413, self._too_large)
        return None

    def _bounded(self, scope: Scope, receive: Receive) -> Receive:
        """Limit the bytes received, whatever length the request declares."""
        if scope["type"] == "websocket":
            return receive
        received = 0

        async def bounded() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > self._max_bytes:
                raise HTTPException(413, self._too_large)
            return message

        return bounded

    @property
    def _max_bytes(self) -> int:
        return int(self._server.settings.max_upload_mb * 2**20)

    @property
    def _too_large(self) -> str:
        return f"requests are limited to {self._server.settings.max_upload_mb:g} MiB"


def holds_key(keys: Sequence[str], sent: Sequence[str]) -> bool:
    """Return whether one of the keys was sent; compares in constant time."""
    found = False
    for key in keys:
        for other in sent:
            found |= hmac.compare_digest(key.encode(), other.encode())
    return found


def _keys(headers: Headers, query: Mapping[str, str]) -> list[str]:
    """Return every key that a client sends, in any of the usual places."""
    sent = [query[name] for name in ("api_key", "token", "access_token") if name in query]
    if key := headers.get("x-api-key"):
        sent.append(key)
    scheme, _, key = headers.get("authorization", "").partition(" ")
    if scheme.lower() in ("bearer", "token"):
        sent.append(key.strip())
    # Browsers cannot set headers on a WebSocket; Deepgram's and OpenAI's libraries do this instead.
    sent += [protocol.removeprefix(_KEY_PROTOCOL) for protocol in subprotocols(headers)]
    return sent


def subprotocols(headers: Headers) -> list[str]:
    """Return the subprotocols that a WebSocket's client offers."""
    return [p.strip() for p in headers.get("sec-websocket-protocol", "").split(",") if p.strip()]


def accepted_subprotocol(headers: Headers) -> str | None:
    """Return the subprotocol to accept: the client's first offer that is not a key.

    Browsers expect one of their offers to be accepted.
    """
    offered = subprotocols(headers)
    keyless = (protocol for protocol in offered if not protocol.startswith(_KEY_PROTOCOL))
    return next(keyless, offered[0] if offered else None)
