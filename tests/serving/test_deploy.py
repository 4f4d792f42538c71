"""What Serve's own commands make of the packaged configuration."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
import yaml

from benchmarks.serving_service import free_port
from models.options import DehazeOptions
from models.predictor import Predictor
from serving.config import ServingConfig, local_ray_environment, read_config
from tests.waiting import wait_for

ROOT = Path(__file__).parents[2]
FILE = ROOT / "serving" / "config.yaml"
SERVE = [sys.executable, "-m", "ray.serve.scripts"]


def environment() -> dict[str, str]:
    return os.environ | local_ray_environment() | {"PYTHONPATH": str(ROOT), "RAY_USAGE_STATS_ENABLED": "0"}


def test_serve_build_prints_the_packaged_application(tmp_path: Path) -> None:
    from ray.serve.schema import ServeDeploySchema

    from serving.application import application

    out = tmp_path / "built.yaml"
    command = [*SERVE, "build", "--app-dir", str(ROOT), "--output-path", str(out), "serving.application:application"]
    subprocess.run(command, env=environment(), cwd=tmp_path, check=True, capture_output=True, timeout=120)
    built = yaml.safe_load(out.read_text())
    ServeDeploySchema.model_validate(built)
    packaged, config = yaml.safe_load(FILE.read_text()), read_config(FILE)
    assert built["proxy_location"] == packaged["proxy_location"]
    assert built["http_options"]["port"] == packaged["http_options"]["port"]
    (made,), (kept,) = built["applications"], packaged["applications"]
    assert made["route_prefix"] == kept["route_prefix"]
    deployments = {entry["name"]: entry for entry in made["deployments"]}
    assert set(deployments) == {"Dehazer", "Ingress"}
    check_deployments(deployments, config)
    dehazer = application._bound_deployment.init_args[1]._bound_deployment
    for bound in (application._bound_deployment, dehazer):  # the settings, which the printed form leaves out
        assert bound.init_args[0] == config.model_dump(mode="json")


def check_deployments(deployments: dict[str, Any], config: ServingConfig) -> None:
    """The options of both deployments are those of the configuration."""
    scaling, dehazer, ingress = config.scaling, deployments["Dehazer"], deployments["Ingress"]
    assert dehazer["num_replicas"] == scaling.min_replicas == scaling.max_replicas
    assert dehazer["max_ongoing_requests"] == scaling.max_ongoing_requests
    options = dehazer["ray_actor_options"]
    assert (options["num_cpus"], options["num_gpus"]) == (scaling.num_cpus, scaling.num_gpus)
    assert options["runtime_env"]["env_vars"] == {"OMP_NUM_THREADS": str(config.threads)}
    assert ingress["num_replicas"] == scaling.ingresses
    assert ingress["max_ongoing_requests"] > config.requests.max_pending
    assert ingress["ray_actor_options"]["num_cpus"] == scaling.ingress_cpus


def free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in probes]


@contextlib.contextmanager
def head_node() -> Iterator[str]:
    """A Ray of its own, started by the command line, on free ports; the address of its dashboard."""
    gcs, dashboard, agent, agent_grpc, metrics, client = free_ports(6)
    folder = tempfile.mkdtemp(prefix="ray", dir="/tmp")  # Ray's sockets need a short path
    command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block", "--disable-usage-stats"]
    command += [f"--port={gcs}", f"--dashboard-port={dashboard}", f"--dashboard-agent-listen-port={agent}"]
    command += [f"--dashboard-agent-grpc-port={agent_grpc}", f"--metrics-export-port={metrics}"]
    command += [f"--ray-client-server-port={client}", "--node-ip-address=127.0.0.1", "--dashboard-host=127.0.0.1"]
    command += [f"--temp-dir={folder}", "--num-cpus=2", f"--object-store-memory={150 << 20}"]
    with (Path(folder) / "output").open("wb") as output:
        started = subprocess.Popen(command, env=environment(), cwd=folder, stdout=output, stderr=output)
    try:
        yield f"http://127.0.0.1:{dashboard}"
    finally:
        family = psutil.Process(started.pid).children(recursive=True)
        started.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            started.wait(20)
        for process in family:
            with contextlib.suppress(psutil.NoSuchProcess):  # nor is another killed that has its number by now
                process.kill()
        started.kill()
        started.wait(20)
        shutil.rmtree(folder, ignore_errors=True)


def answers(url: str) -> bool:
    with contextlib.suppress(httpx.HTTPError):
        return httpx.get(url, timeout=60).status_code == 200
    return False


@pytest.mark.slow
def test_serve_deploy_of_the_packaged_configuration(tmp_path: Path, jpeg: Callable[..., bytes]) -> None:
    port = free_port()
    content = yaml.safe_load(FILE.read_text())
    content["http_options"]["port"] = content["applications"][0]["args"]["port"] = port
    file = tmp_path / "config.yaml"
    file.write_text(yaml.safe_dump(content))
    with head_node() as dashboard, httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as client:
        wait_for(lambda: answers(f"{dashboard}/api/version"), 90)
        command = [*SERVE, "deploy", "--address", dashboard, str(file)]
        subprocess.run(command, env=environment(), check=True, capture_output=True, timeout=120)
        wait_for(lambda: answers(f"http://127.0.0.1:{port}/readyz"), 180)
        data = jpeg(1)
        answer = client.post("/v1/dehaze", params={"strength": 0.5}, content=data, headers={"X-Request-Id": "a b"})
        assert answer.status_code == 200, answer.text
        assert answer.headers["x-model"] == "corun-compact"
        assert len(answer.headers.get_list("x-request-id")) == 1
        expected = Predictor("corun-compact").dehaze_bytes(data, DehazeOptions(strength=0.5))[0]
        assert answer.content == expected
