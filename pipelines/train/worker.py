"""One training worker: the method, its streams, checkpoints and logs."""

from __future__ import annotations

import functools
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from models.config import ConfigError
from pipelines.cluster import local_cpus
from pipelines.train.data import batches, unpaired_batches
from pipelines.train.label_streams import InlineLabels, PooledLabels, Publisher, Stopwatch
from pipelines.train.labels import drop_old_snapshots, snapshot_of

if TYPE_CHECKING:
    from pipelines.train.run import TrainJob

POOL_FIGURES = ("size", "acceptance_rate", "mean_clearness", "mean_quality", "mean_teacher_step")
PICTURES = "labels"
PROGRESS_SECONDS = 30.0


class TrainWorker:
    """Trains its share of a job, from the last checkpoint to the last step."""

    def __init__(self, job: TrainJob, vgg19: Mapping[str, Any] | None = None) -> None:
        import ray.train
        import ray.train.torch
        import torch

        from pipelines.train.build import make_method

        self.job, self.recipe = job, job.recipe
        context = ray.train.get_context()
        self.first = context.get_world_rank() == 0
        torch.set_num_threads(self.recipe.train.threads or max(1, local_cpus() // context.get_local_world_size()))
        self.device = ray.train.torch.get_device()
        self.method: Any = make_method(self.recipe, self.device, job.allow_networks, vgg19=vgg19)
        ddp = {"find_unused_parameters": self.recipe.train.find_unused_parameters}
        self.method.configure(functools.partial(ray.train.torch.prepare_model, parallel_strategy_kwargs=ddp))
        self.pool, self.labeling = self._service()
        self.waiting = Stopwatch()
        self.start = self._resume()
        unpaired, size = self.recipe.method == "cddgan", self.recipe.train.batch_size
        self.samples = unpaired_batches(size, self.device) if unpaired else batches("clear", size, self.device)
        self.labels = self._labels()
        publishes = self.labeling is not None and self.first
        self.publisher = Publisher(self.labeling, self.recipe.labels, self.waiting) if publishes else None
        self.tracker = self._tracker()

    def _service(self) -> tuple[Any, Any]:
        """Clients of the pool and of the label workers, None where the run has none."""
        from pseudolabel.labeling import LabelingClient
        from pseudolabel.pool import LabelPoolClient

        if self.recipe.method != "colabator":
            return None, None
        pool = LabelPoolClient(self.job.cluster_name, self.recipe.labels.shards)
        return pool, LabelingClient(self.job.cluster_name) if self.recipe.labels.mode == "async" else None

    def _labels(self) -> PooledLabels | InlineLabels | None:
        from pipelines.train.build import make_scorer

        if self.pool is None:
            return None
        labels = self.recipe.labels
        photos = batches("hazy", labels.batch_size, self.device)
        if labels.mode == "async":
            return PooledLabels(photos, self.pool, self.waiting)
        models = (self.method.teacher, make_scorer(self.recipe, self.device))
        return InlineLabels(photos, self.pool, self.waiting, models, labels.passes)

    def _resume(self) -> int:
        """Steps done before; method and label pool are then those of that checkpoint."""
        import ray.train.collective

        from models.checkpoints import read_state

        saved, step = ray.train.get_checkpoint(), 0
        if saved is not None:
            with saved.as_directory() as folder:
                state = read_state(folder) or {}
            self.method.load_state_dict(state["method"])
            step = int(state["step"])
            if step > self.recipe.train.steps:
                raise ConfigError(f"the checkpoint is of step {step}, and train.steps is {self.recipe.train.steps}")
        if self.pool is not None:
            if self.first:
                self._set_back(step, resumed=saved is not None)
            # Nobody fetches from a pool that is being restored. That may take hours, so this is no barrier of torch's:
            # those end after half an hour.
            ray.train.collective.barrier()
        return step

    def _set_back(self, step: int, *, resumed: bool) -> None:
        """Give the run the pool and the teacher of ``step``, unless they are just that."""
        if not resumed and self._untouched():
            return
        if self.labeling is not None:
            self.labeling.hold()
        self._restore(step)
        then = self.pool.stats()
        if self.labeling is not None:
            self.labeling.rewind(self.method.teacher_state(), step)
        print(
            f"goes on after step {step}, with the label pool of then: {then.size} labels of {then.offered} offers",
            flush=True,
        )

    def _restore(self, step: int) -> None:
        """Wait for the pool to be that of ``step``, and say now and then how far it is."""
        began, pending = time.monotonic(), self.pool.restore_async(snapshot_of(self.job, step), step)
        while True:
            try:
                pending.result(PROGRESS_SECONDS)
                return
            except TimeoutError:
                done, seconds = self.pool.restored().result(), time.monotonic() - began
                print(f"restoring the label pool: {done} labels in {seconds:.0f} s", flush=True)

    def _untouched(self) -> bool:
        """Whether pool and label workers are as seeding left them: no attempt at this run has trained before."""
        now = self.pool.stats()
        if self.labeling is None:
            return bool(now.mean_teacher_step == 0)
        status = self.labeling.status()  # a teacher of a lost attempt may be known there, though no label is of it yet
        return bool(now.size > 0 and now.mean_teacher_step == status["teacher_step"] == status["labeled_step"] == 0)

    def _tracker(self) -> Any:
        if not self.first or self.job.tracking is None:
            return None
        from pipelines.tracking import Tracker

        return Tracker(*self.job.tracking)  # which the driver has begun

    def loop(self) -> None:
        """Train from the last checkpoint to the last step."""
        try:
            self._steps()
        finally:
            if self.tracker is not None:
                self.tracker.flush()

    def _steps(self) -> None:
        train, labels = self.recipe.train, self.recipe.labels
        self._mark = (time.perf_counter(), self.start, 0.0)
        for step in range(self.start, train.steps):
            batch = next(self.samples)
            if self.labels is not None:
                batch |= self.labels.take(step)
            metrics = self.method.training_step(batch, step)
            done, last = step + 1, step + 1 == train.steps
            if self.publisher is not None:
                self.publisher.after(done, self.method.teacher_state)
            if self.first and (done % train.log_every == 0 or last):
                self._log(done, metrics)
            if self.first and self.labels is not None and labels.picture_every and done % labels.picture_every == 0:
                self._picture(done)
            if done % train.checkpoint_every == 0 or last:
                self._checkpoint(done, metrics)

    def _log(self, step: int, metrics: dict[str, float]) -> None:
        """Losses, and rates since the last time."""
        figures = self._pool_figures(step)
        now, (began, before, waited) = time.perf_counter(), self._mark
        rate = (step - before) / (now - began)
        shown = dict(metrics, steps_per_second=rate, **figures)
        if self.pool is not None:
            shown["pool_waiting_share"] = (self.waiting.seconds - waited) / (now - began)
        self._mark = (now, step, self.waiting.seconds)
        if self.tracker is not None:
            self.tracker.log_metrics({f"{self.recipe.method}/{k}": float(v) for k, v in shown.items()}, step)
        text = "  ".join(f"{key} {value:.4g}" for key, value in shown.items())
        left = (self.recipe.train.steps - step) / rate
        remaining = f"{left / 60:.0f} min" if left > 90 else f"{left:.0f} s"
        print(f"{self.recipe.method} {step}/{self.recipe.train.steps}, {remaining} left  {text}", flush=True)

    def _pool_figures(self, step: int) -> dict[str, float]:
        """``pool_staleness`` is the mean age of the labels in steps, ``teacher_lag`` that of the weights in use.

        ``label_units_given_up`` counts row groups of all rounds, ``label_workers_retired`` workers that are sick.
        """
        if self.pool is None:
            return {}
        with self.waiting.running():
            stats = self.pool.stats()
            troubles = (0, 0) if self.labeling is None else self.labeling.troubles()
        figures = {f"pool_{key}": float(getattr(stats, key)) for key in POOL_FIGURES}
        figures["pool_staleness"] = step - stats.mean_teacher_step
        figures["teacher_lag"] = 0 if self.publisher is None else self.publisher.lag
        figures |= dict(zip(("label_units_given_up", "label_workers_retired"), troubles, strict=True))
        return figures

    def _picture(self, step: int) -> None:
        """Draw the first photographs that this worker met, with their labels and trust maps of now."""
        from pseudolabel.pool import draw_sheet, write_sheet

        photos = self.labels.remembered if self.labels is not None else {}
        with self.waiting.running():
            entries = [entry for entry in self.pool.fetch(list(photos)) if entry is not None]
        if not entries:
            return
        path = self.job.out / PICTURES / f"step-{step:07d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_sheet(draw_sheet({f"step {step}": entries}, photos, inputs=True), path)
        if self.tracker is not None:
            self.tracker.log_artifact(path, PICTURES)

    def _checkpoint(self, step: int, metrics: dict[str, float]) -> None:
        import ray.train

        from pipelines.train.build import write_checkpoint

        if not self.first:
            ray.train.report(metrics)
            return
        if self.pool is not None:
            with self.waiting.running():
                self.pool.snapshot(snapshot_of(self.job, step), step)
        with tempfile.TemporaryDirectory() as folder:
            write_checkpoint(Path(folder), self.method, self.recipe, metrics, step)
            ray.train.report(metrics, checkpoint=ray.train.Checkpoint.from_directory(folder))
        if self.pool is not None:
            drop_old_snapshots(self.job, step)
