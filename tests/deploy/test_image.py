"""The image, built by buildah, started, and used for one photograph.

It takes some minutes, gigabytes of packages and 30 GB of disk. Where no registry of images is reached, the base is made
by debootstrap; where PyPI is reached but PyTorch's index is not, the image has the lock's torch, with CUDA.
"""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
from PIL import Image

from benchmarks.serving_service import free_port
from tests.conftest import ROOT, make_photo

pytestmark = pytest.mark.slow

BASE, TAG = "docker.io/library/python:3.11-slim", "localhost/ray-dehaze:test"
CPU_INDEX = "https://download.pytorch.org/whl/cpu/torch/"
PACKAGES = "python3,python3-venv,python3-pip,ca-certificates"
FREE_BYTES = 30e9
CPU_BYTES = 2.5e9  # an image with torch for CPUs stays below
READY_SECONDS = 300.0
STARTS = 3  # Ray gives up after 30 s on a busy machine
Build = Callable[..., str]


@pytest.fixture(scope="module")
def buildah(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Build]:
    """Runs a command of buildah, whose images and containers lie in a folder of the tests'."""
    if os.geteuid() != 0 or shutil.which("buildah") is None:
        pytest.skip("needs root and the package buildah")
    folder = tmp_path_factory.mktemp("images")
    if shutil.disk_usage(folder).free < FREE_BYTES:
        pytest.skip(f"needs {FREE_BYTES / 1e9:.0f} GB in {folder}")
    options = ["--root", str(folder / "store"), "--runroot", str(folder / "run"), "--storage-driver", "overlay"]

    def run(*words: str) -> str:
        command = ["buildah", *options, *words]
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
        assert done.returncode == 0, f"{' '.join(words)}: {done.stdout[-3000:]}{done.stderr[-3000:]}"
        return done.stdout.strip()

    run.command = ["buildah", *options]  # type: ignore[attr-defined]
    yield run
    run("rm", "--all")
    run("rmi", "--all", "--force")


def own_base(buildah: Build, folder: Path) -> None:
    """Make a Debian with Python, under the name of Python's own image."""
    if shutil.which("debootstrap") is None:
        pytest.skip(f"{BASE} cannot be pulled here, and there is no package debootstrap")
    command = ["debootstrap", "--variant=minbase", f"--include={PACKAGES}", "bookworm", str(folder)]
    subprocess.run(command, check=True, capture_output=True)
    (folder / "usr/bin/python").symlink_to("python3")
    (folder / "usr/lib/python3.11/EXTERNALLY-MANAGED").unlink()  # Python's own image has no such file
    container = buildah("from", "scratch")
    shutil.copytree(folder, buildah("mount", container), symlinks=True, dirs_exist_ok=True, ignore=_devices)
    buildah("umount", container)
    authorities = os.environ.get("SSL_CERT_FILE")  # of a machine behind a proxy with a certificate of its own
    words = [word for name in ("SSL_CERT_FILE", "PIP_CERT") for word in ("--env", f"{name}={authorities}")]
    buildah("config", *(words if authorities else []), "--label", "made-by=test", container)
    buildah("commit", "--quiet", container, BASE)
    shutil.rmtree(folder)


def _devices(folder: str, names: list[str]) -> list[str]:
    return names if folder.endswith("/dev") else []


@pytest.fixture(scope="module")
def image(buildah: Build, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Its name."""
    try:
        buildah("pull", "--quiet", BASE)
    except AssertionError:
        own_base(buildah, tmp_path_factory.mktemp("base") / "root")
    try:
        torch = ["--build-arg", "TORCH=cpu"] if httpx.head(CPU_INDEX, timeout=20).is_success else []
    except httpx.HTTPError:
        torch = []
    volumes = ["--volume", "/etc/ssl/certs:/etc/ssl/certs:ro"] if "SSL_CERT_FILE" in os.environ else []
    options = ["--isolation", "chroot", "--pull=never", "--layers=false", "--format", "docker", *volumes]
    began = time.monotonic()
    buildah("build", "--quiet", *options, *torch, "--file", "deploy/Dockerfile", "--tag", TAG, ".")
    size = sum(path.stat().st_size for path in Path(mounted(buildah)).rglob("*") if not path.is_symlink())
    print(
        f"built in {time.monotonic() - began:.0f} s; {size / 1e9:.1f} GB of files", "with", torch or "the lock's torch"
    )
    assert not torch or size < CPU_BYTES
    return TAG


def mounted(buildah: Build) -> str:
    """A folder with what is in the image."""
    return buildah("mount", buildah("from", "--pull=never", TAG))


def test_the_image_serves_and_dehazes(buildah: Build, image: str) -> None:
    health = buildah("inspect", "--type", "image", "--format", "{{.Docker.Config.Healthcheck}}", image)
    assert "/healthz" in health, "the format keeps the health check"
    url = f"http://127.0.0.1:{free_port()}"
    container = buildah("from", "--pull=never", image)
    command = ["run", "--isolation", "chroot", container, "--", "python", "-m", "serving", "--host", "127.0.0.1"]
    for _ in range(STARTS):
        service = subprocess.Popen(
            [*buildah.command, *command, "--port", url.rpartition(":")[2]],  # type: ignore[attr-defined]
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
        )  # fmt: skip
        if _is_ready(service, url):
            break
    try:
        assert service.poll() is None, f"the service ended: {service.communicate()[0][-3000:]}"
        picture = io.BytesIO()
        Image.fromarray(make_photo(1, hazy=True)).save(picture, "JPEG")
        answer = httpx.post(f"{url}/v1/dehaze", content=picture.getvalue(), timeout=120)
        assert answer.status_code == 200
        assert answer.headers["x-model"].startswith("corun-compact")
        Image.open(io.BytesIO(answer.content)).verify()
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(service.pid, signal.SIGTERM)
        service.communicate(timeout=120)


def _is_ready(service: subprocess.Popen[str], url: str) -> bool:
    """Wait until it answers, or has ended."""
    deadline = time.monotonic() + READY_SECONDS
    while service.poll() is None and time.monotonic() < deadline:
        with contextlib.suppress(httpx.HTTPError):
            if httpx.get(f"{url}/readyz", timeout=5).status_code == 200:
                return True
        time.sleep(1)
    return False
