"""A replica that is killed under load costs no request: the ingress sends its work to the other one."""

from __future__ import annotations

import io
import os
import signal
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from benchmarks.serving_service import replicas

pytestmark = pytest.mark.faults

CLIENTS = 4
KILLS = 3
FULL_CAPACITY_S = 60.0  # beside other work, too


@pytest.fixture(scope="module")
def service(ray_cluster: None) -> Iterator[httpx.Client]:
    from serving import app
    from serving.config import ServingConfig

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    scaling = {"min_replicas": 2, "max_replicas": 2, "num_cpus": 0.2}
    config = {"port": port, "model": "corun-compact", "scorer": None, "threads": 1, "scaling": scaling}
    url = app.start(ServingConfig.model_validate(config))
    with httpx.Client(base_url=url, timeout=120) as client:
        yield client
    app.stop()


def dehazers() -> set[int]:
    """Process ids of the replicas with a model in them, below the Ray that this process started."""
    return set(replicas(os.getpid(), "Dehazer"))


def both_run() -> bool:
    """Serve knows two replicas that have their model."""
    from ray import serve

    states = serve.status().applications["dehaze"].deployments["Dehazer"].replica_states
    return states == {"RUNNING": 2}


def wait_for(condition: Callable[[], Any], seconds: float = 120) -> float:
    start = time.monotonic()
    while not condition():
        assert time.monotonic() - start < seconds, "it did not happen in time"
        time.sleep(0.2)
    return time.monotonic() - start


def test_kill_9_under_load(service: httpx.Client, photo: Callable[..., NDArray[np.uint8]]) -> None:
    buffer = io.BytesIO()
    Image.fromarray(photo(1, 240, 320, hazy=True)).save(buffer, "JPEG")
    data, expected = buffer.getvalue(), service.post("/v1/dehaze", content=buffer.getvalue()).content
    outcomes: list[Any] = []
    stop = threading.Event()

    def send() -> None:
        while not stop.is_set():
            answer = service.post("/v1/dehaze", content=data)
            outcomes.append(answer.status_code if answer.content == expected else answer.text)

    threads = [threading.Thread(target=send) for _ in range(CLIENTS)]
    for thread in threads:
        thread.start()
    back = []
    try:
        for _ in range(KILLS):
            count = len(outcomes)
            wait_for(lambda count=count: len(outcomes) > count + 2 * CLIENTS)  # type: ignore[misc]
            before = dehazers()
            assert len(before) == 2
            os.kill(min(before), signal.SIGKILL)
            anew = wait_for(lambda before=before: len(dehazers() - {min(before)}) == 2)  # type: ignore[misc]
            back.append(anew + wait_for(both_run))
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    seconds = ", ".join(f"{value:.0f}" for value in back)
    print(f"{len(outcomes)} requests, {KILLS} kills: {Counter(map(str, outcomes))}; full capacity after {seconds} s")
    assert set(outcomes) == {200}
    assert max(back) < FULL_CAPACITY_S
