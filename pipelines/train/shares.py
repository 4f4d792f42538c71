"""What each training worker does of a step, when there are fewer than the recipe has."""

from __future__ import annotations

import math
from typing import Any

from pipelines.train.recipe import Recipe


def share_of(recipe: Recipe, count: int) -> Recipe:
    """The recipe of each of so many workers that together take the steps of all ``train.workers``.

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
