"""What the engineer on call sees: Prometheus metrics, made by whatever makes metrics where this runs."""

from __future__ import annotations

from typing import Any, Protocol

SECONDS = [0.001, 0.003, 0.01, 0.03, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0]
SIZES = [0.5, 1.5, 2.5, 3.5, 4.5, 5.5, 6.5, 7.5, 8.5, 16.5, 32.5]  # Ray sums the middles of buckets: exact up to 8
SHARES = [0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95]


class Maker(Protocol):
    """The module ``ray.util.metrics``, or what stands for it in a test."""

    Counter: Any
    Gauge: Any
    Histogram: Any


class Metrics:
    """The metrics of one process; Ray exports them with ``ray_`` before the name.

    Args:
        maker: None counts nothing.
    """

    def __init__(self, maker: Maker | None = None) -> None:
        self._made: dict[str, Any] = {}
        if maker is None:
            return
        counter, gauge, histogram = maker.Counter, maker.Gauge, maker.Histogram
        self._made = {
            "requests": counter("dehaze_requests", "Requests by route and status.", ("route", "status")),
            "rejected": counter("dehaze_rejected", "Requests that got a problem, by its code.", ("code",)),
            "retries": counter("dehaze_retries", "Requests that were sent again because a replica died."),
            "pending": gauge("dehaze_pending", "Requests that this ingress holds."),
            "seconds": histogram("dehaze_request_seconds", "Whole request, by route.", SECONDS, ("route",)),
            "stage": histogram("dehaze_stage_seconds", "Parts of a request.", SECONDS, ("stage",)),
            "batch": histogram("dehaze_batch_size", "Pictures that were computed together.", SIZES),
            "jobs": gauge("dehaze_jobs_open", "Jobs that this ingress works on."),
            "jobs_ended": counter("dehaze_jobs_ended", "Jobs that ended, by status.", ("status",)),
            "job_photographs": counter("dehaze_job_photographs", "Photographs of jobs, by outcome.", ("outcome",)),
            "haze": histogram("dehaze_input_haze", "1 - clearness of the inputs: drifts with the cameras.", SHARES),
        }

    def request(self, route: str, status: int, seconds: float) -> None:
        """Count a request that ended, and its seconds."""
        self._call("requests", "inc", 1, {"route": route, "status": str(status)})
        self._call("seconds", "observe", seconds, {"route": route})

    def rejected(self, code: str) -> None:
        """Count a request, or a file of a batch, that got a problem."""
        self._call("rejected", "inc", 1, {"code": code})

    def retried(self) -> None:
        """Count work that was sent again because a replica died."""
        self._call("retries", "inc", 1)

    def pending(self, count: int) -> None:
        """Set the number of requests that are held now."""
        self._call("pending", "set", count)

    def stages(self, timing: dict[str, float]) -> None:
        """Observe the seconds of each part of an answer."""
        for stage, seconds in timing.items():
            self._call("stage", "observe", seconds, {"stage": stage})

    def batch(self, size: int) -> None:
        """Observe the number of pictures that were computed together."""
        self._call("batch", "observe", size)

    def jobs_open(self, count: int) -> None:
        """Set the number of jobs that are worked on now."""
        self._call("jobs", "set", count)

    def job_ended(self, status: str) -> None:
        """Count a job that ended, by its status."""
        self._call("jobs_ended", "inc", 1, {"status": status})

    def job_photograph(self, outcome: str) -> None:
        """Count a photograph of a job that is done: ``ok`` or ``failed``."""
        self._call("job_photographs", "inc", 1, {"outcome": outcome})

    def haze(self, clearness: float | None) -> None:
        """Observe the haze of a photograph that came in, as 1 - clearness."""
        if clearness is not None:
            self._call("haze", "observe", max(1.0 - clearness, 1e-9))  # Ray takes no zero

    def _call(self, name: str, method: str, value: float, tags: dict[str, str] | None = None) -> None:
        made = self._made.get(name)
        if made is not None:
            getattr(made, method)(value, tags or {})
