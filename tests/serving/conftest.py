"""Services: ``service`` is the interface over an engine of this process, ``ray_service`` the whole on Ray Serve."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import httpx
import numpy as np
import pytest
from fastapi.testclient import TestClient
from numpy.typing import NDArray

from benchmarks.serving_service import free_port
from models.config import parse
from serving.config import ServingConfig
from serving.engine.replica import Replica
from serving.http.routes import make_api
from tests.waiting import wait_for

COUNT = 6  # frames of the clip
BASE: dict[str, Any] = {"model": "dcp", "scorer": None, "threads": 1}


@pytest.fixture
def service() -> Iterator[Callable[..., TestClient]]:
    """``service(backend=None, metrics=None, **settings)``: a client of a service with these settings."""
    with ExitStack() as stack:

        def make(backend: Any = None, metrics: Any = None, **settings: Any) -> TestClient:
            config = parse(ServingConfig, BASE | settings)
            backend = backend if backend is not None else Replica(config, metrics)
            app = make_api(config, backend, metrics=metrics)
            return stack.enter_context(TestClient(app, raise_server_exceptions=False))

        yield make


@pytest.fixture
def clip(tmp_path: Path, photo: Callable[..., NDArray[np.uint8]]) -> Path:
    """A video of :data:`COUNT` frames."""
    return film(tmp_path / "clip.mp4", photo(0, 64, 96 + COUNT, hazy=True))


def film(path: Path, scene: NDArray[np.uint8]) -> Path:
    """Pan over a scene, a column in each of :data:`COUNT` frames."""
    height, width = scene.shape[0], scene.shape[1] - COUNT
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for index in range(COUNT):
            picture = np.ascontiguousarray(scene[:, index : index + width])
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode(None))
    return path


def submitted(client: TestClient, body: bytes, query: str = "", **options: Any) -> dict[str, Any]:
    """Begin a job and return what the service says of it."""
    answer = client.post(f"/v1/jobs{query}", content=body, **options)
    assert answer.status_code == 202, answer.text
    job: dict[str, Any] = answer.json()
    assert answer.headers["location"] == f"/v1/jobs/{job['id']}"
    return job


def ended(client: TestClient, job: str, **headers: Any) -> dict[str, Any]:
    """Wait until a job has ended and return its state."""
    wait_for(lambda: client.get(f"/v1/jobs/{job}", **headers).json()["status"] not in ("queued", "running"))
    state: dict[str, Any] = client.get(f"/v1/jobs/{job}", **headers).json()
    return state


NETWORK = {"name": "corun", "stages": 1, "dim": 2}
MAX_BYTES = 200_000


@dataclass
class Registry:
    """An MLflow registry: the folder that it is in, its address, and a run there."""

    folder: Path
    uri: str
    run: str

    def register(self, name: str, *, broken: bool = False) -> str:
        """A new champion with weights of its own, in the subfolder ``name``; its version."""
        import torch

        from models import checkpoints as checkpoint
        from models import zoo
        from models.registry import register_model

        torch.manual_seed(len(list(self.folder.iterdir())))
        network = zoo.build(NETWORK)
        if broken:
            for parameter in network.parameters():
                parameter.data.fill_(float("nan"))
        saved = checkpoint.save(self.folder / name, network, {"network": NETWORK})
        return register_model(saved, tracking_uri=self.uri, run_id=self.run)


@pytest.fixture(scope="session")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Registry:
    """A registry for the tests of a session, empty at first."""
    from models.mlflow_client import default_uri
    from pipelines.tracking import Tracker

    folder = tmp_path_factory.mktemp("registry")
    tracker = Tracker.start("dehaze/tests", "serving", default_uri(folder))
    return Registry(folder, tracker.tracking_uri, tracker.run_id)


@dataclass(frozen=True)
class Running:
    """A service: its address, a token that it takes, and a client that has it."""

    url: str
    token: str
    client: httpx.Client


@pytest.fixture(scope="session")
def ray_service(ray_cluster: None, registry: Registry, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """The service on Ray Serve, once for all tests: a champion of the registry, and two packaged models."""
    from serving import app

    registry.register("first")
    token = secrets.token_hex(16)
    tokens = tmp_path_factory.mktemp("tokens") / "tokens"
    tokens.write_text(token)
    config = ServingConfig.model_validate(
        {
            "port": free_port(),
            "model": "models:/dehazer@champion",
            "tracking_uri": registry.uri,
            "models": {"dark-channel": "dcp", "compact": "corun-compact"},
            "poll_s": 0.5,
            "threads": 1,
            "limits": {"max_bytes": MAX_BYTES, "formats": ["JPEG", "PNG"]},
            "requests": {"max_pending": 8},
            "auth": {"token_file": tokens},
            "jobs": {"folder": str(tmp_path_factory.mktemp("jobs"))},
        }
    )
    url = app.start(config)
    with httpx.Client(base_url=url, timeout=60, headers={"Authorization": f"Bearer {token}"}) as client:
        yield Running(url, token, client)
    app.stop()
