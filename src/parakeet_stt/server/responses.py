"""HTTP responses for errors, in the shape that the clients of each path expect."""

from __future__ import annotations

import uuid
from typing import Any

from fastapi import Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException as StarletteHTTPException
from starlette.responses import JSONResponse

from parakeet_stt.errors import AudioError, ConfigurationError, ParakeetError
from parakeet_stt.server.admission import RefusedError
from parakeet_stt.server.messages import BadMessageError

_OPENAI_PATHS = ("/v1/audio", "/audio", "/v1/models", "/v1/realtime")
_DEEPGRAM_PATHS = ("/v1/listen",)
_BAD_FIELD_IS_400 = ("/v1/audio", "/audio", *_DEEPGRAM_PATHS)

_OPENAI_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "invalid_request_error",
    415: "invalid_request_error",
    422: "invalid_request_error",
    429: "rate_limit_error",
}

_DEEPGRAM_CODES = {
    401: "INVALID_AUTH",
    413: "PAYLOAD_TOO_LARGE",
    415: "UNSUPPORTED_MEDIA_TYPE",
    429: "TOO_MANY_REQUESTS",
    503: "SERVICE_UNAVAILABLE",
}


def error_response(
    path: str, status: int, message: str, headers: dict[str, str] | None = None
) -> Response:
    """Return an error in the shape that the clients of a path expect.

    Args:
        path: The request's path.
        status: The HTTP status.
        message: What is wrong.
        headers: Headers of the response.
    """
    content: dict[str, Any]
    headers = dict(headers or {})
    if path.startswith(_DEEPGRAM_PATHS):
        content = {"err_code": _DEEPGRAM_CODES.get(status, "Bad Request"), "err_msg": message}
        content["request_id"] = str(uuid.uuid4())
        # Clients show these headers if a handshake fails: few of them read the body.
        headers["dg-error"] = message.encode("unicode_escape").decode()[:500].strip()
        headers["dg-request-id"] = content["request_id"]
    elif path.startswith(_OPENAI_PATHS):
        content = {"error": openai_error(openai_type(status), message)}
    else:
        content = {"detail": message}
    if status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    return JSONResponse(content, status, headers)


def response_to(path: str, error: Exception) -> Response:
    """Return the response to a request that raised an error."""
    status, message = describe(path, error)
    headers: dict[str, str] = {}
    if isinstance(error, StarletteHTTPException):
        headers.update(error.headers or {})
    elif isinstance(error, RefusedError):
        headers["Retry-After"] = str(error.retry_after)
    return error_response(path, status, message, headers)


def describe(path: str, error: Exception) -> tuple[int, str]:
    """Return the HTTP status and the message for an error. A defect of ours becomes 500."""
    match error:
        case StarletteHTTPException():
            return error.status_code, str(error.detail)
        case RequestValidationError():
            first = error.errors()[0]
            field = ".".join(str(part) for part in first["loc"][1:])
            return 400 if path.startswith(_BAD_FIELD_IS_400) else 422, f"{field}: {first['msg']}"
        case RefusedError():
            return error.status, str(error)
        case ConfigurationError() | BadMessageError():
            return 400, str(error)
        case AudioError():
            return 415, str(error)
        case ParakeetError():
            return 500, str(error)
    return 500, "internal error"


def openai_type(status: int) -> str:
    """Return OpenAI's error type for an HTTP status."""
    return _OPENAI_TYPES.get(status, "server_error" if status >= 500 else "invalid_request_error")


def openai_error(
    kind: str, message: str, code: str | None = None, param: str | None = None
) -> dict[str, str | None]:
    """Return an error object as OpenAI's REST and Realtime APIs define it."""
    return {"message": message, "type": kind, "param": param, "code": code}
