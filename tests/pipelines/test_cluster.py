"""Where jobs meet Ray: addresses that are wrong, an environment that is given back. No cluster is started."""

from __future__ import annotations

import os
import socket
import time
from pathlib import Path

import pytest

from models.settings import ConfigError
from pipelines import cluster


def test_a_dead_address_fails_at_once_and_is_named() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound, not listening: nobody answers here
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        began = time.monotonic()
        with pytest.raises(ConfigError, match=f"no Ray cluster answers at '{address}'"):
            cluster._require_answer(address)
    assert time.monotonic() - began < cluster.ANSWER_SECONDS + 1


@pytest.mark.parametrize("address", ["head", "head:port", "ray://head"])
def test_what_is_no_address_is_named(address: str) -> None:
    with pytest.raises(ConfigError, match="is neither host:port"):
        cluster._require_answer(address)


def test_the_environment_is_lent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DEHAZE_TEST_SET", "mine")
    monkeypatch.delenv("DEHAZE_TEST_NEW", raising=False)
    with cluster._environment({"DEHAZE_TEST_SET": "ours", "DEHAZE_TEST_NEW": "ours"}):
        assert os.environ["DEHAZE_TEST_SET"] == "mine"
        assert os.environ["DEHAZE_TEST_NEW"] == "ours"
    assert "DEHAZE_TEST_NEW" not in os.environ


def test_the_path_of_python_is_replaced_and_given_back_after_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail_with(path: str) -> None:
        assert os.environ["PYTHONPATH"] == path
        raise ZeroDivisionError

    monkeypatch.setenv("PYTHONPATH", "mine")
    with pytest.raises(ZeroDivisionError), cluster._environment({"PYTHONPATH": "ours"}):
        fail_with("ours")
    assert os.environ["PYTHONPATH"] == "mine"


def test_workers_find_the_source_before_the_user_s_own_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", "mine")
    assert cluster._local_environment()["PYTHONPATH"].split(os.pathsep) == [str(cluster.SOURCE_ROOT), "mine"]


def test_at_least_one_cpu_and_no_more_than_there_are() -> None:
    assert 1 <= cluster.local_cpus() <= (os.cpu_count() or 1)


@pytest.mark.parametrize(
    ("quota", "cpus"),
    [("400000 100000", 4), ("50000 100000", 1), ("1600000 100000", 8), ("max 100000", 8), (None, 8)],
)
def test_the_quota_of_the_container_counts(
    quota: str | None, cpus: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if quota is not None:
        (tmp_path / "cpu.max").write_text(quota)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: set(range(8)), raising=False)
    monkeypatch.setattr(cluster, "Path", lambda _path: tmp_path / "cpu.max")
    assert cluster.local_cpus() == cpus
