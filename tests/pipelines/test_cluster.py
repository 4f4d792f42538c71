"""Where jobs meet Ray: addresses that are wrong, an environment that is given back, places for results, room."""

from __future__ import annotations

import json
import os
import socket
import threading
import time
from contextlib import nullcontext
from pathlib import Path

import pytest

from models.config import ConfigError
from pipelines import cluster, nodes
from pipelines.ingest import __main__ as ingest_command
from pipelines.resources import Ask, Capacity
from pseudolabel import inspect
from pseudolabel.inspect import runs

GROUP = {"ray.io/node-group": "head"}


def test_a_dead_address_fails_at_once_and_is_named() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound, not listening: nobody answers here
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        began = time.monotonic()
        with pytest.raises(ConfigError, match=f"no Ray cluster answers at '{address}'"), runs.answering(address):
            pass
    assert time.monotonic() - began < runs.ANSWER_SECONDS + 1


def test_a_dead_cluster_on_this_machine_fails_at_once_and_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    from ray._private import services

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        left = f"127.0.0.1:{taken.getsockname()[1]}"  # as a `ray start` that was killed leaves behind
        monkeypatch.setattr(services, "get_ray_address_from_environment", lambda *_: left)
        refused = f"no Ray cluster answers at {left}, which Ray takes for 'auto' here: "
        with pytest.raises(ConfigError, match=refused), runs.answering("auto"):
            pass
        with pytest.raises(ConfigError, match=refused):
            cluster._join("auto", log_to_driver=False)


@pytest.mark.parametrize("address", ["head", "head:port", "ray://head"])
def test_what_is_no_address_is_named(address: str) -> None:
    with pytest.raises(ConfigError, match="is neither host:port"), runs.answering(address):
        pass


def test_a_cluster_that_only_loopback_reaches_is_joined_there(monkeypatch: pytest.MonkeyPatch) -> None:
    from ray._private import ray_constants, services

    with socket.socket() as confined, socket.socket() as elsewhere:
        confined.bind(("127.0.0.1", 0))  # as a command starts its own
        confined.listen()
        port = confined.getsockname()[1]
        monkeypatch.setattr(services, "get_node_ip_address", lambda *_: "127.0.0.2")  # of this machine for others
        monkeypatch.setattr(ray_constants, "ENABLE_RAY_CLUSTER", True)
        with runs.answering(f"127.0.0.1:{port}"):
            assert not ray_constants.ENABLE_RAY_CLUSTER
        elsewhere.bind(("127.0.0.2", port))
        elsewhere.listen()
        with runs.answering(f"127.0.0.1:{port}"):
            assert ray_constants.ENABLE_RAY_CLUSTER, "reached as Ray has it"


@pytest.mark.parametrize(
    ("problem", "reason"),
    [
        (Exception("The current node timed out\n during startup."), "The current node timed out during startup"),
        (RuntimeError("Failed to start GCS."), "Failed to start GCS"),
        (TimeoutError(), "TimeoutError"),
    ],
)
def test_a_ray_that_cannot_start_is_one_line_and_exit_code_2(
    problem: Exception, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import ray

    from serving import app

    def refuse(**_options: object) -> None:
        raise problem

    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.jpg").touch()
    monkeypatch.setattr(ray, "init", refuse)
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "shutdown", lambda: None)  # other tests have one
    words = [str(tmp_path / "photos"), "--domain", "clear", "--out", str(tmp_path / "corpus")]
    assert ingest_command.main(words) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"error: Ray cannot start on this machine: {reason}; give it room (memory, processors, ")
    assert said.count("\n") == 1
    with pytest.raises(ConfigError, match=rf"Ray cannot start on this machine: {reason}; "):
        app._start_ray()
    monkeypatch.setattr(runs, "answering", nullcontext)
    monkeypatch.setattr(inspect, "answering", nullcontext)
    refused = rf"the Ray cluster at 'head:6379' cannot be joined: {reason}; use the Ray"
    with pytest.raises(ConfigError, match=refused):
        cluster._join("head:6379", log_to_driver=False)
    with pytest.raises(ConfigError, match=refused), runs.joined("head:6379"):
        pass


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


