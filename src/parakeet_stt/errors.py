"""What can go wrong, as one hierarchy.

Every message says what was given, what was expected and what to do. Adapters translate a kind
into their protocol's own error; nothing below them knows those protocols.
"""

from __future__ import annotations


class ParakeetError(Exception):
    """Base of every error that parakeet_stt raises on purpose."""


class ConfigurationError(ParakeetError):
    """A setting, option or argument that cannot be used as it was given."""


class ModelNotFoundError(ParakeetError):
    """The model's name, folder or repository does not exist or lacks a file."""


class ModelUnavailableError(ParakeetError):
    """The model exists but cannot be had now: no network, no access, no disk space."""


class ModelFormatError(ParakeetError):
    """The model's configuration or weights are not ones that this version can run."""


class AudioError(ParakeetError):
    """Audio that cannot be decoded, or samples of a shape or kind that is not accepted."""


class BacklogError(ParakeetError):
    """More audio was sent than the engine keeps waiting for one session."""


class SessionClosedError(ParakeetError):
    """A session or engine was used after it had been closed."""
