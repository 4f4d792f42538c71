"""Training with labels when processes are killed: label workers, training workers, the driver.

The run is a command of its own on the tests' cluster, as a submitted job would be. Every step is in MLflow, repeated
ones twice, so that its history tells what was done again.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from pipelines.ingest.config import IngestConfig
from pipelines.ingest.job import ingest
from pipelines.train.recipe import load_recipe
from tests.conftest import make_photo
from tests.waiting import wait_for

pytestmark = [pytest.mark.faults, pytest.mark.usefixtures("ray_cluster")]

STEPS, INTERVAL = 48, 6
PHOTOGRAPHS = 24
PATIENCE = 600  # seconds; a quiet machine needs a tenth
SETTINGS = (
    "network={name: corun, stages: 1, dim: 2}",
    "init=null",
    "crop={size: 32, per_photo: 2}",
    "labels={size: 32, batch_size: 1, workers: 2, publish_every: 2, max_teacher_lag: 1000}",
    f"train={{steps: {STEPS}, batch_size: 1, workers: 2, threads: 1, data_tasks: 1}}",
    f"train.checkpoint_every={INTERVAL}",
    "train.log_every=1",
    "train.failures=1",
)


@pytest.fixture(scope="module")
def corpora(ray_cluster: None, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    root, made = tmp_path_factory.mktemp("corpora"), {}
    for domain, count in (("clear", 24), ("hazy", PHOTOGRAPHS)):
        (root / domain).mkdir()
        for index in range(count):
            pixels = make_photo(index + (50 if domain == "hazy" else 0), hazy=domain == "hazy")
            Image.fromarray(pixels).save(root / domain / f"{index}.png")
        made[domain] = str(root / "corpus" / domain)
        # Small shards: label workers share the photographs by row groups.
        ingest(
            IngestConfig(
                sources=(str(root / domain),), domain=domain, out=made[domain], test_fraction=0.0, shard_mb=0.1
            )
        )
    return made


class Run:
    """One training command, and what its files tell."""

    def __init__(self, corpora: dict[str, str], folder: Path) -> None:
        self.out, self.log = folder / "out", folder / "log.txt"
        self.uri = f"sqlite:///{folder / 'mlflow.db'}"
        self._corpora = corpora
        self.seen: dict[int, int] = {}

    def start(self) -> subprocess.Popen[bytes]:
        import ray

        command = [sys.executable, "-m", "pipelines.train", "--recipe", "colabator_corun_compact"]
        for setting in SETTINGS:
            command += ["--set", setting]
        for domain, corpus in self._corpora.items():
            command += [f"--{domain}", corpus]
        command += ["--out", str(self.out), "--tracking-uri", self.uri]
        command += ["--address", ray.get_runtime_context().gcs_address]
        with self.log.open("ab") as log:
            return subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, start_new_session=True)

    def steps(self) -> list[int]:
        """Steps in the order in which they were done."""
        from mlflow import MlflowClient

        record = self.out / "tracking.json"
        if not record.is_file():
            return []
        run_id = json.loads(record.read_text())["run_id"]
        history = MlflowClient(self.uri).get_metric_history(run_id, "colabator/loss")
        return [metric.step for metric in sorted(history, key=lambda metric: metric.timestamp)]

    def until(self, step: int, process: subprocess.Popen[bytes]) -> None:
        """Wait for that step."""
        deadline = time.monotonic() + PATIENCE
        while max(self.steps(), default=0) < step:
            assert process.poll() is None, self.text()
            assert time.monotonic() < deadline, self.text()
            time.sleep(0.1)

    def offers(self) -> dict[int, int]:
        """Offers up to each snapshot of the pool that there is."""
        found = {}
        for path in self.out.glob("pool-snapshots/*/step-*/manifest.json"):
            parts = json.loads(path.read_text())["parts"]
            found[int(path.parent.name.rpartition("-")[2])] = sum(part["counters"]["offered"] for part in parts)
        return found

    def resumed(self) -> list[tuple[int, int, int]]:
        """Step, labels and offers of the pool that the run went on with, each time."""
        told = re.findall(
            r"goes on after step (\d+), with the label pool of then: (\d+) labels of (\d+) offers", self.text()
        )
        return [(int(step), int(labels), int(offers)) for step, labels, offers in told]

    def text(self) -> str:
        """What the command has printed, without what Ray Train says once a second where there is no dashboard."""
        lines = self.log.read_text().splitlines(keepends=True) if self.log.exists() else []
        return "".join(line for line in lines if "PlacementGroupCleaner" not in line)

    def result(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.out / "result.json").read_text())
        return found


@pytest.fixture
def run(corpora: dict[str, str], tmp_path: Path) -> Iterator[tuple[Run, Callable[[], subprocess.Popen[bytes]]]]:
    """The run and what starts it; whatever is left of it at the end is stopped."""
    made, started = Run(corpora, tmp_path), []

    def start() -> subprocess.Popen[bytes]:
        started.append(made.start())
        return started[-1]

    yield made, start
    for process in started:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def ours(title: str) -> list[int]:
    """Processes of the tests' own cluster whose title begins so, oldest first."""
    parents, titles = {}, {}
    for folder in Path("/proc").iterdir():
        with contextlib.suppress(OSError, ValueError):
            pid = int(folder.name)
            parents[pid] = int(re.findall(r"PPid:\s+(\d+)", (folder / "status").read_text())[0])
            titles[pid] = (folder / "cmdline").read_text()

    def descends(pid: int) -> bool:
        while pid > 1:
            if pid == os.getpid():
                return True
            pid = parents.get(pid, 0)
        return False

    return sorted(pid for pid, name in titles.items() if name.startswith(title) and descends(pid))


