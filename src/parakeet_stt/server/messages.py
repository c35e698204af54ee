"""Received messages: how they are validated, and the errors of those that are invalid."""

from __future__ import annotations

import base64
from typing import Annotated, Any, ClassVar, TypeVar

import pydantic

from parakeet_stt.errors import ParakeetError

Message = str | bytes
"""A message of a WebSocket, or a line on TCP."""

T = TypeVar("T")


class BadMessageError(ParakeetError):
    """A message that the protocol does not allow; the connection stays open."""


class UnreadableError(ParakeetError):
    """The start of the next message is unknown: the connection must be closed.

    Attributes:
        code: The close code.
    """

    code: ClassVar[int] = 1002


class MessageTooLargeError(UnreadableError):
    """A message over the size limit; the connection must be closed."""

    code = 1009


def parse(schema: pydantic.TypeAdapter[T], message: str | bytes) -> T:
    """Parse a client's JSON message.

    Raises:
        BadMessageError: It does not match the schema; the message names the field and the fault.
    """
    try:
        return schema.validate_json(message)
    except pydantic.ValidationError as error:
        raise BadMessageError(_describe(error)) from error


def validate(schema: pydantic.TypeAdapter[T], content: Any) -> T:
    """Validate the content of a message that has been decoded already.

    Raises:
        BadMessageError: It does not match the schema; the message names the field and the fault.
    """
    try:
        return schema.validate_python(content)
    except pydantic.ValidationError as error:
        raise BadMessageError(_describe(error)) from error


def _describe(error: pydantic.ValidationError) -> str:
    first = error.errors(include_url=False, include_context=False)[0]
    field = ".".join(str(part) for part in first["loc"])
    return f"{field}: {first['msg']}" if field else first["msg"]


def _decode_base64(value: Any) -> bytes:
    try:
        return base64.b64decode(value, validate=True)
    except (TypeError, ValueError) as error:
        raise ValueError(f"not base64: {error}") from error


Base64 = Annotated[bytes, pydantic.BeforeValidator(_decode_base64, json_schema_input_type=str)]
"""Bytes that a JSON message contains as base64."""
