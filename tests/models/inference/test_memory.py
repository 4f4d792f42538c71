"""Free memory as the system says it, and the peak of a computation."""

from __future__ import annotations

from pathlib import Path

import torch

from models.inference import memory


def test_some_memory_is_free() -> None:
    assert 1 << 20 < memory.free_memory(torch.device("cpu")) < 1 << 50


def test_the_machine_says_what_is_available(tmp_path: Path) -> None:
    file = tmp_path / "meminfo"
    file.write_text("MemTotal:  1000 kB\nMemFree:  10 kB\nMemAvailable:   300 kB\n")
    assert memory._machine(file) == 300 << 10
    assert memory._machine(tmp_path / "none") == memory._UNKNOWN


def test_a_container_may_have_less(tmp_path: Path) -> None:
    (tmp_path / "memory.max").write_text("5000\n")
    (tmp_path / "memory.current").write_text("2000\n")
    assert memory._container(tmp_path) == 3000
    (tmp_path / "memory.max").write_text("max\n")
    assert memory._container(tmp_path) > 1 << 60


def test_the_peak_is_of_what_lives_together() -> None:
    def one_after_the_other() -> None:
        for _ in range(5):
            torch.zeros(1000)

    assert memory.peak_bytes(lambda: [torch.zeros(1000) for _ in range(5)]) == 20_000
    assert memory.peak_bytes(one_after_the_other) in (4_000, 8_000)


def test_views_and_changes_in_place_cost_nothing() -> None:
    def work() -> None:
        whole = torch.zeros(1000)
        whole.view(10, 100)[3:5].add_(1)

    assert memory.peak_bytes(work) == 4_000
