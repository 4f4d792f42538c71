"""Tables in parts, and the tasks that work on them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from pipelines.ingest.decide.parts import Work, gather, load_all, scatter


def total(number: int, uri: str, power: int) -> int:
    return int(load_all(uri)["x"].to_numpy().sum()) ** power + number


@pytest.mark.usefixtures("ray_cluster")
def test_jobs_run_in_tasks_and_results_are_in_their_order(tmp_path: Path) -> None:
    from functools import partial

    work = Work(str(tmp_path / "work"), 3)
    jobs = []
    for number in range(4):
        uri = work.place("numbers", number)
        scatter(uri, pa.table({"x": np.arange(number + 1)}), np.arange(number + 1) % 3, 3)
        jobs.append({"number": number, "uri": uri})
    assert work.run(partial(total, power=2), jobs) == [0, 2, 11, 39]
    assert [gather([job["uri"] for job in jobs], part)["x"].to_pylist() for part in range(3)] == [
        [0, 0, 0, 0, 3], [1, 1, 1], [2, 2],
    ]  # fmt: skip
    work.clear()
    assert not (tmp_path / "work").exists()
