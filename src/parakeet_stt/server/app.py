"""The FastAPI application: every protocol at its path, behind one middleware."""

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
from parakeet_stt.server.auth import Gate, accepted_subprotocol
from parakeet_stt.server.conversation import Conversation
from parakeet_stt.server.messages import Message
from parakeet_stt.server.protocol import Protocol
from parakeet_stt.server.protocols import deepgram_files, openai_rest, parakeet_fastapi
from parakeet_stt.server.protocols.deepgram import Deepgram
from parakeet_stt.server.protocols.ears import Ears
from parakeet_stt.server.protocols.native import Native
from parakeet_stt.server.protocols.parakeet_fastapi import ParakeetFastAPI
from parakeet_stt.server.protocols.realtime import Realtime
from parakeet_stt.server.responses import response_to
from parakeet_stt.server.state import Server
from parakeet_stt.server.transport import WebSocketTransport

NATIVE_PATH = "/v1/stream"
EARS_PATH = "/v1/ears"

WEBSOCKET_PROTOCOLS: dict[str, type[Protocol[Message]]] = {
    "/": Native,  # parakeet-streaming's clients request no path.
    NATIVE_PATH: Native,
    "/v1/realtime": Realtime,
    "/v1/listen": Deepgram,
    "/ws": ParakeetFastAPI,
    EARS_PATH: Ears,
}
"""WebSocket protocols by path."""


def make_app(server: Server) -> FastAPI:
    """Create the application of a server."""
    app = FastAPI(
        title="parakeet_stt",
        version=parakeet_stt.__version__,
        summary="Speech-to-text with NVIDIA's Parakeet models.",
        description="REST APIs of several speech-to-text services, served by one engine. "
        "OpenAPI cannot describe WebSockets: docs/protocols.md describes the streaming protocols.",
    )
    app.state.server = server
    for router in (
        health.router,
        openai_rest.router,
        openai_rest.models,
        parakeet_fastapi.router,
        deepgram_files.router,
    ):
        app.include_router(router)
    for path, protocol in WEBSOCKET_PROTOCOLS.items():
        app.add_api_websocket_route(path, _endpoint(server, protocol))
    for kind in (HTTPException, RequestValidationError, ParakeetError, Exception):
        app.add_exception_handler(kind, _respond)
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
    """Wrap the application so that every path of a WebSocket leads to one, for a port of its own.

    Args:
        app: The application.
        path: The path that every WebSocket gets.
    """

    async def rewritten(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            scope = {**scope, "path": path, "raw_path": path.encode()}
        await app(scope, receive, send)

    return rewritten


def _endpoint(server: Server, protocol: type[Protocol[Message]]) -> Any:
    async def serve(websocket: WebSocket) -> None:
        try:
            with server.admission.admit(protocol.name):
                conversation = Conversation(
                    server, protocol, websocket.query_params, websocket.headers
                )
                headers = conversation.protocol.response_headers.items()
                await websocket.accept(
                    accepted_subprotocol(websocket.headers),
                    [(name.encode(), value.encode()) for name, value in headers],
                )
                await conversation.run(WebSocketTransport(websocket))
        except ParakeetError as error:
            await websocket.send_denial_response(response_to(websocket.url.path, error))

    return serve


async def _respond(request: Request, error: Exception) -> Response:
    return response_to(request.url.path, error)
