"""A worker of Ray Train as the host of a training loop: its shards of the corpora, what is common to all workers."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from models.inference import local_cpus
from pipelines.train.data import batches
from pseudolabel.pool import LabelPoolClient

if TYPE_CHECKING:
    from torch import nn

    from pipelines.train.run import TrainJob

PROGRESS_SECONDS = 30.0


class TrainWorker:
    """See :class:`pipelines.train.loop.Host`."""

    def __init__(self, job: TrainJob) -> None:
        import ray.train
        import ray.train.torch

        context, train = ray.train.get_context(), job.recipe.train
        self.workers, self.first = context.get_world_size(), context.get_world_rank() == 0
        self.device = ray.train.torch.get_device()
        self.threads = train.threads or max(1, local_cpus() // context.get_local_world_size())
        self.pool, self.labeling = _service(job)
        self._ddp = {"find_unused_parameters": train.find_unused_parameters}

    def wrap(self, network: nn.Module) -> nn.Module:
        """Wrap the network for DistributedDataParallel, where there are several workers."""
        import ray.train.torch

        wrapped: nn.Module = ray.train.torch.prepare_model(network, parallel_strategy_kwargs=self._ddp)
        return wrapped

    def batches(self, domain: str, batch_size: int) -> Iterator[dict[str, Any]]:
        """See :func:`pipelines.train.data.batches`; what comes is another one after a resumption."""
        return batches(domain, batch_size, self.device)

    @contextmanager
    def checkpoint(self) -> Iterator[Path | None]:
        """Yield the folder of the last checkpoint that was reported; None without one."""
        import ray.train

        saved = ray.train.get_checkpoint()
        if saved is None:
            yield None
            return
        with saved.as_directory() as folder:
            yield Path(folder)

    def wait_for_all(self) -> None:
        """Wait until all workers have come here. It may take hours, so this is no barrier of torch's: those end after
        half an hour.
        """
        import ray.train.collective

        ray.train.collective.barrier()

    def is_leaving(self) -> bool:
        """Tell whether a node with a worker drains: a spot instance before its end, or ``ray drain-node``."""
        import ray.train

        return ray.train.get_preemption_info() is not None

    def report(self, metrics: dict[str, float], step: int, write: Callable[[Path], object] | None = None) -> None:  # noqa: ARG002 - Ray counts itself
        """Hand a checkpoint to Ray Train, which keeps it."""
        import ray.train

        if write is None:
            ray.train.report(metrics)
            return
        with tempfile.TemporaryDirectory() as folder:
            write(Path(folder))
            ray.train.report(metrics, checkpoint=ray.train.Checkpoint.from_directory(folder))


class SharedPool(LabelPoolClient):
    """The pool of a run, of which a long restoration says how far it is."""

    def restore(self, uri: str | Path, step: int | None = None) -> None:
        """See :meth:`LabelPoolClient.restore`."""
        began, pending = time.monotonic(), self.restore_async(uri, step)
        while True:
            try:
                return pending.result(PROGRESS_SECONDS)
            except TimeoutError:
                done, seconds = self.restored().result(), time.monotonic() - began
                print(f"restoring the label pool: {done} labels in {seconds:.0f} s", flush=True)


def _service(job: TrainJob) -> tuple[Any, Any]:
    """Return clients of the pool and of the label workers, None where the run has none."""
    from pseudolabel.labeling import LabelingClient

    labels = job.recipe.labels
    if job.recipe.method != "colabator":
        return None, None
    pool = SharedPool(job.cluster_name, labels.shards)
    return pool, LabelingClient(job.cluster_name) if labels.mode == "async" else None
