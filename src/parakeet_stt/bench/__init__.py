"""Benchmarks for users: the load of a running server, and latency in a Pipecat pipeline."""

DIALECTS = ("ws", "native", "deepgram", "realtime")
"""Protocols that ``bench server`` can use."""
