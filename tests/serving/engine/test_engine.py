"""What a replica does with photographs: in turn, in threads, and no longer than somebody waits."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from models.config import ConfigError, parse
from models.images import ImageLimits
from models.inference.runner import Dehazed
from models.options import DehazeOptions
from serving.config import ServingConfig
from serving.engine import batching
from serving.engine.batching import InterruptedWorkError, Outcome, Work, interrupted_when, make_interruptible
from serving.engine.engine import Answer, DehazeTask, Engine
from serving.engine.replica import Replica
from serving.errors import Problem
from serving.metrics import Metrics

Jpeg = Callable[..., bytes]
OPTIONS = DehazeOptions()


class Network:
    """Waits at a gate; counts."""

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.gate.set()
        self.begun = 0

    def run(self, hazy: Tensor, *, wrap: bool = False) -> Dehazed:
        self.begun += 1
        self.gate.wait(10)
        return Dehazed(hazy, None)


class Slot:
    def __init__(self, network: Any) -> None:
        self.current = ("test", network)


async def together(works: list[Work]) -> list[Outcome]:
    return await asyncio.to_thread(batching.run, works, None, stack=False)


def engine(network: Any, max_pixels: int = 1 << 30, find: Any = None) -> Engine:
    async def slot(name: str | None) -> Any:
        return Slot(network)

    async def compute(work: Work) -> Outcome:
        return (await together([work]))[0]

    return Engine(
        ImageLimits(), compute, find or slot, threads=2, max_pixels=max_pixels, metrics=Metrics()
    )  # fmt: skip


def run(body: Awaitable[Any]) -> Any:
    async def main() -> Any:
        return await asyncio.wait_for(body, 30)

    return asyncio.run(main())


async def until(condition: Callable[[], bool]) -> None:
    while not condition():  # noqa: ASYNC110 - a counter has no event
        await asyncio.sleep(0.01)


def test_pixels_in_memory_are_bounded(jpeg: Jpeg) -> None:
    network = Network()
    network.gate.clear()

    async def body() -> tuple[int, list[Any]]:
        busy = engine(network, max_pixels=2 * 96 * 128)
        tasks = [asyncio.create_task(busy.dehaze(DehazeTask(jpeg(), OPTIONS))) for _ in range(5)]
        await until(lambda: network.begun == 2)
        await asyncio.sleep(0.3)
        begun = network.begun
        network.gate.set()
        return begun, await asyncio.gather(*tasks)

    begun, answers = run(body())
    assert begun == 2
    assert all(isinstance(answer, Answer) for answer in answers)
    assert answers[-1].timing["queue"] > answers[0].timing["queue"]


def test_who_leaves_the_line_costs_nothing(jpeg: Jpeg) -> None:
    network = Network()
    network.gate.clear()

    async def body() -> Any:
        busy = engine(network, max_pixels=1)
        tasks = [asyncio.create_task(busy.dehaze(DehazeTask(jpeg(), OPTIONS))) for _ in range(4)]
        await until(lambda: network.begun == 1)
        for task in tasks[1:3]:
            task.cancel()
        network.gate.set()
        return await asyncio.gather(*tasks, return_exceptions=True)

    outcomes = run(body())
    assert [type(outcome) for outcome in outcomes] == [
        Answer, asyncio.CancelledError, asyncio.CancelledError, Answer,
    ]  # fmt: skip
    assert network.begun == 2


class Steps(nn.Module):
    """Many small modules, the third of which stops the test's clock."""

    def __init__(self) -> None:
        super().__init__()
        self.parts = nn.ModuleList([nn.Identity() for _ in range(50)])
        self.third = threading.Event()
        self.ran = 0

    def forward(self, image: Tensor) -> Tensor:
        for index, part in enumerate(self.parts):
            image = part(image)
            self.ran += 1
            if index == 2:
                self.third.set()
            threading.Event().wait(0.02)
        return image


