"""Marks that several modules use."""

from __future__ import annotations

import pytest

mlx_nightly = pytest.mark.parametrize(
    "backend", ["onnx", pytest.param("mlx", marks=pytest.mark.nightly)]
)
"""For tests of code that both encoders share and that take long on MLX's reference BLAS.

Other tests compare the encoders' frames and tokens every time.
"""
