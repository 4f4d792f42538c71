"""Training job: Ray Data shards the corpora, Ray Train runs the recipe's method on all workers.

``python -m pipelines.train --recipe pretrain_corun_compact --clear CORPUS --out DIR``. An interrupted run goes on from
its last checkpoint when the same command is given again.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pipelines.cluster import data_context_defaults, ray_session
from pipelines.command import run as run_command
from pipelines.config import Recipe, load_recipe, recipe_names
from pipelines.streams import datasets, given_corpus, prestart
from pipelines.train_labels import KEPT_CHECKPOINTS, label_summary, labelling
from pipelines.train_worker import Worker

RECIPE_FILE = "recipe.json"
TRACKING_FILE = "tracking.json"
MODEL = "model"


@dataclass(frozen=True)
class TrainJob:
    """What to train, on what, and where to. ``tracking`` is an MLflow tracking URI and run id, or None."""

    recipe: Recipe
    out: Path
    clear: str | None = None
    hazy: str | None = None
    tracking: tuple[str, str] | None = None

    @property
    def digest(self) -> str:
        """Stands for recipe and corpora: another digest is another run."""
        text = json.dumps([self.recipe.model_dump(mode="json"), self.clear, self.hazy], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:10]

    @property
    def name(self) -> str:
        """Name of the run below ``out``."""
        return f"{self.recipe.method}-{self.digest}"

    @property
    def cluster_name(self) -> str:
        """Name of the run on the cluster, where others may train the same recipe into other folders."""
        return f"{self.name}-{hashlib.sha256(str(self.out).encode()).hexdigest()[:6]}"


@dataclass(frozen=True)
class TrainResult:
    """Where the trained model is, its last losses, and for Colabator what the label pool came to."""

    model: Path
    metrics: dict[str, float]
    labels: dict[str, Any]


def _loop(payload: dict[str, Any]) -> None:
    Worker(payload["job"]).loop()


def _fit(job: TrainJob) -> Any:
    import ray.train
    from ray.train.torch import TorchTrainer

    recipe, train = job.recipe, job.recipe.train
    resources = {"CPU": train.worker_cpus} | ({"GPU": train.worker_gpus} if train.worker_gpus else {})
    trainer = TorchTrainer(
        _loop,
        train_loop_config={"job": job},
        scaling_config=ray.train.ScalingConfig(
            num_workers=train.workers, use_gpu=train.worker_gpus > 0, resources_per_worker=resources
        ),
        run_config=ray.train.RunConfig(
            name=job.name,
            storage_path=str(job.out / "ray"),
            checkpoint_config=ray.train.CheckpointConfig(num_to_keep=KEPT_CHECKPOINTS),
            failure_config=ray.train.FailureConfig(max_failures=train.failures),
        ),
        datasets=datasets(recipe, job.clear, job.hazy),
    )
    try:
        return trainer.fit()
    except SystemExit as stopped:  # what Ray Train makes of Ctrl-C, once it has ended the run
        raise KeyboardInterrupt from stopped


def train(job: TrainJob) -> TrainResult:
    """Run a training job to its end; needs a Ray session.

    The model is written to ``out/model``. A finished job that is asked for again is not repeated, and says so.

    Raises:
        ConfigError: missing, empty or wrong corpora, unknown networks, and what else the user has to change.
    """
    model = job.out / MODEL
    record = job.out / "result.json"
    if record.is_file() and (done := json.loads(record.read_text()))["digest"] == job.digest and model.is_dir():
        print(f"{job.recipe.method}: already trained, see {model}; choose another --out to train again", flush=True)
        return TrainResult(model, done["metrics"], done["labels"])
    data_context_defaults()
    prestart(job.recipe.train.data_tasks, job.recipe.train.data_cpus)
    job.out.mkdir(parents=True, exist_ok=True)
    (job.out / RECIPE_FILE).write_text(job.recipe.model_dump_json(indent=2) + "\n")
    with labelling(job) as service:
        result = _fit(job)
        labels = label_summary(service)
    with result.checkpoint.as_directory() as folder:
        shutil.rmtree(model, ignore_errors=True)
        shutil.copytree(folder, model, ignore=shutil.ignore_patterns("training_state.pt", ".*"))
    metrics = {key: float(value) for key, value in result.metrics.items() if isinstance(value, int | float)}
    record.write_text(json.dumps({"digest": job.digest, "metrics": metrics, "labels": labels}, indent=2) + "\n")
    return TrainResult(model, metrics, labels)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m pipelines.train", description=__doc__, allow_abbrev=False)
    parser.add_argument("--recipe", required=True, help=f"a YAML file, or one of: {', '.join(recipe_names())}")
    parser.add_argument("--clear", help="corpus of clear photographs")
    parser.add_argument("--hazy", help="corpus of hazy photographs (Colabator, CDD-GAN)")
    parser.add_argument("--out", type=Path, required=True, help="folder for checkpoints and the model")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="as in train.steps=50")
    parser.add_argument("--tracking-uri", help="MLflow tracking URI; nothing is tracked without it")
    parser.add_argument("--address", help="Ray cluster to join; default: the current job's, else a local one")
    return parser


def with_absolute_paths(recipe: Recipe) -> Recipe:
    """The recipe with the local files that it names made absolute: workers have another current folder."""
    update: dict[str, Any] = {"scorer": _absolute_path(recipe.scorer)}
    if recipe.init is not None and Path(recipe.init).is_dir():
        update["init"] = str(Path(recipe.init).absolute())
    if Path(recipe.perceptual.backbone).is_file():
        backbone = str(Path(recipe.perceptual.backbone).absolute())
        update["perceptual"] = recipe.perceptual.model_copy(update={"backbone": backbone})
    return recipe.model_copy(update=update)


def _absolute_path(value: Any) -> Any:
    """A path that is there, made absolute; a name, which has no slash, and anything else as it is."""
    if isinstance(value, dict):
        return {key: _absolute_path(inner) for key, inner in value.items()}
    return str(Path(value).absolute()) if isinstance(value, str) and "/" in value and Path(value).exists() else value


def _tracker(job: TrainJob, uri: str) -> Any:
    """The MLflow run of the job's earlier attempt, or a new one."""
    from pipelines.tracking import Tracker

    record = job.out / TRACKING_FILE
    known = json.loads(record.read_text()) if record.is_file() else {}
    if (known.get("digest"), known.get("uri")) == (job.digest, uri):
        return Tracker.resume(uri, known["run_id"])
    tracker = Tracker.start("ray-dehaze", job.recipe.method, uri)
    tracker.log_params(job.recipe.model_dump(mode="json"))
    job.out.mkdir(parents=True, exist_ok=True)
    record.write_text(json.dumps({"digest": job.digest, "uri": uri, "run_id": tracker.run_id}) + "\n")
    return tracker


def _main(args: argparse.Namespace) -> int:
    from pipelines.corpus import absolute

    recipe = with_absolute_paths(load_recipe(args.recipe, args.set))
    places = {key: absolute(value) for key in ("clear", "hazy") if (value := getattr(args, key)) is not None}
    if recipe.method in ("colabator", "cddgan"):
        given_corpus(places.get("hazy"), "hazy")
    given_corpus(places.get("clear"), "clear")
    job = TrainJob(recipe, args.out.absolute(), clear=places.get("clear"), hazy=places.get("hazy"))
    tracker = _tracker(job, args.tracking_uri) if args.tracking_uri else None
    if tracker is not None:
        job = replace(job, tracking=(tracker.tracking_uri, tracker.run_id))
    with ray_session(args.address):
        result = train(job)
    if tracker is not None:
        tracker.finish()
    print(f"model: {result.model}")
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Command line of the job; returns its exit code."""
    return run_command(_main, _parser(), argv)


if __name__ == "__main__":
    sys.exit(main())