def test_a_network_stops_in_the_middle(jpeg: Jpeg) -> None:
    steps = Steps()
    make_interruptible(steps)

    class Whole:
        def run(self, hazy: Tensor, *, wrap: bool = False) -> Dehazed:
            return Dehazed(steps(hazy), None)

    async def body() -> None:
        task = asyncio.create_task(engine(Whole()).dehaze(DehazeTask(jpeg(), OPTIONS)))
        await until(steps.third.is_set)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    run(body())
    assert steps.ran < 50


def test_only_the_work_that_is_dropped_is_interrupted() -> None:
    network = nn.Sequential(nn.Identity())
    make_interruptible(network)
    with interrupted_when(lambda: True), pytest.raises(InterruptedWorkError):
        network(torch.zeros(1))
    with interrupted_when(lambda: False):
        network(torch.zeros(1))
    network(torch.zeros(1))


@pytest.mark.parametrize(
    ("problem", "status", "code"),
    [
        (MemoryError("1.2 GB at 0x7f"), 503, "out_of_memory"),
        (RuntimeError("a secret"), 500, "internal"),
        (ConfigError("/srv/secret/model is no checkpoint"), 503, "model_unavailable"),
    ],
)
def test_failures_are_values_that_tell_nothing(jpeg: Jpeg, problem: Exception, status: int, code: str) -> None:
    async def find(name: str | None) -> Any:
        raise problem

    found = run(engine(None, find=find).dehaze(DehazeTask(jpeg(), OPTIONS)))
    assert isinstance(found, Problem)
    assert (found.status, found.code) == (status, code)
    assert "secret" not in found.detail
    assert "0x7f" not in found.detail


def test_a_transmission_that_there_is_not(jpeg: Jpeg) -> None:
    found = run(engine(Network()).dehaze(DehazeTask(jpeg(), DehazeOptions(output="transmission"))))
    assert isinstance(found, Problem)
    assert (found.status, found.code) == (400, "no_transmission")


def test_the_default_must_be_warm_and_others_may_wait(tmp_path: Any) -> None:
    settings = {"model": "dcp", "scorer": None, "threads": 1, "models": {"gone": str(tmp_path / "gone")}}
    replica = Replica(parse(ServingConfig, settings))
    default, other = run(replica.models())
    assert (default.status, default.default, other.status) == ("ready", True, "on demand")
    assert other.source == "gone"  # no folders of ours
    found = run(replica.dehaze(DehazeTask(b"", OPTIONS, "gone")))
    assert isinstance(found, Problem)
    assert found.code == "model_unavailable"
    with pytest.raises(ConfigError, match="no model"):
        Replica(parse(ServingConfig, settings | {"model": "nothing"}))


class Pair:
    """Stands for ``serve.batch``: computes when two pictures are there, and answers both then."""

    def __init__(self, together: Any) -> None:
        self.together, self.waiting = together, list[tuple[Work, asyncio.Future[Outcome]]]()

    async def __call__(self, work: Work) -> Outcome:
        self.waiting.append((work, asyncio.get_running_loop().create_future()))
        if len(self.waiting) == 2:
            outcomes = await self.together([work for work, _ in self.waiting])
            for (_, future), outcome in zip(self.waiting, outcomes, strict=True):
                future.set_result(outcome)
        return await self.waiting[0 if work is self.waiting[0][0] else 1][1]


def replica_of(stack: str, network: Any) -> Replica:
    settings = {"model": "dcp", "scorer": None, "threads": 1, "batching": {"stack": stack}}
    replica = Replica(parse(ServingConfig, settings), batched=Pair)
    replica._default.current = "test", network
    return replica


def test_without_stacking_nobody_waits_for_the_pictures_after_theirs(jpeg: Jpeg) -> None:
    network = Network()
    replica = replica_of("auto", network)

    async def body() -> Any:
        return await replica.dehaze(DehazeTask(jpeg(), OPTIONS))  # nobody else comes

    assert isinstance(run(body()), Answer)


def test_stacked_pictures_are_one_batch(jpeg: Jpeg) -> None:
    network = Network()
    replica = replica_of("always", network)

    async def body() -> list[Any]:
        return list(await asyncio.gather(*(replica.dehaze(DehazeTask(jpeg(n), OPTIONS)) for n in (1, 2))))

    assert all(isinstance(answer, Answer) for answer in run(body()))
    assert network.begun == 1
