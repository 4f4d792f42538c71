"""Training in one process: seeded batches, exact resuming, no Ray."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from models import zoo
from models.checkpoints import read_state
from models.config import ConfigError
from models.inference.dehazing import dehaze
from pipelines.corpus.format import image_id_of, open_corpus
from pipelines.lock import only_one
from pipelines.train import __main__ as command
from pipelines.train import job as on_ray
from pipelines.train import local
from pipelines.train.data import Sampling, validation_pairs
from pipelines.train.job import PATIENCE_S, open_tracker
from pipelines.train.local import Blocks, LocalHost, alone, batches_of, train_local
from pipelines.train.loop import Loop, Means
from pipelines.train.recipe import Recipe, load_recipe
from pipelines.train.run import TrainJob
from tests.conftest import ROOT, encoded, make_photo
from tests.corpora import write_rows
from tests.pipelines.train.methods.networks import same

CORUN = "network={name: corun, stages: 1, dim: 2}"
CROP = "crop={size: 16, per_photo: 2}"
TRAIN = "train={steps: 4, batch_size: 2, workers: 1, threads: 1, checkpoint_every: 2, log_every: 1, data_tasks: 1}"
LABELS = "labels={size: 32, batch_size: 1, passes: 2, picture_every: 2}"
METHODS: dict[str, tuple[str, ...]] = {
    "supervised": ("demo_pretrain", CORUN, "init=null"),
    "colabator": ("demo_colabator", CORUN, "init=null", LABELS),
    "cddgan": (
        "cddgan_compact",
        "network={name: cddgan, width: 4, blocks: 1}",
        "cddgan.contrast={layers: [0, 3], patches: 4, projection: 8, noise: 4, queue: 16}",
        "cddgan.discriminator={width: 4, layers: 1}",
    ),
    "scorer": ("scorer_clip_compact",),
}


def tiny(method: str, *more: str) -> Recipe:
    name, *settings = METHODS[method]
    return load_recipe(name, [*settings, CROP, TRAIN, *more])


def write_corpus(folder: Path, domain: str, count: int, group: int = 2, held_out: int = 0) -> str:
    rows = []
    for index in range(count):
        hazy, split = domain == "hazy", "test" if index < held_out else "train"
        data = encoded(make_photo(index + 50 * hazy, 48, 64, hazy=hazy))
        rows.append({"image_id": image_id_of(data), "image": data, "split": split})
    return str(write_rows(folder, domain, rows, group))


@pytest.fixture(scope="module")
def corpora(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    root = tmp_path_factory.mktemp("corpora")
    return {domain: write_corpus(root / domain, domain, count) for domain, count in (("clear", 5), ("hazy", 3))}


def job_of(method: str, out: Path, corpora: dict[str, str], *more: str) -> TrainJob:
    return TrainJob(tiny(method, *more), out, **corpora)


class TestBatches:
    """Rows count from 0; each gives its number and the seed of its epoch, twice."""

    PER_ROW = 2

    @staticmethod
    def twice(rows: list[dict[str, Any]], seed: int) -> dict[str, Any]:
        numbers = [int(row["image_id"]) for row in rows for _ in range(TestBatches.PER_ROW)]
        return {"number": np.array(numbers), "seed": np.full(len(numbers), seed)}

    @pytest.fixture
    def blocks(self, tmp_path: Path) -> Callable[..., Blocks]:
        table = pa.table({"image_id": [str(row) for row in range(11)]})
        pq.write_table(table, tmp_path / "train-0.parquet", row_group_size=3)
        units = [(str(tmp_path / "train-0.parquet"), group) for group in range(4)]

        def make(seed: int = 0, row_bytes: int = 1 << 19, batch_size: int = 3) -> Blocks:
            return Blocks(units, Sampling(self.twice, ("image_id",), row_bytes, self.PER_ROW), batch_size, (seed, 7))

        return make

    @staticmethod
    def numbers(blocks: Blocks, count: int, start: int = 0, processes: int = 1) -> list[list[int]]:
        stream = batches_of(blocks, 3, start, processes)
        try:
            return [batch["number"].tolist() for batch in islice(stream, count)]
        finally:
            stream.close()

    def test_every_row_is_there_as_often_as_it_gives_samples_and_in_another_order_each_epoch(
        self, blocks: Callable[..., Blocks]
    ) -> None:
        rows = [row for number in range(6) for row in blocks()[number]["number"][:6].tolist()]  # 36 rows: 3 epochs
        epochs = [rows[first : first + 11] for first in (0, 11, 22)]
        assert [sorted(epoch) for epoch in epochs] == [list(range(11))] * 3
        assert len({tuple(epoch) for epoch in epochs}) == 3
        seeds = [seed for number in range(6) for seed in blocks()[number]["seed"][:6].tolist()]
        assert [len(set(seeds[first : first + 11])) for first in (0, 11, 22)] == [1] * 3
        assert len(set(seeds)) == 4, "every epoch has crops of its own"

    def test_no_batch_has_two_samples_of_one_row_and_both_are_in_the_same_block(
        self, blocks: Callable[..., Blocks]
    ) -> None:
        one = blocks()
        assert one.batches == 4
        found = self.numbers(one, 4)
        assert all(len(set(batch)) == 3 for batch in found)
        assert found[:2] == found[2:]

    def test_large_samples_make_small_blocks(self, blocks: Callable[..., Blocks]) -> None:
        assert blocks(row_bytes=100 << 20).batches == self.PER_ROW
        assert len(blocks(row_bytes=100 << 20)[0]["number"]) == 6

    @pytest.mark.parametrize("start", [1, 4, 6, 23])
    def test_a_later_start_is_the_same_sequence(self, start: int, blocks: Callable[..., Blocks]) -> None:
        assert self.numbers(blocks(), 5, start) == self.numbers(blocks(), 5 + start)[start:]

    def test_the_seed_says_what_comes_and_the_number_of_processes_does_not(self, blocks: Callable[..., Blocks]) -> None:
        assert self.numbers(blocks(), 20) == self.numbers(blocks(), 20, processes=2)
        assert self.numbers(blocks(), 20) != self.numbers(blocks(seed=1), 20)

    def test_random_numbers_of_the_training_are_left_alone(self, blocks: Callable[..., Blocks]) -> None:
        before = torch.get_rng_state()
        self.numbers(blocks(), 2)
        assert torch.equal(before, torch.get_rng_state())

    def test_what_goes_wrong_in_a_process_is_raised_as_it_is(self, tmp_path: Path) -> None:
        pq.write_table(pa.table({"image_id": ["0"]}), tmp_path / "train-0.parquet")

        def refuse(rows: list[dict[str, Any]], seed: int) -> Any:
            raise ConfigError("this cannot be")

        refused = Blocks([(str(tmp_path / "train-0.parquet"), 0)], Sampling(refuse, ("image_id",), 1), 1, (0,))
        stream = batches_of(refused, 1, 0, 1)
        with pytest.raises(ConfigError, match=r"^this cannot be$"):
            next(stream)

    @pytest.mark.parametrize("method", METHODS)
    def test_a_corpus_elsewhere_can_be_read_by_spawned_processes(self, method: str, corpora: dict[str, str]) -> None:
        for domain, sampling in local.sampling_of(tiny(method)).items():
            one = Blocks([(f"{corpora[domain]}/train-00000.parquet", 0)], sampling, 2, (0,))
            again = pickle.loads(pickle.dumps(one))  # noqa: S301 - our own
            for name, values in one[3].items():
                assert np.array_equal(values, again[3][name])


def seen(monkeypatch: pytest.MonkeyPatch, train: Callable[[], object]) -> list[dict[str, torch.Tensor]]:
    """The batches that a training gets to see."""
    batches: list[dict[str, torch.Tensor]] = []
    run = Loop.run

    def watched(loop: Loop) -> None:
        step = loop.method.training_step
        loop.method.training_step = lambda batch, number: (batches.append(batch), step(batch, number))[1]
        run(loop)

    with monkeypatch.context() as patch:
        patch.setattr(Loop, "run", watched)
        train()
    return batches


@pytest.mark.parametrize("method", METHODS)
def test_an_interrupted_run_goes_on_bit_for_bit(
    method: str, corpora: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Interrupted one step after the first checkpoint, in the middle of a block of batches and of an epoch."""
    monkeypatch.setitem(sys.modules, "ray", None)  # to import it is an error from now on
    steps = "train.checkpoint_every=1"
    whole = job_of(method, tmp_path / "whole", corpora, steps)
    train_local(whole, "cpu")

    class Interrupted:
        def __init__(self, loop: Loop) -> None:
            self.step = loop.method.training_step

        def __call__(self, batch: Any, step: int) -> Any:
            if step == 3:
                raise KeyboardInterrupt
            return self.step(batch, step)

    run = Loop.run
    broken = replace(whole, out=tmp_path / "broken", recipe=tiny(method, "train.checkpoint_every=3"))

    def stops(loop: Loop) -> None:
        loop.method.training_step = Interrupted(loop)
        run(loop)

    with monkeypatch.context() as patch:
        patch.setattr(Loop, "run", stops)
        with pytest.raises(KeyboardInterrupt):
            train_local(broken, "cpu")
    assert [path.name for path in Path(broken.out, "local").iterdir()] == ["step-0000003"]
    assert not Path(broken.out, "model").exists()
    torch.rand(7)  # whatever else this process does in between
    result = train_local(broken, "cpu")
    one, other = (read_state(out / "local" / "step-0000004") for out in (Path(whole.out), Path(broken.out)))
    assert one is not None
    assert one["step"] == 4
    assert same(one, other)
    names = [path.name for path in sorted(Path(whole.out, "local").iterdir())]
    assert names == ["step-0000003", "step-0000004"], "the last two are kept"
    assert train_local(broken, "cpu") == result, "it is done"
    weights = next(Path(result.model).glob("*.safetensors"))
    assert weights.read_bytes() == (Path(whole.out) / "model" / weights.name).read_bytes()
    if method == "colabator":
        assert result.labels["pool"]["size"] == 3
        assert result.labels["pool"]["offered"] == 4, "what a lost step offered is gone"
        assert not list(Path(broken.out, "pool").rglob("*.sqlite"))
        assert (Path(broken.out) / "labels" / "step-0000002.png").is_file()
        assert dehaze(zoo.load(str(result.model)).network, torch.rand(1, 3, 20, 30)).scene.shape == (1, 3, 20, 30)


