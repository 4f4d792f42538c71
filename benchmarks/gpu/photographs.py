"""What :mod:`benchmarks.gpu.pack` wrote, as rows and as batches made by worker processes. No pyarrow, no Ray."""

from __future__ import annotations

import json
import os
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from models.config import ConfigError
from pipelines.train import on_device

PACK = "photographs.zip"
INDEX = "index.json"

Samples = dict[str, NDArray[Any]]


def read_rows(folder: Path, domain: str, split: str) -> list[dict[str, Any]]:
    """Read ``image_id``, ``image``, ``depth`` and ``kind`` of the photographs of a domain and split.

    Raises:
        ConfigError: no pack there, or none of these in it.
    """
    if not (folder / PACK).is_file():
        raise ConfigError(f"{folder} has no {PACK}; make one with `python -m benchmarks.gpu.pack`")
    rows = []
    with zipfile.ZipFile(folder / PACK) as archive:
        for one in json.loads(archive.read(INDEX)):
            if (one["domain"], one["split"]) == (domain, split):
                depth = archive.read(f"depth/{one['image_id']}.png") if one["depth"] else None
                image = archive.read(f"{domain}/{one['image_id']}.jpg")
                rows.append({"image_id": one["image_id"], "image": image, "depth": depth, "kind": one["kind"]})
    if not rows:
        raise ConfigError(f"{folder / PACK} has no {domain} photographs of the split {split}")
    return rows


class _Endless(IterableDataset[Samples]):
    """Samples of a few photographs at a time, all photographs in turn, in another order in each round and worker."""

    def __init__(self, rows: list[dict[str, Any]], count: int, function: Callable[..., Samples], seed: int) -> None:
        self._rows, self._count, self._function, self._seed = rows, count, function, seed

    def __iter__(self) -> Iterator[Samples]:
        worker = get_worker_info()
        random = np.random.default_rng([self._seed, 0 if worker is None else worker.id])
        waiting: list[int] = []
        while True:
            while len(waiting) < self._count:
                waiting += random.permutation(len(self._rows)).tolist()
            chosen, waiting = waiting[: self._count], waiting[self._count :]
            yield self._function([self._rows[index] for index in chosen], seed=int(random.integers(2**31)))


def _as_it_is(samples: Samples) -> Samples:
    return samples


def batches(
    rows: list[dict[str, Any]], count: int, function: Callable[..., Samples], device: torch.device, *, seed: int
) -> Iterator[dict[str, Any]]:
    """Yield batches without end, made by as many processes as cores are allowed here but two: images as N3HW in [0, 1],
    maps as N1HW, numbers as they are, on ``device``.

    Args:
        rows: photographs.
        count: photographs per batch.
        function: of ``pipelines.train``; takes rows and ``seed``, gives samples.
        device: where they go.
        seed: of their order.
    """
    workers = max(1, len(os.sched_getaffinity(0)) - 2)
    loader = DataLoader(
        _Endless(rows, count, function, seed), batch_size=None, collate_fn=_as_it_is, num_workers=min(workers, 14),
        prefetch_factor=4, multiprocessing_context="fork",
    )  # fmt: skip
    for samples in loader:
        yield {key: on_device(device, value) for key, value in samples.items()}
