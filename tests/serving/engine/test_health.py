"""A replica that cannot compute any more says so; bad pictures, overload and long pictures are no reason."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Executor, Future
from typing import Any

import pytest
import torch
from fastapi.testclient import TestClient
from torch import Tensor

from models.config import parse
from models.inference.runner import Dehazed
from models.options import DehazeOptions
from serving.config import HealthConfig, ServingConfig
from serving.engine.batching import Work
from serving.engine.engine import Answer, DehazeTask
from serving.engine.health import Health, SickError
from serving.engine.replica import Replica
from serving.errors import Problem

Jpeg = Callable[..., bytes]
OPTIONS = DehazeOptions()
CUDA = RuntimeError("CUDA error: an illegal memory access was encountered")
TINY = 64 * 64


class Device:
    """A network that raises what it is told to: for every picture, or for those of one size only."""

    def __init__(self) -> None:
        self.problem: Exception | None = None
        self.only_large = False
        self.tiny = 0

    def run(self, hazy: Tensor, *, wrap: bool = False) -> Dehazed:
        size = hazy.shape[-1] * hazy.shape[-2]
        self.tiny += size == TINY
        if self.problem is not None and not (self.only_large and size == TINY):
            raise self.problem
        return Dehazed(hazy, None)


def made(**settings: Any) -> tuple[Replica, Device, list[str]]:
    sick: list[str] = []
    config = parse(ServingConfig, {"model": "dcp", "scorer": None, "threads": 1, "health": settings})
    replica = Replica(config, on_sick=lambda: sick.append("sick"))
    device = Device()
    replica._default.current = "test", device
    return replica, device, sick


def dehaze(replica: Replica, data: bytes) -> Answer | Problem:
    return asyncio.run(replica.dehaze(DehazeTask(data, OPTIONS)))


def code(answer: Answer | Problem) -> str:
    return answer.code if isinstance(answer, Problem) else "ok"


def test_a_device_that_breaks_is_noticed_with_the_first_picture(jpeg: Jpeg) -> None:
    replica, device, sick = made()
    assert code(dehaze(replica, jpeg())) == "ok"
    replica.check_health()
    device.problem = CUDA
    assert code(dehaze(replica, jpeg())) == "replica_lost"  # the ingress sends it to another one
    assert sick == ["sick"]
    assert device.tiny == 3
    with pytest.raises(SickError, match="illegal memory access"):
        replica.check_health()
    assert isinstance(asyncio.run(replica.models()), Problem)
    assert asyncio.run(replica.there()) is False


def test_a_picture_that_fails_is_no_sickness(jpeg: Jpeg) -> None:
    replica, device, sick = made()
    device.problem, device.only_large = CUDA, True
    for _ in range(9):
        assert code(dehaze(replica, jpeg())) == "internal"
        replica.check_health()
    assert not sick


def test_bad_pictures_and_want_of_memory_are_no_sickness(jpeg: Jpeg) -> None:
    replica, device, sick = made()
    for _ in range(5):
        assert code(dehaze(replica, b"no picture")) == "unsupported_format"
        assert code(dehaze(replica, jpeg()[:900])) == "truncated"
    device.problem, device.only_large = MemoryError("1 GB"), True
    for _ in range(5):
        assert code(dehaze(replica, jpeg())) == "out_of_memory"
    assert device.tiny == 0
    replica.check_health()  # in doubt, it looks
    replica._computing.submit(lambda: None).result(10)
    assert device.tiny == 1
    replica.check_health()
    replica._computing.submit(lambda: None).result(10)
    assert device.tiny == 1
    assert not sick


def test_a_service_whose_replica_is_sick_is_not_ready(service: Callable[..., TestClient], jpeg: Jpeg) -> None:
    replica, device, _ = made()
    client = service(replica)
    assert client.get("/readyz").status_code == 200
    device.problem = CUDA
    assert client.post("/v1/dehaze", content=jpeg()).status_code == 503
    answer = client.get("/readyz")
    assert (answer.status_code, answer.json()["code"]) == (503, "unavailable")
    assert client.get("/v1/models").status_code == 503
    assert client.get("/healthz").status_code == 200


class Queue(Executor):
    """Runs what is submitted when it is told to."""

    def __init__(self) -> None:
        self.waiting: list[tuple[Callable[[], Any], Future[Any]]] = []

    def submit(self, call: Callable[[], Any], /) -> Future[Any]:  # type: ignore[override]
        self.waiting.append((call, Future()))
        return self.waiting[-1][1]

    def work(self) -> None:
        for call, future in self.waiting:
            future.set_result(call())
        self.waiting = []


class Bench:
    """A health with a clock, a queue and a device of its own."""

    def __init__(self) -> None:
        self.now, self.tiny, self.broken, self.sick = 0.0, 0, False, 0
        self.queue = Queue()
        config = HealthConfig(failures=3, idle_s=60, stuck_s=100)
        self.health = Health(config, self.look, self.queue, self.give_up, clock=lambda: self.now)

    def look(self) -> None:
        self.tiny += 1
        if self.broken:
            raise CUDA

    def give_up(self) -> None:
        self.sick += 1

    def check(self, seconds: float = 5.0) -> None:
        self.now += seconds
        self.health.check()


def test_an_idle_device_is_looked_at_from_time_to_time() -> None:
    bench = Bench()
    for _ in range(30):
        bench.check()
        bench.queue.work()
    assert bench.tiny == 2
    bench.broken = True
    while not bench.sick:
        bench.check()
        bench.queue.work()
    with pytest.raises(SickError):
        bench.check()
    assert bench.tiny == 2 + 3


def test_a_device_that_comes_back_is_well() -> None:
    bench = Bench()
    bench.broken = True
    bench.check(61)
    bench.queue.work()
    bench.check()
    bench.queue.work()
    bench.broken = False
    for _ in range(3):
        bench.check()
        bench.queue.work()
    assert (bench.sick, bench.tiny) == (0, 3)


def computing(bench: Bench, work: Work) -> threading.Event:
    """A picture that is computed until the event is set."""
    begun, go = threading.Event(), threading.Event()

    def compute() -> list[Any]:
        begun.set()
        go.wait(10)
        return []

    threading.Thread(target=bench.health.watched, args=([work], compute)).start()
    assert begun.wait(10)
    return go


def test_a_long_picture_is_no_sickness_and_one_that_hangs_is() -> None:
    bench, work = Bench(), Work(None, torch.zeros(1))
    go = computing(bench, work)
    for _ in range(200):
        bench.check()
    assert not bench.queue.waiting  # nothing is put behind it
    work.dropped = True
    for _ in range(20):
        bench.check()
    assert not bench.sick
    with pytest.raises(SickError, match="it hangs"):
        bench.check(6)
    assert bench.sick == 1
    go.set()


def test_a_tiny_picture_that_hangs_is_noticed() -> None:
    bench = Bench()
    bench.check(61)
    begun, go = threading.Event(), threading.Event()

    def hang() -> None:
        begun.set()
        go.wait(10)

    bench.health._tiny = hang
    threading.Thread(target=bench.queue.work).start()
    assert begun.wait(10)
    bench.check()
    with pytest.raises(SickError, match="it hangs"):
        bench.check(101)
    go.set()
