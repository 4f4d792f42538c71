"""An ingest that is killed goes on where it stopped, and no photograph is lost or written twice."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from pipelines.corpus.format import open_corpus

Folder = Callable[..., Path]
pytestmark = pytest.mark.faults

KILLS = 3
COUNT = 250
# Small tasks and shards, so that there is much to lose. The ingest starts a Ray of its own and ends it with itself.
SCRIPT = """
import sys
from pipelines.ingest import examine, ingest
from pipelines.ingest.config import IngestConfig
examine._FILES = 8
print(ingest(IngestConfig(sources=(sys.argv[1],), domain="hazy", out=sys.argv[2], shard_mb=0.05)).accepted)
"""


def stored(out: Path) -> dict[str, bytes]:
    rows = [row for file in open_corpus(out).files() for row in pq.read_table(file).to_pylist()]
    assert len({row["image_id"] for row in rows}) == len(rows)
    return {row["uri"]: row["image"] for row in rows}


def start(source: Path, out: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", SCRIPT, str(source), str(out)],
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, start_new_session=True,
    )  # fmt: skip


def kill(process: subprocess.Popen[str]) -> None:
    """The driver and, as they are of its session, the Ray processes it started."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def progress(out: Path) -> int:
    return len(list(out.glob(".examined/*.parquet"))) + len(list(out.glob("t*.parquet")))


def test_killed_again_and_again(photo_folder: Folder, tmp_path: Path) -> None:
    source, out = photo_folder(count=COUNT), tmp_path / "out"
    seen = []
    for _ in range(KILLS):
        before = progress(out)
        process = start(source, out)
        deadline = time.monotonic() + 120
        while progress(out) < before + 3 and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.02)
        kill(process)
        assert not (out / "manifest.json").exists(), "finished before it was killed: the test has no force"
        seen.append(progress(out))
    assert seen == sorted(seen)
    assert seen[-1] > seen[0] > 0
    process = start(source, out)
    text, _ = process.communicate(timeout=300)
    assert process.returncode == 0
    assert int(text.split()[-1]) == COUNT
    assert f"of {COUNT} photographs are known from before" in text
    found = stored(out)
    assert len(found) == COUNT
    assert all(Path(uri).read_bytes() == image for uri, image in found.items())
    assert not list(out.glob(".*"))
