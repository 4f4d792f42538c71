"""Two processes with different data keep the same weights, to the last bit; and say which parameter nobody uses."""

from __future__ import annotations

import functools
import os
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from models.config import ConfigError
from pipelines.train.build import make_method
from pipelines.train.recipe import load_recipe
from tests.pipelines.train.methods.networks import batch

WORKERS, STEPS, COUNT = 2, 2, 2
OWN = "network={name: 'tests.pipelines.train.methods.networks:%s'}"
CORUN = "network={name: corun, stages: 2, dim: 2}"  # two stages: the first has a transmission prior of its own
RUNS = {
    "supervised": ("demo_pretrain", CORUN, ""),
    "supervised in micro-batches": ("demo_pretrain", OWN % "Physical", "optimizer.accumulate=2"),
    "colabator in micro-batches": ("demo_colabator", CORUN, "optimizer.accumulate=2"),
    "own network": ("demo_colabator", OWN % "Physical", "optimizer.accumulate=2"),
    "unused, allowed": ("demo_colabator", OWN % "Forgetful", "train.find_unused_parameters=true"),
    "unused": ("demo_pretrain", OWN % "Forgetful", ""),
}


def method_of(run: str, wrap: bool) -> Any:
    name, network, option = RUNS[run]
    recipe = load_recipe(
        name, [network, "init=null", "scorer=null", "optimizer.warmup=0", *([option] if option else [])]
    )
    unused = recipe.train.find_unused_parameters
    distributed = functools.partial(DistributedDataParallel, find_unused_parameters=unused)
    return make_method(recipe, torch.device("cpu"), **({"wrap": distributed} if wrap else {}))


def train(method: Any, rank: int | None) -> dict[str, Any]:
    """A few steps on this worker's half of each batch, or on all of it."""
    shown, first = [], {}
    for step in range(STEPS):
        data = batch(step, count=COUNT * WORKERS)
        part = slice(None) if rank is None else slice(rank * COUNT, (rank + 1) * COUNT)
        shown.append(method.training_step({key: value[part] for key, value in data.items()}, step)["loss"])
        if step == 0:
            first = {n: p.grad.clone() for n, p in method.network.named_parameters() if p.grad is not None}
    state = method.state_dict()
    return {"losses": shown, "gradients": first, "student": state["student"], "teacher": state["teacher"]}


def worker(rank: int, folder: str) -> None:
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=WORKERS)
    for run in RUNS:
        try:
            found: Any = train(method_of(run, wrap=True), rank)
        except ConfigError as problem:
            found = str(problem)
        torch.save(found, f"{folder}/{run}-{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("distributed")
    torch.multiprocessing.spawn(worker, args=(str(folder),), nprocs=WORKERS)  # type: ignore[no-untyped-call]
    return folder


def of(results: Path, run: str) -> list[Any]:
    return [torch.load(results / f"{run}-{rank}.pt", weights_only=True) for rank in range(WORKERS)]


@pytest.mark.parametrize("run", [run for run in RUNS if run != "unused"])
def test_workers_agree_to_the_last_bit_and_with_one_large_batch(run: str, results: Path) -> None:
    one, other = of(results, run)
    assert one["losses"] != other["losses"]  # they saw different data
    alone = train(method_of(run, wrap=False), None)
    for part in ("student", "teacher", "gradients"):
        for name, value in one[part].items():
            assert torch.equal(value, other[part][name]), (part, name)
    for name, value in alone["gradients"].items():
        torch.testing.assert_close(one["gradients"][name], value, rtol=1e-3, atol=1e-6)
    mean = [(a + b) / 2 for a, b in zip(one["losses"], other["losses"], strict=True)]
    assert mean == pytest.approx(alone["losses"], rel=1e-4)


def test_a_parameter_that_no_loss_reaches_is_named(results: Path) -> None:
    for message in of(results, "unused"):
        assert "no loss depends on 2 parameters of the network, such as 'spare.weight'" in message
        assert "set train.find_unused_parameters=true" in message


def test_a_single_process_trains_it_all_the_same() -> None:
    method = method_of("unused", wrap=False)
    spare = [p.detach().clone() for p in method.network.spare.parameters()]
    train(method, None)
    assert all(torch.equal(a, b) for a, b in zip(spare, method.network.spare.parameters(), strict=True))
