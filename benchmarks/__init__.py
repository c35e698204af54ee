"""Benchmarks of our own; they are not in the wheel. ``python -m benchmarks --help`` lists them."""

ENGINES = ("ours-onnx", "ours-mlx", "parakeet-mlx", "onnx-asr", "sherpa-onnx")
"""Engines that ``engine`` can measure."""

SECTIONS = ("offline", "streaming", "exactness", "lengths", "committed", "flush")
"""Parts of ``engine``."""
