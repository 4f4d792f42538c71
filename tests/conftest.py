"""Shared by all tests: one small Ray for the whole run, made-up photographs, an environment that stays clean."""

from __future__ import annotations

import io
import logging
import os
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import pytest
from hypothesis import settings
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from xdist.scheduler import LoadFileScheduling

Pixels = NDArray[np.uint8]
ROOT = Path(__file__).parent.parent

SECRET = "of-tests-and-never-printed"
ENVIRONMENT = {
    "AWS_ACCESS_KEY_ID": "of-tests",  # never somebody's own
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_EC2_METADATA_DISABLED": "true",
    "AWS_SECRET_ACCESS_KEY": SECRET,
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "OMP_NUM_THREADS": "1",  # two processes run the tests; two cores must do
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_AUTH_MODE": "disabled",
    "RAY_DATA_USE_DATASOURCE_V2": "0",
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # listen on loopback only, as authentication is off
    "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH": "serving.http.connections:guard",  # as `python -m serving` has it
    "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",
    "RAY_worker_niceness": "0",  # Ray's own is 15: beside another process of the tests its workers would hardly move
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.1",
}


def pytest_configure() -> None:
    """Before any test module is imported: Ray and torch read these when they are."""
    for name in ("RAY_ADDRESS", "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_PROFILE", "AWS_SESSION_TOKEN"):
        os.environ.pop(name, None)  # tests never run on somebody's cluster or storage
    os.environ.update(ENVIRONMENT)
    settings.register_profile("shared", deadline=None)  # how long an example takes says more about the machine
    settings.load_profile("shared")


class _OneRay(LoadFileScheduling):  # type: ignore[misc]  # untyped
    """A file goes to one process as a whole; all files that need Ray go to the same one, which starts it once.

    Those that break things are few and wait a lot: they may run beside each other, each process with a Ray of its own.
    """

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.partition("::")[0]
        text = (ROOT / file).read_text()
        shared = "ray_cluster" in text or "ray_service" in text
        return "ray" if shared and not file.startswith("tests/faults/") else file


def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> _OneRay:
    """With ``--numprocesses``: the tests that need Ray beside the others."""
    return _OneRay(config, log)


