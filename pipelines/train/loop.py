"""The training loop: a method, its batches, labels, checkpoints and logs. No Ray.

Where it runs is its host: a worker of Ray Train (:mod:`pipelines.train.worker`) or a process of its own
(:mod:`pipelines.train.local`).
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from models.config import ConfigError
from models.paths import child, is_uri, replacing
from pipelines.train.label_streams import InlineLabels, PooledLabels, Publisher, Stopwatch
from pipelines.train.labels import POOL_FIGURES, drop_old_snapshots, snapshot_of
from pipelines.train.shares import share_of

if TYPE_CHECKING:
    import torch
    from torch import nn

    from pipelines.train.run import TrainJob

Batch = dict[str, Any]

PICTURES = "labels"  # folders of them
VALIDATION = "validation"
_LEAVING_EVERY = 5  # steps between two questions whether a machine is leaving, for which workers wait for each other


class Host(Protocol):
    """What a loop has around it.

    Attributes:
        workers: processes that train together.
        first: whether this process is the one that writes logs, pictures and checkpoints.
        device: to train on.
        threads: of torch.
        pool: the label pool, with ``offer``, ``fetch``, ``stats``, ``snapshot`` and ``restore``; None where the run
            has none. With label workers ``prefetch`` too.
        labeling: a ``LabelingClient``; None without label workers.
    """

    workers: int
    first: bool
    device: torch.device
    threads: int
    pool: Any
    labeling: Any

    def wrap(self, network: nn.Module) -> nn.Module:
        """Wrap the network for several processes that train it together."""
        ...

    def batches(self, domain: str, batch_size: int) -> Iterator[Batch]:
        """Yield samples of a corpus without end, from the step of the checkpoint on where that can be told."""
        ...

    def checkpoint(self) -> AbstractContextManager[Path | None]:
        """Yield the folder of the checkpoint to go on from; None at the beginning."""
        ...

    def wait_for_all(self) -> None:
        """Wait until all processes of the run have come here."""
        ...

    def is_leaving(self) -> bool:
        """Tell whether a machine of the run is to be taken away. All processes call this; all get the same answer."""
        ...

    def report(self, metrics: dict[str, float], step: int, write: Callable[[Path], object] | None = None) -> None:
        """Keep the checkpoint that ``write`` puts into a folder; all processes call this, the first one has it."""
        ...


class Means:
    """Means of figures over the steps that had them, since they were last taken: one batch alone tells little."""

    def __init__(self) -> None:
        self._sums: dict[str, tuple[float, int]] = {}

    def add(self, figures: Mapping[str, float]) -> None:
        """Count those of one step."""
        for name, value in figures.items():
            total, count = self._sums.get(name, (0.0, 0))
            self._sums[name] = (total + value, count + 1)

    def take(self) -> dict[str, float]:
        """Return the means, and begin anew."""
        sums, self._sums = self._sums, {}
        return {name: total / count for name, (total, count) in sums.items()}


class Loop:
    """Trains its share of a job, from the last checkpoint to the last step."""

    def __init__(self, job: TrainJob, host: Host, vgg19: Mapping[str, Any] | None = None) -> None:
        """Build everything and go back to the last checkpoint; ``vgg19`` is of :func:`.build.rehearse`."""
        import torch

        from pipelines.train.build import make_method

        self.job, self.recipe, self.host = job, job.recipe, host
        self.share = share_of(self.recipe, host.workers)  # of each of so many workers as there are this time
        self.pool, self.labeling = host.pool, host.labeling
        torch.set_num_threads(host.threads)
        self.method: Any = make_method(self.share, host.device, job.allow_networks, vgg19=vgg19, wrap=host.wrap)
        scorer = self._scorer()
        self.waiting = Stopwatch()
        self.start = self._resume()  # after all that draws random numbers: they go on where the checkpoint was
        self._saved = self.start  # of that step there is a snapshot of the pool
        self.samples = self._samples()
        self.validation = self._validation()
        self.labels = self._labels(scorer)
        publishes = self.labeling is not None and host.first
        self.publisher = Publisher(self.labeling, self.recipe.labels, self.waiting) if publishes else None
        self.tracker = self._tracker()

    def _samples(self) -> Iterator[Batch]:
        size = self.share.train.batch_size
        if self.recipe.method == "cddgan":
            return unpaired({domain: self.host.batches(domain, size) for domain in ("hazy", "clear")})
        return self.host.batches("clear", size)

    def _validation(self) -> Batch | None:
        """Make the held-out pairs to look at while the network trains; None where nobody looks."""
        from pipelines.train.data import corpus_of, validation_pairs
        from pipelines.train.transforms import on_device

        if not (self.host.first and self.recipe.train.validate_every) or self.recipe.method == "scorer":
            return None
        pairs = validation_pairs(self.recipe, corpus_of(self.job, "clear"))
        if pairs is None:
            print("no validation: the corpus of clear photographs holds none out", flush=True)
            return None
        return {name: on_device(self.host.device, values) for name, values in pairs.items()}

    def _scorer(self) -> Any:
        """Load the scorer of labels that are made within the step; None where there are none."""
        from pipelines.train.build import make_scorer

        inline = self.pool is not None and self.labeling is None
        return make_scorer(self.recipe, self.host.device) if inline else None

    def _labels(self, scorer: Any) -> PooledLabels | InlineLabels | None:
        if self.pool is None:
            return None
        labels = self.share.labels
        photos = self.host.batches("hazy", labels.batch_size)
        if scorer is None:
            return PooledLabels(photos, self.pool, self.waiting)
        return InlineLabels(photos, self.pool, self.waiting, (self.method.teacher, scorer), labels.passes)

    def _resume(self) -> int:
        """Restore method and label pool from the checkpoint, and return the steps done before."""
        from models.checkpoints import read_state

        with self.host.checkpoint() as folder:
            state = None if folder is None else read_state(folder)
            if folder is not None and state is None:
                raise ConfigError(f"the checkpoint {folder} has no training state: remove it to go on from another one")
        step = 0 if state is None else int(state["step"])
        if state is not None:
            self.method.load_state_dict(state["method"])
        if step > self.recipe.train.steps:
            raise ConfigError(
                f"the checkpoint is of step {step}, and train.steps is {self.recipe.train.steps}: ask for as many "
                "steps or more, start anew with --fresh, or choose another --out"
            )
        if self.pool is not None:
            if self.host.first:
                self._set_back(step, resumed=state is not None)
            self.host.wait_for_all()  # nobody fetches from a pool that is being restored
        return step

    def _set_back(self, step: int, *, resumed: bool) -> None:
        """Give the run the pool and the teacher of ``step``, unless they are just that."""
        if not resumed and self._untouched():
            return
        if self.labeling is not None:
            self.labeling.hold()
        self.pool.restore(snapshot_of(self.job, step), step=step)
        then = self.pool.stats()
        if self.labeling is not None:
            self.labeling.rewind(self.method.teacher_state(), step)
        print(
            f"goes on after step {step}, with the label pool of then: {then.size} labels of {then.offered} offers",
            flush=True,
        )

    def _untouched(self) -> bool:
        """Say whether pool and label workers are as they were before the first step: no attempt at this run has
        trained.
        """
        now = self.pool.stats()
        if self.labeling is None:
            return bool(now.offered == 0)
        status = self.labeling.status()  # a teacher of a lost attempt may be known there, though no label is of it yet
        return bool(now.size > 0 and now.mean_teacher_step == status["teacher_step"] == status["labeled_step"] == 0)

    def _tracker(self) -> Any:
        if not self.host.first or self.job.tracking is None:
            return None
        from pipelines.tracking import Tracker

        return Tracker(*self.job.tracking)  # which the driver has begun

    def run(self) -> None:
        """Train from the last checkpoint to the last step."""
        with tempfile.TemporaryDirectory() as folder:  # MLflow may take its time to read them
            self._pictures = Path(folder if is_uri(self.job.out) else self.job.out)
            try:
                self._steps()
            except BaseException:
                if self.tracker is not None:
                    self.tracker.flush(10.0)  # who stops a run does not wait for minutes
                raise
            if self.tracker is not None:
                self.tracker.flush()

    def _steps(self) -> None:
        train = self.recipe.train
        pictures = self.recipe.labels.picture_every if self.host.first and self.labels is not None else 0
        self._mark = (time.perf_counter(), self.start, 0.0)
        means, leaving = Means(), False
        if self.start == 0:
            self._validate(0)
        for step in range(self.start, train.steps):
            batch = next(self.samples)
            if self.labels is not None:
                batch |= self.labels.take(step)
            metrics = self.method.training_step(batch, step)
            means.add(metrics)
            done, last = step + 1, step + 1 == train.steps
            if self.publisher is not None:
                self.publisher.after(done, self.method.teacher_state)
            if self.host.first and (done % train.log_every == 0 or last):
                self._log(done, means.take())
            if train.validate_every and (done % train.validate_every == 0 or last):
                metrics |= self._validate(done)
            if pictures and done % pictures == 0:
                self._picture(done)
            told = not leaving and done % _LEAVING_EVERY == 0 and self.host.is_leaving()
            leaving = leaving or told
            if told and self.host.first:
                print(f"a machine of the run is about to leave: a checkpoint of step {done} is written", flush=True)
            if told or done % train.checkpoint_every == 0 or last:
                self._checkpoint(done, metrics)

    def _log(self, step: int, metrics: dict[str, float]) -> None:
        """Log means of the losses, and rates, since the last time."""
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
        from pseudolabel.pool import draw_sheet

        photos = self.labels.remembered if self.labels is not None else {}
        with self.waiting.running():
            entries = [entry for entry in self.pool.fetch(list(photos)) if entry is not None]
        if not entries:
            return
        self._keep(draw_sheet({f"step {step}": entries}, photos, inputs=True), PICTURES, step)

    def _validate(self, step: int) -> dict[str, float]:
        """Look at the held-out pairs; nothing where there are none."""
        from pipelines.train.methods import validate, validation_sheet

        if self.validation is None:
            return {}
        scenes, psnr = validate(self.method.export(), self.validation)
        found = {"validation_psnr": float(psnr.mean())}
        self._keep(validation_sheet(self.validation, scenes, psnr, f"step {step}"), VALIDATION, step)
        if self.tracker is not None:
            self.tracker.log_metrics({f"{self.recipe.method}/{key}": value for key, value in found.items()}, step)
        photos = f"{len(psnr)} held-out photographs"
        print(f"{self.recipe.method} {step}: PSNR of {photos} {found['validation_psnr']:.2f} dB", flush=True)
        return found

    def _keep(self, sheet: Any, folder: str, step: int) -> None:
        """Write a picture of a step to ``--out`` and MLflow."""
        from pseudolabel.pool import write_sheet

        path = self._pictures / folder / f"step-{step:07d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_sheet(sheet, path)
        if is_uri(self.job.out):
            with replacing(child(self.job.out, f"{folder}/{path.name}")) as stream:
                stream.write(path.read_bytes())
        if self.tracker is not None:
            self.tracker.log_artifact(path, folder)

    def _checkpoint(self, step: int, metrics: dict[str, float]) -> None:
        from pipelines.train.build import write_checkpoint

        if not self.host.first:
            self.host.report(metrics, step)
            return
        if self.pool is not None:
            with self.waiting.running():
                self.pool.snapshot(snapshot_of(self.job, step), step, snapshot_of(self.job, self._saved))
                self._saved = step
        self.host.report(metrics, step, lambda at: write_checkpoint(at, self.method, self.recipe, metrics, step))
        if self.pool is not None:
            drop_old_snapshots(self.job, step)


def unpaired(streams: Mapping[str, Iterator[Batch]]) -> Iterator[Batch]:
    """Yield the ``image`` of each stream under its name, N3SS in [0, 1], without end."""
    while True:
        yield {domain: next(stream)["image"] for domain, stream in streams.items()}