def assert_exact_resumption(run: Run, kills: int) -> None:
    """From the last checkpoint, with its pool, and no more than one interval again."""
    steps = run.steps()
    assert set(steps) == set(range(1, STEPS + 1)), "every step was done"
    assert len(steps) - STEPS <= kills * INTERVAL, steps
    backwards = [(before, after) for before, after in itertools.pairwise(steps) if after <= before]
    assert len(backwards) == kills, steps
    for (before, after), (step, labels, offers) in zip(backwards, run.resumed(), strict=True):
        assert after == step + 1
        assert before - step <= INTERVAL
        assert labels == PHOTOGRAPHS
        assert offers == run.seen[step], "the pool is that of the checkpoint"
    print(f"steps {backwards} (before, after each kill); {len(steps) - STEPS} of {STEPS} were done twice")


def assert_others_took_over(run: Run, killed_at: int) -> None:
    """Rounds that began after a label worker was killed labeled everything, without it."""
    after = [report for report in run.result()["labels"]["rounds"] if report["teacher_step"] > killed_at]
    assert after, "labeling went on"
    assert all(r["photographs"] == PHOTOGRAPHS and not r["failed"] for r in after if not r["left"])
    print(f"label worker killed after step {killed_at}; {len(after)} rounds later, of {PHOTOGRAPHS} photographs each")


def test_a_run_outlives_a_training_worker_its_driver_and_a_label_worker(
    run: tuple[Run, Callable[[], subprocess.Popen[bytes]]],
) -> None:
    """One after the other in one run, because starting it takes longest."""
    one, start = run
    process = start()
    one.until(INTERVAL + 2, process)  # well before the next checkpoint: steps go on while this looks
    os.kill(ours("ray::RayTrainWorker")[-1], signal.SIGKILL)
    one.seen = one.offers()

    one.until(3 * INTERVAL + 2, process)
    process.kill()
    process.wait()
    time.sleep(1.0)  # its workers notice
    one.seen |= {step: count for step, count in one.offers().items() if step not in one.seen}

    process = start()
    one.until(4 * INTERVAL + 2, process)
    wait_for(lambda: ours("ray::LabelWorker"), PATIENCE)  # with its pool restored, training does not wait for them
    os.kill(ours("ray::LabelWorker")[0], signal.SIGKILL)
    killed_at = max(one.steps())

    assert process.wait(PATIENCE) == 0, one.text()
    assert_exact_resumption(one, kills=2)
    assert one.text().count(f"labeled {PHOTOGRAPHS} photographs") == 1, "the pool was not seeded again"
    assert_others_took_over(one, killed_at)


def test_a_run_that_is_stopped_ends_in_mlflow_too(
    run: tuple[Run, Callable[[], subprocess.Popen[bytes]]],
) -> None:
    from mlflow import MlflowClient

    one, start = run
    process = start()
    one.until(2, process)
    process.terminate()
    assert process.wait(PATIENCE) != 0, one.text()
    run_id = json.loads((one.out / "tracking.json").read_text())["run_id"]
    assert MlflowClient(one.uri).get_run(run_id).info.status == "KILLED", one.text()


def test_the_settings_are_a_recipe() -> None:
    assert load_recipe("colabator_corun_compact", SETTINGS).train.steps == STEPS
