"""Functions over Arrow tables on a Ray cluster: a task, or an actor's call, for each table."""

from __future__ import annotations

import functools
import os
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pyarrow as pa

from models.config import ConfigError

_PROBLEM = "what went wrong"  # column


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

    return _map(tables, Guarded(function), compute=TaskPoolStrategy(size=concurrency))


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
    with warnings.catch_warnings():
        # As an argument, GPUs ask for a batch size, which would join tables. Ray 2.60 warns that the other way will go.
        warnings.filterwarnings("ignore", message="`ray_remote_args_fn` is deprecated")
        return _map(
            tables,
            GuardedMaker,
            compute=pool,
            fn_constructor_kwargs={"maker": maker, "arguments": arguments},
            ray_remote_args_fn=lambda: {"num_gpus": gpus},
        )


def _map(tables: list[pa.Table], function: Any, **options: Any) -> Iterator[pa.Table]:
    from ray.data import from_arrow

    if not tables:
        return iter(())
    dataset = from_arrow(tables).map_batches(function, batch_size=None, batch_format="pyarrow", **options)
    dataset.context.enable_progress_bars = False  # callers count photographs
    return (checked(table) for table in dataset.iter_batches(batch_size=None, batch_format="pyarrow"))


class Guarded:
    """A function whose errors that the user has to know of come back as a table: of an exception, Ray Data keeps but
    its traceback.
    """

    def __init__(self, function: Callable[[pa.Table], pa.Table]) -> None:
        self._function = function

    def __call__(self, table: pa.Table) -> pa.Table:
        """The function's table, or one that :func:`checked` knows."""
        try:
            return self._function(table)
        except ConfigError as problem:
            return pa.table({_PROBLEM: [str(problem)]})
        except OSError as problem:
            return pa.table({_PROBLEM: [str(problem)], "errno": [problem.errno or 0], "file": [problem.filename or ""]})


class GuardedMaker(Guarded):
    """The same for an object that is made where it is used, with the first table: what it cannot load is an error then,
    not the death of an actor.
    """

    def __init__(self, maker: type, arguments: dict[str, Any]) -> None:
        make = functools.cache(lambda: maker(**arguments))

        def function(table: pa.Table) -> pa.Table:
            made: pa.Table = make()(table)
            return made

        super().__init__(function)


def checked(table: pa.Table) -> pa.Table:
    """What :class:`Guarded` gave, unless it is an error.

    Raises:
        ConfigError, OSError: as the function did.
    """
    if _PROBLEM not in table.column_names:
        return table
    (found,) = table.to_pylist()
    if "errno" not in found:
        raise ConfigError(found[_PROBLEM])
    if not found["errno"]:
        raise OSError(found[_PROBLEM])
    raise OSError(found["errno"], os.strerror(found["errno"]), found["file"] or None)
