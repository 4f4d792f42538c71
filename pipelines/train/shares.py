"""What a run asks of a cluster, and what each training worker does of a step when there are fewer than it asks for."""

from __future__ import annotations

import math
from typing import Any

from pipelines.resources import Ask
from pipelines.train.recipe import Recipe
from pseudolabel.labeling import LabelingConfig
from pseudolabel.pool import SHARD_CPUS


def share_of(recipe: Recipe, count: int) -> Recipe:
    """Return the recipe of each of ``count`` workers that together take the steps of all ``train.workers``.

    Batches are as many times as large, and cut into more parts, so that memory and gradients are what they were.
    CDD-GAN takes them in one.
    """
    train, optimizer = recipe.train, recipe.optimizer
    if count == train.workers:
        return recipe
    larger = {name: size * train.workers // count for name, size in recipe.batch_sizes.items()}
    update: dict[str, Any] = {"train": train.model_copy(update={"batch_size": larger["train.batch_size"]})}
    if recipe.method == "colabator":
        update["labels"] = recipe.labels.model_copy(update={"batch_size": larger["labels.batch_size"]})
    if recipe.method != "cddgan":
        common = math.gcd(*larger.values())
        parts = [n for n in range(1, common + 1) if common % n == 0]
        enough = next((n for n in parts if n * count >= optimizer.accumulate * train.workers), common)
        update["optimizer"] = optimizer.model_copy(update={"accumulate": enough})
    return recipe.model_copy(update=update)


def trainers_of(recipe: Recipe) -> list[Ask]:
    """List what trains: the workers, and of their data tasks the one per corpus without which none gets a batch."""
    train = recipe.train
    corpora = 2 if recipe.method in ("colabator", "cddgan") else 1
    return [
        Ask(
            "training worker",
            train.fewest,
            train.worker_cpus,
            train.worker_gpus,
            "train.workers, min_workers, worker_gpus",
        ),
        Ask("data task", corpora, train.data_cpus, 0.0, "train.data_cpus"),
    ]


def labelers_of(recipe: Recipe) -> list[Ask]:
    """Return the asks of the label pool and, unless labels are ``inline``, of the label workers; none for other
    methods.
    """
    labels = recipe.labels
    if recipe.method != "colabator":
        return []
    pool = Ask("shard", labels.shards, SHARD_CPUS, 0.0, "labels.shards")
    if labels.mode == "inline":
        return [pool]
    coordinator = float(LabelingConfig.model_fields["coordinator_cpus"].default)
    return [
        pool,
        Ask("coordinator", 1, coordinator, 0.0, "labels.mode"),
        Ask("label worker", labels.workers, labels.worker_cpus, labels.worker_gpus, "labels.workers, worker_gpus"),
    ]


def asks_of(recipe: Recipe) -> list[Ask]:
    """Return the asks of all that a training run has at a time."""
    return trainers_of(recipe) + labelers_of(recipe)
