"""The three measurements of :mod:`benchmarks.serving`."""

from __future__ import annotations

import itertools
import multiprocessing
import os
import statistics
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

from benchmarks.serving_load import FAILED, REFUSED, Load, Request, Sent, closed, opened
from benchmarks.serving_loop import Loop, loop, prepare
from benchmarks.serving_service import MB, Service, cpu_seconds, memory, on_cores, replicas

LEVELS = (1, 8, 32)
TIMES_CAPACITY = 5
ENOUGH = 10  # answers for a median
NORMAL = 1.5  # times the unloaded median
Row = dict[str, Any]


@dataclass(frozen=True)
class Plan:
    """What is measured: settings of the service; the model and torch's threads among them."""

    model: str
    threads: int
    settings: dict[str, Any]

    def service(self) -> Service:
        """Return the service, not started yet."""
        return Service({"model": self.model, "threads": self.threads} | self.settings)


def tell(text: str) -> None:
    """Print progress to stderr."""
    print(text, file=sys.stderr, flush=True)


@contextmanager
def process(cores: set[int] | None = None, prepared: Callable[..., None] | None = None, *args: Any) -> Iterator[Any]:
    """Yield a pool of one process of its own to call functions in."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, context, prepared, args) as pool:
        process_id = pool.submit(os.getpid).result()
        if cores:
            os.sched_setaffinity(process_id, cores)
        yield pool


def percentile(values: Sequence[float], share: float) -> float:
    """Return the smallest value that ``share`` of them do not exceed; NaN without any."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else float("nan")


def answered(sent: Sequence[Sent], begin: float, end: float) -> list[Sent]:
    """Return the requests that were answered with a picture between ``begin`` and ``end``, by the time of their end."""
    return sorted((one for one in sent if one.status == 200 and begin <= one.ended <= end), key=lambda one: one.ended)


def rate(good: Sequence[Sent]) -> float:
    """Return the answers per second, from the first to the last of them; NaN with fewer than two."""
    span = good[-1].ended - good[0].ended if len(good) > 1 else 0.0
    return (len(good) - 1) / span if span else float("nan")


# --- overhead ---


def overhead(plan: Plan, request: Request, cores: Sequence[int], seconds: float, rounds: int) -> list[Row]:
    """Measure the service against the loop, in turn, on the same cores."""
    return [row for count in cores for row in _overhead(plan, request, count, seconds, rounds)]


def _overhead(plan: Plan, request: Request, count: int, seconds: float, rounds: int) -> list[Row]:
    every = os.sched_getaffinity(0)
    others = every - set(sorted(every)[:count]) or None  # for the load, where any are left
    loops: list[Loop] = []
    found: dict[int, list[Row]] = {level: [] for level in LEVELS}
    with ExitStack() as stack:
        with on_cores(count):
            service = stack.enter_context(plan.service())
            looping = stack.enter_context(process(None, prepare, plan.model, plan.threads))
        loading = stack.enter_context(process(others))
        looping.submit(loop, request.body, 0.1).result()
        for number in range(rounds):
            tell(f"overhead on {count} cores, round {number + 1} of {rounds}")
            loops.append(looping.submit(loop, request.body, seconds).result())
            for level in LEVELS:
                found[level].append(_level(service, loading, request, level, seconds, loops[-1].rate))
        loops.append(looping.submit(loop, request.body, seconds).result())
    return [_summary(count, level, found[level], loops) for level in LEVELS]


def _level(service: Service, loading: Any, request: Request, level: int, seconds: float, expected: float) -> Row:
    warm = 1.0 + level / expected  # until every client has been through the queue
    begin, cpu = time.monotonic() + warm, cpu_seconds(service.process)
    longest = max(seconds, level / expected)
    load: Load = loading.submit(closed, service.port, [request], level, warm + longest).result()
    used = cpu_seconds(service.process) - cpu
    good = answered(load.sent, begin, begin + longest)
    failed = sum(one.status != 200 for one in load.sent)
    total = sum(one.status == 200 for one in load.sent)
    time.sleep(1.0)  # what was given up is noticed
    return {
        "rate": rate(good), "seconds": [one.seconds for one in good], "failed": failed,
        "load_cores": load.cpu_s / (warm + longest), "cpu_s": {title: spent / total for title, spent in used.items()},
    }  # fmt: skip


def _summary(cores: int, level: int, rows: list[Row], loops: list[Loop]) -> Row:
    """Return the medians over the rounds; each round is compared with the loops before and after it."""
    rates, around = [row["rate"] for row in rows], list(itertools.pairwise(loops))
    same = [rate / statistics.mean(one.rate for one in pair) for rate, pair in zip(rates, around, strict=True)]
    alone = [rate / statistics.mean(one.alone for one in pair) for rate, pair in zip(rates, around, strict=True)]
    seconds = [value for row in rows for value in row["seconds"]]
    loop_rate = statistics.median(one.rate for one in loops)
    cpu: Counter[str] = Counter()
    for row in rows:
        cpu.update({title: spent / len(rows) for title, spent in row["cpu_s"].items() if spent > 0.0005})
    return {
        "cores": cores, "concurrency": level, "requests": len(seconds), "failed": sum(row["failed"] for row in rows),
        "rate": statistics.median(rates), "loop_rate": loop_rate, "loop_s": 1 / loop_rate,
        "share": statistics.median(same), "share_of_dehazing_alone": statistics.median(alone),
        "p50_s": percentile(seconds, 0.5), "p99_s": percentile(seconds, 0.99),
        "load_cores": statistics.median(row["load_cores"] for row in rows), "cpu_s_per_request": dict(cpu),
    }  # fmt: skip