class TestPlacesForResults:
    @pytest.mark.parametrize("out", ["s3://bucket/run", "gs://bucket/run", "abfs://a@b/c", "file:///tmp/run"])
    def test_a_uri_is_refused_where_only_folders_will_do(self, out: str) -> None:
        with pytest.raises(ConfigError, match=f"--out is '{out}'; object storage is not supported here: give a folder"):
            cluster.local_out(out)

    def test_a_relative_folder_is_the_user_s_own(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        assert cluster.local_out("run") == tmp_path / "run"
        assert cluster.local_out("~/run") == Path.home() / "run"

    def test_a_relative_folder_of_a_submitted_job_is_refused(self, monkeypatch: pytest.MonkeyPatch) -> None:
        told = {"metadata": {"job_submission_id": "raysubmit_1", "job_name": "raysubmit_1"}, "runtime_env": {}}
        monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", json.dumps(told))
        with pytest.raises(ConfigError, match="'run' is relative, and this job runs in Ray's cache"):
            cluster.local_out("run")
        assert cluster.local_out("/mnt/run") == Path("/mnt/run")
        cluster.require_absolute("s3://bucket/run")

    def test_a_folder_that_some_nodes_do_not_see_is_refused(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        seen: list[Path] = []

        def blind(marker: Path) -> list[str]:
            assert marker.is_file()
            seen.append(marker)
            return ["10.0.0.2", "10.0.0.3"]

        monkeypatch.setattr(nodes, "blind_nodes", blind)
        with pytest.raises(ConfigError, match=r"run is not seen by 2 of the cluster's nodes \(10.0.0.2, 10.0.0.3\)"):
            nodes.require_seen(str(tmp_path / "run"))
        nodes.require_seen("s3://bucket/run")
        assert len(seen) == 1
        monkeypatch.setattr(nodes, "blind_nodes", lambda _: [])
        nodes.require_seen(str(tmp_path / "run"))
        assert not list((tmp_path / "run").iterdir())


@pytest.mark.usefixtures("ray_cluster")
class TestRoom:
    def test_a_node_tells_what_it_sees(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        import ray

        monkeypatch.setattr(nodes, "PAUSE", 0.0)
        assert nodes.blind_nodes(tmp_path) == []
        address = ray.util.get_node_ip_address()
        assert nodes.blind_nodes(tmp_path / "nothing") == [address]

    def test_the_size_of_a_cluster_that_does_not_grow_is_final(self) -> None:
        size = nodes.capacity()
        assert size.final
        assert [node["CPU"] for node in size.nodes] == [2.0]

    def test_what_a_growing_cluster_may_have_counts(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        import ray

        monkeypatch.setattr(ray, "nodes", lambda: [{"Alive": True, "Resources": {"CPU": 8}, "Labels": GROUP}])
        monkeypatch.setattr(nodes, "LAUNCHED", tmp_path / "none")
        assert nodes.capacity() == Capacity(({"CPU": 8},), final=False)
        monkeypatch.setattr(nodes, "LAUNCHED", Path(__file__).parents[2] / "cluster.yaml")
        assert sum(node.get("GPU", 0) for node in nodes.capacity().nodes) == 4

    def test_what_can_never_be_had_is_refused_at_once(self) -> None:
        began = time.monotonic()
        with pytest.raises(ConfigError, match="this needs 3 CPUs, and the cluster has 2 CPUs at most: 6 workers"):
            nodes.make_room([Ask("worker", 6, 0.5, 0, "train.workers")])
        assert time.monotonic() - began < 5

    def test_what_is_waited_for_is_said_again_and_again(
        self, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        import ray

        monkeypatch.setattr(nodes, "PATIENCE", 0.5)
        monkeypatch.setattr(nodes, "AGAIN", 1.0)

        class Holder:
            pass

        holder = ray.remote(Holder).options(num_cpus=1.5).remote()  # type: ignore[attr-defined]
        ray.get(holder.__ray_ready__.remote())
        leaves = threading.Timer(5, lambda: ray.kill(holder))
        leaves.start()
        nodes.make_room([Ask("training worker", 2, 0.5, 0, "train.workers")])
        leaves.join()
        said = capsys.readouterr().err.splitlines()
        assert len(said) >= 2
        assert said[0] == (
            "waiting for room for 2 training workers with 0.5 CPU each; free in the cluster now: 0 of 0 GPUs, "
            "0.5 of 2 CPUs"
        )
        nodes.make_room([Ask("training worker", 4, 0.5, 0, "train.workers")])  # it keeps no room to itself
        assert capsys.readouterr().err == ""


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
    assert nodes.placed(device, gpus) == expected


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
        nodes.placed(device, gpus)


def test_a_cluster_that_grows_may_get_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    nodes_with(monkeypatch, {"CPU": 8.0}, grows=True)
    assert nodes.placed("cuda") == ("cuda", 1.0)


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
