"""What lies in the folder of a run: whose it is, and that a model is there at any time."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from models.config import ConfigError
from pipelines.train import record as train_record
from pipelines.train.job import _done
from pipelines.train.recipe import HOW_IT_RUNS, Recipe, load_recipe
from pipelines.train.record import (
    RESULT_FILE,
    RUN_FILE,
    publish_model,
    require_same_run,
    require_same_way,
    set_aside,
    write_json,
)
from pipelines.train.run import TrainJob

OTHERS = {  # another value for each key of how a run runs
    "train.steps": 7, "train.workers": 1, "train.min_workers": 1,
    "train.worker_cpus": 0.25, "train.worker_gpus": 1, "train.threads": 3,
    "train.data_cpus": 0.1, "train.data_tasks": 1, "train.find_unused_parameters": True, "train.failures": 9,
    "train.checkpoint_every": 3, "train.log_every": 3, "train.validate_every": 3,
    "optimizer.accumulate": 2, "labels.workers": 1,
    "labels.worker_cpus": 0.1, "labels.worker_gpus": 0.5, "labels.worker_batch": 8, "labels.threads": 2,
    "labels.shards": 2, "labels.store": "/disk", "labels.max_teacher_lag": 100, "labels.lag_patience": 1,
    "labels.picture_every": 3, "labels.max_lost": 0.5, "cddgan.diagnose_every": 7,
}  # fmt: skip


def job(out: Path, *settings: str, clear: str = "/clear") -> TrainJob:
    return TrainJob(load_recipe("demo_colabator", settings), out, clear=clear, hazy="/hazy")


def begun(todo: TrainJob) -> None:
    """Leave what a run leaves that has reached a checkpoint."""
    (Path(todo.out) / "ray" / todo.name / "checkpoint_1").mkdir(parents=True)
    write_json(Path(todo.out) / RUN_FILE, {"digest": todo.digest, "trained": todo.trained})


def require(todo: TrainJob) -> None:
    require_same_run(todo.out, todo.digest, todo.trained)


@pytest.mark.parametrize("key", HOW_IT_RUNS)
def test_how_a_run_runs_may_change(key: str, tmp_path: Path) -> None:
    begun(job(tmp_path))
    other = job(tmp_path, f"{key}={OTHERS[key]}")
    assert other.recipe != job(tmp_path).recipe
    assert other.digest == job(tmp_path).digest
    require(other)


def keys_of(recipe: Recipe) -> set[str]:
    values = recipe.model_dump()
    return {f"{part}.{key}" for part in ("train", "labels", "optimizer") for key in values[part]}


@pytest.mark.parametrize("key", sorted(keys_of(load_recipe("demo_colabator")) - set(HOW_IT_RUNS)))
def test_all_else_is_what_is_trained(key: str) -> None:
    """A key that is new has to be thought about: it is one or the other."""
    said = {
        "train.batch_size", "train.seed", "labels.mode", "labels.size", "labels.batch_size", "labels.passes",
        "labels.publish_every", "labels.augmentation", "labels.jpeg_probability", "optimizer.learning_rate",
        "optimizer.weight_decay", "optimizer.warmup",
        "optimizer.final_share", "optimizer.clip_norm", "optimizer.ema", "optimizer.precision",
    }  # fmt: skip
    assert key in said


def test_checkpoints_of_something_else_are_refused_with_the_keys_that_differ(tmp_path: Path) -> None:
    begun(job(tmp_path))
    other = job(tmp_path, "train.seed=3", "real.label=0.25", "train.workers=1", clear="/other")
    with pytest.raises(ConfigError) as caught:
        require(other)
    message = str(caught.value)
    for part in (
        f"{tmp_path} has checkpoints of another run", "train.seed was 0 and is 3", "real.label was 0.5 and is 0.25",
        "clear was '/clear' and is '/other'", "--fresh", "another --out",
    ):  # fmt: skip
        assert part in message
    assert "workers" not in message


def test_a_folder_without_checkpoints_may_be_used_for_anything(tmp_path: Path) -> None:
    todo = job(tmp_path)
    write_json(Path(todo.out) / RUN_FILE, {"digest": "of something else", "trained": {}})
    require(todo)


@pytest.mark.parametrize(
    ("work", "said"),
    [
        ("ray/colabator-0123456789/checkpoint_1", "earlier version of this program: --fresh"),
        ("pool-snapshots/0123456789/step-0000000", "--fresh"),
    ],
)
def test_checkpoints_of_an_earlier_version_are_named_as_such_and_labels_are_work_too(
    work: str, said: str, tmp_path: Path
) -> None:
    (tmp_path / work).mkdir(parents=True)
    with pytest.raises(ConfigError, match=said):
        require(job(tmp_path))


@pytest.mark.parametrize(("local", "checkpoints"), [(True, "local/step-0000002"), (False, "ray/run/checkpoint_1")])
def test_what_began_on_ray_goes_on_there_and_what_began_locally_does_so(
    local: bool, checkpoints: str, tmp_path: Path
) -> None:
    require_same_way(str(tmp_path), local=not local)
    (tmp_path / checkpoints).mkdir(parents=True)
    require_same_way(str(tmp_path), local=local)
    began, now = ("with --local", "on Ray") if local else ("on Ray", "with --local")
    with pytest.raises(ConfigError, match=f"a run that began {began}, which cannot go on {now}: .* --fresh"):
        require_same_way(str(tmp_path), local=not local)


def test_checkpoints_of_one_process_are_work_and_are_put_aside(tmp_path: Path) -> None:
    (tmp_path / "local" / "step-0000002").mkdir(parents=True)
    (tmp_path / "corpora").mkdir()
    with pytest.raises(ConfigError, match="--fresh"):
        require(job(tmp_path))
    folder = set_aside(str(tmp_path))
    assert folder is not None
    assert {path.name for path in Path(folder).iterdir()} == {"local", "corpora"}


def test_fresh_puts_everything_aside_each_time(tmp_path: Path) -> None:
    assert set_aside(str(tmp_path)) is None
    for number in (1, 2):
        begun(job(tmp_path))
        (tmp_path / "mine.txt").write_text("stays")
        folder = set_aside(str(tmp_path))
        assert folder == str(tmp_path / "earlier" / f"{number:03d}")
        assert {path.name for path in Path(folder).iterdir()} == {"ray", RUN_FILE}
        assert {path.name for path in tmp_path.iterdir()} == {"earlier", "mine.txt"}


def test_more_steps_are_the_same_run_that_goes_on_and_fewer_are_refused(tmp_path: Path) -> None:
    todo = job(tmp_path, "train.steps=10")
    (tmp_path / "model").mkdir()
    write_json(tmp_path / RESULT_FILE, {"digest": todo.digest, "steps": 10, "metrics": {"loss": 1.0}, "labels": {}})
    done = _done(todo)
    assert done is not None
    assert done.metrics == {"loss": 1.0}
    assert _done(job(tmp_path, "train.steps=11")) is None
    with pytest.raises(ConfigError, match="was trained for 10 steps; for 9, choose another --out"):
        _done(job(tmp_path, "train.steps=9"))
    assert _done(job(tmp_path, "train.steps=9", "train.seed=1")) is None, "another run"


def checkpoint(folder: Path, text: str) -> Path:
    folder.mkdir()
    for name in ("model.safetensors", "config.json", "training_state.pt", ".metadata.json"):
        (folder / name).write_text(text)
    return folder


@pytest.mark.parametrize("exchanges", [True, False])
def test_a_model_is_replaced_as_a_whole(exchanges: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not exchanges:
        monkeypatch.setattr(train_record, "_exchanged", lambda *_: False)
    (tmp_path / ".model.0123.tmp").mkdir()  # a crash left it
    model = tmp_path / "model"
    for text in ("one", "two"):
        publish_model(checkpoint(tmp_path / text, text), str(model))
        assert {path.name: path.read_text() for path in model.iterdir()} == dict.fromkeys(
            ("model.safetensors", "config.json"), text
        )
    assert not list(tmp_path.glob(".model*"))


def test_there_is_a_model_at_any_time(tmp_path: Path) -> None:
    one, two = checkpoint(tmp_path / "one", "one"), checkpoint(tmp_path / "two", "two")
    model, missing, stop = tmp_path / "model", [], threading.Event()
    publish_model(one, str(model))

    def watch() -> None:
        while not stop.is_set():
            if not model.is_dir():
                missing.append(True)

    watcher = threading.Thread(target=watch)
    watcher.start()
    for _ in range(20):
        publish_model(two, str(model))
        publish_model(one, str(model))
    stop.set()
    watcher.join()
    if not train_record._exchanged(one, two):
        pytest.skip("this file system cannot exchange two folders")
    assert not missing
