"""Dehazing, an evaluation and an ingest of two people, side by side, when a worker host dies or is cut off."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator

import pytest

from tests.cluster.cluster import WORKERS, Cluster, Job

pytestmark = pytest.mark.cluster

JOB_SECONDS = 900.0  # for a job with a fault; a quiet machine needs a fifth
PHOTOGRAPHS, EVALUATED = 160, 48
AWAY_SECONDS = 45.0  # longer than Ray waits for a host before it takes it for dead
EVALUATION = ("--models", "dcp", "--split", "all", "--scorer", "none", "--metrics", "fade", "--limit", str(EVALUATED))


@pytest.fixture(scope="module")
def hazy(cluster: Cluster, new_bucket: Callable[[], Callable[[str], str]], photographs: Callable[..., str]) -> str:
    return photographs(new_bucket()("hazy"), PHOTOGRAPHS, first=50, domain="hazy")


@pytest.fixture(scope="module")
def corpus(cluster: Cluster, new_bucket: Callable[[], Callable[[str], str]], hazy: str) -> str:
    made = new_bucket()("corpora/hazy")
    job = cluster.submit("pipelines.ingest", hazy, "--domain", "hazy", "--shard-mb", "0.05", "--out", made)
    job.end(JOB_SECONDS)
    return made


@pytest.fixture
def jobs(cluster: Cluster) -> Iterator[dict[str, Job]]:
    """Filled by the test; they are stopped and all hosts are there again afterwards."""
    made: dict[str, Job] = {}
    yield made
    for job in made.values():
        cluster.stop(job)
    cluster.mend()


@pytest.mark.parametrize("comes_back", [False, True], ids=["dies", "is cut off"])
def test_jobs_end_well_without_a_host(
    cluster: Cluster, bucket: Callable[[str], str], hazy: str, corpus: str, jobs: dict[str, Job], comes_back: bool
) -> None:
    clear, results, again = bucket("clear"), bucket("results"), bucket("corpora/again")
    jobs["dehaze"] = cluster.submit("pipelines.dehaze", hazy, clear, "--concurrency", "2", "--num-cpus", "2")
    jobs["evaluate"] = cluster.submit("pipelines.evaluate", "--data", corpus, *EVALUATION, "--out", results)
    jobs["dehaze"].until(lambda: bool(cluster.names(clear)), "the first result", JOB_SECONDS)
    jobs["evaluate"].says("evaluate: ", JOB_SECONDS)
    jobs["ingest"] = cluster.submit("pipelines.ingest", hazy, "--domain", "hazy", "--out", again)
    jobs["ingest"].says("examine photographs: ", JOB_SECONDS)

    host = cluster.host(WORKERS[1])
    at_work = [line for line in host.check("ps", "-e", "-o", "args=").splitlines() if line.startswith("ray::")]
    print("at work on the host:", sorted({line.split()[0] for line in at_work} - {"ray::IDLE"}))
    assert any(job.going_on for job in jobs.values()), "all jobs were done before: the test has no force"
    print("going on:", [name for name, job in jobs.items() if job.going_on], len(cluster.names(clear)), "results")
    if comes_back:
        host.cut()
        time.sleep(AWAY_SECONDS)
        host.mend()
    else:
        host.kill()
    print({name: round(job.end(JOB_SECONDS)) for name, job in jobs.items()}, "seconds")

    assert len([name for name in cluster.names(clear) if name.endswith(".jpg")]) == PHOTOGRAPHS
    summary = json.loads(cluster.read(f"{results}/summary.json"))
    assert summary["photographs"]["real"]["evaluated"] == EVALUATED
    manifest = json.loads(cluster.read(f"{again}/manifest.json"))
    print({key: value for key, value in manifest.items() if isinstance(value, int)})
    assert manifest["accepted"] == manifest["found"] == PHOTOGRAPHS
