"""Training job: Ray Data shards the corpora, Ray Train runs the recipe's method on all workers.

``python -m pipelines.train --recipe pretrain_corun_compact --clear CORPUS --out DIR``. An interrupted run goes on from
its last checkpoint when the same command is given again.
"""

from __future__ import annotations

import argparse
import functools
import hashlib
import json
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipelines.cluster import data_context_defaults, local_cpus, ray_session
from pipelines.command import run as run_command
from pipelines.config import LabelConfig, Recipe, load_recipe, recipe_names
from pipelines.streams import batches, datasets, given_corpus, prestart, unpaired_batches

RECIPE_FILE = "recipe.json"
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
        """Name of the run on the cluster."""
        return f"{self.recipe.method}-{self.digest}"


@dataclass(frozen=True)
class TrainResult:
    """Where the trained model is, its last losses, and for Colabator what the label pool came to."""

    model: Path
    metrics: dict[str, float]
    labels: dict[str, Any]


class _Labels:
    """Real batches with their labels; the next batch's labels are on their way while a step runs."""

    def __init__(self, config: LabelConfig, pool: Any, device: Any) -> None:
        self.pool, self.device = pool, device
        self.waited = 0.0
        self._photos = batches("hazy", config.batch_size, device)
        self._next = self._ask()

    def _ask(self) -> tuple[dict[str, Any], Any]:
        batch = next(self._photos)
        return batch, self.pool.prefetch([str(image_id) for image_id in batch["image_id"]])

    def take(self) -> dict[str, Any]:
        """``strong`` and ``label`` N3SS, ``trust`` N1SS; a photograph without a label yet has trust 0."""
        import torch

        from models.images import to_tensor
        from pseudolabel.coherence import upsample_trust

        (batch, pending), self._next = self._next, self._ask()
        start = time.perf_counter()
        entries = pending.result()
        self.waited += time.perf_counter() - start
        height, width = batch["photo"].shape[-2:]
        labels, trusts = [], []
        for index, entry in enumerate(entries):
            if entry is None:
                labels.append(batch["photo"][index : index + 1])
                trusts.append(torch.zeros(1, 1, height, width, device=self.device))
                continue
            labels.append(to_tensor(entry.label).to(self.device))
            trusts.append(upsample_trust(torch.tensor(entry.trust)[None], (height, width)).to(self.device))
        return {"strong": batch["strong"], "label": torch.cat(labels), "trust": torch.cat(trusts)}


