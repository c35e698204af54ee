"""Arrays of samples: checking and scaling.

Inside the package, audio is ``float32 [samples]``, mono, at :data:`SAMPLE_RATE`, within -1 to 1.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from parakeet_stt.errors import AudioError

Samples = npt.NDArray[np.float32]
"""``float32 [samples]``, or ``[frames, channels]`` before conversion to mono."""

SAMPLE_RATE = 16_000
"""Sample rate of every Parakeet model, Hz."""

_MAX_AMPLITUDE = 2.0**31  # 32-bit samples that were not scaled; beyond it, power spectra overflow.


def as_samples(audio: Any) -> Samples:
    """Check mono samples at 16 kHz and convert them to ``float32 [samples]``.

    Args:
        audio: One-dimensional array; floats within -1 to 1, int16, int32 or uint8.

    Raises:
        AudioError: Another shape or dtype, or a value that is not finite.
    """
    array = as_array(audio, "mono samples of shape [samples]")
    if array.ndim != 1:
        raise AudioError(f"expected mono samples of shape [samples], got shape {array.shape}")
    return to_floats(array)


def as_array(audio: Any, expected: str) -> npt.NDArray[Any]:
    """Convert anything array-like to an array.

    Args:
        audio: The object.
        expected: Description of what is accepted, for the error message.

    Raises:
        AudioError: numpy cannot make an array of it.
    """
    try:
        return np.asarray(audio)
    except (ValueError, TypeError, RuntimeError) as error:  # Ragged lists; a tensor on a GPU.
        raise AudioError(f"expected {expected}, got {error}") from error


def to_floats(array: npt.NDArray[Any]) -> Samples:
    """Convert samples of any accepted dtype to float32 within -1 to 1; keeps the shape.

    Raises:
        AudioError: Another dtype, a value that is not finite, or one beyond the range of unscaled
            32-bit integers. (Floats a little outside of -1 to 1 are accepted.)
    """
    if array.dtype == np.uint8:  # Unsigned, with 128 as zero, as in a WAV file.
        array = array.astype(np.int16) - 128
        return array.astype(np.float32) / np.float32(128)
    if array.dtype in (np.int16, np.int32):
        return array.astype(np.float32) / np.float32(2.0 ** (8 * array.dtype.itemsize - 1))
    if not np.issubdtype(array.dtype, np.floating):
        raise AudioError(f"expected samples as float32, int16, int32 or uint8, got {array.dtype}")
    with np.errstate(over="ignore"):
        samples = array.astype(np.float32, copy=False)
    finite = np.isfinite(samples)
    if not finite.all():
        raise AudioError(
            f"expected samples within -1 to 1, got some that are not finite numbers, the first of "
            f"them at {np.argwhere(~finite)[0][0]} of {len(samples)}"
        )
    if (peak := np.abs(samples).max(initial=0)) > _MAX_AMPLITUDE:
        raise AudioError(f"expected samples within -1 to 1, got one of {peak:.3g}")
    return samples
