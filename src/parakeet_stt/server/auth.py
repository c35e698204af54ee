"""Who may come in and how much they may bring; looked at before anything else."""

from __future__ import annotations

import hmac
import uuid
from collections.abc import Mapping, Sequence
from typing import Any

import starlette.exceptions
from fastapi import HTTPException
from loguru import logger
from starlette.datastructures import Headers, QueryParams
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from parakeet_stt.errors import AudioError, ConfigurationError
from parakeet_stt.server.connection import BadMessageError
from parakeet_stt.server.state import RefusedError, Server

_OPEN = ("/healthz", "/v1/health/live", "/v1/health/ready")
"""Paths that need no key: an orchestrator asks there."""

_OPENAI = ("/v1/audio", "/audio", "/v1/models", "/v1/realtime")
_DEEPGRAM = ("/v1/listen",)

_KEY_PROTOCOL = "openai-insecure-api-key."
"""What OpenAI's libraries write before the key where they offer it as a subprotocol."""

_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "invalid_request_error",
    415: "invalid_request_error",
    422: "invalid_request_error",
    429: "rate_limit_error",
}


class Gate:
    """Middleware that refuses what may not come in, and counts the rest.

    A WebSocket is refused before it is accepted, with an HTTP status.

    Args:
        app: What is behind it.
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

        async def note(message: Message) -> None:
            nonlocal status
            if message["type"].endswith("response.start"):
                status = message["status"]
            await send(message)

        refusal = self._refusal(scope)
        if refusal is not None:
            await refusal(scope, receive, note)
        else:
            await self._app(scope, self._bounded(scope, receive), note)
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
                return problem(path, 401, "a valid API key is needed")
        origin = headers.get("origin")
        allowed = settings.allowed_origins
        if scope["type"] == "websocket" and origin and not {"*", origin} & set(allowed):
            self._server.metrics.rejected.labels("origin").inc()
            logger.info(f"refused {path!r}: a page of {origin!r}")
            return problem(path, 403, f"pages of {origin} may not connect")
        length = headers.get("content-length", "")
        if length.isdigit() and int(length) > self._most_bytes:
            return problem(path, 413, self._too_large)
        return None

    def _bounded(self, scope: Scope, receive: Receive) -> Receive:
        """Receive no more of a request than is allowed, whatever length it says it has."""
        if scope["type"] == "websocket":
            return receive
        received = 0

        async def bounded() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > self._most_bytes:
                raise HTTPException(413, self._too_large)
            return message

        return bounded

    @property
    def _most_bytes(self) -> int:
        return int(self._server.settings.max_upload_mb * 2**20)

    @property
    def _too_large(self) -> str:
        return f"requests may have {self._server.settings.max_upload_mb:g} MiB at most"


def holds_key(keys: Sequence[str], shown: Sequence[str]) -> bool:
    """Whether one of the keys was shown; takes the same time wherever they differ."""
    found = False
    for key in keys:
        for other in shown:
            found |= hmac.compare_digest(key.encode(), other.encode())
    return found


def _keys(headers: Headers, query: Mapping[str, str]) -> list[str]:
    """Every key that a client shows, in whichever of the usual places."""
    shown = [query[name] for name in ("api_key", "token", "access_token") if name in query]
    if key := headers.get("x-api-key"):
        shown.append(key)
    scheme, _, key = headers.get("authorization", "").partition(" ")
    if scheme.lower() in ("bearer", "token"):
        shown.append(key.strip())
    # Browsers cannot set headers on a WebSocket; Deepgram's and OpenAI's libraries do this instead.
    shown += [protocol.removeprefix(_KEY_PROTOCOL) for protocol in subprotocols(headers)]
    return shown


def subprotocols(headers: Headers) -> list[str]:
    """What a WebSocket's client offers to speak."""
    return [p.strip() for p in headers.get("sec-websocket-protocol", "").split(",") if p.strip()]


def accepted_subprotocol(headers: Headers) -> str | None:
    """The first offer that is no key; a browser expects that one of its offers is accepted."""
    offered = subprotocols(headers)
    keyless = (protocol for protocol in offered if not protocol.startswith(_KEY_PROTOCOL))
    return next(keyless, offered[0] if offered else None)


def problem(path: str, status: int, message: str, retry_after: int | None = None) -> Response:
    """An error in the shape that the clients of a path expect.

    Args:
        path: What was asked for.
        status: HTTP status.
        message: What is wrong.
        retry_after: Seconds after which it may work.
    """
    content: dict[str, Any]
    headers = {"Retry-After": str(retry_after)} if retry_after is not None else {}
    if path.startswith(_DEEPGRAM):
        content = {"err_code": _DEEPGRAM_CODES.get(status, "Bad Request"), "err_msg": message}
        content["request_id"] = str(uuid.uuid4())
        # What clients show where a handshake fails: few of them read the body.
        headers["dg-error"] = message.encode("unicode_escape").decode()[:500].strip()
        headers["dg-request-id"] = content["request_id"]
    elif path.startswith(_OPENAI):
        content = openai_error(status, message)
    else:
        content = {"detail": message}
    if status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    return JSONResponse(content, status, headers)


_DEEPGRAM_CODES = {
    401: "INVALID_AUTH",
    413: "PAYLOAD_TOO_LARGE",
    415: "UNSUPPORTED_MEDIA_TYPE",
    429: "TOO_MANY_REQUESTS",
    503: "SERVICE_UNAVAILABLE",
}


def status_of(error: Exception) -> int:
    """The HTTP status that tells of an error."""
    match error:
        case starlette.exceptions.HTTPException():
            return error.status_code
        case RefusedError():
            return error.status
        case ConfigurationError() | BadMessageError():
            return 400
        case AudioError():
            return 415
    return 500


def openai_error(status: int, message: str) -> dict[str, Any]:
    """An error as OpenAI's clients expect it."""
    kind = _TYPES.get(status, "server_error" if status >= 500 else "invalid_request_error")
    return {"error": {"message": message, "type": kind, "param": None, "code": None}}


def refusal(path: str, error: RefusedError) -> Response:
    """:func:`problem` for work that is not accepted now."""
    return problem(path, error.status, str(error), error.retry_after)
