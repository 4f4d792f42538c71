"""What an evaluation promises when its workers are killed and when the disk is full."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

Folder = Callable[..., Path]
pytestmark = pytest.mark.faults

COUNT, BATCH = 24, 3
# A network that notes every photograph it sees and, told so, kills its worker with the eighth, as running out of memory
# would.
NETWORK = """
import os, signal
from pathlib import Path
from torch import nn

class Deadly(nn.Module):
    BANDED = False
    def __init__(self, log: str, lives: int) -> None:
        super().__init__()
        self.log, self.lives = Path(log), lives
    def forward(self, hazy):
        mean = f"{float(hazy.mean()):.9f}"
        with self.log.open("a") as stream:
            stream.write(f"{os.getpid()} {mean}\\n")
        lines = self.log.read_text().splitlines()
        if len(lines) >= 8 and mean == lines[7].split()[1] and sum(line.endswith(mean) for line in lines) <= self.lives:
            os.kill(os.getpid(), signal.SIGKILL)
        return hazy
"""


def evaluate(tmp_path: Path, data: Path, model: Path, *more: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(Path.cwd()), str(tmp_path)])}
    command = [sys.executable, "-m", "pipelines.evaluate", "--data", str(data), "--models", f"deadly={model}"]
    command += [
        "--allow-networks",
        "deadly",
        "--no-baseline",
        "--scorer",
        "none",
        "--metrics",
        "fade",
        "--batch",
        str(BATCH),
        "--out",
    ]
    command += [str(tmp_path / "out"), "--tracking-uri", "none", "--concurrency", "2", "--threads", "1", *more]
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=400, check=False)


def deadly(tmp_path: Path, lives: int) -> tuple[Path, Path]:
    """A checkpoint folder of the network, and its log."""
    import torch

    from models import checkpoints as checkpoint

    (tmp_path / "deadly.py").write_text(NETWORK)
    log = tmp_path / "log"
    config = {"network": {"name": "deadly:Deadly", "log": str(log), "lives": lives}}
    checkpoint.save(tmp_path / "model", torch.nn.Identity(), config)
    return tmp_path / "model", log


def seen(log: Path) -> Counter[str]:
    return Counter(line.split()[1] for line in log.read_text().splitlines())


def test_a_killed_worker_costs_its_batch(photo_folder: Folder, tmp_path: Path) -> None:
    model, log = deadly(tmp_path, lives=1)
    done = evaluate(tmp_path, photo_folder(count=COUNT, hazy=True), model)
    assert done.returncode == 0, done.stderr
    counts = seen(log)
    assert len(counts) == COUNT
    again = sum(counts.values()) - COUNT
    assert 1 <= again <= BATCH, "only the batch of the worker that died is done again"
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary["photographs"]["real"]["evaluated"] == COUNT
    assert summary["tables"]["real"]["deadly"]["fade"]["n"] == COUNT
    assert summary["failures"] == []
    print(f"{COUNT} photographs, 1 worker killed, {again} of a batch of {BATCH} done again, none lost")


def test_a_photograph_that_always_kills_its_worker_ends_the_evaluation_with_a_sentence(
    photo_folder: Folder, tmp_path: Path
) -> None:
    model, log = deadly(tmp_path, lives=1000)
    done = evaluate(tmp_path, photo_folder(count=COUNT, hazy=True), model)
    assert done.returncode == 2, done.stdout + done.stderr
    error = done.stderr.strip().splitlines()[-1]
    assert error.startswith("error: evaluation workers died 4 times of one batch")
    assert "lower --concurrency, --batch or --max-side" in error
    assert max(seen(log).values()) == 4
    assert not (tmp_path / "out" / "summary.json").exists()


def test_a_full_disk_is_a_sentence_and_the_evaluation_can_be_repeated(photo_folder: Folder, tmp_path: Path) -> None:
    data = photo_folder(count=4, hazy=True)
    script = (
        "import resource, sys\n"
        "from pipelines.evaluate import parts\n"
        "from pipelines.evaluate.__main__ import main\n"
        "write = parts.Parts.write\n"
        "def full(self, rows):\n"  # files of this process end at 64 bytes, as on a full disk
        "    limits = resource.getrlimit(resource.RLIMIT_FSIZE)\n"
        "    resource.setrlimit(resource.RLIMIT_FSIZE, (64, limits[1]))\n"
        "    try:\n"
        "        write(self, rows)\n"
        "    finally:\n"
        "        resource.setrlimit(resource.RLIMIT_FSIZE, limits)\n"
        "if sys.argv[1] == 'full':\n"
        "    parts.Parts.write = full\n"
        "sys.exit(main(sys.argv[2:]))\n"
    )
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] == resource.RLIM_INFINITY
    out = tmp_path / "out"
    options = ["--data", str(data), "--models", "dcp", "--scorer", "none", "--out", str(out), "--tracking-uri", "none"]

    def run(disk: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", script, disk, *options]
        return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)

    full = run("full")
    assert full.returncode == 2, full.stderr
    error = full.stderr.strip().splitlines()[-1]
    assert error.startswith(f"error: cannot write {out / 'rows' / 'part-00000'}")
    assert "free some space and start it again" in error
    assert not (out / "summary.json").exists()
    assert not list(out.rglob(".*"))
    again = run("empty")
    assert again.returncode == 0, again.stderr
    assert (out / "report.html").exists()
