"""Training in this one process, on one GPU or CPU, without Ray: ``python -m pipelines.train --local``.

The loop, the methods and what makes samples are those of a run on Ray (:mod:`pipelines.train.loop`); the order of the
samples is not. Here the seed says what every batch is, however many processes make them, and a run that was interrupted
goes on with the very batch that it would have had next.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset

from models.config import DehazeError
from models.inference import device_of, local_cpus
from models.paths import child, filesystem, is_local, local_copy
from pipelines.corpus import parquet_file
from pipelines.lock import only_one
from pipelines.shown import note
from pipelines.train.data import (
    BLOCK_BYTES,
    Samples,
    Sampling,
    Unit,
    batch_size_of,
    corpus_of,
    sampling_of,
    training_units,
)
from pipelines.train.job import PATIENCE_S, Prepared, already_trained, begin, finish, prepare
from pipelines.train.labels import label_summary, pool_of_one
from pipelines.train.loop import Loop
from pipelines.train.record import LOCAL, METRICS, Checkpoints
from pipelines.train.run import TrainJob, TrainResult
from pipelines.train.shares import share_of
from pipelines.train.transforms import on_device

Stream = Generator[Samples, None, None]

_AT_WORK = (DehazeError, OSError)  # what users are told in a line; anything else is a defect and shows its traceback


def alone(job: TrainJob) -> TrainJob:
    """Return the job as one process does it, and say where it differs from the recipe.

    Its steps are as large as those of all ``train.workers`` together: the batches are as many times as large, and cut
    into as many parts, so that memory and gradients are what they were. CDD-GAN takes them in one.
    """
    recipe = job.recipe
    if recipe.method == "colabator" and recipe.labels.mode == "async":
        note("labels.mode is async, which needs Ray: labels are made inline, within the steps")
        recipe = recipe.model_copy(update={"labels": recipe.labels.model_copy(update={"mode": "inline"})})
    workers = recipe.train.workers
    if workers > 1:
        sizes = ", ".join(f"{name} is {size} x {workers}" for name, size in recipe.batch_sizes.items())
        note(f"one process takes the steps of {workers} workers: {sizes}; --set train.workers=1 for less")
        recipe = share_of(recipe, 1)
        alone = {"workers": 1, "min_workers": None, "threads": recipe.train.threads * workers}
        recipe = recipe.model_copy(update={"train": recipe.train.model_copy(update=alone)})
    return replace(job, recipe=recipe)


class Blocks(Dataset[Any]):
    """The samples of a corpus, block by block without end; which ones a block has, its number says.

    In every epoch row groups are dealt anew, and rows within their row group. A block has the samples of some rows:
    first one of each row, then a further one of each, so that no batch has two of one photograph. Memory holds one row
    group.
    """

    def __init__(self, units: Sequence[Unit], sampling: Sampling, batch_size: int, seed: Sequence[int]) -> None:
        mixed = BLOCK_BYTES // (batch_size * sampling.row_bytes)
        self.batches = sampling.per_row * max(1, min(mixed, sampling.per_row))
        self._rows = self.batches * batch_size // sampling.per_row
        self.units, self._sampling, self._seed = units, sampling, tuple(seed)
        self._counts = np.array(_row_counts(units))
        self._held: tuple[int, Any] = (-1, None)

    def __getitem__(self, number: int) -> Any:
        """Return arrays with ``batches`` times the batch size of samples each; or the error that explains why not."""
        try:
            return self._block(number)
        except _AT_WORK as problem:
            return problem

    def _block(self, number: int) -> Samples:
        parts = []
        for epoch, pieces in groupby(self._pieces(number * self._rows, self._rows), key=lambda piece: piece[0]):
            rows = [row for _, unit, chosen in pieces for row in self._table(unit).take(chosen).to_pylist()]
            seed = int(self._random(epoch).integers(2**63))
            made = self._sampling.function(rows, seed=seed)
            parts.append({name: values.reshape(len(rows), -1, *values.shape[1:]) for name, values in made.items()})
        joined = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        return {name: values.swapaxes(0, 1).reshape(-1, *values.shape[2:]) for name, values in joined.items()}

    def _pieces(self, first: int, count: int) -> Iterator[tuple[int, int, NDArray[Any]]]:
        """Where rows are, counted from the beginning of the first epoch: epoch, row group, rows of it."""
        while count:
            epoch, place = divmod(first, int(self._counts.sum()))
            order = self._random(epoch).permutation(len(self.units))
            ends = np.cumsum(self._counts[order])
            index = int(np.searchsorted(ends, place, side="right"))
            unit = int(order[index])
            within = self._random(epoch, unit).permutation(self._counts[unit])
            chosen = within[place - ends[index] :][:count]
            yield epoch, unit, chosen
            first, count = first + len(chosen), count - len(chosen)

    def _random(self, *key: int) -> np.random.Generator:
        return np.random.default_rng([*self._seed, *key])

    def _table(self, unit: int) -> Any:
        if self._held[0] != unit:
            uri, group = self.units[unit]
            with parquet_file(uri) as file:
                columns = list(self._sampling.columns)
                self._held = (unit, file.read_row_group(group, columns=columns, use_threads=False))
        return self._held[1]


def _row_counts(units: Sequence[Unit]) -> list[int]:
    """Rows of each row group, of which the files' footers tell."""
    counts = []
    for uri, groups in groupby(units, key=lambda unit: unit[0]):
        with parquet_file(uri) as file:
            counts += [file.metadata.row_group(group).num_rows for _, group in groups]
    return counts


