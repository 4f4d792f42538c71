"""Jobs outlive the ingress that works on them, and the whole service."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from numpy.typing import NDArray
from PIL import Image

from benchmarks.serving_service import descendants
from serving.client import Client, Job
from tests.faults.conftest import serving

pytestmark = pytest.mark.faults

COUNT = 8


def ingress(service: subprocess.Popen[str]) -> int:
    (found,) = [
        process for process in descendants(service.pid) if b":Ingress" in Path(f"/proc/{process}/cmdline").read_bytes()
    ]
    return found


def reached(client: Client, job: Job, done: int) -> Job:
    deadline = time.monotonic() + 120
    while True:
        try:
            now = client.job(job)
        except Exception:  # noqa: BLE001 - the ingress is on its way
            now = job
        if now.done >= done or now.has_ended:
            return now
        assert time.monotonic() < deadline, now
        time.sleep(0.1)


def test_a_job_goes_on_after_kills(photo: Callable[..., NDArray[Any]], tmp_path: Path) -> None:
    settings = {"jobs": {"folder": str(tmp_path / "jobs")}, "inference": {"working_side": None}}
    archive = tmp_path / "trip.zip"
    with zipfile.ZipFile(archive, "w") as packed:
        for index in range(COUNT):
            buffer = io.BytesIO()
            Image.fromarray(photo(index, 480, 640, hazy=True)).resize((1600, 1200)).save(buffer, "JPEG")
            packed.writestr(f"{index}.jpg", buffer.getvalue())
    with serving(tmp_path, **settings) as (service, port), Client(f"http://127.0.0.1:{port}", tries=60) as client:
        job = reached(client, client.submit(archive), 1)
        assert not job.has_ended
        os.kill(ingress(service), signal.SIGKILL)
        job = reached(client, job, job.done + 2)
        assert not job.has_ended, "too quick to tell anything"
    with serving(tmp_path, **settings) as (_, port), Client(f"http://127.0.0.1:{port}") as client:
        job = client.wait(job)
        assert (job.status, job.done, job.failed) == ("done", COUNT, 0)
        with zipfile.ZipFile(client.result(job, tmp_path / "result.zip")) as result:
            assert result.namelist() == [*(f"{index}.jpg" for index in range(COUNT)), "manifest.json"]
