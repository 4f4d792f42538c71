"""The README's commands on a cluster without a shared disk, with nothing but URIs."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.cluster.cluster import Cluster

pytestmark = pytest.mark.cluster

JOB_SECONDS = 600.0  # for one job; a quiet machine needs a tenth
TINY = ("network={name: corun, stages: 1, dim: 2}", "init=null", "crop={size: 32, per_photo: 2}")
LOOP = "train={steps: 4, batch_size: 2, workers: 2, threads: 1, data_tasks: 1, checkpoint_every: 2, log_every: 1}"


def _set(*settings: str) -> list[str]:
    return [word for setting in settings for word in ("--set", setting)]


def test_from_photographs_in_a_bucket_to_dehazed_ones(
    cluster: Cluster, bucket: Callable[[str], str], photographs: Callable[..., str]
) -> None:
    corpus, run = bucket("corpora/clear"), bucket("runs/one")
    clear = photographs(bucket("clear"), 12)
    hazy = photographs(bucket("hazy"), 6, first=50, domain="hazy")
    took = {}

    job = cluster.submit("pipelines.ingest", clear, "--domain", "clear", "--out", corpus)
    took["ingest"] = job.end(JOB_SECONDS)

    job = cluster.submit(
        "pipelines.train", "--recipe", "pretrain_corun_compact", *_set(*TINY, LOOP), "--clear", corpus, "--out", run
    )
    took["train"] = job.end(JOB_SECONDS)

    job = cluster.submit("pipelines.dehaze", hazy, bucket("dehazed"), "--model", f"{run}/model", "--concurrency", "2")
    took["dehaze"] = job.end(JOB_SECONDS)
    print(took)
    names = cluster.on_desk(
        "import sys; from models.paths import names_in; print(*names_in(sys.argv[1]))", bucket("dehazed")
    ).split()
    assert [name for name in names if name.endswith(".jpg")] == [f"{index:04d}.jpg" for index in range(6)]
