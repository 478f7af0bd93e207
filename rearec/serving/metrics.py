"""What a service counts, for Prometheus."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from rearec.inference import Recommendation
from rearec.serving.batching import Batch
from rearec.serving.sessions import Sessions

__all__ = ["CONTENT_TYPE", "Metrics"]

CONTENT_TYPE = CONTENT_TYPE_LATEST
SECONDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10)
SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)


class Metrics:
    """The counters of one service; each has a registry of its own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self.requests = Histogram(
            "rearec_request_seconds",
            "From the headers of a request to the end of its answer, by route and status.",
            ["route", "status"],
            buckets=SECONDS,
            registry=self.registry,
        )
        self.batch_size = Histogram(
            "rearec_batch_histories",
            "Histories that were answered together.",
            buckets=SIZES,
            registry=self.registry,
        )
        self.batch_requests = Histogram(
            "rearec_batch_requests",
            "Requests that were answered together.",
            buckets=SIZES,
            registry=self.registry,
        )
        self.batch_seconds = Histogram(
            "rearec_batch_seconds", "Of the model for one batch.", buckets=SECONDS, registry=self.registry
        )
        self.queue = Gauge("rearec_queue_histories", "Histories that wait for the model.", registry=self.registry)
        self.rejected = Counter(
            "rearec_rejected", "Requests that were refused, by reason.", ["reason"], registry=self.registry
        )
        self.answers = Counter(
            "rearec_answers", "Answered histories, by model and source.", ["model", "source"], registry=self.registry
        )
        self.reloads = Counter(
            "rearec_reloads", "Models loaded anew, by name and outcome.", ["model", "outcome"], registry=self.registry
        )

    def watch_queue(self, waiting: Callable[[], float]) -> None:
        """Where the length of the queue is read from."""
        self.queue.set_function(waiting)

    def watch_sessions(self, sessions: Sessions) -> None:
        """What is kept of users, and what that took."""
        for name, help, value in (
            ("rearec_sessions", "Sessions in memory.", lambda: len(sessions)),
            ("rearec_session_bytes", "Their memory.", lambda: sessions.nbytes),
        ):
            Gauge(name, help, registry=self.registry).set_function(value)
        done = Gauge("rearec_session_work", "Of all sessions so far, by kind.", ["kind"], registry=self.registry)
        for kind in sessions.counts:
            done.labels(kind).set_function(partial(sessions.counts.__getitem__, kind))

    def batch(self, batch: Batch) -> None:
        """A batch was answered."""
        self.batch_size.observe(batch.size)
        self.batch_requests.observe(batch.requests)
        self.batch_seconds.observe(batch.seconds)

    def answered(self, model: str, answers: list[Recommendation]) -> None:
        """A request was answered."""
        by_model = sum(answer.source == "model" for answer in answers)
        for source, count in (("model", by_model), ("popularity", len(answers) - by_model)):
            if count:
                self.answers.labels(model, source).inc(count)

    def page(self) -> bytes:
        """All of it in Prometheus' text format."""
        return generate_latest(self.registry)
