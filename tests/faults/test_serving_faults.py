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
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

pytestmark = pytest.mark.faults

CLIENTS = 4
KILLS = 3


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


def parent(process: int) -> int:
    """The parent of a process, 0 when it has ended."""
    try:
        return int(Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return 0


def replicas() -> set[int]:
    """Process ids of the replicas with a model in them: by their title, below the Ray that this process started."""
    found = set()
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            title = (folder / "cmdline").read_bytes()
        except OSError:
            continue
        process = int(folder.name)
        if title.startswith(b"ray::ServeReplica:dehaze:Dehazer") and parent(parent(process)) == os.getpid():
            found.add(process)
    return found


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
            before = replicas()
            assert len(before) == 2
            os.kill(min(before), signal.SIGKILL)
            back.append(wait_for(lambda before=before: len(replicas() - {min(before)}) == 2))  # type: ignore[misc]
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    seconds = ", ".join(f"{value:.0f}" for value in back)
    print(
        f"{len(outcomes)} requests, {KILLS} kills: {Counter(map(str, outcomes))}; two replicas again after {seconds} s"
    )
    assert set(outcomes) == {200}
