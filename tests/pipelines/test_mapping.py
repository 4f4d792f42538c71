"""Errors on their way from workers to the driver: what the user has to know of is itself again."""

from __future__ import annotations

import errno
import pickle
from collections.abc import Callable

import pyarrow as pa
import pytest

from models.config import ConfigError
from pipelines.mapping import Guarded, GuardedMaker, checked, map_tables

TABLE = pa.table({"a": [1]})


def raising(problem: Exception) -> Callable[[pa.Table], pa.Table]:
    def function(table: pa.Table) -> pa.Table:
        raise problem

    return function


def test_what_goes_well_is_what_it_was() -> None:
    assert checked(Guarded(lambda table: table)(TABLE)) == TABLE


@pytest.mark.parametrize(
    ("problem", "message"),
    [
        (ConfigError("no column of images"), "^no column of images$"),
        (OSError(errno.ENOSPC, "full", "/out/x"), r"^\[Errno 28\] No space left on device: '/out/x'$"),
        (OSError("of pyarrow"), "^of pyarrow$"),
    ],
)
def test_errors_of_the_user_come_back(problem: Exception, message: str) -> None:
    told = pickle.loads(pickle.dumps(Guarded(raising(problem))(TABLE)))  # noqa: S301 - as Ray sends it
    with pytest.raises(type(problem), match=message):
        checked(told)


def test_defects_stay_what_they_are() -> None:
    with pytest.raises(KeyError):
        Guarded(raising(KeyError("x")))(TABLE)


def test_an_object_is_made_where_it_is_used() -> None:
    class Adding:
        def __init__(self, number: int) -> None:
            self.number = number

        def __call__(self, table: pa.Table) -> pa.Table:
            return pa.table({"a": [self.number + table["a"][0].as_py()]})

    assert checked(GuardedMaker(Adding, {"number": 2})(TABLE)).to_pylist() == [{"a": 3}]


@pytest.mark.usefixtures("ray_cluster")
def test_errors_come_back_through_ray() -> None:
    with pytest.raises(OSError, match="No space left on device: '/out/x'"):
        list(map_tables([TABLE], raising(OSError(errno.ENOSPC, "full", "/out/x"))))