class _Worker:
    """One training worker: the method, its streams, checkpoints and logs."""

    def __init__(self, job: TrainJob) -> None:
        import ray.train
        import ray.train.torch
        import torch

        from pipelines.methods.build import make_method
        from pseudolabel.client import LabelingClient, LabelPoolClient

        self.job, self.recipe = job, job.recipe
        context = ray.train.get_context()
        self.first = context.get_world_rank() == 0
        torch.set_num_threads(self.recipe.train.threads or max(1, local_cpus() // context.get_local_world_size()))
        device = ray.train.torch.get_device()
        self.method: Any = make_method(self.recipe, device)
        ddp = {"find_unused_parameters": self.recipe.train.find_unused_parameters}
        self.method.configure(functools.partial(ray.train.torch.prepare_model, parallel_strategy_kwargs=ddp))
        colabator = self.recipe.method == "colabator"
        self.pool = LabelPoolClient(job.name, self.recipe.labels.shards) if colabator else None
        self.labeling = LabelingClient(job.name) if colabator and self.first else None
        self.start = self._resume()
        unpaired, size = self.recipe.method == "cddgan", self.recipe.train.batch_size
        self.samples = unpaired_batches(size, device) if unpaired else batches("clear", size, device)
        self.labels = _Labels(self.recipe.labels, self.pool, device) if colabator else None
        self.tracker = self._tracker()

    def _resume(self) -> int:
        import ray.train

        from models.checkpoint import read_state

        saved = ray.train.get_checkpoint()
        if saved is None:
            return 0
        with saved.as_directory() as folder:
            state = read_state(folder) or {}
        self.method.load_state_dict(state["method"])
        if self.pool is not None and self.first:
            self.pool.restore(self._snapshot(state["step"]))
        return int(state["step"])

    def _snapshot(self, step: int) -> str:
        return f"{self.job.out}/pool-snapshots/{self.job.digest}/step-{step:07d}"

    def _tracker(self) -> Any:
        if not self.first or self.job.tracking is None:
            return None
        from pipelines.tracking import Tracker

        return Tracker.resume(*self.job.tracking)

    def loop(self) -> None:
        """Train from the last checkpoint to the last step."""
        train = self.recipe.train
        began = time.perf_counter()
        for done, step in enumerate(range(self.start, train.steps), start=1):
            batch = next(self.samples)
            if self.labels is not None:
                batch |= self.labels.take()
            metrics = self.method.training_step(batch, step)
            if self.labeling is not None and (step + 1) % self.recipe.labels.publish_every == 0:
                self.labeling.publish(self.method.teacher_state(), step + 1)
            last = step + 1 == train.steps
            if self.first and ((step + 1) % train.log_every == 0 or last):
                self._log(step + 1, metrics, done / (time.perf_counter() - began))
            if (step + 1) % train.checkpoint_every == 0 or last:
                self._checkpoint(step + 1, metrics)

    def _log(self, step: int, metrics: dict[str, float], rate: float) -> None:
        shown = dict(metrics, steps_per_second=rate)
        if self.labels is not None and self.pool is not None:
            stats = self.pool.stats()
            shown["pool_waiting_share"] = self.labels.waited * rate / max(1, step - self.start)
            shown |= {f"pool_{key}": getattr(stats, key) for key in POOL_FIGURES}
        if self.tracker is not None:
            self.tracker.log_metrics({f"{self.recipe.method}/{k}": float(v) for k, v in shown.items()}, step)
        text = "  ".join(f"{key} {value:.4g}" for key, value in shown.items())
        steps = self.recipe.train.steps
        left = (steps - step) / rate
        remaining = f"{left / 60:.0f} min" if left > 90 else f"{left:.0f} s"
        print(f"{self.recipe.method} {step}/{steps}, {remaining} left  {text}", flush=True)

    def _checkpoint(self, step: int, metrics: dict[str, float]) -> None:
        import ray.train

        from pipelines.methods.build import write_checkpoint

        if not self.first:
            ray.train.report(metrics)
            return
        if self.pool is not None:
            self.pool.snapshot(self._snapshot(step))
        with tempfile.TemporaryDirectory() as folder:
            write_checkpoint(Path(folder), self.method, self.recipe, metrics, step)
            ray.train.report(metrics, checkpoint=ray.train.Checkpoint.from_directory(folder))


POOL_FIGURES = ("size", "acceptance_rate", "mean_clearness", "mean_quality", "mean_teacher_step")


def _loop(payload: dict[str, Any]) -> None:
    _Worker(payload["job"]).loop()


@contextmanager
def _labelling(job: TrainJob) -> Iterator[Any]:
    """The label pool and the label workers of a Colabator run, seeded with a label for every photograph."""
    if job.recipe.method != "colabator":
        yield None
        return
    from pipelines.methods.build import make_network, network_config
    from pseudolabel.actors import start_labeling, start_pool
    from pseudolabel.rounds import LabelingConfig, WorkUnit

    recipe, labels = job.recipe, job.recipe.labels
    corpus = given_corpus(job.hazy, "hazy")
    pool = start_pool(job.name, job.out / "pool" / job.digest, labels.shards)
    labeling = None
    try:
        config = LabelingConfig(
            network=network_config(recipe),
            scorer=recipe.scorer or "clip-compact",
            label_size=labels.size,
            threads=labels.threads,
            workers=labels.workers,
            worker_cpus=labels.worker_cpus,
            worker_gpus=labels.worker_gpus,
            device="cuda" if labels.worker_gpus else "cpu",
        )
        units = [WorkUnit(uri, group) for uri, group in corpus.row_groups("train")]
        labeling = start_labeling(config, pool, units, (make_network(recipe).state_dict(), 0))
        report = labeling.run_round(progress=_SeedProgress(corpus.count("train")))
        print(
            f"labelled {report['photographs']} photographs in {report['seconds']:.1f} s with {labels.workers} workers: "
            f"{report['per_worker']}",
            flush=True,
        )
        labeling.start()
        yield (pool, labeling)
    finally:
        if labeling is not None:
            labeling.stop()
        pool.shutdown()


class _SeedProgress:
    """A progress bar over the photographs of the seeding round."""

    def __init__(self, total: int) -> None:
        from tqdm import tqdm

        self.bar = tqdm(
            total=total, desc="first labels", unit=" photos", mininterval=0.5 if sys.stderr.isatty() else 10
        )

    def __call__(self, status: dict[str, Any]) -> None:
        report = status["current"] or (status["history"] or [None])[-1]
        if report is not None:
            self.bar.update(report["photographs"] - self.bar.n)
            if status["current"] is None:
                self.bar.close()


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
            checkpoint_config=ray.train.CheckpointConfig(num_to_keep=2),
            failure_config=ray.train.FailureConfig(max_failures=train.failures),
        ),
        datasets=datasets(recipe, job.clear, job.hazy),
    )
    try:
        return trainer.fit()
    except SystemExit as stopped:  # what Ray Train makes of Ctrl-C, once it has ended the run
        raise KeyboardInterrupt from stopped


