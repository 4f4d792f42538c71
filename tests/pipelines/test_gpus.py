"""What the jobs ask of a Ray that has a GPU, made up on a machine that has none."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

START = """
import sys
from pathlib import Path
import pyarrow as pa
import ray
from pipelines.cluster import data_context_defaults
from pipelines.nodes import placed

def lent():
    return ray.get_runtime_context().get_assigned_resources().get("GPU", 0.0)

ray.init(address="local", num_cpus=2, num_gpus=1, include_dashboard=False, logging_level="ERROR", log_to_driver=False)
data_context_defaults()
"""
EVALUATE = """
from pipelines.evaluate import EvaluateConfig, job
from pipelines.evaluate.evaluator import RowSettings

class Evaluator:
    def __init__(self, settings):
        self.lent = lent()
    def __call__(self, table):
        return pa.table({"group": ["photographs"], "image_id": ["0"], "lent": [self.lent]})

job.Evaluator = Evaluator
for asked, concurrency in ((None, 2), (0.5, 2)):
    config = EvaluateConfig(data=("x",), out="x", device="auto", num_gpus=asked, concurrency=concurrency)
    device, gpus = placed(config.device, config.num_gpus)
    found = job.measure([pa.table({"n": [n]}) for n in range(4)], RowSettings(device=device), config, gpus)
    print(device, sorted({table["lent"][0].as_py() for table in found}))
"""
DEHAZE = """
from collections import Counter
from pipelines.dehaze import cluster_job
from pipelines.dehaze.plan import make_plan
from pipelines.dehaze.outcome import FolderReport
from pipelines.dehaze.work import PhotoResult

class Setup:
    threads = 1
    def worker(self):
        class Worker:
            def work(self, number, batch):
                for task in batch:
                    Path(task.source + ".lent").write_text(str(lent()))
                return [PhotoResult(task.source, "written", "") for task in batch]
        return Worker()

folder = Path(sys.argv[1])
for number in range(3):
    (folder / f"{number}.jpg").touch()
report = FolderReport(3, None)
pool = cluster_job.WorkerPool(concurrency=2, num_gpus=placed("auto")[1])
cluster_job.execute(make_plan([str(folder)], str(folder / "out"), None), Setup(), pool, report)
print(report.counts["written"], *(path.read_text() for path in folder.glob("*.lent")))
"""
INGEST = """
from pipelines.mapping import map_tables_with

class Model:
    def __init__(self):
        self.lent = lent()
    def __call__(self, table):
        return pa.table({"lent": [self.lent]})

(table,) = map_tables_with([pa.table({"n": [1]})], Model, {}, concurrency=1, cpus=1, gpus=placed("cuda", 0.25)[1])
print(table["lent"].to_pylist())
"""


def printed(script: str, folder: Path) -> str:
    environment = os.environ | {"PYTHONPATH": str(Path.cwd())}
    command = [sys.executable, "-c", START + script, str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_evaluation(tmp_path: Path) -> None:
    assert printed(EVALUATE, tmp_path).splitlines() == ["cuda [1.0]", "cuda [0.5]"]


def test_dehazing(tmp_path: Path) -> None:
    assert printed(DEHAZE, tmp_path).split() == ["3", "1.0", "1.0", "1.0"]


def test_depth_models(tmp_path: Path) -> None:
    assert printed(INGEST, tmp_path).split() == ["[0.25]"]
