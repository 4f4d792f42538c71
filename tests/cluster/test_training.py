"""Colabator's training on hosts that share no disk: one leaves with notice, one dies, one is cut off and comes back."""

from __future__ import annotations

import itertools
import json
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from tests.cluster.cluster import JOB_SECONDS, WORKERS, Cluster, Job
from tests.cluster.conftest import PHOTOGRAPHS

pytestmark = pytest.mark.cluster

STEPS, INTERVAL = 100, 8
NOTICE_SECONDS = 20.0  # clouds give 30 to 120; shorter than what is left of the run
AWAY_SECONDS = 45.0  # longer than Ray waits for a host before it takes it for dead
SETTINGS = (
    "network={name: corun, stages: 1, dim: 2}",
    "init=null",
    "crop={size: 32, per_photo: 2}",
    "labels={size: 32, batch_size: 1, workers: 2, worker_cpus: 0.1, publish_every: 2, max_teacher_lag: 1000}",
    f"train={{steps: {STEPS}, batch_size: 1, workers: 2, threads: 1, data_tasks: 1, data_cpus: 0.1}}",
    "train.min_workers=1",
    "train.worker_cpus=3.1",  # one on each host, and room for all else on either
    f"train.checkpoint_every={INTERVAL}",
    "train.log_every=1",
    "train.failures=6",
)


class Run:
    """A training job whose corpora, checkpoints and labels are in a bucket, and what it tells."""

    def __init__(self, cluster: Cluster, bucket: Callable[[str], str], corpora: dict[str, str]) -> None:
        self._cluster, self.out = cluster, bucket("runs/one")
        words = [word for setting in SETTINGS for word in ("--set", setting)]
        words += [word for domain, corpus in corpora.items() for word in (f"--{domain}", corpus)]
        recipe = ("--recipe", "colabator_corun_compact")
        self.job: Job = cluster.submit("pipelines.train", *recipe, *words, "--out", self.out)

    def steps(self) -> list[int]:
        """Steps in the order in which they were done."""
        return [int(step) for step in re.findall(rf"colabator (\d+)/{STEPS}", self._text)]

    def until(self, step: int) -> None:
        """Wait for that step, or one after it."""
        self.job.until(lambda: max(self.steps(), default=0) >= step, f"step {step}", JOB_SECONDS)

    def trainer(self) -> str:
        """Wait until it has done more than an interval; return a host that trains, of two that without the pool."""
        self.until(max(self.steps(), default=0) + INTERVAL + 2)
        trains, pools = self._found("RayTrainWorker"), self._found("LabelPoolShard")
        print(f"after step {self.steps()[-1]}; training workers and shards of the pool by host: {trains}, {pools}")
        assert any(trains.values())
        return max(WORKERS, key=lambda name: (trains[name] > 0, -pools[name]))

    def _found(self, title: str) -> dict[str, int]:
        return {name: self._cluster.runs(name, f"ray::{title}") for name in WORKERS}

    @contextmanager
    def going_on(self, what: str) -> Iterator[None]:
        """Wait until it has resumed once more than before."""
        before, began = len(self._resumed), time.monotonic()
        yield
        self.job.until(lambda: len(self._resumed) > before, f"it went on: {what}", JOB_SECONDS)
        print(f"{time.monotonic() - began:.0f} s after a host {what} it went on: step, labels {self._resumed[-1]}")

    @property
    def _text(self) -> str:
        """What it has printed: Ray sends lines of a host that was cut off once more when it is back."""
        return "\n".join(dict.fromkeys(self.job.text.splitlines()))

    @property
    def _resumed(self) -> list[tuple[str, str]]:
        return re.findall(r"goes on after step (\d+), with the label pool of then: (\d+) labels", self._text)

    def end(self) -> None:
        """Wait for a good end, and look at what was lost and what was done twice."""
        seconds = self.job.end(2 * JOB_SECONDS)
        steps = self.steps()
        backwards = [(before, after) for before, after in itertools.pairwise(steps) if after <= before]
        assert set(steps) == set(range(1, STEPS + 1)), "every step was done"
        assert all(before - after < INTERVAL for before, after in backwards), backwards
        assert all(int(labels) == PHOTOGRAPHS for _, labels in self._resumed), self._resumed
        result = json.loads(self._cluster.read(f"{self.out}/result.json"))
        assert result["labels"]["pool"]["size"] == PHOTOGRAPHS, "no label is lost"
        again = len(steps) - STEPS
        print(f"{seconds:.0f} s; steps {backwards} (before, after); {again} of {STEPS} were done twice")


@pytest.fixture
def run(cluster: Cluster, bucket: Callable[[str], str], corpora: dict[str, str]) -> Iterator[Run]:
    """Under way; all hosts are there again afterwards."""
    made = Run(cluster, bucket, corpora)
    yield made
    cluster.stop(made.job)
    cluster.mend()


def test_hosts_that_leave_die_and_are_cut_off_cost_an_interval_each_and_no_label(cluster: Cluster, run: Run) -> None:
    host = run.trainer()
    with run.going_on("is told to leave"):
        cluster.drain(host, NOTICE_SECONDS)
        began = time.monotonic()
        run.job.says("a machine of the run is about to leave", NOTICE_SECONDS)
        print(f"{time.monotonic() - began:.0f} s after the notice a checkpoint was written")
        time.sleep(max(0.0, NOTICE_SECONDS - (time.monotonic() - began)))
        cluster.host(host).kill()
    cluster.mend()

    host = run.trainer()
    with run.going_on("died"):
        cluster.host(host).kill()
    cluster.mend()

    host = run.trainer()
    with run.going_on("is cut off"):
        cluster.host(host).cut()
        began = time.monotonic()
    time.sleep(max(0.0, AWAY_SECONDS - (time.monotonic() - began)))
    cluster.host(host).mend()  # what is left of the run there can write to the bucket again
    run.end()