def _label_summary(service: Any) -> dict[str, Any]:
    if service is None:
        return {}
    from dataclasses import asdict

    pool, labeling = service
    return {"pool": asdict(pool.stats()), "rounds": labeling.status()["history"]}


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
    with _labelling(job) as service:
        result = _fit(job)
        labels = _label_summary(service)
    with result.checkpoint.as_directory() as folder:
        shutil.rmtree(model, ignore_errors=True)
        shutil.copytree(folder, model, ignore=shutil.ignore_patterns("training_state.pt", ".*"))
    metrics = {key: float(value) for key, value in result.metrics.items() if isinstance(value, int | float)}
    record.write_text(json.dumps({"digest": job.digest, "metrics": metrics, "labels": labels}, indent=2) + "\n")
    return TrainResult(model, metrics, labels)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m pipelines.train", description=__doc__)
    parser.add_argument("--recipe", required=True, help=f"a YAML file, or one of: {', '.join(recipe_names())}")
    parser.add_argument("--clear", help="corpus of clear photographs")
    parser.add_argument("--hazy", help="corpus of hazy photographs (Colabator, CDD-GAN)")
    parser.add_argument("--out", type=Path, required=True, help="folder for checkpoints and the model")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="as in train.steps=50")
    parser.add_argument("--tracking-uri", help="MLflow tracking URI; nothing is tracked without it")
    parser.add_argument("--address", help="Ray cluster to join; default: the current job's, else a local one")
    return parser


def with_absolute_init(recipe: Recipe) -> Recipe:
    """The recipe with the local files that it starts from made absolute: workers have another current folder."""
    update: dict[str, Any] = {}
    if recipe.init is not None and Path(recipe.init).is_dir():
        update["init"] = str(Path(recipe.init).absolute())
    if Path(recipe.perceptual.backbone).is_file():
        backbone = str(Path(recipe.perceptual.backbone).absolute())
        update["perceptual"] = recipe.perceptual.model_copy(update={"backbone": backbone})
    return recipe.model_copy(update=update)


def _main(args: argparse.Namespace) -> int:
    from pipelines.corpus import absolute

    recipe = with_absolute_init(load_recipe(args.recipe, args.set))
    places = {key: absolute(value) for key in ("clear", "hazy") if (value := getattr(args, key)) is not None}
    if recipe.method in ("colabator", "cddgan"):
        given_corpus(places.get("hazy"), "hazy")
    given_corpus(places.get("clear"), "clear")
    tracking, tracker = None, None
    if args.tracking_uri:
        from pipelines.tracking import Tracker

        tracker = Tracker.start("ray-dehaze", recipe.method, args.tracking_uri)
        tracker.log_params(recipe.model_dump(mode="json"))
        tracking = (args.tracking_uri, tracker.run_id)
    with ray_session(args.address):
        result = train(TrainJob(recipe, args.out.absolute(), tracking=tracking, **places))
    if tracker is not None:
        tracker.finish()
    print(f"model: {result.model}")
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Command line of the job; returns its exit code."""
    return run_command(_main, _parser(), argv)


if __name__ == "__main__":
    sys.exit(main())