@pytest.mark.parametrize("method", ["supervised", "colabator", "cddgan"])
def test_held_out_photographs_are_looked_at_and_change_nothing(
    method: str, corpora: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    places = corpora | {"clear": write_corpus(tmp_path / "clear", "clear", 8, held_out=3)}
    seen, unseen = (
        train_local(job_of(method, tmp_path / str(every), places, f"train.validate_every={every}"), "cpu")
        for every in (2, 0)
    )
    pictures = sorted(path.name for path in (tmp_path / "2" / "validation").iterdir())
    assert pictures == ["step-0000000.png", "step-0000002.png", "step-0000004.png"]
    assert capsys.readouterr().out.count("PSNR of 3 held-out photographs") == 3
    kept = json.loads((Path(seen.model) / "metrics.json").read_text())
    assert 0 < kept["validation_psnr"] < 60
    assert not (tmp_path / "0" / "validation").exists()
    one, other = (read_state(Path(tmp_path, every, "local", "step-0000004")) for every in ("2", "0"))
    assert same(one, other)
    assert "validation_psnr" not in unseen.metrics


def test_validation_is_of_the_same_pairs_every_time(tmp_path: Path) -> None:
    corpus = open_corpus(write_corpus(tmp_path / "clear", "clear", 20, held_out=15))
    one, other = (validation_pairs(tiny("supervised"), corpus) for _ in range(2))
    assert one is not None
    assert other is not None
    assert one["hazy"].shape == (12, 16, 16, 3)
    assert all(np.array_equal(one[name], other[name]) for name in ("hazy", "clear"))
    assert not np.array_equal(one["hazy"], one["clear"])


def test_a_corpus_that_holds_nothing_out_is_not_validated(
    corpora: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train_local(job_of("supervised", tmp_path, corpora), "cpu")
    assert "no validation: the corpus of clear photographs holds none out" in capsys.readouterr().out


def test_what_is_logged_is_the_mean_since_the_last_row() -> None:
    means = Means()
    means.add({"loss": 1.0, "gradient_gan": 4.0})
    means.add({"loss": 2.0})
    assert means.take() == {"loss": 1.5, "gradient_gan": 4.0}
    means.add({"loss": 7.0})
    assert means.take() == {"loss": 7.0}


def test_a_machine_that_is_about_to_leave_is_a_checkpoint_out_of_turn(
    corpora: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    kept, keep = [], LocalHost.report

    def report(host: LocalHost, metrics: dict[str, float], step: int, write: Any = None) -> None:
        kept.append(step)
        keep(host, metrics, step, write)

    monkeypatch.setattr(LocalHost, "is_leaving", lambda _: True)
    monkeypatch.setattr(LocalHost, "report", report)
    train_local(job_of("colabator", tmp_path, corpora, "train.steps=12", "train.checkpoint_every=9"))
    assert kept == [5, 9, 12]
    assert capsys.readouterr().out.count("a machine of the run is about to leave: a checkpoint of step 5") == 1


def test_labels_of_a_run_that_was_lost_before_its_first_checkpoint_are_gone(
    corpora: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    job = job_of("colabator", tmp_path / "out", corpora)
    with monkeypatch.context() as patch:
        patch.setattr(Loop, "_log", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            train_local(job, "cpu")
    assert train_local(job, "cpu").labels["pool"]["offered"] == 4
    assert "goes on after step 0, with the label pool of then: 0 labels of 0 offers" in capsys.readouterr().out


def test_labels_of_an_untrained_network_are_pointed_out(
    corpora: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train_local(job_of("colabator", tmp_path, corpora, "init=null"), "cpu")
    assert capsys.readouterr().err.count("the first labels are those of an untrained network") == 1


def test_the_seed_says_the_batches_whatever_the_losses_are(
    corpora: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = {}
    for name, settings in {
        "as it is": (), "other": ("weights.l1=3", "optimizer.learning_rate=1e-5", CORUN.replace("dim: 2", "dim: 4")),
        "seed": ("train.seed=1",),
    }.items():  # fmt: skip
        job = job_of("supervised", tmp_path / name, corpora, *settings)
        found[name] = seen(monkeypatch, lambda job=job: train_local(job, "cpu"))  # type: ignore[misc]
    assert len(found["as it is"]) == 4
    assert same(found["as it is"], found["other"])
    assert not same(found["as it is"], found["seed"])
    assert torch.random.initial_seed() == 1


class TestAlone:
    def test_steps_are_those_of_all_workers(self, capsys: pytest.CaptureFixture[str]) -> None:
        job = TrainJob(tiny("colabator", "train.workers=3", "optimizer.accumulate=1"), Path("out"))
        recipe = alone(job).recipe
        assert (recipe.train.workers, recipe.train.batch_size, recipe.labels.batch_size) == (1, 6, 3)
        assert (recipe.optimizer.accumulate, recipe.train.threads) == (3, 3)
        notes = capsys.readouterr().err.splitlines()
        assert notes[0] == "note: labels.mode is async, which needs Ray: labels are made inline, within the steps"
        assert notes[1].startswith("note: one process takes the steps of 3 workers: train.batch_size is 2 x 3, labels.")
        assert len(notes) == 2
        assert alone(alone(job)) == alone(job)
        assert Recipe.model_validate(recipe.model_dump()) == recipe, "a recipe that may be written down and read again"

    def test_cddgan_has_no_micro_batches(self) -> None:
        recipe = alone(TrainJob(tiny("cddgan", "train.workers=2"), Path("out"))).recipe
        assert recipe.train.batch_size == 4
        assert Recipe.model_validate(recipe.model_dump()) == recipe

    def test_one_worker_with_labels_inline_is_as_it_is(self, capsys: pytest.CaptureFixture[str]) -> None:
        job = TrainJob(tiny("colabator", "labels.mode=inline"), Path("out"))
        assert alone(job) == job
        assert capsys.readouterr().err == ""

    def test_a_step_of_two_workers_is_taken(
        self, corpora: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        job = job_of("supervised", tmp_path, corpora, "train.workers=2", "train.steps=1")
        (batch,) = seen(monkeypatch, lambda: train_local(job, "cpu"))
        assert batch["hazy"].shape == (4, 3, 16, 16)


def words(corpora: dict[str, str], out: Path, *more: str) -> list[str]:
    found = ["--local", "--recipe", "demo_pretrain", "--clear", corpora["clear"], "--out", str(out)]
    for setting in (CORUN, "init=null", CROP, TRAIN):
        found += ["--set", setting]
    return [*found, *more]


def test_the_command_is_interrupted_with_130_and_goes_on(
    corpora: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from mlflow import MlflowClient

    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    log = Loop._log

    def interrupted(loop: Loop, step: int, metrics: Any) -> None:
        log(loop, step, metrics)
        if step == 3:
            raise KeyboardInterrupt

    command_line = words(corpora, tmp_path / "out", "--tracking-uri", uri)
    with monkeypatch.context() as patch:
        patch.setattr(Loop, "_log", interrupted)
        assert command.main(command_line) == 130
    run_id = json.loads((tmp_path / "out" / "tracking.json").read_text())["run_id"]
    assert MlflowClient(uri).get_run(run_id).info.status == "KILLED"
    capsys.readouterr()
    assert command.main(command_line) == 0
    said = capsys.readouterr().out
    assert "supervised 3/4" in said
    assert "supervised 2/4" not in said
    assert f"model: {tmp_path / 'out' / 'model'}" in said
    run = MlflowClient(uri).get_run(run_id)
    assert run.info.status == "FINISHED"
    assert [m.step for m in MlflowClient(uri).get_metric_history(run_id, "supervised/loss")] == [1, 2, 3, 3, 4]
    assert (run.data.params["clear"], run.data.params["out"]) == (corpora["clear"], str(tmp_path / "out"))
    assert command.main([*command_line, "--hazy", corpora["hazy"]]) == 0
    again = capsys.readouterr()
    assert "already trained" in again.out
    assert "note: method supervised reads no hazy photographs: --hazy is left out" in again.err
    assert command.main([*command_line, "--set", "real.label=2"]) == 0, "another run, though nothing of it reads that"
    assert "note: method supervised does not read real.label: what --set says of it is left out" in (
        capsys.readouterr().err
    )
    MlflowClient(uri).delete_run(run_id)
    assert command.main([*command_line, "--set", "train.steps=5"]) == 2
    error = capsys.readouterr().err
    assert f"cannot go on with the MLflow run {run_id} at {uri}: " in error
    assert f"; delete {tmp_path / 'out' / 'tracking.json'}, and a new MLflow run is begun" in error


def test_the_address_of_a_database_means_the_same_to_workers_elsewhere(
    corpora: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    tracker = open_tracker(job_of("supervised", tmp_path / "out", corpora), "sqlite:///own.db")
    assert tracker.tracking_uri == f"sqlite:///{tmp_path / 'own.db'}"


def test_a_second_training_of_a_folder_is_refused_from_python_too(
    corpora: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (on_ray, local):
        monkeypatch.setattr(module, "PATIENCE_S", 0.1)
    job = job_of("supervised", tmp_path / "out", corpora)
    with only_one(job.out, "training"):
        for train in (on_ray.train, train_local):
            with pytest.raises(ConfigError, match=r"another training \(process \d+"):
                train(job)


def test_a_run_that_was_killed_goes_on_though_its_children_had_samples_to_hand_over(
    corpora: dict[str, str], tmp_path: Path
) -> None:
    more = ["crop={size: 96, per_photo: 8}", "train.steps=100000", "train.checkpoint_every=1"]  # than a pipe holds
    command_line = words(corpora, tmp_path / "out", *(word for setting in more for word in ("--set", setting)))
    run = subprocess.Popen([sys.executable, "-m", "pipelines.train", *command_line], cwd=ROOT)
    try:
        deadline = time.monotonic() + 120.0
        while not list((tmp_path / "out" / "local").glob("step-*")) and time.monotonic() < deadline:
            time.sleep(0.1)
    finally:
        run.kill()
        run.wait()
    with only_one(str(tmp_path / "out"), "training", PATIENCE_S):
        assert list((tmp_path / "out" / "local").glob("step-*"))


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--address", "auto"], "--address auto is a Ray cluster, and --local trains without one"),
        (["--device", "gpu"], "--device is 'gpu'; expected auto, cpu, cuda or cuda:N"),
        (["--device", "cuda:7"], "--device cuda:7: there is no such GPU here"),
        (["--set", "optimizer.precision=float16", "--device", "cpu"], "float16 on cpu, it needs CUDA"),
        (["--set", "train.batch_size=64"], "fewer samples than one batch of 64"),
        (["--set", "network={name: corunn}"], "did you mean 'corun'"),
    ],
)
def test_what_cannot_be_is_one_line_before_anything_is_written(
    more: list[str], message: str, corpora: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command.main(words(corpora, tmp_path / "out", *more)) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert message in error
    assert not (tmp_path / "out").exists()


def test_a_device_without_local_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["--recipe", "demo_pretrain", "--out", str(tmp_path), "--device", "cpu"]) == 2
    assert "--device cpu is for --local" in capsys.readouterr().err


NO_RAY = """
import sys
class Refuses:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "ray":
            raise ImportError("there is no Ray here")
sys.meta_path.insert(0, Refuses())
from pathlib import Path
from pipelines.train import Recipe, TrainJob, train_local
clear, hazy, out, *recipes = sys.argv[1:]
for index, text in enumerate(recipes):
    job = TrainJob(Recipe.model_validate_json(text), Path(out) / str(index), clear=clear, hazy=hazy)
    assert (Path(train_local(job, "cpu").model) / "model.safetensors").is_file()
assert "ray" not in sys.modules
"""


@pytest.mark.slow
def test_no_ray_is_needed(corpora: dict[str, str], tmp_path: Path) -> None:
    recipes = [tiny(method).model_dump_json() for method in ("supervised", "colabator")]
    words = [sys.executable, "-c", NO_RAY, corpora["clear"], corpora["hazy"], str(tmp_path), *recipes]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "colabator 4/4" in done.stdout
