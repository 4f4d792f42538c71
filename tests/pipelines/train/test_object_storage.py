"""Training from a bucket into a bucket: as from a folder into a folder."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pyarrow import fs

from models import zoo
from models.checkpoints import save
from models.config import ConfigError
from models.paths import child, exists, filesystem, names_in, read_file, replacing, upload
from pipelines.train import __main__ as command
from pipelines.train import job as on_ray
from pipelines.train.local import alone, train_local
from pipelines.train.loop import Loop
from pipelines.train.record import set_aside
from pipelines.train.run import TrainJob
from tests.conftest import SECRET
from tests.pipelines.train.test_local import tiny, write_corpus

Place = Callable[[str], str]

SOURCE = """
method: supervised
network: {name: corun, stages: 1, dim: 2}
crop: {size: 16, per_photo: 2}
perceptual: {backbone: none}
weights: {contrastive: 0}
train: {steps: 2, batch_size: 2, workers: 1, threads: 1, checkpoint_every: 1, log_every: 1, data_tasks: 1}
"""


@pytest.fixture
def corpora(bucket: Place, tmp_path: Path) -> dict[str, str]:
    """Corpora of five clear and three hazy photographs, in the bucket only."""
    for domain, count in (("clear", 5), ("hazy", 3)):
        files, target = filesystem(bucket(f"corpora/{domain}"))
        fs.copy_files(write_corpus(tmp_path / domain, domain, count), target, destination_filesystem=files)
    return {domain: bucket(f"corpora/{domain}") for domain in ("clear", "hazy")}


@pytest.fixture(autouse=True)
def _own_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def test_the_command_goes_on_and_puts_aside(
    bucket: Place, corpora: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    with replacing(bucket("recipe.yaml")) as stream:
        stream.write(SOURCE.encode())
    out = bucket("runs/one")
    words = ["--local", "--recipe", bucket("recipe.yaml"), "--clear", corpora["clear"], "--out", out]
    assert command.main(words) == 0
    assert command.main([*words, "--set", "train.steps=4"]) == 0
    said = capsys.readouterr()
    assert "supervised 2/2" in said.out
    assert "supervised 3/4" in said.out
    assert "supervised 1/4" not in said.out
    assert f"model: {child(out, 'model')}" in said.out
    assert SECRET not in said.out + said.err
    assert names_in(child(out, "local")) == ["step-0000003", "step-0000004"]
    assert names_in(child(out, "model")) == ["config.json", "metrics.json", "model.safetensors"]
    assert zoo.load(child(out, "model")).config["step"] == 4
    assert command.main([*words, "--set", "train.seed=1"]) == 2
    assert "has checkpoints of another run: train.seed was 0 and is 1" in capsys.readouterr().err
    assert set_aside(out) == child(out, "earlier/001")
    assert names_in(child(out, "earlier/001/local")) == ["step-0000003", "step-0000004"]
    assert names_in(out) == ["earlier"]


def test_labels_are_kept_in_the_bucket_and_their_store_on_this_disk(
    bucket: Place, corpora: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Interrupted after the third of four steps, with a checkpoint of the second; the disk is lost, too."""
    job = alone(TrainJob(tiny("colabator"), bucket("runs/labels"), **corpora))
    step = Loop._log

    def stops(loop: Loop, done: int, metrics: Any) -> None:
        if done == 3:
            raise KeyboardInterrupt
        step(loop, done, metrics)

    with monkeypatch.context() as patch:
        patch.setattr(Loop, "_log", stops)
        with pytest.raises(KeyboardInterrupt):
            train_local(job, "cpu")
    assert list((tmp_path / "cache").rglob("labels-*.sqlite"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "another"))
    result = train_local(job, "cpu")
    assert result.labels["pool"]["size"] == 3
    assert result.labels["pool"]["offered"] == 4, "what the lost step offered is gone"
    assert exists(child(job.out, "labels/step-0000002.png"))
    assert names_in(child(job.out, f"pool-snapshots/{job.digest}"), folders=True) == [
        "step-0000000",
        "step-0000002",
        "step-0000004",
    ]
    assert not list((tmp_path / "another").rglob("*.sqlite"))


def test_a_bucket_that_is_not_there_is_one_line_before_anything_else(
    bucket: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    gone = "s3://none/run?" + bucket("run").partition("?")[2]
    words = ["--local", "--recipe", "pretrain_corun_compact", "--clear", bucket("none"), "--out", gone]
    assert command.main(words) == 2
    assert "error: cannot write to s3://none/run" in capsys.readouterr().err


def test_ray_keeps_checkpoints_in_the_bucket(bucket: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    import ray.train.torch

    class Trainer:
        def __init__(self, *_: Any, run_config: Any, **__: Any) -> None:
            self.config = run_config

        def fit(self) -> Any:
            return self.config

    monkeypatch.setattr(ray.train.torch, "TorchTrainer", Trainer)
    monkeypatch.setattr(on_ray, "datasets", lambda *_: {})
    config = on_ray._attempt(TrainJob(tiny("supervised"), bucket("runs/one")), None)
    files, path = filesystem(bucket("runs/one/ray"))
    assert config.storage_filesystem == files
    assert config.storage_path == path


@pytest.mark.slow
@pytest.mark.usefixtures("ray_cluster")
def test_ray_trains_and_goes_on(
    bucket: Place, corpora: dict[str, str], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    network = {"name": "corun", "stages": 1, "dim": 2}
    upload(save(tmp_path / "init", zoo.build(network), {"network": network}), bucket("init"), "config.json")
    ways = ("train.checkpoint_every=1", "train.failures=0", f"init={bucket('init')}")
    job = TrainJob(tiny("supervised", *ways, "train.steps=1"), bucket("runs/ray"), **corpora)
    assert zoo.load(on_ray.train(job).model).config["step"] == 1
    more = replace(job, recipe=tiny("supervised", *ways, "train.steps=3"))
    result = on_ray.train(more)
    assert zoo.load(result.model).config["step"] == 3
    said = capfd.readouterr().out
    assert "supervised 2/3" in said
    assert "supervised 1/3" not in said
    kept = names_in(child(job.out, f"ray/{job.name}"), folders=True)
    assert len([name for name in kept if name.startswith("checkpoint")]) == 2
    assert on_ray.train(more) == result, "it is done"


@pytest.mark.slow
@pytest.mark.usefixtures("ray_cluster")
def test_ray_restores_the_label_pool(
    bucket: Place, corpora: dict[str, str], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    labels = "labels={size: 32, batch_size: 1, workers: 1, publish_every: 1, picture_every: 1}"
    ways = ("labels.mode=async", "train.checkpoint_every=1", "train.failures=0", labels)
    job = TrainJob(tiny("colabator", *ways, "train.steps=2"), bucket("runs/ray"), **corpora)
    assert on_ray.train(job).labels["pool"]["size"] == 3
    more = replace(job, recipe=tiny("colabator", *ways, "train.steps=3"))
    assert on_ray.train(more).labels["pool"]["size"] == 3
    said = capfd.readouterr().out
    assert "goes on after step 2, with the label pool of then: 3 labels" in said
    assert "is on no local disk: the label pool's store is" in said
    record = json.loads(read_file(child(job.out, f"pool-snapshots/{job.digest}/step-0000003/manifest.json")) or b"")
    assert record["step"] == 3
    with pytest.raises(ConfigError, match="was trained for 3 steps"):
        on_ray.train(job)
