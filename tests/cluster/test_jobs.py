"""Dehazing, an evaluation and an ingest of several people, side by side, when hosts die, join or are cut off."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator

import pytest

from tests.cluster.cluster import JOB_SECONDS, WORKERS, Cluster, Job

pytestmark = pytest.mark.cluster

# Enough for dehazing to go on long after a host is taken for dead, half a minute after it died.
PHOTOGRAPHS, EVALUATED = 320, 48
AWAY_SECONDS = 45.0  # longer than Ray waits for a host before it takes it for dead
NEWCOMER = "three"
DEHAZES = "ray::FolderDehazer.work"
EVALUATION = ("--models", "dcp", "--split", "all", "--scorer", "none", "--metrics", "fade", "--limit", str(EVALUATED))


@pytest.fixture(scope="module")
def hazy(cluster: Cluster, new_bucket: Callable[[], Callable[[str], str]], photographs: Callable[..., str]) -> str:
    return photographs(new_bucket()("hazy"), PHOTOGRAPHS, first=50, domain="hazy")


class Jobs:
    """The three of them, under way, with URIs of what they write."""

    def __init__(self, cluster: Cluster, bucket: Callable[[str], str], hazy: str) -> None:
        self._cluster = cluster
        self.clear, self.results, self.corpus = bucket("clear"), bucket("results"), bucket("corpora/hazy")
        dehazing = ("--concurrency", "4", "--num-cpus", "2")
        self.jobs = {
            "dehaze": cluster.submit("pipelines.dehaze", hazy, self.clear, *dehazing),
            "evaluate": cluster.submit("pipelines.evaluate", "--data", hazy, *EVALUATION, "--out", self.results),
            "ingest": cluster.submit("pipelines.ingest", hazy, "--domain", "hazy", "--out", self.corpus),
        }

    def __getitem__(self, name: str) -> Job:
        return self.jobs[name]

    def under_way(self, name: str) -> None:
        """Wait until the dehazing has results and a host dehazes, and look at what it is at."""
        self["dehaze"].until(lambda: bool(self._cluster.names(self.clear)), "the first result", JOB_SECONDS)
        self["dehaze"].until(lambda: self._cluster.runs(name, DEHAZES) > 0, f"{name} dehazes", JOB_SECONDS)
        print(f"at work on {name}:", self._cluster.at_work(name))
        print("going on:", going_on := [job for job in self.jobs if self[job].going_on])
        assert len(going_on) == len(self.jobs), "some were done before: the test has no force"
        print(len(self._cluster.names(self.clear)), "results")

    def end(self) -> None:
        """Wait for good ends, and look at what they have written."""
        print({name: round(job.end(JOB_SECONDS)) for name, job in self.jobs.items()}, "seconds")
        assert len([name for name in self._cluster.names(self.clear) if name.endswith(".jpg")]) == PHOTOGRAPHS
        summary = json.loads(self._cluster.read(f"{self.results}/summary.json"))
        assert summary["photographs"]["real"]["evaluated"] == EVALUATED
        manifest = json.loads(self._cluster.read(f"{self.corpus}/manifest.json"))
        print({key: value for key, value in manifest.items() if isinstance(value, int)})
        assert manifest["accepted"] == manifest["found"] == PHOTOGRAPHS

    def stop(self) -> None:
        """End what is still going on."""
        for job in self.jobs.values():
            self._cluster.stop(job)


@pytest.fixture
def jobs(cluster: Cluster, bucket: Callable[[str], str], hazy: str) -> Iterator[Jobs]:
    """Under way; all hosts are there again afterwards."""
    made = Jobs(cluster, bucket, hazy)
    yield made
    made.stop()
    cluster.mend()


@pytest.fixture
def newcomer(cluster: Cluster) -> Iterator[str]:
    """A host that may join, and is out of the cluster again afterwards."""
    yield NEWCOMER
    cluster.leave(NEWCOMER)


def test_jobs_end_well_when_a_host_dies_and_use_one_that_joins(cluster: Cluster, jobs: Jobs, newcomer: str) -> None:
    jobs.under_way(WORKERS[1])
    cluster.host(WORKERS[1]).kill()
    cluster.start_worker(newcomer)
    jobs["dehaze"].until(lambda: cluster.runs(newcomer, DEHAZES) > 0, "the new host dehazed", JOB_SECONDS)
    print("at work on the new host:", cluster.at_work(newcomer), len(cluster.names(jobs.clear)), "results")
    jobs.end()


def test_jobs_end_well_when_a_host_is_cut_off_and_comes_back(cluster: Cluster, jobs: Jobs) -> None:
    jobs.under_way(WORKERS[1])
    host = cluster.host(WORKERS[1])
    host.cut()
    time.sleep(AWAY_SECONDS)
    host.mend()
    jobs.end()
