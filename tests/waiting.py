"""Waiting for what other processes and threads do, and work that goes on meanwhile."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


def wait_for(condition: Callable[[], object], seconds: float = 120) -> float:
    """Wait until a condition holds and return how long that took in seconds."""
    start = time.monotonic()
    while not condition():
        assert time.monotonic() - start < seconds, "it did not happen in time"
        time.sleep(0.05)
    return time.monotonic() - start


@contextmanager
def repeated(call: Callable[[], Any], threads: int) -> Iterator[list[Any]]:
    """Call all the time, in so many threads, and give the list of what comes back."""
    outcomes: list[Any] = []
    stop = threading.Event()

    def work() -> None:
        while not stop.is_set():
            outcomes.append(call())

    workers = [threading.Thread(target=work) for _ in range(threads)]
    for worker in workers:
        worker.start()
    try:
        yield outcomes
    finally:
        stop.set()
        for worker in workers:
            worker.join()
