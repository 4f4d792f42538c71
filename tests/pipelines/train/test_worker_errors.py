"""What is wrong in a task of Ray Data reaches the user as one line."""

from __future__ import annotations

import argparse
from typing import Any

import pyarrow as pa
import pytest

from models.config import ConfigError
from pipelines.cluster import data_context_defaults
from pipelines.command import run
from pipelines.evaluate.config import EvaluateConfig
from pipelines.evaluate.evaluator import ITEM_SCHEMA, ModelChoice, RowSettings
from pipelines.evaluate.job import measure
from pipelines.mapping import map_tables, map_tables_with

TABLES = [pa.table({"number": [1]})]


def refuse(_table: pa.Table) -> pa.Table:
    raise ConfigError("the folder is gone")


class Refusing:
    def __init__(self, why: str) -> None:
        self.why = why

    def __call__(self, _table: pa.Table) -> pa.Table:
        raise ConfigError(self.why)


def evaluated() -> Any:
    items = {name: [None] for name in ITEM_SCHEMA.names} | {"block": [0], "image_id": ["a"]}
    settings = RowSettings(models=(ModelChoice(label="ours", source="/nowhere"),), scorer=None)
    config = EvaluateConfig(data=("x",), out="y", concurrency=1)
    return measure([pa.table(items, schema=ITEM_SCHEMA)], settings, config)


@pytest.mark.usefixtures("ray_cluster")
@pytest.mark.parametrize(
    ("work", "message"),
    [
        (lambda: map_tables(TABLES, refuse), "the folder is gone"),
        (lambda: map_tables_with(TABLES, Refusing, {"why": "no such model"}), "no such model"),
        (evaluated, "no model '/nowhere'"),
    ],
)
def test_it_is_one_line_and_exit_code_2(work: Any, message: str, capfd: pytest.CaptureFixture[str]) -> None:
    def main(_args: argparse.Namespace) -> None:
        data_context_defaults()
        list(work())

    assert run(main, argparse.ArgumentParser(), []) == 2
    out, err = capfd.readouterr()
    assert f"error: {message}" in err
    assert "Traceback" not in out + err
