"""What one machine has, as it finds out itself. Runs on each node of a cluster; no Ray."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from models.config import ConfigError
from models.paths import child, exists, filesystem, is_uri, replacing, temporary_name
from pipelines.tracking import require_tracking, versions
from pseudolabel.pool import place_for_stores

PACKAGES = ("ray", "torch", "pyarrow")
SECONDS = 50.0  # for a new Python to import torch; less than the patience with a node
# Another Python, because Ray hides GPUs from those that have asked for none.
_GPUS = (
    "import torch; torch.cuda.init() if torch.version.cuda or torch.version.hip else 0; "
    "print(torch.cuda.device_count())"
)


@dataclass(frozen=True)
class Machine:
    """What was found.

    Attributes:
        name: of the host.
        versions: by package.
        gpus: that torch sees.
        gpu_problem: why it sees none, empty where it did not say.
        stores: where the label pool's stores may be, and bytes free there; or why nowhere.
        temporary: folder for temporary files, and bytes free there.
        wrote: name of the file that was written where results are to be.
        out: why none could be; empty where it could, or nothing was asked.
        tracking: why MLflow cannot be used, likewise.
    """

    name: str
    versions: dict[str, str] = field(default_factory=dict)
    gpus: int = 0
    gpu_problem: str = ""
    stores: tuple[str, int] = ("", 0)
    temporary: tuple[str, int] = ("", 0)
    wrote: str = ""
    out: str = ""
    tracking: str = ""


def examine(out: str | None, tracking_uri: str | None) -> Machine:
    """Look at this machine.

    Args:
        out: folder or URI that results are to be written to; a small file is left there, see :func:`clean`.
        tracking_uri: of MLflow.
    """
    gpus, problem = _gpus()
    wrote, refused = ("", "") if out is None else _write(out)
    temporary = tempfile.gettempdir()
    return Machine(
        name=socket.gethostname(),
        versions=versions(PACKAGES),
        gpus=gpus,
        gpu_problem=problem,
        stores=place_for_stores(),
        temporary=(temporary, shutil.disk_usage(temporary).free),
        wrote=wrote,
        out=refused,
        tracking="" if tracking_uri is None else _ask(tracking_uri),
    )


def _gpus() -> tuple[int, str]:
    """How many torch sees, and what it says where it cannot use them."""
    environment = {key: value for key, value in os.environ.items() if key != "CUDA_VISIBLE_DEVICES"}
    try:
        done = subprocess.run(
            [sys.executable, "-c", _GPUS], capture_output=True, text=True, timeout=SECONDS, check=False, env=environment
        )
    except subprocess.TimeoutExpired:
        return 0, f"torch has not answered within {SECONDS:g} s"
    if done.returncode:
        return 0, (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
    return int(done.stdout.split()[-1]), ""


def _write(out: str) -> tuple[str, str]:
    """Write a new file and return its name, or the reason why there is none."""
    if not is_uri(out) and not Path(out).is_dir():
        return "", "it is no folder" if Path(out).exists() else "it is not there"
    name = temporary_name("doctor")
    try:
        with replacing(child(out, name)) as stream:
            stream.write(b"?")
    except (OSError, ConfigError) as problem:
        return "", " ".join(str(problem).split())
    return name, ""


def _ask(tracking_uri: str) -> str:
    try:
        require_tracking(tracking_uri)
    except ConfigError as problem:
        return str(problem)
    return ""


def now() -> float:
    """Return the seconds since 1970, by this machine's clock."""
    return time.time()


def clean(out: str, names: Sequence[str]) -> bool:
    """Take away files that :func:`examine` has left in ``out`` and that are seen from here; whether there were any."""
    removed = False
    for name in names:
        files, path = filesystem(child(out, name))
        if exists(child(out, name)):
            files.delete_file(path)
            removed = True
    return removed
