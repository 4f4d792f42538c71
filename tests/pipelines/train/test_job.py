"""The training job on Ray: two workers, two label workers, one pool."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.error import URLError

import pytest
import torch

from models import checkpoints as checkpoint
from models import zoo
from models.config import ConfigError, LabelingError
from models.inference.dehazing import dehaze
from models.mlflow_client import default_uri
from pipelines.corpus.format import open_corpus
from pipelines.tracking import Tracker
from pipelines.train import __main__ as command
from pipelines.train import job
from pipelines.train.labels import labeling
from pipelines.train.loop import Loop
from pipelines.train.recipe import Recipe, load_recipe
from pipelines.train.run import TrainJob, TrainResult, with_absolute_paths
from pipelines.train.worker import SharedPool, TrainWorker
from tests.pipelines.train.test_local import write_corpus

Folder = Callable[..., Path]

TINY = (
    "network={name: corun, stages: 1, dim: 2}",
    "crop={size: 32, per_photo: 2}",
    "labels={size: 32, batch_size: 1, passes: 2, workers: 2, publish_every: 1, picture_every: 2}",
    "train={steps: 2, batch_size: 1, workers: 2, threads: 1, checkpoint_every: 1, log_every: 1, data_tasks: 1}",
    "train.failures=0",
)


def tiny_recipe(init: Path) -> Recipe:
    return load_recipe("colabator_corun_compact", [*TINY, f"init={init}"])


@pytest.fixture(scope="module")
def trained(ray_cluster: None, tmp_path_factory: pytest.TempPathFactory) -> tuple[TrainJob, TrainResult]:
    """A Colabator run of two steps, tracked, on eight clear and six hazy photographs."""
    root = tmp_path_factory.mktemp("train")
    corpora = {domain: write_corpus(root / domain, domain, count) for domain, count in (("clear", 8), ("hazy", 6))}
    network = {"name": "corun", "stages": 1, "dim": 2}
    init = checkpoint.save(root / "init", zoo.build(network), {"network": network})
    tracker = Tracker.start("test", "train", default_uri(root))
    todo = TrainJob(tiny_recipe(init), root / "out", tracking=(tracker.tracking_uri, tracker.run_id), **corpora)
    return todo, job.train(todo)


@pytest.mark.usefixtures("ray_cluster")
class TestColabator:
    def test_the_model_is_a_checkpoint_that_dehazes(self, trained: tuple[TrainJob, TrainResult]) -> None:
        todo, result = trained
        loaded = zoo.load(str(result.model))
        assert loaded.config["recipe"] == todo.recipe.model_dump(mode="json")
        assert loaded.config["step"] == 2
        assert dehaze(loaded.network, torch.rand(1, 3, 20, 30)).scene.shape == (1, 3, 20, 30)
        before = zoo.load(str(todo.recipe.init)).network.state_dict()
        after = loaded.network.state_dict()
        assert any(not torch.equal(before[name], after[name]) for name in before)

    def test_every_real_photograph_has_a_label(self, trained: tuple[TrainJob, TrainResult]) -> None:
        todo, result = trained
        photographs = open_corpus(str(todo.hazy)).count("train")
        pool = result.labels["pool"]
        assert pool["size"] == photographs == 6
        assert pool["offered"] >= photographs
        assert 0.0 < pool["acceptance_rate"] <= 1.0

    def test_the_first_round_labels_everything_once(self, trained: tuple[TrainJob, TrainResult]) -> None:
        first = trained[1].labels["rounds"][0]
        assert first["photographs"] == first["accepted"] == sum(first["per_worker"].values()) == 6
        assert first["failed"] == []

    def test_each_checkpoint_has_its_snapshot_of_the_pool(self, trained: tuple[TrainJob, TrainResult]) -> None:
        todo, _result = trained
        snapshots = Path(todo.out) / "pool-snapshots" / todo.digest
        assert sorted(path.name for path in snapshots.glob("step-*")) == [
            "step-0000000",
            "step-0000001",
            "step-0000002",
        ]

    def test_losses_and_the_pool_are_in_mlflow(self, trained: tuple[TrainJob, TrainResult]) -> None:
        from mlflow import MlflowClient

        uri, run_id = trained[0].tracking or ("", "")
        client = MlflowClient(uri)
        means = ("pool_mean_clearness", "pool_mean_quality", "pool_staleness", "teacher_lag", "pool_waiting_share")
        for name in ("loss", "real_label", "pool_size", "pool_acceptance_rate", *means):
            assert [m.step for m in client.get_metric_history(run_id, f"colabator/{name}")] == [1, 2]
        assert client.get_metric_history(run_id, "colabator/pool_size")[-1].value == 6
        last = client.get_run(run_id).data.metrics
        assert last["colabator/pool_staleness"] == 2 - last["colabator/pool_mean_teacher_step"] >= 0
        assert 0 <= last["colabator/pool_waiting_share"] <= 1
        assert 0 <= last["colabator/teacher_lag"] <= 2

    def test_pictures_of_labels_are_in_mlflow_and_in_the_folder(self, trained: tuple[TrainJob, TrainResult]) -> None:
        from mlflow import MlflowClient

        uri, run_id = trained[0].tracking or ("", "")
        assert [file.path for file in MlflowClient(uri).list_artifacts(run_id, "labels")] == ["labels/step-0000002.png"]
        assert (Path(trained[0].out) / "labels" / "step-0000002.png").is_file()

    def test_again_is_said_to_be_done(
        self, trained: tuple[TrainJob, TrainResult], capsys: pytest.CaptureFixture[str]
    ) -> None:
        todo, result = trained
        assert {path.name for path in Path(todo.pins).iterdir()} == {"clear.json", "hazy.json"}
        stamp = (Path(result.model) / "config.json").stat().st_mtime_ns
        assert job.train(todo) == result
        printed = capsys.readouterr()
        assert "already trained" in printed.out
        assert printed.err == ""
        assert (Path(result.model) / "config.json").stat().st_mtime_ns == stamp


def test_the_same_run_twice_at_a_time_is_refused_and_harms_nobody(
    trained: tuple[TrainJob, TrainResult], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import numpy as np

    from pseudolabel.pool import actors
    from pseudolabel.pool.entries import LabelEntry

    monkeypatch.setattr(actors, "PATIENCE", 0.0)
    recipe = load_recipe("colabator_corun_compact", [*TINY, "labels.mode=inline", f"labels.store={tmp_path / 'disk'}"])
    todo = replace(trained[0], out=tmp_path / "out", recipe=recipe)
    label = np.zeros((8, 8, 3), np.uint8)
    with labeling(todo) as (pool, client):
        assert client is None
        pool.offer([LabelEntry("a", label, label[..., 0], np.ones((1, 1), np.float32), 0.5, 0.5, 0)])
        with pytest.raises(LabelingError, match="going on already"), labeling(todo):
            pass
        with labeling(replace(todo, out=tmp_path / "other")) as (other, _):
            assert other.ids() == []
        assert pool.ids() == ["a"]
        assert list((tmp_path / "disk").glob(f"{todo.cluster_name}/shard-*/labels-*.sqlite")), (
            "stores are where they should"
        )
        assert not (tmp_path / "out" / "pool").exists()


@pytest.mark.parametrize(
    ("mean", "published", "labeled", "goes_back"),
    [(0, 0, 0, False), (0, 40, 40, True), (0, 40, 0, True), (0, 0, None, True), (3, 40, 40, True)],
)
def test_only_a_run_as_seeded_need_not_be_set_back(
    mean: float, published: int, labeled: int | None, goes_back: bool, tmp_path: Path
) -> None:
    """Without a checkpoint. A teacher of the attempt that died may be published, and no label of it accepted yet."""
    calls: list[str] = []

    def told(name: str, answer: object = None) -> Callable[..., object]:
        return lambda *_: (calls.append(name), answer)[1]

    worker = object.__new__(Loop)
    worker.job = TrainJob(load_recipe("colabator_corun_compact"), tmp_path)
    stats = SimpleNamespace(size=6, offered=6, mean_teacher_step=mean)
    worker.pool = SimpleNamespace(stats=lambda: stats, restore=lambda _uri, step: calls.append(f"restore {step}"))
    worker.labeling = SimpleNamespace(
        status=lambda: {"teacher_step": published, "labeled_step": labeled}, hold=told("hold"), rewind=told("rewind")
    )
    worker.method = SimpleNamespace(teacher_state=dict)
    worker._set_back(0, resumed=False)
    assert calls == (["hold", "restore 0", "rewind"] if goes_back else [])


@pytest.mark.slow
def test_a_pool_may_take_longer_to_restore_than_torch_waits(ray_cluster: None, tmp_path: Path) -> None:
    """Torch's own barrier gives up after half an hour, here after two seconds; the first step comes after all."""
    import time

    import ray.train
    from ray.train.torch import TorchConfig, TorchTrainer

    class Slow(Loop):
        def __init__(self) -> None:
            self.host: Any = object.__new__(TrainWorker)
            self.host.first = ray.train.get_context().get_world_rank() == 0
            self.recipe, self.pool = load_recipe("colabator_corun_compact"), True

        def _set_back(self, step: int, *, resumed: bool) -> None:
            time.sleep(6)

    def loop() -> tuple[float, float]:
        began = time.monotonic()
        Slow()._resume()
        waited = time.monotonic() - began
        ones = torch.ones(1)
        torch.distributed.all_reduce(ones)
        return waited, float(ones)

    trainer = TorchTrainer(
        loop,
        torch_config=TorchConfig(timeout_s=2),
        scaling_config=ray.train.ScalingConfig(num_workers=2, resources_per_worker={"CPU": 0.5}),
        run_config=ray.train.RunConfig(name="slow", storage_path=str(tmp_path)),
    )
    waited, workers = trainer.fit().return_value  # type: ignore[attr-defined]
    assert waited > 6
    assert workers == 2


