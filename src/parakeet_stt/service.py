"""Deprecated: import ``ParakeetSTTService`` from ``parakeet_stt`` instead."""

import warnings

from parakeet_stt.pipecat.segments import STALL_SECONDS
from parakeet_stt.pipecat.service import (
    SETUP_SECONDS,
    ParakeetMLXSTTService,
    ParakeetMLXSTTSettings,
    ParakeetSTTService,
)
from parakeet_stt.settings import PARAKEET_TTFS_P99

__all__ = [
    "PARAKEET_TTFS_P99",
    "SETUP_SECONDS",
    "STALL_SECONDS",
    "ParakeetMLXSTTService",
    "ParakeetMLXSTTSettings",
    "ParakeetSTTService",
]

warnings.warn(
    "parakeet_stt.service is deprecated and will be removed in 0.3: import "
    "ParakeetSTTService from parakeet_stt",
    DeprecationWarning,
    stacklevel=2,
)
