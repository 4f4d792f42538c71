"""What the tests' own hosts are: apart from each other, joined by a network, and gone with their program."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cluster.hosts import Network
from tests.conftest import ROOT

pytestmark = pytest.mark.cluster

PROGRAM = """
import sys, time
from pathlib import Path
from tests.cluster.hosts import Network
network = Network(Path(sys.argv[1]), ["a"], Path(sys.argv[1]))
network.host("a").begin("sleep", sys.argv[2], env={"PATH": "/bin:/usr/bin"}, log=Path(sys.argv[1]) / "log")
print("started", flush=True)
time.sleep(600)
"""


def _reaches(network: Network, one: str, other: str) -> bool:
    """Whether a neighbor answers; the kernel does, to a connection that nobody takes."""
    probe = f"exec 3<>/dev/tcp/{network.host(other).address}/9"
    command = network.host(one).command("timeout", "2", "bash", "-c", probe)
    return b"refused" in subprocess.run(command, capture_output=True, check=False).stderr


def test_hosts_are_apart_and_reach_each_other_until_they_are_cut_off(network: Network) -> None:
    one, two = network.host("one"), network.host("two")
    for folder in ("/tmp", "/var/tmp", "/dev/shm"):
        one.check("touch", f"{folder}/mark")
        assert "mark" not in two.check("ls", folder).split()
    assert one.check("hostname").strip() == "one"
    assert "Makefile" in one.check("ls", str(ROOT)).split(), "all see the code, wherever it lies"
    assert "/tmp/mark" not in two.check("ps", "-e", "-o", "args=")
    assert _reaches(network, "one", "two")
    two.cut()
    assert not _reaches(network, "one", "two")
    two.mend()
    assert _reaches(network, "one", "two")


def test_a_host_that_dies_keeps_its_disk(network: Network) -> None:
    host = network.host("three")
    host.check("touch", "/var/tmp/mark", "/tmp/mark")
    host.kill()
    assert not host.on
    host.restart()
    assert "mark" in host.check("ls", "/var/tmp").split()
    assert "mark" not in host.check("ls", "/tmp").split()
    assert _reaches(network, "one", "three")


def test_hosts_die_with_their_program(network: Network, tmp_path: Path) -> None:
    seconds = f"{600 + os.getpid() / 1e7:.7f}"  # by which the process is known
    command = [sys.executable, "-c", PROGRAM, str(tmp_path), seconds]
    program = subprocess.Popen(command, stdout=subprocess.PIPE, env=os.environ | {"PYTHONPATH": str(ROOT)})
    assert program.stdout is not None
    assert program.stdout.readline() == b"started\n"
    _await(lambda: _running(seconds), "something runs on the host")
    program.send_signal(signal.SIGKILL)
    program.wait()
    _await(lambda: not _running(seconds), "the host is gone with its program")


def _await(happened: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + 30
    while not happened():
        assert time.monotonic() < deadline, what
        time.sleep(0.1)


def _running(word: str) -> bool:
    """Whether there is a process with that word in its command."""
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):  # it has just ended
            if path.read_bytes() == f"sleep\0{word}\0".encode():
                return True
    return False
