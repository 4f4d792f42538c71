"""Where jobs meet Ray: addresses that are wrong, an environment that is given back. No cluster is started."""

from __future__ import annotations

import os
import socket
import threading
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


def nodes_with(monkeypatch: pytest.MonkeyPatch, *resources: dict[str, float], grows: bool = False) -> None:
    import ray

    labels = {"ray.io/node-group": "head"} if grows else {}
    nodes = [{"Alive": True, "Resources": found, "Labels": labels} for found in resources]
    dead = {"Alive": False, "Resources": {"GPU": 8.0}, "Labels": {}}
    monkeypatch.setattr(ray, "nodes", lambda: [*nodes, dead])


@pytest.mark.parametrize(
    ("device", "gpus", "resources", "expected"),
    [
        ("auto", None, {"CPU": 2.0}, ("cpu", 0.0)),
        ("auto", None, {"GPU": 1.0}, ("cuda", 1.0)),
        ("auto", 0.25, {"GPU": 1.0}, ("cuda", 0.25)),
        ("auto", 0.25, {}, ("cpu", 0.0)),
        ("auto", 0.0, {"GPU": 1.0}, ("cpu", 0.0)),
        ("cuda", None, {"GPU": 1.0}, ("cuda", 1.0)),
        ("cuda", 0.5, {"GPU": 4.0}, ("cuda", 0.5)),
        ("cpu", None, {"GPU": 1.0}, ("cpu", 0.0)),
        ("cpu", 0.0, {}, ("cpu", 0.0)),
    ],
)
def test_a_worker_asks_for_the_gpu_that_it_uses(
    device: str, gpus: float | None, resources: dict[str, float], expected: tuple[str, float],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    nodes_with(monkeypatch, {"CPU": 8.0}, resources)
    assert cluster.placed(device, gpus) == expected


@pytest.mark.parametrize(
    ("device", "gpus", "resources", "message"),
    [
        ("cuda", None, {"CPU": 2.0}, "no node of the Ray cluster has a GPU; expected cpu, or auto"),
        ("cuda", 0.0, {"GPU": 1.0}, "device 'cuda' with 0 GPUs"),
        ("cpu", 1.0, {"GPU": 1.0}, "device 'cpu' with 1 GPUs: nothing would use them"),
        ("cuda:1", None, {"GPU": 4.0}, "'cuda:1': expected auto, cpu or cuda; Ray chooses which GPU"),
        ("gpu", None, {"GPU": 4.0}, "device 'gpu': expected auto, cpu or cuda$"),
    ],
)
def test_devices_that_make_no_sense(
    device: str, gpus: float | None, resources: dict[str, float], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    nodes_with(monkeypatch, resources)
    with pytest.raises(ConfigError, match=message):
        cluster.placed(device, gpus)


def test_a_cluster_that_grows_may_get_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    nodes_with(monkeypatch, {"CPU": 8.0}, grows=True)
    assert cluster.placed("cuda") == ("cuda", 1.0)


def test_ray_goes_only_after_its_data_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    import ray
    from ray.data._internal.execution import streaming_executor

    class Slow(threading.Thread):
        """As an executor whose scheduling loop takes longer than the two seconds that Ray Data waits."""

        def __init__(self) -> None:
            super().__init__(daemon=True)
            self.told = threading.Event()

        def run(self) -> None:
            self.told.wait(20)
            time.sleep(0.3)

        def shutdown(self, *, force: bool) -> None:
            self.told.set()

    monkeypatch.setattr(streaming_executor, "StreamingExecutor", Slow)
    thread, alive = Slow(), []
    monkeypatch.setattr(ray, "shutdown", lambda: alive.append(thread.is_alive()))
    thread.start()

    def failing() -> None:
        with cluster._shut_down_after():
            raise ConfigError("the disk is full")

    with pytest.raises(ConfigError, match="full"):
        failing()
    assert alive == [False]
