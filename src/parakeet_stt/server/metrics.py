"""Metrics of the server, for Prometheus."""

from __future__ import annotations

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    generate_latest,
)

_LATENCIES = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 1.0, 2.0, 5.0, 10.0)


class Metrics:
    """Metrics of one server, in a registry of their own."""

    content_type = "text/plain; version=0.0.4; charset=utf-8"

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        registry = self.registry
        ProcessCollector(registry=registry)  # Memory, CPU time, open files; on Linux only.
        self.sessions = Counter(
            "parakeet_sessions", "Streaming sessions.", ["protocol"], registry=registry
        )
        self.active = Gauge(
            "parakeet_sessions_active", "Open sessions.", ["protocol"], registry=registry
        )
        self.rejected = Counter(
            "parakeet_rejected", "Sessions and requests refused.", ["reason"], registry=registry
        )
        self.endings = Counter(
            "parakeet_session_ends",
            "Sessions by close code.",
            ["protocol", "code"],
            registry=registry,
        )
        self.audio = Counter(
            "parakeet_audio_seconds", "Audio received.", ["protocol"], registry=registry
        )
        self.segments = Counter(
            "parakeet_segments", "Finals with text.", ["protocol"], registry=registry
        )
        self.latency = Histogram(
            "parakeet_final_latency_seconds",
            "Time from a flush to its final.",
            ["protocol"],
            buckets=_LATENCIES,
            registry=registry,
        )
        self.requests = Counter(
            "parakeet_requests", "HTTP requests.", ["endpoint", "status"], registry=registry
        )
        self.errors = Counter(
            "parakeet_errors", "Errors sent to clients.", ["protocol", "type"], registry=registry
        )
        self.lag = Gauge(
            "parakeet_lag_seconds", "Audio waiting for inference, all sessions.", registry=registry
        )
        self.tasks = Gauge("parakeet_tasks", "Tasks on the event loop.", registry=registry)
        self.ready = Gauge("parakeet_ready", "1 while work is accepted.", registry=registry)

    def render(self) -> bytes:
        """Return all metrics in Prometheus' text format."""
        return generate_latest(self.registry)
