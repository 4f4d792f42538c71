"""Functions over Arrow tables on a Ray cluster: a task, or an actor's call, for each table."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pyarrow as pa


def map_tables(
    tables: list[pa.Table], function: Callable[[pa.Table], pa.Table], concurrency: int | None = None
) -> Iterator[pa.Table]:
    """Apply a function to every table, each in a task of its own; results in the order they are done.

    Args:
        tables: what the tasks get; what they hold passes through the driver, so it is names and numbers, no images.
        function: a function that Ray can send to its workers.
        concurrency: tasks at a time; None for as many as there are CPUs.
    """
    from ray.data import TaskPoolStrategy

    return _map(tables, function, compute=TaskPoolStrategy(size=concurrency))


def map_tables_with(
    tables: list[pa.Table], maker: type, arguments: dict[str, Any], concurrency: int | None = None, gpus: float = 0.0
) -> Iterator[pa.Table]:
    """The same with objects that are dear to make, such as models: each actor makes one and calls it.

    Args:
        tables: as for :func:`map_tables`.
        maker: a class; its objects are called with tables.
        arguments: keywords it is made with.
        concurrency: actors at most; None for two.
        gpus: what each actor asks of Ray.
    """
    from ray.data import ActorPoolStrategy

    pool = ActorPoolStrategy(min_size=1, max_size=concurrency or 2)
    return _map(tables, maker, compute=pool, fn_constructor_kwargs=arguments, num_gpus=gpus or None)


def _map(tables: list[pa.Table], function: Any, **options: Any) -> Iterator[pa.Table]:
    from ray.data import from_arrow

    if not tables:
        return iter(())
    dataset = from_arrow(tables).map_batches(function, batch_size=None, batch_format="pyarrow", **options)
    dataset.context.enable_progress_bars = False  # callers count photographs
    return iter(dataset.iter_batches(batch_size=None, batch_format="pyarrow"))
