"""The README's commands on a cluster without a shared disk, with nothing but URIs."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from tests.cluster.cluster import JOB_SECONDS, Cluster
from tests.cluster.conftest import PHOTOGRAPHS

pytestmark = pytest.mark.cluster

TINY = ("network={name: corun, stages: 1, dim: 2}", "init=null", "crop={size: 32, per_photo: 2}")
LOOP = "train={steps: 4, batch_size: 2, workers: 2, threads: 1, data_tasks: 1, checkpoint_every: 2, log_every: 1}"


def test_from_photographs_in_a_bucket_to_dehazed_and_measured_ones(
    cluster: Cluster, bucket: Callable[[str], str], photographs: Callable[..., str], corpora: dict[str, str]
) -> None:
    run, results, dehazed = bucket("runs/one"), bucket("results"), bucket("dehazed")
    settings = [word for setting in (*TINY, LOOP) for word in ("--set", setting)]
    recipe = ("--recipe", "pretrain_corun_compact", *settings)
    took = {"train": cluster.submit("pipelines.train", *recipe, "--clear", corpora["clear"], "--out", run)}
    took["train"].end(JOB_SECONDS)

    hazy = photographs(bucket("hazy"), 6, first=50, domain="hazy")
    model = f"{run}/model"
    took["dehaze"] = cluster.submit("pipelines.dehaze", hazy, dehazed, "--model", model, "--concurrency", "2")
    options = ("--models", f"mine={model}", "--split", "all", "--scorer", "none", "--metrics", "fade")
    took["evaluate"] = cluster.submit("pipelines.evaluate", "--data", corpora["hazy"], *options, "--out", results)
    print({name: round(job.end(JOB_SECONDS)) for name, job in took.items()}, "seconds")

    names = [name for name in cluster.names(dehazed) if name.endswith(".jpg")]
    assert names == [f"{index:04d}.jpg" for index in range(6)]
    summary = json.loads(cluster.read(f"{results}/summary.json"))
    assert summary["photographs"]["real"]["evaluated"] == PHOTOGRAPHS
    assert {"hazy input", "dcp", "mine"} <= set(summary["tables"]["real"])
    assert {"report.html", "per_image.csv", "rows"} <= set(cluster.names(results))
    assert f"{results}/report.html" in took["evaluate"].text


def test_the_doctor_finds_nothing_lacking(cluster: Cluster, bucket: Callable[[str], str]) -> None:
    job = cluster.submit("pipelines.doctor", "--address", "auto", "--out", bucket("runs/one"))
    job.end(JOB_SECONDS)
    assert "nothing is lacking" in job.text
    assert "token authentication  on" in job.text
