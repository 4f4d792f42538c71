"""A Ray cluster on several hosts that share no disk, and an S3 server, as a cloud has them."""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from tests.cluster.hosts import Host, HostsError, Network
from tests.conftest import ENVIRONMENT, ROOT

HEAD, WORKERS, STORAGE, DESK, TRACKING = "head", ("one", "two"), "storage", "desk", "tracking"
NAMES = (HEAD, *WORKERS, "three", STORAGE, DESK, TRACKING)
S3_PORT, GCS_PORT, JOBS_PORT = 9000, 6379, 8265
PATIENCE = {  # of Ray with processes that start slowly; on a head without CPUs it would start one at a time
    "RAY_worker_register_timeout_seconds": "600",
    "RAY_worker_maximum_startup_concurrency": "4",
}
JOB_SECONDS = 900.0  # for a job, with a fault or without; a quiet machine needs a fifth
START_SECONDS = 240.0  # for Ray on a host; a quiet machine needs a tenth
CPUS = 6  # logical ones of each worker host: beside training, Ray Data gets whole ones of each host for each corpus
LOOPBACK_ONLY = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"  # of the tests' own Ray, which has one host


# As whoever runs a cluster has it: Ray ends on a host that was taken for dead, and where its agents are slow to start.
_FOR_EVER = 'while :; do "$@"; echo "ended with $?"; sleep 1; done'
_AWAIT_NODES = """
import sys, time
from ray._raylet import GcsClient
client = GcsClient(address=sys.argv[1])
deadline, found = time.monotonic() + float(sys.argv[3]), -1
while time.monotonic() < deadline:
    found = sum(node.state == 0 for node in client.get_all_node_info().values())
    if found == int(sys.argv[2]):
        sys.exit()
    time.sleep(0.25)
sys.exit(f"{found} hosts")
"""
_DRAIN = """
import sys, time
from ray._raylet import GcsClient
from ray.core.generated.autoscaler_pb2 import DrainNodeReason
client, reason = GcsClient(address=sys.argv[1]), DrainNodeReason.Value("DRAIN_NODE_REASON_PREEMPTION")
alive = [node for node in client.get_all_node_info().values() if node.state == 0]
name, = [node.node_id.hex() for node in alive if node.node_manager_address == sys.argv[2]]
print(client.drain_node(name, reason, "a spot instance", int(1000 * (time.time() + float(sys.argv[3])))))
"""


def dehazer(port: int, token: str, **args: Any) -> dict[str, Any]:
    """What ``serve deploy`` takes for the service, open to all hosts; ``args`` are more of its settings."""
    settings = {"host": "0.0.0.0", "port": port, "scorer": None, "threads": 1} | args
    application = {
        "name": "dehaze",
        "route_prefix": "/",
        "import_path": "serving.app:build",
        "runtime_env": {"env_vars": {"DEHAZE_TOKENS": token}},
        "args": settings,
    }
    options = {"host": "0.0.0.0", "port": port, "request_timeout_s": 335}
    return {"proxy_location": "EveryNode", "http_options": options, "applications": [application]}


class Job:
    """A command of ``ray job submit``, given on the desk.

    Attributes:
        name: by which Ray knows it.
        log: what it has printed.
    """

    def __init__(self, name: str, process: subprocess.Popen[bytes], log: Path) -> None:
        self.name, self.log, self._process = name, log, process
        self._began = time.monotonic()

    @property
    def going_on(self) -> bool:
        """Whether it has not ended."""
        return self._process.poll() is None

    def wait(self, seconds: float) -> None:
        """Wait until it has ended, however it did."""
        self._process.wait(seconds)

    @property
    def text(self) -> str:
        """What the job has printed so far."""
        return self.log.read_text(errors="replace")

    def until(self, happened: Callable[[], bool], what: str, seconds: float) -> None:
        """Wait while the job runs until something has happened; fail when it ends before, or in time."""
        deadline = time.monotonic() + seconds
        while True:
            began = time.monotonic()
            if happened():
                return
            assert self._process.poll() is None, f"the job ended before {what}:\n{self.text}"
            assert time.monotonic() < deadline, f"{what}: not within {seconds:g} s:\n{self.text}"
            time.sleep(max(0.25, 4 * (time.monotonic() - began)))  # to look takes time from what is waited for

    def says(self, words: str, seconds: float) -> None:
        """Wait until it has printed this."""
        self.until(lambda: words in self.text, f"it said {words!r}", seconds)

    def end(self, seconds: float, code: int = 0) -> float:
        """Wait for its end, which must be that; how many seconds it took in all."""
        try:
            found = self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"the job did not end within {seconds:g} s:\n{self.text}") from None
        assert found == code, f"exit code {found}, not {code}:\n{self.text}"
        return time.monotonic() - self._began


