"""Is it alive, is it ready, how is it set, and what has it done so far."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request, Response
from pydantic import BaseModel

import parakeet_stt
from parakeet_stt.server.state import Server, State

router = APIRouter(tags=["server"])


def the_server(request: Request) -> Server:
    """The server that an application belongs to."""
    server: Server = request.app.state.server
    return server


TheServer = Annotated[Server, Depends(the_server)]


class Health(BaseModel):
    """Whether the process answers."""

    status: str


class Readiness(BaseModel):
    """Whether work is accepted."""

    object: str = "health.response"
    status: str
    message: str


@router.get("/healthz", summary="Whether the process answers (systems 001 and 002)")
@router.get("/v1/health/live", summary="Whether the process answers")
async def live() -> Health:
    """Answers as long as the process is alive, whatever the model does."""
    return Health(status="ok")


_MESSAGES = {
    State.LOADING: "the model is being loaded",
    State.READY: "work is accepted",
    State.DRAINING: "the server is shutting down",
}


@router.get(
    "/v1/health/ready",
    summary="Whether work is accepted",
    responses={503: {"model": Readiness, "description": "Loading, or shutting down."}},
)
async def ready(server: TheServer, response: Response) -> Readiness:
    """503 while the model is being loaded and while the server shuts down."""
    if server.state is not State.READY:
        response.status_code = 503
        response.headers["Retry-After"] = "5"
    return Readiness(status=server.state.value, message=_MESSAGES[server.state])


@router.get("/config", summary="The settings in effect, without secrets")
async def config(server: TheServer) -> dict[str, Any]:
    """Every setting as it is in effect, and what the model runs on."""
    model = server.engine.model
    running = None
    if model is not None:
        running = {
            "name": server.model_name,
            "kind": model.config.kind,
            "backend": model.encoder.name,
            "device": model.encoder.device,
            "precision": model.encoder.precision,
            "language": model.language,
        }
    settings = {**server.settings.shown(), "model": server.model_name}
    return {"version": parakeet_stt.__version__, "settings": settings, "running": running}


@router.get("/metrics", summary="Counters for Prometheus", response_class=Response)
async def metrics(server: TheServer) -> Response:
    """Prometheus' text format."""
    return Response(server.metrics.render(), media_type=server.metrics.content_type)
