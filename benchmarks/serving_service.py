"""The service as a user starts it, ``python -m serving``, and what its processes take."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import psutil
import yaml

MB = 1 << 20


def free_port() -> int:
    """Return a port of loopback that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def descendants(root: int) -> list[int]:
    """Return a process and all that descend from it, as process ids."""
    return [root, *(child.pid for child in psutil.Process(root).children(recursive=True))]


def titles(root: int) -> dict[int, str]:
    """Return the titles of a process and its descendants, by process id; Ray's actors carry their names in them."""
    found = {}
    for process in descendants(root):
        with suppress(psutil.Error):  # it has just ended
            name = " ".join(psutil.Process(process).cmdline())[:60].strip()
            found[process] = name.partition(".")[0] if name.startswith("ray::") else name  # without what it does now
    return found


def replicas(root: int, deployment: str = "") -> dict[int, str]:
    """Return the processes that are replicas on Serve, of one deployment or of all, with their titles."""
    begin = f"ray::ServeReplica:dehaze:{deployment}"
    return {process: title for process, title in titles(root).items() if title.startswith(begin)}


def memory(root: int) -> Counter[str]:
    """Return the bytes of a process and its descendants, by title; pages that several share count in parts (PSS)."""
    found: Counter[str] = Counter()
    for process, title in titles(root).items():
        with suppress(psutil.Error):
            found[title] += psutil.Process(process).memory_full_info().pss
    return found


def cpu_seconds(root: int) -> Counter[str]:
    """Return the processor seconds of a process and its descendants, by title."""
    found: Counter[str] = Counter()
    for process, title in titles(root).items():
        with suppress(psutil.Error):
            times = psutil.Process(process).cpu_times()
            found[title] += times.user + times.system
    return found


@contextmanager
def on_cores(count: int) -> Iterator[None]:
    """Run what is started in the block, with all that it starts, on the first so many cores."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, set(sorted(before)[:count]))
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


class Service:
    """A running service; a context manager.

    Args:
        settings: of :class:`serving.config.ServingConfig`, as plain values; a free port is added.
    """

    def __init__(self, settings: dict[str, Any]) -> None:
        self.port = free_port()
        self._settings = settings | {"port": self.port}
        self._folder = tempfile.TemporaryDirectory()
        self._process: subprocess.Popen[str] | None = None

    def __enter__(self) -> Self:
        file = Path(self._folder.name) / "service.yaml"
        file.write_text(yaml.safe_dump({"applications": [{"args": self._settings}]}))
        command = [sys.executable, "-m", "serving", "--config", str(file)]
        signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in a shell's background, and so inherited
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith("curl"):
                return self
        self.__exit__(None, None, None)
        raise RuntimeError("the service did not start; its messages are above")

    def __exit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process is not None:
            self._process.send_signal(signal.SIGINT)
            self._process.wait(60)
        self._folder.cleanup()

    @property
    def process(self) -> int:
        """Return the id of the service's first process, from which all others descend."""
        assert self._process is not None
        return self._process.pid
