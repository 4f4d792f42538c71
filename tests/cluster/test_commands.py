"""The README's commands on a cluster without a shared disk, with nothing but URIs."""

from __future__ import annotations

import json
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

    corpus, results = bucket("corpora/hazy"), bucket("results")
    job = cluster.submit("pipelines.ingest", hazy, "--domain", "hazy", "--out", corpus)
    took["ingest of hazy ones"] = job.end(JOB_SECONDS)
    job = cluster.submit(
        "pipelines.evaluate", "--data", corpus, "--models", f"tiny={run}/model", "--split", "all", "--scorer", "none",
        "--metrics", "fade", "--out", results,
    )  # fmt: skip
    took["evaluate"] = job.end(JOB_SECONDS)
    summary = json.loads(cluster.read(f"{results}/summary.json"))
    assert summary["photographs"]["real"]["evaluated"] == 6
    assert {"hazy input", "dcp", "tiny"} <= set(summary["tables"]["real"])

    job = cluster.submit("pipelines.dehaze", hazy, bucket("dehazed"), "--model", f"{run}/model", "--concurrency", "2")
    took["dehaze"] = job.end(JOB_SECONDS)
    print(took)
    names = [name for name in cluster.names(bucket("dehazed")) if name.endswith(".jpg")]
    assert names == [f"{index:04d}.jpg" for index in range(6)]
