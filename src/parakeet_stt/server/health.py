"""Health, readiness, configuration and metrics endpoints."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request, Response
from pydantic import BaseModel

import parakeet_stt
from parakeet_stt.server.admission import State
from parakeet_stt.server.state import Server

router = APIRouter(tags=["server"])


def get_server(request: Request) -> Server:
    """Return the server that an application belongs to."""
    server: Server = request.app.state.server
    return server


ServerDependency = Annotated[Server, Depends(get_server)]


class Health(BaseModel):
    """The process responds."""

    status: str


class Readiness(BaseModel):
    """Whether the server accepts work."""

    object: str = "health.response"
    status: str
    message: str


@router.get("/healthz", summary="Liveness (the path of the Parakeet FastAPI services)")
@router.get("/v1/health/live", summary="Liveness")
async def live() -> Health:
    """200 as long as the process responds, whatever the state of the model."""
    return Health(status="ok")


_MESSAGES = {
    State.LOADING: "the model is being loaded",
    State.READY: "work is accepted",
    State.DRAINING: "the server is shutting down",
}


@router.get(
    "/v1/health/ready",
    summary="Readiness",
    responses={503: {"model": Readiness, "description": "Loading or shutting down."}},
)
async def ready(server: ServerDependency, response: Response) -> Readiness:
    """200 while work is accepted; 503 while the model is being loaded and during shutdown."""
    state = server.admission.state
    if state is not State.READY:
        response.status_code = 503
        response.headers["Retry-After"] = "5"
    return Readiness(status=state.value, message=_MESSAGES[state])


@router.get("/config", summary="The settings in effect, without secrets")
async def config(server: ServerDependency) -> dict[str, Any]:
    """Every setting in effect, and the model with its device and precision."""
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


@router.get("/metrics", summary="Metrics for Prometheus", response_class=Response)
async def metrics(server: ServerDependency) -> Response:
    """Metrics in Prometheus' text format."""
    return Response(server.metrics.render(), media_type=server.metrics.content_type)