@pytest.fixture(scope="session", autouse=True)
def _no_cache_of_the_user(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Before anything starts a Ray: its processes fetch models too."""
    os.environ["DEHAZE_CACHE"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(autouse=True)
def _same_environment_afterwards() -> Iterator[None]:
    before = dict(os.environ)
    yield
    if os.environ != before:
        os.environ.clear()
        os.environ.update(before)


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[None]:
    """Ray with two logical CPUs, started by the first test that asks and shared by all."""
    import ray
    from ray.data import DataContext

    ray.init(
        address="local",
        num_cpus=2,
        include_dashboard=False,
        namespace="tests",
        object_store_memory=300 << 20,
        logging_level="WARNING",
    )
    context = DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    yield
    ray.shutdown()


@pytest.fixture
def run(request: pytest.FixtureRequest, ray_cluster: None) -> Iterator[str]:
    """The name of a run of this test's own; of its pools and label workers, and of runs whose names begin alike,
    nothing is left, above all not their places: others would wait for these for ever.
    """
    from models.config import PoolError
    from pseudolabel.inspect import running, stop
    from pseudolabel.pool.client import remove_groups

    name = f"{request.node.name}-{time.monotonic_ns()}"
    yield name
    for left in {name, *(one.run for one in running() if one.run.startswith(name))}:
        with suppress(PoolError):
            stop(left, force=True)
        remove_groups(left)


class ObjectStorage:
    """An S3 server on this machine, with what was asked of it.

    Attributes:
        endpoint: its address.
        requests: method and path of each request so far.
        failures: so many requests from now on are refused with 503, as a server does that is too busy.
    """

    def __init__(self) -> None:
        from moto.server import DomainDispatcherApplication, create_backend_app
        from werkzeug.serving import make_server

        logging.getLogger("werkzeug").setLevel(logging.ERROR)
        self._app = DomainDispatcherApplication(create_backend_app)
        self.server = make_server("127.0.0.1", 0, self._answer, threaded=True)
        self.endpoint = f"http://127.0.0.1:{self.server.port}"
        self.requests: list[tuple[str, str]] = []
        self.failures = 0

    def _answer(self, environ: dict[str, Any], start: Callable[..., Any]) -> Any:
        self.requests.append((environ["REQUEST_METHOD"], environ["PATH_INFO"]))
        if self.failures > 0:
            self.failures -= 1
            environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
            start("503 Slow Down", [("Content-Type", "application/xml")])
            return [b"<Error><Code>SlowDown</Code><Message>busy</Message></Error>"]
        return self._app(environ, start)


@pytest.fixture(scope="session")
def object_storage() -> Iterator[ObjectStorage]:
    """One for the whole run; see ``bucket``."""
    storage = ObjectStorage()
    thread = threading.Thread(target=storage.server.serve_forever, daemon=True)
    thread.start()
    yield storage
    storage.server.shutdown()
    thread.join()


@pytest.fixture
def bucket(object_storage: ObjectStorage) -> Callable[[str], str]:
    """``bucket("runs/one")``: a URI in an S3 bucket of its own, which processes elsewhere can use as it is."""
    from pyarrow.fs import S3FileSystem

    name = f"b{uuid.uuid4().hex[:12]}"
    S3FileSystem(endpoint_override=object_storage.endpoint, allow_bucket_creation=True).create_dir(name)
    return lambda path: f"s3://{name}/{path}?endpoint_override={quote(object_storage.endpoint, safe='')}"


@pytest.fixture(scope="session")
def photo() -> Callable[..., Pixels]:
    """``photo(seed, height=96, width=128, hazy=False)``: H W 3 uint8, the same for the same arguments."""
    return make_photo


@pytest.fixture
def photo_folder(tmp_path: Path) -> Callable[..., Path]:
    """``photo_folder(name="photos", count=6, seed=0, height=96, width=128, hazy=False)``: a folder of JPEGs."""

    def make(
        name: str = "photos", count: int = 6, seed: int = 0, height: int = 96, width: int = 128, hazy: bool = False
    ) -> Path:
        folder = tmp_path / name
        folder.mkdir(parents=True)
        for index in range(count):
            pixels = make_photo(1000 * seed + index, height, width, hazy=hazy)
            Image.fromarray(pixels).save(folder / f"photo_{index:03d}.jpg", quality=92)
        return folder

    return make


def make_photo(seed: int, height: int = 96, width: int = 128, hazy: bool = False) -> Pixels:
    """A sky over textured ground with a few objects; ``hazy`` veils it, more towards the top."""
    random = np.random.default_rng(seed)
    image = Image.fromarray(_smooth_field(random, height, width))
    draw = ImageDraw.Draw(image)
    for _ in range(8):
        x, y = random.uniform(0, width), random.uniform(0.3 * height, height)
        w, h = random.uniform(0.05, 0.3, 2) * (width, height)
        color = tuple(int(c) for c in random.integers(0, 256, 3))
        shape = draw.rectangle if random.random() < 0.5 else draw.ellipse
        shape((x, y, x + w, y + h), fill=color)
    scene = np.asarray(image, np.float32) + random.normal(0, 4, (height, width, 1))
    if hazy:
        transmission = np.linspace(0.15, 0.7, height)[:, None, None]
        scene = scene * transmission + random.uniform(200, 240) * (1 - transmission)
    return np.clip(np.rint(scene), 0, 255).astype(np.uint8)


def encoded(pixels: NDArray[Any], kind: str = "PNG", **options: Any) -> bytes:
    """Pixels as a file."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind, **options)
    return buffer.getvalue()


def _smooth_field(random: np.random.Generator, height: int, width: int) -> Pixels:
    """Color noise at three scales, brighter towards the top. H W 3 uint8."""
    total = np.linspace(60, 0, height)[:, None, None] + np.full((height, width, 3), 80.0)
    for cells, strength in ((3, 90), (8, 40), (24, 25)):
        coarse = Image.fromarray(random.integers(0, 256, (cells, cells, 3), dtype=np.uint8))
        total += (np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC)) / 255.0 - 0.5) * strength
    return np.clip(total, 0, 255).astype(np.uint8)


@pytest.fixture(scope="session")
def jpeg(photo: Callable[..., Pixels]) -> Callable[..., bytes]:
    """``jpeg(seed, height=96, width=128, format="JPEG")``: a hazy photograph as a file."""

    def make(seed: int = 1, height: int = 96, width: int = 128, format: str = "JPEG") -> bytes:  # noqa: A002
        return encoded(photo(seed, height, width, hazy=True), format, quality=92)

    return make
