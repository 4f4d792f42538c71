"""CPUs: the affinity mask and the container's quota, and what torch makes of them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from models import Predictor
from models.inference import cpus


def test_at_least_one_cpu_and_no_more_than_there_are() -> None:
    assert 1 <= cpus.local_cpus() <= (os.cpu_count() or 1)


def quota_of(folder: Path, text: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Eight CPUs, and a container's quota, as the kernel writes it."""
    if text is not None:
        (folder / "cpu.max").write_text(text)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: set(range(8)), raising=False)
    monkeypatch.setattr(cpus, "_QUOTA", folder / "cpu.max")


@pytest.mark.parametrize(
    ("quota", "count"),
    [("400000 100000", 4), ("50000 100000", 1), ("1600000 100000", 8), ("max 100000", 8), (None, 8)],
)
def test_the_quota_of_the_container_counts(
    quota: str | None, count: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    quota_of(tmp_path, quota, monkeypatch)
    assert cpus.local_cpus() == count


@pytest.mark.parametrize(("asked", "before", "threads"), [(None, 6, 3), (None, 2, 2), (5, 2, 5)])
def test_a_predictor_takes_no_more_threads_than_the_quota_unless_told(
    asked: int | None, before: int, threads: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    quota_of(tmp_path, "300000 100000", monkeypatch)
    now = torch.get_num_threads()
    try:
        torch.set_num_threads(before)
        Predictor(threads=asked)
        assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(now)
