"""Colabator's training on hosts that share no disk: one dies, is cut off and comes back, or leaves with notice."""

from __future__ import annotations

import itertools
import json
import re
import time
from collections.abc import Callable, Iterator

import pytest

from tests.cluster.cluster import WORKERS, Cluster, Job

pytestmark = pytest.mark.cluster

JOB_SECONDS = 900.0  # for a run with a fault; a quiet machine needs a fifth
STEPS, INTERVAL = 48, 6
PHOTOGRAPHS = 12
NOTICE_SECONDS = 30.0  # clouds give 30 to 120; shorter than what is left of the run
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
    "train.failures=2",
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
        return [int(step) for step in re.findall(rf"colabator (\d+)/{STEPS}", self.job.text)]

    def until(self, step: int) -> None:
        """Wait for that step."""
        self.job.until(lambda: max(self.steps(), default=0) >= step, f"step {step}", JOB_SECONDS)

    def trainer(self) -> str:
        """A host where it trains; where there are two, that without the label pool."""
        found = {name: self._cluster.runs(name, "ray::RayTrainWorker") for name in WORKERS}
        assert any(found.values()), found
        pools = {name: self._cluster.runs(name, "ray::LabelPoolShard") for name in WORKERS}
        print(f"training workers and shards of the pool by host: {found}, {pools}")
        return max(WORKERS, key=lambda name: (found[name] > 0, -pools[name]))

    def end(self) -> None:
        """Wait for a good end, and look at what was lost and what was done twice."""
        seconds = self.job.end(JOB_SECONDS)
        steps = self.steps()
        resumed = re.findall(r"goes on after step (\d+), with the label pool of then: (\d+) labels", self.job.text)
        backwards = [(before, after) for before, after in itertools.pairwise(steps) if after <= before]
        assert set(steps) == set(range(1, STEPS + 1)), "every step was done"
        assert len(resumed) >= 1, "the host was part of the run"
        assert all(before - after < INTERVAL for before, after in backwards), backwards
        assert all(int(labels) == PHOTOGRAPHS for _, labels in resumed), resumed
        result = json.loads(self._cluster.read(f"{self.out}/result.json"))
        assert result["labels"]["pool"]["size"] == PHOTOGRAPHS, "no label is lost"
        again = len(steps) - STEPS
        print(f"{seconds:.0f} s; steps {backwards} (before, after); {again} of {STEPS} were done twice, {resumed}")


@pytest.fixture(scope="module")
def corpora(
    cluster: Cluster, new_bucket: Callable[[], Callable[[str], str]], photographs: Callable[..., str]
) -> dict[str, str]:
    bucket, made, jobs = new_bucket(), {}, []
    for domain in ("clear", "hazy"):
        taken = photographs(bucket(domain), PHOTOGRAPHS, first=50 * (domain == "hazy"), domain=domain)
        made[domain] = bucket(f"corpora/{domain}")
        options = ("--domain", domain, "--test-fraction", "0", "--shard-mb", "0.05")
        jobs.append(cluster.submit("pipelines.ingest", taken, *options, "--out", made[domain]))
    for job in jobs:  # side by side, as two people's would be
        job.end(JOB_SECONDS)
    return made


@pytest.fixture
def run(cluster: Cluster, bucket: Callable[[str], str], corpora: dict[str, str]) -> Iterator[Run]:
    """Under way; all hosts are there again afterwards."""
    made = Run(cluster, bucket, corpora)
    yield made
    cluster.stop(made.job)
    cluster.mend()


def test_a_host_that_dies_costs_an_interval_and_no_label(cluster: Cluster, run: Run) -> None:
    run.until(INTERVAL + 2)
    cluster.host(run.trainer()).kill()
    began = time.monotonic()
    run.job.says("goes on after step", JOB_SECONDS)
    print(f"{time.monotonic() - began:.0f} s after the death of the host it went on")
    run.end()


def test_a_host_that_is_cut_off_and_comes_back_costs_an_interval_and_no_label(cluster: Cluster, run: Run) -> None:
    run.until(INTERVAL + 2)
    host = cluster.host(run.trainer())
    host.cut()
    began = time.monotonic()
    run.job.says("goes on after step", JOB_SECONDS)
    print(f"{time.monotonic() - began:.0f} s after the host was cut off it went on")
    time.sleep(max(0.0, AWAY_SECONDS - (time.monotonic() - began)))
    host.mend()  # what is left of the run there can write to the bucket again
    run.end()


def test_a_host_that_leaves_with_notice_costs_what_was_done_after_it(cluster: Cluster, run: Run) -> None:
    run.until(INTERVAL + 2)
    name = run.trainer()
    cluster.drain(name, NOTICE_SECONDS)
    began = time.monotonic()
    run.job.says("a machine of the run is about to leave", NOTICE_SECONDS)
    print(f"{time.monotonic() - began:.0f} s after the notice a checkpoint was written")
    time.sleep(max(0.0, NOTICE_SECONDS - (time.monotonic() - began)))
    cluster.host(name).kill()
    run.end()