class Cluster:
    """The hosts with what runs on them. The head computes nothing; the desk is where people sit, and in no cluster.

    Attributes:
        environment: of everything that is started on a host.
    """

    def __init__(self, network: Network, folder: Path) -> None:
        self.network, self.folder = network, folder
        self._started: list[subprocess.Popen[bytes]] = []
        self.environment = self._make_environment()
        self.start(STORAGE, "moto_server", "-H", "0.0.0.0", "-p", str(S3_PORT))
        self.await_port(STORAGE, S3_PORT)
        self.start_head()
        for count, name in enumerate(WORKERS, start=1):  # one after the other: together they are slower
            self.start_worker(name)
            self.await_nodes(count)

    def _make_environment(self) -> dict[str, str]:
        kept = {key: value for key, value in os.environ.items() if key in ("LANG", "LC_ALL", "LD_LIBRARY_PATH")}
        return kept | {
            **{key: value for key, value in ENVIRONMENT.items() if key != LOOPBACK_ONLY},
            "AWS_ENDPOINT_URL": f"http://{STORAGE}:{S3_PORT}",
            "HOME": "/var/tmp/home",
            "PATH": os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"])),
            "PYTHONPATH": "",
            "PYTHONUNBUFFERED": "1",  # what a job prints is looked at while it runs
            **PATIENCE,
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": secrets.token_hex(32),
        }

    def host(self, name: str) -> Host:
        """One of the hosts."""
        return self.network.host(name)

    def start(self, name: str, *words: str, env: Mapping[str, str] | None = None) -> subprocess.Popen[bytes]:
        """Start something that stays on a host; its output is in a file of that name."""
        log = self.folder / f"{name}.log"
        process = self.host(name).begin(*words, env=self.environment | dict(env or {}), log=log)
        self._started.append(process)
        return process

    def start_head(self) -> None:
        """Ray's head, which has no CPUs to give: nothing of a job but its driver runs there."""
        head = self.host(HEAD)
        options = [f"--port={GCS_PORT}", f"--dashboard-host={head.address}", f"--dashboard-port={JOBS_PORT}"]
        self._start_ray(HEAD, 0, "--head", "--include-dashboard=true", *options)
        self.await_port(HEAD, JOBS_PORT)
        self.await_nodes(0)

    def start_worker(self, name: str) -> None:
        """Let a host join."""
        self._start_ray(name, CPUS, f"--address={self.host(HEAD).address}:{GCS_PORT}")

    def _start_ray(self, name: str, cpus: int, *options: str) -> None:
        command = ["ray", "start", "--block", f"--node-ip-address={self.host(name).address}", f"--num-cpus={cpus}"]
        ray = [*command, "--object-store-memory=200000000", "--disable-usage-stats", *options]
        self.start(name, "bash", "-c", _FOR_EVER, "service", *ray)

    def await_port(self, name: str, port: int, seen_from: str = DESK) -> None:
        """Wait until somebody listens there."""
        address = "127.0.0.1" if seen_from == name else self.host(name).address
        command = self.host(seen_from).command("bash", "-c", f"exec 3<>/dev/tcp/{address}/{port}")
        deadline = time.monotonic() + START_SECONDS
        while subprocess.run(command, capture_output=True, check=False).returncode:
            assert time.monotonic() < deadline, f"nothing listens at {name}:{port}: {self.said(name)}"
            time.sleep(0.25)

    def said(self, name: str) -> str:
        """What was printed on a host."""
        path = self.folder / f"{name}.log"
        return path.read_text(errors="replace") if path.exists() else ""

    def await_nodes(self, workers: int, seconds: float = START_SECONDS) -> None:
        """Wait until the head counts itself and so many workers as alive."""
        deadline = time.monotonic() + seconds
        while True:
            left = deadline - time.monotonic()
            try:
                self.on_desk(_AWAIT_NODES, f"{self.host(HEAD).address}:{GCS_PORT}", str(workers + 1), str(left))
                return
            except HostsError:  # Ray's client ends its program when the head is away for long
                if time.monotonic() > deadline:
                    print(*(f"{name}: {self.said(name)[-2000:]}" for name in (HEAD, *WORKERS)), sep="\n")
                    raise

    def on_desk(self, code: str, *words: str, timeout: float = 600.0) -> str:
        """Run a piece of Python on the desk; what it printed."""
        command = (sys.executable, "-c", code, *words)
        return self.host(DESK).check(*command, env=self.environment | {"PYTHONPATH": str(ROOT)}, timeout=timeout)

    def begin_on_desk(self, code: str, *words: str) -> Job:
        """The same, without waiting for its end."""
        log = self.folder / f"desk-{time.monotonic_ns()}.log"
        command, env = (sys.executable, "-c", code, *words), self.environment | {"PYTHONPATH": str(ROOT)}
        process = self.host(DESK).begin(*command, env=env, log=log)
        self._started.append(process)
        return Job("", process, log)

    def serve(self, config: Mapping[str, Any]) -> None:
        """``serve deploy`` of a configuration, on the desk."""
        path = "tmp/serve.yaml"
        (self.host(DESK).files / path).write_text(yaml.safe_dump(dict(config)))
        self.host(DESK).check("serve", "deploy", "--address", self._jobs, f"/{path}", env=self.environment)

    def await_ready(self, urls: Iterable[str], seconds: float) -> None:
        """Wait until services say that they are ready."""
        code = (
            "import sys, time, httpx\n"
            "deadline, said = time.monotonic() + float(sys.argv[1]), ''\n"
            "def ready(url):\n"
            "    try: answer = httpx.get(url + '/readyz', timeout=5)\n"
            "    except httpx.HTTPError as problem: return repr(problem)\n"
            "    return '' if answer.status_code == 200 else answer.text\n"
            "while said := [one for one in map(ready, sys.argv[2:]) if one]:\n"
            "    if time.monotonic() > deadline: sys.exit(f'not ready: {said}')\n"
            "    time.sleep(0.5)\n"
        )
        try:
            self.on_desk(code, str(seconds), *urls, timeout=seconds + 60)
        except HostsError:
            print(self.host(DESK).check("serve", "status", "--address", self._jobs, env=self.environment))
            raise

    def read(self, uri: str) -> str:
        """A text in the bucket."""
        return self.on_desk("import sys; from models.paths import *; print(read_file(sys.argv[1]).decode())", uri)

    def names(self, uri: str) -> list[str]:
        """What lies in a folder of the bucket."""
        return self.on_desk("import sys; from models.paths import *; print(*names_in(sys.argv[1]))", uri).split()

    def submit(self, *words: str, env: Mapping[str, str] | None = None) -> Job:
        """``ray job submit -- python -m words`` on the desk, as in the README."""
        name = f"job-{time.monotonic_ns()}"
        command = ["ray", "job", "submit", "--address", self._jobs, "--submission-id", name]
        command += ["--working-dir", str(ROOT), "--", "python", "-m", *words]
        log = self.folder / f"{name}.log"
        process = self.host(DESK).begin(*command, env=self.environment | dict(env or {}), log=log)
        self._started.append(process)
        return Job(name, process, log)

    @property
    def _jobs(self) -> str:
        return f"http://{self.host(HEAD).address}:{JOBS_PORT}"

    def runs(self, name: str, title: str) -> int:
        """How many processes of a host have a title that begins so."""
        return sum(line.startswith(title) for line in self._processes(name))

    def at_work(self, name: str) -> list[str]:
        """Titles of Ray's processes on a host, without those that wait for work."""
        return sorted({line.split()[0] for line in self._processes(name) if line.startswith("ray::")} - {"ray::IDLE"})

    def _processes(self, name: str) -> list[str]:
        return self.host(name).check("ps", "-e", "-o", "args=").splitlines()

    def drain(self, name: str, seconds: float) -> None:
        """Tell Ray that a host will be taken away, as ``ray drain-node`` does when the cloud has said so."""
        print(self.on_desk(_DRAIN, f"{self.host(HEAD).address}:{GCS_PORT}", self.host(name).address, str(seconds)))

    def stop(self, job: Job) -> None:
        """End a job if it is still going on."""
        if job.going_on:
            self.host(DESK).check("ray", "job", "stop", "--address", self._jobs, job.name, env=self.environment)
            job.wait(START_SECONDS)

    def mend(self) -> None:
        """Bring back the worker hosts that were killed or cut off, with Ray on them, as whoever runs them would."""
        for name in WORKERS:
            host = self.host(name)
            if not host.on:
                host.restart()
                self.start_worker(name)
            host.mend()
        self.await_nodes(len(WORKERS))

    def leave(self, name: str) -> None:
        """Take a host that has joined out of the cluster again: it runs, without Ray."""
        self.host(name).kill()
        self.host(name).restart()

    def close(self) -> None:
        """End everything."""
        self.network.close()
        for process in self._started:
            process.wait()
