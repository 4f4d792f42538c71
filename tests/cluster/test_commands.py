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


def test_from_photographs_in_a_bucket_to_dehazed_ones(
    cluster: Cluster, bucket: Callable[[str], str], photographs: Callable[..., str]
) -> None:
    corpus, run, took = bucket("corpora/clear"), bucket("runs/one"), {}
    clear = photographs(bucket("clear"), 12)
    hazy = photographs(bucket("hazy"), 6, first=50, domain="hazy")

    job = cluster.submit("pipelines.ingest", clear, "--domain", "clear", "--out", corpus)
    took["ingest"] = job.end(JOB_SECONDS)

    settings = [word for setting in (*TINY, LOOP) for word in ("--set", setting)]
    recipe = ("--recipe", "pretrain_corun_compact", *settings)
    job = cluster.submit("pipelines.train", *recipe, "--clear", corpus, "--out", run)
    took["train"] = job.end(JOB_SECONDS)

    job = cluster.submit("pipelines.dehaze", hazy, bucket("dehazed"), "--model", f"{run}/model", "--concurrency", "2")
    took["dehaze"] = job.end(JOB_SECONDS)
    names = [name for name in cluster.names(bucket("dehazed")) if name.endswith(".jpg")]
    assert names == [f"{index:04d}.jpg" for index in range(6)]
    print({name: round(seconds) for name, seconds in took.items()}, "seconds")


def test_an_evaluation_reads_and_writes_the_bucket(
    cluster: Cluster, bucket: Callable[[str], str], photographs: Callable[..., str]
) -> None:
    hazy, corpus, results = bucket("hazy"), bucket("corpora/hazy"), bucket("results")
    photographs(hazy, 6, domain="hazy")
    cluster.submit("pipelines.ingest", hazy, "--domain", "hazy", "--out", corpus).end(JOB_SECONDS)
    options = ("--models", "corun-compact", "--split", "all", "--scorer", "none", "--metrics", "fade")
    job = cluster.submit("pipelines.evaluate", "--data", corpus, *options, "--out", results)
    job.end(JOB_SECONDS)
    summary = json.loads(cluster.read(f"{results}/summary.json"))
    assert summary["photographs"]["real"]["evaluated"] == 6
    assert {"hazy input", "dcp", "corun-compact"} <= set(summary["tables"]["real"])
    assert {"report.html", "per_image.csv", "rows"} <= set(cluster.names(results))
    assert f"{results}/report.html" in job.text


def test_the_doctor_finds_nothing_lacking(cluster: Cluster, bucket: Callable[[str], str]) -> None:
    job = cluster.submit("pipelines.doctor", "--address", "auto", "--out", bucket("runs/one"))
    job.end(JOB_SECONDS)
    assert "nothing is lacking" in job.text
    assert "token authentication  on" in job.text
