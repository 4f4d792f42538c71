"""What a training worker needs of Colabator's labels: batches with labels, and label workers with young weights."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipelines.train.recipe import LabelConfig

REMEMBERED = 4  # photographs at least, for the pictures of a run
POLL_SECONDS = 0.05


class Stopwatch:
    """Seconds for which a training step stands still because of labels."""

    def __init__(self) -> None:
        self.seconds = 0.0

    @contextmanager
    def running(self) -> Iterator[None]:
        """Count the time while the block runs."""
        began = time.perf_counter()
        try:
            yield
        finally:
            self.seconds += time.perf_counter() - began


def with_labels(batch: Mapping[str, Any], entries: Sequence[Any]) -> dict[str, Any]:
    """Make the student's half of a real batch.

    Args:
        batch: ``photo`` and ``strong`` N3SS in [0, 1], not moved against each other.
        entries: of the pool, in the order of the batch; None where a photograph has none yet.

    Returns:
        ``strong`` and ``label`` N3SS, ``trust`` N1SS, ``labeled`` N111: 0 for a photograph without a label, whose trust
        is 0 too, else 1.
    """
    import torch

    from models.images import to_tensor
    from pseudolabel.coherence import upsample_trust

    device, size = batch["photo"].device, batch["photo"].shape[-2:]
    labels, trusts = [], []
    for photo, entry in zip(batch["photo"], entries, strict=True):
        if entry is None:
            labels.append(photo[None])
            trusts.append(torch.zeros(1, 1, *size, device=device))
        else:
            labels.append(to_tensor(entry.label).to(device))
            trusts.append(upsample_trust(torch.tensor(entry.trust)[None], size).to(device))
    labeled = torch.tensor([float(entry is not None) for entry in entries], device=device)[:, None, None, None]
    return {"strong": batch["strong"], "label": torch.cat(labels), "trust": torch.cat(trusts), "labeled": labeled}


class _Stream:
    """Real batches; remembers the first few photographs by ``image_id``, (S, S, 3) uint8."""

    def __init__(self, photos: Iterator[dict[str, Any]], pool: Any, waiting: Stopwatch) -> None:
        self.pool, self.waiting, self._photos = pool, waiting, photos
        self.remembered: dict[str, NDArray[np.uint8]] = {}

    def _batch(self) -> tuple[dict[str, Any], list[str]]:
        from models.images import to_uint8

        batch = next(self._photos)
        ids = [str(image_id) for image_id in batch["image_id"]]
        if len(self.remembered) < REMEMBERED:
            for image_id, pixels in zip(ids, to_uint8(batch["photo"]), strict=True):
                self.remembered.setdefault(image_id, pixels)
        return batch, ids


class PooledLabels(_Stream):
    """Labels that others make (``async``); those of the next batch are on their way while a step runs."""

    def __init__(self, photos: Iterator[dict[str, Any]], pool: Any, waiting: Stopwatch) -> None:
        """Ask for the first batch's labels; ``pool`` is a ``LabelPoolClient``."""
        super().__init__(photos, pool, waiting)
        self._next = self._ask()

    def _ask(self) -> tuple[dict[str, Any], Any]:
        batch, ids = self._batch()
        return batch, self.pool.prefetch(ids)

    def take(self, step: int) -> dict[str, Any]:  # noqa: ARG002 - the other stream needs it
        """See :func:`with_labels`."""
        (batch, pending), self._next = self._next, self._ask()
        with self.waiting.running():
            entries = pending.result()
        return with_labels(batch, entries)


class InlineLabels(_Stream):
    """Labels that are made within the step (``inline``), by teacher and scorer of this process, as in the paper's loop.

    They are offered to the same pool, and what the pool then holds is what the student gets.
    """

    def __init__(
        self, photos: Iterator[dict[str, Any]], pool: Any, waiting: Stopwatch, models: tuple[Any, Any], passes: int = 1
    ) -> None:
        """Take ``models``, teacher (which changes as training goes on) and scorer; ``passes`` as in
        :class:`LabelConfig`.
        """
        super().__init__(photos, pool, waiting)
        self._teacher, self._scorer = models
        self._passes = passes

    def take(self, step: int) -> dict[str, Any]:
        """See :func:`with_labels`; ``step`` is the teacher's."""
        batch, ids = self._batch()
        with self.waiting.running():
            self._offer(batch["photo"], ids, step)
            entries = self.pool.fetch(ids)
        return with_labels(batch, entries)

    def _offer(self, photos: Any, ids: Sequence[str], step: int) -> None:
        """Label photographs N3SS in [0, 1], and offer the labels to the pool."""
        from models.images import to_uint8
        from pseudolabel.labeling import label_batch

        made = label_batch(
            self._teacher, self._scorer, to_uint8(photos), ids, step, str(photos.device), passes=self._passes
        )
        self.pool.offer(made)


class Publisher:
    """Sends the teacher to the label workers, and keeps training from running away from them.

    Labels that nobody betters may become as old as they like; the weights that candidates are made with may not.
    """

    def __init__(self, labeling: Any, config: LabelConfig, waiting: Stopwatch) -> None:
        """Take ``labeling``, a ``LabelingClient``; one worker of a run publishes, the others wait for its gradients."""
        self._labeling, self._config, self._waiting = labeling, config, waiting
        self._asked: Any = None
        self._gave_up = False
        self.lag = 0

    def after(self, step: int, state: Callable[[], Mapping[str, Any]]) -> None:
        """Publish the weights after ``step`` steps when it is time, and wait where the label workers' weights are too
        old.

        Their age is asked for without waiting, so that it may be known one step late, and is never taken for less.
        """
        if step % self._config.publish_every == 0:
            self._labeling.publish(state(), step)
        if self._asked is not None and self._asked.done():
            self.lag = step - self._asked.result()
            self._asked = None
        if self._asked is None:
            self._asked = self._labeling.weights_step()
        if self.lag <= self._config.max_teacher_lag:
            self._gave_up = False
        elif not self._gave_up:
            self._wait(step, state)

    def _wait(self, step: int, state: Callable[[], Mapping[str, Any]]) -> None:
        bound, until = self._config.max_teacher_lag, time.monotonic() + self._config.lag_patience
        with self._waiting.running():
            self._labeling.publish(state(), step)  # a coordinator that was restarted has forgotten the last ones
            while (lag := step - self._labeling.weights_step().result()) > bound and time.monotonic() < until:
                time.sleep(POLL_SECONDS)
        self._asked, self._gave_up = None, lag > bound
        if self._gave_up:
            print(
                f"label workers use weights that are {lag} steps old, {bound} are allowed (labels.max_teacher_lag), "
                f"after waiting {self._config.lag_patience:g} s: training goes on; give them more room "
                "(labels.workers, worker_cpus) or look for their errors above",
                flush=True,
            )
        self.lag = lag
