"""Dehazing a folder while processes are killed and disks fill up: nothing is lost, nothing half written is left."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from pipelines.dehaze.record import RECORD

Folder = Callable[..., Path]
pytestmark = pytest.mark.faults

COUNT, BATCH, KILLS = 240, 8, 6
# Small batches and slow photographs, so that there is something to kill. A line for every photograph that is dehazed.
JOB = f"""
import os, sys, time
from pathlib import Path
from pipelines.dehaze import cluster_job, local_job, work
from models.predictor import Predictor
LOG = sys.argv.pop()
work.BATCH = {BATCH}
class Slow(work.WorkerSetup):
    def worker(self):
        whole = Predictor.dehaze_bytes
        def slow(predictor, *args):
            time.sleep(0.03)
            with Path(LOG).open("a") as log:
                log.write(f"{{os.getpid()}}\\n")
            return whole(predictor, *args)
        Predictor.dehaze_bytes = slow
        return super().worker()
local_job.WorkerSetup = Slow
sys.exit(cluster_job.main([*sys.argv[1:], "--model", "dcp", "--concurrency", "2"]))
"""


def start(source: Path, out: Path, log: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", JOB, str(source), str(out), str(log)],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
    )  # fmt: skip


def results(out: Path) -> list[Path]:
    return sorted(out.rglob("*.jpg"))


def wait_for(out: Path, count: int, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 180
    while len(results(out)) < count and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    assert process.poll() is None, f"it ended before it was killed: {process.communicate()[0]}"


def workers(log: Path) -> list[int]:
    """Processes that dehaze now: the latest of those that wrote to the log and are alive."""
    pids = dict.fromkeys(int(line) for line in log.read_text().split())
    return [pid for pid in pids if Path(f"/proc/{pid}").exists()]


def all_whole(source: Path, out: Path) -> None:
    assert [path.relative_to(out) for path in results(out)] == [path.relative_to(source) for path in results(source)]
    for path in results(out):
        with Image.open(path) as image:
            image.load()


def killed_group(process: subprocess.Popen[str]) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def test_killed_workers_cost_their_batch_only(photo_folder: Folder, tmp_path: Path) -> None:
    source, out, log = photo_folder(count=COUNT, height=48, width=64), tmp_path / "out", tmp_path / "log"
    process = start(source, out, log)
    killed: set[int] = set()
    try:
        for number in range(1, KILLS + 1):
            wait_for(out, number * COUNT // (KILLS + 3), process)
            victim = next(pid for pid in workers(log) if pid not in killed)
            os.kill(victim, signal.SIGKILL)
            killed.add(victim)
        said, _ = process.communicate(timeout=300)
    finally:
        killed_group(process)
    assert process.returncode == 0, said
    all_whole(source, out)
    assert not (out / "failures.csv").exists()
    done = len(log.read_text().split())
    assert done - COUNT <= KILLS, "a killed worker repeats the photograph it had in hand, and none that was written"
    print(f"{COUNT} photographs, {KILLS} workers killed: {done - COUNT} dehazed twice")


def test_a_killed_driver_goes_on_where_it_stopped(photo_folder: Folder, tmp_path: Path) -> None:
    source, out, log = photo_folder(count=COUNT, height=48, width=64), tmp_path / "out", tmp_path / "log"
    for share in (0.2, 0.5):
        process = start(source, out, log)
        wait_for(out, int(share * COUNT), process)
        killed_group(process)
        while workers(log):  # they notice that their driver is gone a moment later
            time.sleep(0.05)
    before = {path: path.stat().st_mtime_ns for path in results(out)}
    assert len(before) < COUNT
    process = start(source, out, log)
    said, _ = process.communicate(timeout=300)
    assert process.returncode == 0, said
    assert f"{COUNT - len(before)} dehazed, {len(before)} there already, 0 failed" in said
    all_whole(source, out)
    assert {path: path.stat().st_mtime_ns for path in before} == before
    print(f"killed at {len(before)} of {COUNT}; {len(log.read_text().split()) - COUNT} dehazed twice")


MOUNTED = 'mount -t tmpfs -o size=256k tmpfs "$0" && "$@"; code=$?; cp -r "$0"/. "$0.seen"; exit $code'


@pytest.mark.parametrize("job", ["dehaze.apply", "dehaze"])
def test_a_full_disk(photo_folder: Folder, tmp_path: Path, own_mounts: list[str], job: str) -> None:
    """A file system of 256 KiB, in a mount namespace of its own; what was in it is copied out for a look."""
    source, out = photo_folder(count=60, height=96, width=128), tmp_path / "out"
    out.mkdir()
    (tmp_path / "out.seen").mkdir()
    command = [sys.executable, "-m", f"pipelines.{job}", str(source), str(out), "--model", "dcp"]
    done = subprocess.run(
        [*own_mounts, "sh", "-c", MOUNTED, str(out), *command],
        capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip
    assert done.returncode == 3, done.stderr
    assert "No space left on device" in done.stderr
    assert "free some space and repeat the command" in done.stderr
    assert "Traceback" not in done.stderr
    seen = tmp_path / "out.seen"
    assert (seen / RECORD).exists()
    written = results(seen)
    assert 5 < len(written) < 60
    for path in written:
        assert path.read_bytes().endswith(b"\xff\xd9"), f"{path} is cut off"
    assert not list(seen.rglob(".*.tmp"))
