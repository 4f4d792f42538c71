"""The batch of a step when there are fewer training workers than the recipe has."""

from __future__ import annotations

import pytest

from models.config import ConfigError
from pipelines.train.recipe import Recipe, load_recipe
from pipelines.train.shares import asks_of, share_of


def recipe_of(workers: int, size: int, real: int, parts: int, fewest: int = 1) -> Recipe:
    train = f"train={{workers: {workers}, min_workers: {fewest}, batch_size: {size}}}"
    more = (f"labels.batch_size={real}", f"optimizer.accumulate={parts}")
    return load_recipe("colabator_corun_compact", (train, *more))


@pytest.mark.parametrize(
    ("workers", "count", "size", "real", "parts"),
    [
        (1, 1, 5, 2, 1),
        (2, 1, 3, 1, 1),
        (3, 1, 2, 2, 2),
        (3, 2, 4, 2, 2),
        (4, 1, 6, 3, 3),
        (4, 3, 6, 6, 2),
        (4, 4, 1, 1, 1),
    ],
)
def test_the_batch_of_all_stays(workers: int, count: int, size: int, real: int, parts: int) -> None:
    recipe = recipe_of(workers, size, real, parts, fewest=count)
    share = share_of(recipe, count)
    assert share.train.batch_size * count == size * workers
    assert share.labels.batch_size * count == real * workers
    assert share.train.batch_size % share.optimizer.accumulate == 0
    assert share.labels.batch_size % share.optimizer.accumulate == 0
    if count == workers:
        assert share == recipe
    if workers % count == 0:  # memory is what it was
        assert share.train.batch_size // share.optimizer.accumulate == size // parts


def test_what_fewer_workers_could_not_share_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"2 workers cannot share .*: labels.batch_size is 1, times 3; .* of 2"):
        recipe_of(3, 2, 1, 1)
    with pytest.raises(ConfigError, match="min_workers is 4, above workers, which is 3"):
        recipe_of(3, 2, 2, 1, fewest=4)


def test_room_is_wanted_for_the_fewest() -> None:
    asked = {ask.what: ask.count for ask in asks_of(recipe_of(4, 6, 6, 1, fewest=2))}
    assert asked["training worker"] == 2
