"""Measurements: accuracy and latency of the real parts, on real recordings."""
