"""What the server counts: Prometheus metrics, and a window of recent latencies for the operations page."""

import threading
import time
from collections import Counter as Tally
from collections import defaultdict, deque
from typing import Any

import numpy as np
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from vitrina.serve.wire import Answer, Receipt

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)
"""Upper bounds of the latency buckets."""
WINDOW = 2048
"""Requests of a route whose latencies the operations page looks at."""


class Telemetry:
    """Counters of one application; its own registry, so that several live in one process."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.began = time.time()
        self._lock = threading.Lock()
        self._recent: dict[str, deque[float]] = defaultdict(lambda: deque(maxlen=WINDOW))
        self._stages: dict[str, deque[float]] = defaultdict(lambda: deque(maxlen=WINDOW))
        self._statuses: dict[str, Tally[int]] = defaultdict(Tally)
        self._failures: Tally[str] = Tally()
        self._last_failure: dict[str, str] = {}
        self._outcomes: Tally[str] = Tally()
        on: dict[str, Any] = {"registry": self.registry}
        self.requests = Counter("vitrina_requests", "Requests answered.", ["route", "status"], **on)
        self.seconds = Histogram(
            "vitrina_request_seconds", "Time to answer.", ["route"], buckets=SECONDS, **on
        )
        self.stage_seconds = Histogram(
            "vitrina_stage_seconds", "Time of a pipeline stage.", ["stage"], buckets=SECONDS, **on
        )
        self.failures = Counter(
            "vitrina_source_failures", "Sources that failed or were late.", ["source"], **on
        )
        self.events = Counter("vitrina_events", "Events by what became of them.", ["outcome"], **on)
        self.answers = Counter("vitrina_feeds", "Feeds by how they were filled.", ["kind"], **on)
        self.state = Gauge("vitrina_state", "Events, users and bytes of the online state.", ["what"], **on)
        self.ready = Gauge("vitrina_ready", "1 once the model is warm.", **on)

    def request(self, route: str, status: int, seconds: float) -> None:
        """Count a finished request."""
        self.requests.labels(route, str(status)).inc()
        self.seconds.labels(route).observe(seconds)
        with self._lock:
            self._recent[route].append(seconds)
            self._statuses[route][status] += 1

    def feed(self, answer: Answer) -> None:
        """Count the stages and failures of a feed."""
        kind = "empty" if not answer.items else "fallback" if answer.fallback else "personal"
        self.answers.labels(kind).inc()
        for stage in answer.stages:
            self.stage_seconds.labels(stage.name).observe(stage.ms / 1000)
        for source in answer.failures:
            self.failures.labels(source).inc()
        with self._lock:
            self._outcomes[f"feeds: {kind}"] += 1
            for stage in answer.stages:
                self._stages[stage.name].append(stage.ms / 1000)
            self._failures.update(answer.failures.keys())
            self._last_failure.update(answer.failures)

    def receipt(self, receipt: Receipt) -> None:
        """Count a batch of events."""
        counts = {
            "stored": receipt.accepted - receipt.duplicates,
            "duplicate": receipt.duplicates,
            "rejected": len(receipt.rejected),
        }
        for outcome, n in counts.items():
            self.events.labels(outcome).inc(n)
        with self._lock:
            self._outcomes.update({f"events: {outcome}": n for outcome, n in counts.items() if n})

    def exposition(self, state: dict[str, int], ready: bool) -> bytes:
        """The text that Prometheus scrapes."""
        for what, n in state.items():
            self.state.labels(what).set(n)
        self.ready.set(ready)
        return generate_latest(self.registry)

    def summary(self) -> dict[str, Any]:
        """Numbers for the operations page: routes, stages, failures, outcomes. Times in milliseconds."""
        with self._lock:
            routes = [
                {"name": route, "n": sum(self._statuses[route].values()), "statuses": dict(statuses)}
                | _percentiles(self._recent[route])
                for route, statuses in sorted(self._statuses.items())
            ]
            stages = [{"name": name} | _percentiles(values) for name, values in self._stages.items()]
            failures = [
                {"name": name, "n": n, "last": self._last_failure[name]} for name, n in self._failures.items()
            ]
            return {
                "uptime_s": time.time() - self.began,
                "routes": routes,
                "stages": stages,
                "failures": failures,
                "outcomes": dict(self._outcomes),
            }


def _percentiles(seconds: deque[float]) -> dict[str, Any]:
    p50, p99 = np.percentile(np.fromiter(seconds, float), (50, 99)) * 1000 if seconds else (0.0, 0.0)
    return {"p50_ms": float(p50), "p99_ms": float(p99), "recent_ms": [s * 1000 for s in list(seconds)[-60:]]}