def _as_it_is(block: Any) -> Any:
    return block


def _leave_with_the_parent(_worker: int, parent: int) -> None:
    """Let the parent alone end this process: on Ctrl-C it does so itself; when it was killed, this notices.

    torch looks for its parent too, but then waits for ever for a reader of the block in its pipe, and a forked process
    holds the lock of ``--out`` meanwhile.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_after, args=(parent,), daemon=True).start()


def _end_after(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(1.0)
    os._exit(1)


def batches_of(blocks: Blocks, batch_size: int, start: int, processes: int) -> Stream:
    """Return batches from number ``start`` on, made by worker processes, which have begun when this returns.

    Raises:
        DehazeError, OSError: at the batch that could not be made.
    """
    number, offset = divmod(start, blocks.batches)
    local = is_local(filesystem(blocks.units[0][0])[0])
    loader = DataLoader(
        blocks,
        batch_size=None,
        sampler=range(number, sys.maxsize),
        collate_fn=_as_it_is,  # arrays go through a pipe: /dev/shm is small in many containers
        num_workers=processes,
        multiprocessing_context="fork" if local else "spawn",  # clients of object storage do not outlive a fork
        worker_init_fn=partial(_leave_with_the_parent, parent=os.getpid()),
        generator=torch.Generator(),  # so that the random numbers of the training stay as they are
    )
    return _cut(iter(loader), batch_size, offset)


def _cut(made: Iterator[Any], batch_size: int, offset: int) -> Stream:
    for block in made:
        if isinstance(block, Exception):
            raise block
        length = len(next(iter(block.values())))
        for first in range(offset * batch_size, length, batch_size):
            yield {name: values[first : first + batch_size] for name, values in block.items()}
        offset = 0


class LocalHost:
    """See :class:`pipelines.train.loop.Host`. Its batches are on their way as soon as it is there."""

    workers = 1
    first = True
    labeling = None

    def __init__(self, job: TrainJob, device: torch.device) -> None:
        self.device, self.pool = device, None
        self._at: str | None
        train, cpus = job.recipe.train, local_cpus()
        self.threads = min(train.threads or cpus, cpus)
        self.checkpoints = Checkpoints(child(job.out, LOCAL))
        latest = self.checkpoints.latest()
        step, self._at = (0, None) if latest is None else latest
        self._streams = _streams(job, step)

    def wrap(self, network: torch.nn.Module) -> torch.nn.Module:
        """Return it as it is."""
        return network

    def batches(self, domain: str, batch_size: int) -> Iterator[dict[str, Any]]:  # noqa: ARG002 - as the recipe says
        """Yield batches from the step of the checkpoint on."""
        for batch in self._streams[domain]:
            yield {name: on_device(self.device, values) for name, values in batch.items()}

    @contextmanager
    def checkpoint(self) -> Iterator[Path | None]:
        """Yield the folder of the last checkpoint that was kept; None without one."""
        if self._at is None:
            yield None
            return
        with local_copy(self._at) as folder:
            yield folder

    def wait_for_all(self) -> None:
        """Return at once: there are no other processes."""

    def is_leaving(self) -> bool:
        """Return False: nobody tells this process to leave."""
        return False

    def report(self, metrics: dict[str, float], step: int, write: Callable[[Path], object] | None = None) -> None:
        """Keep a checkpoint."""
        if write is not None:
            self.checkpoints.keep(write, metrics, step)

    def close(self) -> None:
        """End the processes that make batches."""
        for stream in self._streams.values():
            stream.close()


def _streams(job: TrainJob, step: int) -> dict[str, Stream]:
    """Batches of each corpus that the recipe reads, from ``step`` on. They depend on the seed, not on the losses."""
    recipe, streams = job.recipe, {}
    for domain, sampling in sampling_of(recipe).items():
        units = training_units(corpus_of(job, domain))
        size = batch_size_of(recipe, domain)
        blocks = Blocks(units, sampling, size, (recipe.train.seed % 2**64, crc32(domain.encode())))
        streams[domain] = batches_of(blocks, size, step, min(recipe.train.data_tasks, local_cpus()))
    return streams


def train_local(
    job: TrainJob, device: str | torch.device | None = None, prepared: Prepared | None = None
) -> TrainResult:
    """Run a training job to its end in this process; needs no Ray.

    Args:
        job: what to train, as :func:`alone` has it.
        device: ``cpu``, ``cuda``, ``cuda:1``; by default the first GPU, or the CPU where there is none.
        prepared: of :func:`pipelines.train.job.prepare` for what :func:`alone` makes of the job and this device, by who
            has ``out`` to himself; without it both is seen to here.

    Raises:
        ConfigError: as :func:`pipelines.train.job.prepare`; another training is writing ``out``; no such device.
    """
    job, where = alone(job), device_of(device)
    if prepared is None:
        with only_one(job.out, "training", PATIENCE_S):
            return train_local(job, where, prepare(job, device=where))
    if prepared.done is not None:
        return already_trained(job, prepared.done)
    begin(job)
    host = LocalHost(job, where)  # before the networks: what it forks is small then, and works while they are built
    try:
        with pool_of_one(job) as host.pool:
            Loop(job, host, prepared.vgg19).run()
            labels = label_summary(None if host.pool is None else (host.pool, None))
    finally:
        host.close()
    _, last = host.checkpoints.latest() or (0, "")  # there is one, of the last step
    with local_copy(last) as folder:
        return finish(job, folder, json.loads((folder / METRICS).read_text()), labels)
