"""The FastAPI application: every protocol at its path, behind one gate."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Receive, Scope, Send
from starlette.websockets import WebSocket

import parakeet_stt
from parakeet_stt.errors import ParakeetError
from parakeet_stt.server import health
from parakeet_stt.server.auth import Gate, accepted_subprotocol, problem, refusal, status_of
from parakeet_stt.server.connection import WebSocketConnection
from parakeet_stt.server.conversation import Conversation, Dialect
from parakeet_stt.server.protocols import deepgram_files, openai_rest, transcribe
from parakeet_stt.server.protocols.deepgram import Deepgram
from parakeet_stt.server.protocols.ears import Ears
from parakeet_stt.server.protocols.native import Native
from parakeet_stt.server.protocols.parakeet_fastapi import Ws
from parakeet_stt.server.protocols.realtime import Realtime
from parakeet_stt.server.state import RefusedError, Server

NATIVE_PATH = "/v1/stream"
EARS_PATH = "/v1/ears"
WS_PATH = "/ws"

DIALECTS: dict[str, type[Dialect]] = {
    "/": Native,  # System 004's clients name no path.
    NATIVE_PATH: Native,
    "/v1/realtime": Realtime,
    "/v1/listen": Deepgram,
    WS_PATH: Ws,
    EARS_PATH: Ears,
}
"""WebSocket protocols by path."""


def make_app(server: Server) -> FastAPI:
    """The application for a server."""
    app = FastAPI(
        title="parakeet_stt",
        version=parakeet_stt.__version__,
        summary="Speech-to-text with NVIDIA's Parakeet models.",
        description="REST of several systems over one engine. The streaming protocols are in "
        "docs/protocols.md: OpenAPI describes no WebSockets.",
    )
    app.state.server = server
    for router in (
        health.router,
        openai_rest.router,
        openai_rest.models,
        transcribe.router,
        deepgram_files.router,
    ):
        app.include_router(router)
    for path, dialect in DIALECTS.items():
        app.add_api_websocket_route(path, _endpoint(server, dialect))
    app.add_exception_handler(HTTPException, _http_problem)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(ParakeetError, _failed)
    app.add_exception_handler(Exception, _broken)
    app.add_middleware(Gate, server=server)
    if server.settings.allowed_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=list(server.settings.allowed_origins),
            allow_methods=["GET", "POST"],
            allow_headers=["*"],
        )
    return app


def at_root(app: ASGIApp, path: str) -> ASGIApp:
    """The application with one of its WebSocket paths at every path, for a port of its own."""

    async def moved(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            scope = {**scope, "path": path, "raw_path": path.encode()}
        await app(scope, receive, send)

    return moved


def _endpoint(server: Server, dialect: type[Dialect]) -> Any:
    async def converse(websocket: WebSocket) -> None:
        path = websocket.url.path
        try:
            with server.admit(dialect.protocol):
                conversation = Conversation(
                    server, dialect, websocket.query_params, websocket.headers
                )
                answer = [(k.encode(), v.encode()) for k, v in conversation.dialect.answer.items()]
                await websocket.accept(accepted_subprotocol(websocket.headers), answer)
                await conversation.run(WebSocketConnection(websocket))
        except RefusedError as error:
            await websocket.send_denial_response(refusal(path, error))
        except ParakeetError as error:
            await websocket.send_denial_response(problem(path, 400, str(error)))

    return converse


async def _failed(request: Request, error: Exception) -> Response:
    """An error of the library's, as HTTP has it."""
    if isinstance(error, RefusedError):
        return refusal(request.url.path, error)
    assert isinstance(error, ParakeetError)
    return problem(request.url.path, status_of(error), str(error))


async def _http_problem(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    response = problem(request.url.path, error.status_code, str(error.detail))
    response.headers.update(error.headers or {})
    return response


async def _invalid(request: Request, error: Exception) -> Response:
    """A request that is not as it should be, in words."""
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    place = ".".join(str(part) for part in first["loc"][1:])
    status = 400 if request.url.path.startswith(("/v1/audio", "/audio", "/v1/listen")) else 422
    return problem(request.url.path, status, f"{place}: {first['msg']}")


async def _broken(request: Request, error: Exception) -> Response:
    return problem(request.url.path, 500, "internal error")