def test_a_long_restoration_says_how_far_it_is(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    answers = iter([TimeoutError, TimeoutError, None])

    def result(_seconds: float) -> None:
        answer = next(answers)
        if answer is not None:
            raise answer

    pool = SharedPool("run", 1)
    monkeypatch.setattr(pool, "restore_async", lambda _uri, _step: SimpleNamespace(result=result))
    monkeypatch.setattr(pool, "restored", lambda: SimpleNamespace(result=lambda: 512))
    pool.restore("step-7", step=7)
    assert capsys.readouterr().out.splitlines() == ["restoring the label pool: 512 labels in 0 s"] * 2


@pytest.mark.slow
@pytest.mark.usefixtures("ray_cluster")
@pytest.mark.parametrize("network", ["{name: cddgan, width: 4, blocks: 1}", "{name: dgun, stages: 2, dim: 4}"])
def test_labels_inline_for_a_network_without_transmission(
    network: str, trained: tuple[TrainJob, TrainResult], tmp_path: Path
) -> None:
    settings = [f"network={network}", "init=null", "labels.mode=inline", "train.steps=6", "train.checkpoint_every=6"]
    todo = replace(
        trained[0], out=tmp_path, recipe=load_recipe("colabator_corun_compact", [*TINY, *settings]), tracking=None
    )
    result = job.train(todo)
    assert result.labels["rounds"] == []
    pool = result.labels["pool"]
    assert pool["size"] == 6, "both workers' photographs"
    assert pool["offered"] >= 12, "one each per step"
    assert "real_reconstruction" not in result.metrics


def run(corpora: TrainJob, out: Path, *more: str) -> int:
    """The command, on corpora that are there."""
    words = ["--recipe", "demo_pretrain", "--clear", str(corpora.clear), "--out", str(out)]
    for setting in (*(one for one in TINY if not one.startswith("labels=")), "init=null", *more):
        words += ["--set", setting]
    return command.main(words)


def error_line(capsys: pytest.CaptureFixture[str]) -> str:
    """The only line on standard error but Ray's own, which may be about a training before and come late."""
    (error,) = (line for line in capsys.readouterr().err.splitlines() if "pid=" not in line)
    return error


def test_what_is_wrong_in_a_worker_is_one_line_and_costs_no_failures(
    trained: tuple[TrainJob, TrainResult],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    attempts: list[TrainJob] = []
    attempt = job._attempt
    monkeypatch.setattr(job, "_attempt", lambda todo, vgg19: (attempts.append(todo), attempt(todo, vgg19))[1])
    monkeypatch.setattr(job, "require_batches", lambda *_: None)  # so that workers have to find it
    assert run(trained[0], tmp_path / "out", "train.batch_size=64", "train.failures=2") == 2
    error = error_line(capsys)
    assert error.startswith("error: the clear corpus has fewer samples than one batch of 64 per worker")
    assert len(attempts) == 1


class TestFailures:
    """Without Ray's part: how often a run is resumed."""

    @pytest.fixture
    def waits(self) -> list[str]:
        """What was waited for between attempts."""
        return []

    @pytest.fixture
    def fit(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, waits: list[str]) -> Callable[..., tuple[Any, int]]:
        def play(*attempts: tuple[BaseException | str, str], failures: int = 1) -> tuple[Any, int]:
            """Each attempt ends so, and leaves these checkpoints; how the run ends, and how many attempts that took."""
            made, known = 0, [""]

            def attempt(*_: object) -> str:
                nonlocal made
                made, (outcome, known[0]) = made + 1, attempts[made]
                if isinstance(outcome, BaseException):
                    raise outcome
                return outcome

            monkeypatch.setattr(job, "_attempt", attempt)
            monkeypatch.setattr(job, "_checkpoints", lambda _: known[0])
            monkeypatch.setattr(job, "await_answers", lambda: waits.append("answers"))
            monkeypatch.setattr(job, "make_room", lambda _: waits.append("room"))
            recipe = load_recipe("demo_pretrain", [f"train.failures={failures}"])
            try:
                return job._fit(TrainJob(recipe, tmp_path), None), made
            except Exception as problem:  # noqa: BLE001 - what it is, is asserted
                return problem, made

        return play

    @pytest.fixture
    def died(self) -> Exception:
        from ray.train import WorkerGroupError

        return WorkerGroupError("", {0: RuntimeError("the worker died")})

    def test_the_next_attempt_plans_without_nodes_that_have_died(self, fit: Any, died: Exception, waits: Any) -> None:
        assert fit((died, "a"), ("done", "b")) == ("done", 2)
        assert waits == ["answers", "room"], "a dead node is counted until it is asked"

    def test_those_without_a_new_checkpoint_in_between_count(self, fit: Any, died: Exception) -> None:
        assert fit((died, "a"), (died, "b"), (died, "c"), ("done", "d")) == ("done", 4), "an interruption now and then"
        assert fit((died, "a"), (died, "a"), ("done", "b")) == (died, 2), "two in a row"
        assert fit((died, "a"), (died, "a"), ("done", "b"), failures=2) == ("done", 3)
        assert fit((died, ""), (died, ""), failures=0) == (died, 1)

    def test_what_the_user_has_to_change_ends_the_run_at_once(self, fit: Any, died: Exception) -> None:
        from ray.train import WorkerGroupError

        wrong = ConfigError("no such corpus")
        assert fit((WorkerGroupError("", {0: RuntimeError("reset"), 1: wrong}), "a"), failures=5) == (wrong, 1)

    def test_it_is_said_what_happened(self, fit: Any, died: Exception, capsys: pytest.CaptureFixture[str]) -> None:
        fit((died, "a"), (died, "a"))
        assert capsys.readouterr().out.splitlines() == [
            "training failed (the worker died); it goes on, 1 of 1 failures in a row",
            "given up after 2 failures without a new checkpoint: the worker died",
        ]


@pytest.mark.slow
@pytest.mark.usefixtures("ray_cluster")
def test_a_run_goes_on_with_fewer_workers_and_more_steps(
    trained: tuple[TrainJob, TrainResult], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    before = trained[0]
    shutil.copytree(before.out, tmp_path / "out", ignore=shutil.ignore_patterns("pool"))
    recipe = load_recipe(
        "colabator_corun_compact",
        [*TINY, f"init={before.recipe.init}", "train.workers=1", "train.steps=4", "labels.workers=1"],
    )
    todo = replace(before, recipe=recipe, out=tmp_path / "out", tracking=None)
    result = job.train(todo)
    assert zoo.load(str(result.model)).config["step"] == 4
    said = capfd.readouterr().out
    assert "goes on after step 2, with the label pool of then: 6 labels" in said
    assert "colabator 3/4" in said
    assert "colabator 1/4" not in said
    assert "labeled 6 photographs" not in said, "the pool was not seeded again"


@pytest.mark.slow
@pytest.mark.usefixtures("ray_cluster")
def test_other_checkpoints_are_refused_until_they_are_put_aside(
    trained: tuple[TrainJob, TrainResult], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert run(trained[0], out) == 0
    assert run(trained[0], out, "train.seed=1") == 2
    assert "checkpoints of another run: train.seed was 0 and is 1. --fresh" in capsys.readouterr().err
    words = ["--recipe", "demo_pretrain", "--clear", str(trained[0].clear), "--out", str(out), "--fresh"]
    for setting in (*TINY, "init=null", "train.seed=1"):
        words += ["--set", setting]
    assert command.main(words) == 0
    assert (out / "earlier" / "001" / "model" / "config.json").is_file()
    assert zoo.load(str(out / "model")).config["recipe"]["train"]["seed"] == 1


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["network={name: corunn}"], "did you mean 'corun'"),
        (["init=nowhere"], "no model 'nowhere'"),
        (["perceptual.backbone=vgg19"], "looked for .*vgg19.* and https://.*no route.*set it to the path of a copy"),
        (["perceptual.backbone=/nowhere.pth"], "there is no such file"),
        (["perceptual.backbone=scorer", "scorer=nothing"], "unknown scorer 'nothing'"),
        (["optimizer.precision=float16"], "float16, which needs GPUs, and train.worker_gpus is 0"),
        (["train.worker_gpus=0.5"], "a training worker needs whole GPUs"),
        (["train.batch_size=64"], "the clear corpus has fewer samples than one batch of 64 per worker"),
    ],
)
def test_what_cannot_be_built_is_refused_before_anything_is_started(
    settings: list[str],
    message: str,
    trained: tuple[TrainJob, TrainResult],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def unreachable(*_arguments: object, **_options: object) -> None:
        raise URLError("no route")

    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    monkeypatch.setattr(torch.hub, "download_url_to_file", unreachable)
    monkeypatch.setattr("pipelines.cluster.ray_session", None)
    assert run(trained[0], tmp_path / "out", *settings) == 2
    error = error_line(capsys)
    assert error.startswith("error: ")
    assert re.search(message, error)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("out", "message"),
    [
        ("nonsense://bucket/run", "cannot open 'nonsense://bucket/run': "),
        ("s3://key:s3cr3t@bucket/run", "the URI s3://bucket/run comes with a secret (its password)"),
    ],
)
def test_an_out_that_cannot_be_is_one_line(
    out: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert command.main(["--recipe", "demo_pretrain", "--clear", "clear", "--out", out]) == 2
    error = error_line(capsys)
    assert error.startswith(f"error: {message}")
    assert "s3cr3t" not in error
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--recipe", "colabator_corun_compac"], "did you mean 'colabator_corun_compact'"),
        (["--recipe", "pretrain_corun_compact", "--set", "train.setps=3"], "did you mean 'steps'"),
        (["--recipe", "pretrain_corun_compact"], "this recipe needs --clear"),
        (["--recipe", "pretrain_corun_compact", "--clear", "missing"], "missing"),
        (
            ["--recipe", "pretrain_corun_compact", "--clear", "hazy"],
            "is a corpus of hazy photographs; expected clear ones",
        ),
        (["--recipe", "colabator_corun_compact", "--clear", "hazy"], "this recipe needs --hazy"),
    ],
)
def test_bad_arguments_are_one_line_and_exit_code_2(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    write_corpus(tmp_path / "hazy", "hazy", 1)
    monkeypatch.chdir(tmp_path)
    assert command.main([*arguments, "--out", "out"]) == 2
    error = error_line(capsys)
    assert error.startswith("error: ")
    assert message in error
    assert not (tmp_path / "out").exists()


def test_another_recipe_or_corpus_is_another_run(tmp_path: Path) -> None:
    recipe = load_recipe("pretrain_corun_compact")
    one = TrainJob(recipe, tmp_path, clear="a")
    elsewhere = TrainJob(recipe, tmp_path / "elsewhere", clear="a")
    assert one.digest == elsewhere.digest
    assert one.cluster_name != elsewhere.cluster_name, "on one cluster both may train"
    assert one.digest != TrainJob(recipe, tmp_path, clear="b").digest
    assert one.digest != TrainJob(load_recipe("pretrain_corun_compact", ["train.seed=1"]), tmp_path, clear="a").digest


def test_a_job_made_in_python_takes_relative_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    recipe = load_recipe("pretrain_corun_compact", ["scorer=mine", "weights.haze_density=1"])
    (tmp_path / "mine").mkdir()
    job = TrainJob(recipe, "out", clear=Path("clear"), hazy="mock:///hazy")
    assert (job.out, job.clear, job.hazy) == (str(tmp_path / "out"), str(tmp_path / "clear"), "mock:///hazy")
    assert job.recipe.scorer == str(tmp_path / "mine")
    there = TrainJob(job.recipe, tmp_path / "out", str(tmp_path / "clear"), "mock:///hazy")
    assert job.digest == there.digest, "the same run"
    assert replace(job, tracking=("uri", "id")).recipe == job.recipe


def test_paths_in_a_recipe_become_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "model").mkdir()
    monkeypatch.chdir(tmp_path)
    recipe = load_recipe("refine_corun_compact", ["init=model"])
    assert with_absolute_paths(recipe).init == str(tmp_path / "model")
    named = load_recipe("refine_corun_compact")
    assert with_absolute_paths(named).init == "corun-compact"
    (tmp_path / "vgg19.pth").touch()
    backbone = load_recipe("demo_pretrain", ["perceptual.backbone=vgg19.pth"])
    assert with_absolute_paths(backbone).perceptual.backbone == str(tmp_path / "vgg19.pth")
    (tmp_path / "clip-compact").mkdir()
    assert with_absolute_paths(load_recipe("demo_colabator")).scorer == "clip-compact", "a name is no path"
    given: dict[str, Any] = {"architecture": "./clip-compact", "iqa": {"weights": "./vgg19.pth", "scale": 100}}
    assert with_absolute_paths(named.model_copy(update={"scorer": given})).scorer == {
        "architecture": str(tmp_path / "clip-compact"),
        "iqa": {"weights": str(tmp_path / "vgg19.pth"), "scale": 100},
    }
    (tmp_path / "mine").mkdir()
    for name in ("mine", "vgg19.pth"):  # names of what lies in the current folder, as load_scorer() takes them
        given = {"architecture": name, "pretrained": "openai"}
        assert with_absolute_paths(named.model_copy(update={"scorer": given})).scorer == {
            "architecture": str(tmp_path / name), "pretrained": "openai",
        }  # fmt: skip
    scorer = load_recipe("scorer_clip_compact", ["network.folder=mine"])
    assert with_absolute_paths(scorer).network == {"folder": str(tmp_path / "mine")}
    assert with_absolute_paths(load_recipe("scorer_clip_compact")).network == {"folder": "clip-compact"}


def test_a_packaged_model_is_meant_though_a_folder_is_called_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "corun-compact").mkdir()
    monkeypatch.chdir(tmp_path)
    assert with_absolute_paths(load_recipe("refine_corun_compact")).init == "corun-compact"
