"""Measurements: accuracy and latency of the real parts, on real recordings."""

ENGINES = ("ours-onnx", "ours-mlx", "parakeet-mlx", "onnx-asr", "sherpa-onnx")
"""What ``bench engine`` can measure."""

SECTIONS = ("offline", "streaming", "exactness", "lengths", "committed", "flush")
"""Its parts."""

DIALECTS = ("ws", "native", "deepgram", "realtime")
"""What ``bench server`` can speak."""
