"""Errors on their way from workers to the driver: what the user has to know of is itself again."""

from __future__ import annotations

import errno

import pyarrow as pa
import pytest

from models.config import ConfigError
from pipelines.cluster import data_context_defaults
from pipelines.command import sentence, user_error
from pipelines.mapping import map_tables, map_tables_with

TABLE = pa.table({"a": [1]})


class Adding:
    def __init__(self, number: int) -> None:
        if number < 0:
            raise ConfigError("no weights there")
        self.number = number

    def __call__(self, table: pa.Table) -> pa.Table:
        return pa.table({"a": [self.number + table["a"][0].as_py()]})


@pytest.mark.usefixtures("ray_cluster")
@pytest.mark.parametrize(
    ("problem", "line"),
    [
        (ConfigError("no column of images"), "no column of images"),
        (OSError(errno.ENOSPC, "full", "/x"), "full: /x; free some space and repeat the command"),
        (OSError("of pyarrow"), "of pyarrow"),
    ],
)
def test_errors_of_a_task_come_back_as_one_line(problem: Exception, line: str) -> None:
    def raising(table: pa.Table) -> pa.Table:
        raise problem

    data_context_defaults()
    with pytest.raises(ConfigError) as raised:
        list(map_tables([TABLE], raising))
    found = user_error(raised.value)
    assert found is not None
    assert sentence(found) == line


@pytest.mark.usefixtures("ray_cluster")
def test_an_object_is_made_where_it_is_used() -> None:
    data_context_defaults()
    (table,) = map_tables_with([TABLE], Adding, {"number": 2})
    assert table.to_pylist() == [{"a": 3}]
    with pytest.raises(ConfigError, match="no weights there"):
        list(map_tables_with([TABLE], Adding, {"number": -1}))
