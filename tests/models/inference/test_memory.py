"""Free memory as the system says it, and the peak of a computation."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from models.config import ConfigError
from models.inference import device_of, memory


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


def test_the_default_device_is_a_gpu_where_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    assert device_of("cpu") == torch.device("cpu")
    for there, expected in ((1, "cuda"), (0, "cpu")):
        monkeypatch.setattr(torch.cuda, "is_available", lambda there=there: bool(there))
        monkeypatch.setattr(torch.cuda, "device_count", lambda there=there: there)
        assert device_of() == device_of("auto") == torch.device(expected)
    with pytest.raises(ConfigError, match="there is no such GPU"):
        device_of("cuda:1")
    for name in ("gpu", "meta"):
        with pytest.raises(ConfigError, match=f"--device is '{name}'; expected auto, cpu, cuda or cuda:N"):
            device_of(name)
