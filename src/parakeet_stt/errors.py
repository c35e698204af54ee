"""The exception hierarchy.

Every message states what was given, what was expected and what to do. Protocol adapters convert
each exception to an error of their protocol.
"""

from __future__ import annotations


class ParakeetError(Exception):
    """Base of every error that parakeet_stt raises on purpose."""


class ConfigurationError(ParakeetError):
    """A setting, option or argument is invalid."""


class ModelNotFoundError(ParakeetError):
    """The model's name, folder or repository does not exist or lacks a file."""


class ModelUnavailableError(ParakeetError):
    """The model exists but is not available now: no network, no access, no disk space."""


class ModelFormatError(ParakeetError):
    """The model's configuration or weights are not supported by this version."""


class AudioError(ParakeetError):
    """Audio that cannot be decoded, or samples of an unsupported shape or type."""


class BacklogError(ParakeetError):
    """The audio sent exceeds the maximum backlog of one session."""


class SessionClosedError(ParakeetError):
    """A session or engine was used after it had been closed."""
