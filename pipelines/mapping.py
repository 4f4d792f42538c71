"""Functions over Arrow tables on a Ray cluster: a task, or an actor's call, for each table."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pyarrow as pa

from pipelines.disk_errors import as_config_error


def map_tables(
    tables: Sequence[pa.Table], function: Callable[[pa.Table], pa.Table], concurrency: int | None = None
) -> Iterator[pa.Table]:
    """Apply a function to every table, each in a task of its own; results in the order they are done.

    Args:
        tables: what the tasks get; what they hold passes through the driver, so it is names and numbers, no images.
        function: a function that Ray can send to its workers.
        concurrency: tasks at a time; None for as many as there are CPUs.
    """
    from ray.data import TaskPoolStrategy

    return _map(tables, functools.partial(_plainly, function), compute=TaskPoolStrategy(size=concurrency))


def map_tables_with(
    tables: Sequence[pa.Table],
    maker: type,
    arguments: dict[str, Any],
    *,
    concurrency: int | None = None,
    cpus: float | None = None,
    gpus: float = 0.0,
    retries: int | None = None,
) -> Iterator[pa.Table]:
    """Map tables as :func:`map_tables` does, with objects that are dear to make, such as models: each actor makes one
    and calls it.

    Args:
        tables: as for :func:`map_tables`.
        maker: a class; its objects are called with tables.
        arguments: keywords it is made with.
        concurrency: actors at most; None for two.
        cpus: what each actor asks of Ray; None for its default.
        gpus: likewise.
        retries: how often a table whose actor died goes to another; None for as often as it takes.
    """
    from ray.data import ActorPoolStrategy

    more: dict[str, Any] = {} if retries is None else {"max_restarts": -1, "max_task_retries": retries}
    most = concurrency or 2
    # As many as there is room for; whoever bounds retries has a fixed number of them.
    pool = ActorPoolStrategy(min_size=1, max_size=most) if retries is None else ActorPoolStrategy(size=most)
    with warnings.catch_warnings():
        # As an argument, GPUs ask for a batch size, which would join tables, and without a bound a table that kills its
        # actor would do so for ever. Ray 2.60 warns that the way to set both will go, and has no other one yet.
        warnings.filterwarnings("ignore", message="`ray_remote_args_fn` is deprecated")
        return _map(
            tables,
            _Made,
            compute=pool,
            num_cpus=cpus,
            fn_constructor_kwargs={"maker": maker, "arguments": arguments},
            ray_remote_args_fn=lambda: {"num_gpus": gpus, **more},
        )


def _map(tables: Sequence[pa.Table], function: Any, **options: Any) -> Iterator[pa.Table]:
    from ray.data import from_arrow

    if not tables:
        return iter(())
    dataset = from_arrow(list(tables)).map_batches(function, batch_size=None, batch_format="pyarrow", **options)
    dataset.context.enable_progress_bars = False  # callers count photographs
    return iter(dataset.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0))


def _plainly(function: Callable[[pa.Table], pa.Table], table: pa.Table) -> pa.Table:
    """Call it; what a disk refuses is an error of one line: Ray Data changes the arguments of those of the system."""
    with as_config_error():
        return function(table)


class _Made:
    """An object that is made where it is used, with the first table: what it cannot load is an error, not the
    death of an actor.
    """

    def __init__(self, maker: type, arguments: dict[str, Any]) -> None:
        self._make = functools.cache(lambda: maker(**arguments))

    def __call__(self, table: pa.Table) -> pa.Table:
        """The object's table."""
        with as_config_error():
            made: pa.Table = self._make()(table)
            return made
