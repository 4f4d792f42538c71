"""Shared by the tests that break things."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

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
