"""Shared by the tests that break things."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from benchmarks.serving_service import descendants, free_port

NAMESPACES = (["--user", "--map-root-user", "--mount"], ["--mount"])  # the second is for root in a container


@pytest.fixture(scope="session")
def own_mounts(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """What comes before a command so that it may mount file systems that nobody else sees.

    Skips where the machine allows that to nobody, as many containers do; fails with ``DEHAZE_MOUNTS=required``.
    """
    unshare = shutil.which("unshare")
    said = "there is no unshare"
    for options in NAMESPACES if unshare else ():
        command = [str(unshare), *options]
        done = _mounts(command, tmp_path_factory.mktemp("probe"))
        if done.returncode == 0:
            return command
        said = done.stderr.strip()
    reason = f"this machine lets nobody mount a small file system: {said}"
    if os.environ.get("DEHAZE_MOUNTS") == "required":
        pytest.fail(reason)
    pytest.skip(reason)


def _mounts(command: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    probe = [*command, "mount", "-t", "tmpfs", "tmpfs", str(folder)]
    return subprocess.run(probe, capture_output=True, text=True, check=False)


@contextlib.contextmanager
def serving(folder: Path, **settings: Any) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """``python -m serving``, with its port."""
    port = free_port()
    known = {"model": "dcp", "scorer": None, "threads": 1, "port": port}
    file = folder / "service.yaml"
    file.write_text(yaml.safe_dump({"applications": [{"args": known | settings}]}))
    command = [sys.executable, "-m", "serving", "--config", str(file)]
    signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in a shell's background, and so inherited
    service = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True)
    try:
        assert service.stdout is not None
        assert any(line.startswith("curl") for line in service.stdout)
        yield service, port
    finally:
        for process in descendants(service.pid)[::-1] if service.poll() is None else ():
            with contextlib.suppress(ProcessLookupError):  # it went with one that was killed before
                os.kill(process, signal.SIGKILL)
        service.wait(30)
        assert service.stdout is not None
        service.stdout.close()
