"""Dehazing of a folder when a host joins the cluster meanwhile."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from tests.cluster.cluster import Cluster

pytestmark = pytest.mark.cluster

JOB_SECONDS = 600.0
PHOTOGRAPHS = 320  # more than workers are given in advance: 4 that have room, 2 batches of 16 each
NEWCOMER = "three"


@pytest.fixture
def joining(cluster: Cluster) -> Iterator[Callable[[], None]]:
    """Lets one more host join; it is gone afterwards."""
    yield lambda: cluster.start_worker(NEWCOMER)
    cluster.host(NEWCOMER).kill()
    cluster.host(NEWCOMER).restart()  # without Ray
    cluster.mend()


def test_a_host_that_joins_is_used(
    cluster: Cluster, bucket: Callable[[str], str], photographs: Callable[..., str], joining: Callable[[], None]
) -> None:
    hazy, clear = photographs(bucket("hazy"), PHOTOGRAPHS, domain="hazy"), bucket("clear")
    job = cluster.submit("pipelines.dehaze", hazy, clear, "--concurrency", "6", "--num-cpus", "3")
    job.until(lambda: bool(cluster.names(clear)), "the first result", JOB_SECONDS)
    joining()
    job.until(lambda: cluster.runs(NEWCOMER, "ray::FolderDehazer.work") > 0, "the new host worked", JOB_SECONDS)
    there = len(cluster.names(clear))
    seconds = job.end(JOB_SECONDS)
    done = [name for name in cluster.names(clear) if name.endswith(".jpg")]
    assert len(done) == PHOTOGRAPHS
    print(f"{seconds:.0f} s; the new host worked when at most {there} of {PHOTOGRAPHS} results were there")