# --- overload ---


def overload(plan: Plan, request: Request, seconds: float, sources: int) -> Row:
    """Send five times what the service can do, and measure what it accepts, refuses and holds meanwhile."""
    with plan.service() as service, process() as loading:
        tell("overload: unloaded, then saturated")
        loading.submit(closed, service.port, [request], 1, 2.0).result()
        unloaded: list[float] = []
        while len(unloaded) < ENOUGH:
            calm: Load = loading.submit(closed, service.port, [request], 1, 6.0).result()
            unloaded += [one.seconds for one in calm.sent if one.status == 200]
        wait = 1.0 + 32 * statistics.median(unloaded)
        begin = time.monotonic() + wait
        full: Load = loading.submit(closed, service.port, [request], 32, wait + 10.0).result()
        saturated = answered(full.sent, begin, begin + 10.0)
        capacity = rate(saturated)
        time.sleep(2.0)
        before = _total(service)
        tell(f"overload: {TIMES_CAPACITY} x {capacity:.2f} requests/s for {seconds:g} s")
        flood: Future[Load] = loading.submit(
            opened, service.port, [request], TIMES_CAPACITY * capacity, seconds, sources
        )
        end, samples = time.monotonic() + seconds, []
        while time.monotonic() < end:
            time.sleep(1.0)
            samples.append(_total(service))
        recovery = _until_normal(service, request, NORMAL * statistics.median(unloaded), end)
        load, after = flood.result(), _total(service)
    kept = [one.seconds for one in load.sent if one.status == 200]
    refused = [one.seconds for one in load.sent if one.status in REFUSED]
    return {
        "capacity": capacity, "offered": len(load.sent) / seconds, "sent": len(load.sent), "accepted": len(kept),
        "refused": len(refused), "statuses": dict(Counter(one.status for one in load.sent)),
        "unloaded_s": _quantiles(unloaded), "saturated_s": _quantiles([one.seconds for one in saturated]),
        "accepted_s": _quantiles(kept), "refused_s": _quantiles(refused),
        "answers_per_s": len([one for one in load.sent if one.status == 200 and one.ended <= end]) / seconds,
        "memory_mb": {
            "before": before / MB, "in the first ten seconds": statistics.mean(samples[:10]) / MB,
            "in the last ten": statistics.mean(samples[-10:]) / MB, "peak": max(samples) / MB, "after": after / MB,
        },
        "normal_after_s": recovery,
    }  # fmt: skip


def _until_normal(service: Service, request: Request, limit: float, since: float) -> float:
    """Wait for the first answer as fast as without load; return its seconds from the end of the overload."""
    with process() as single:
        while True:
            one: Load = single.submit(closed, service.port, [request], 1, 2 * limit).result()
            quick = [sent.ended for sent in one.sent if sent.status == 200 and sent.seconds <= limit]
            if quick:
                return max(0.0, quick[0] - since)
            if time.monotonic() > since + 120:
                return float("inf")


def _quantiles(seconds: Sequence[float]) -> dict[str, float]:
    return {"p50": percentile(seconds, 0.5), "p99": percentile(seconds, 0.99)}


def _total(service: Service) -> int:
    return memory(service.process).total()


# --- soak ---


def soak(plan: Plan, requests: Sequence[Request], minutes: float, concurrency: int) -> Row:
    """Send mixed work for a long time, and compare memory at the end with that after the first fifth; count errors."""
    samples: list[tuple[float, Counter[str]]] = []
    with plan.service() as service, process() as loading:
        begun_with = replicas(service.process)
        begin = time.monotonic()
        under_way: Future[Load] = loading.submit(closed, service.port, requests, concurrency, 60 * minutes)
        while not under_way.done():
            samples.append((time.monotonic() - begin, memory(service.process)))
            tell(f"soak: {samples[-1][0] / 60:.1f} min, {samples[-1][1].total() / MB:.0f} MiB")
            time.sleep(min(15.0, 60 * minutes / 40))
        sent = under_way.result().sent
        same = replicas(service.process) == begun_with
    warm = [held for at, held in samples if 0.2 <= at / (60 * minutes) <= 0.3]
    last = [held for at, held in samples if 0.9 <= at / (60 * minutes) <= 1.0]
    titles = {title for held in warm + last for title in held}
    by_process = {title: [_mean(part, title) / MB for part in (warm, last)] for title in sorted(titles)}
    totals = [statistics.mean(held.total() for held in part) / MB for part in (warm, last)]
    return {
        "minutes": minutes, "requests": len(sent), "statuses": dict(Counter(one.status for one in sent)),
        "failed": sum(one.status == FAILED or one.status >= 500 for one in sent), "same_replicas": same,
        "warm_mb": totals[0], "end_mb": totals[1], "growth": totals[1] / totals[0] - 1,
        "by_process_mb": {title: pair for title, pair in by_process.items() if max(pair) > 5},
        "curve_mb": [(round(at), round(held.total() / MB)) for at, held in samples],
    }  # fmt: skip


def _mean(samples: Sequence[Counter[str]], title: str) -> float:
    return statistics.mean(held[title] for held in samples)
