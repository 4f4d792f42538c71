"""Versions of a registry on this machine: fetched once, refused once, and what is said when they cannot be had."""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
import torch

from models import checkpoints as checkpoint
from models import mlflow_client, zoo
from models.config import ConfigError
from models.mlflow_client import default_uri
from models.options import DEFAULT_OPTIONS
from models.predictor import Predictor
from models.registry import RefusedError, cache, download_model, register_model, resolve
from pipelines.tracking import Tracker
from serving.config import ServingConfig
from serving.engine.engine import DehazeTask
from serving.engine.replica import Replica, require_model
from serving.errors import Problem

NETWORK = {"name": "corun", "stages": 1, "dim": 2}
CHAMPION = "models:/dehazer@champion"


class Registry:
    """A model of a registry in ``folder``; ``fetched`` is what was brought from it."""

    def __init__(self, tracker: Tracker, folder: Path, name: str) -> None:
        self.tracker, self.folder, self.name, self.uri = tracker, folder, name, tracker.tracking_uri
        self.champion = f"models:/{name}@champion"
        self.fetched: list[str] = []

    def register(self, *, network: Any = None) -> str:
        """A new champion; its name. One of another network than its configuration says cannot be loaded."""
        network = zoo.build(NETWORK) if network is None else network
        saved = checkpoint.save(self.folder / "checkpoint", network, {"network": NETWORK})
        version = register_model(saved, tracking_uri=self.uri, run_id=self.tracker.run_id, name=self.name)
        return f"models:/{self.name}/{version}"


@pytest.fixture(scope="module")
def tracker(tmp_path_factory: pytest.TempPathFactory) -> Tracker:
    """Of the one registry of these tests: making a database takes long."""
    return Tracker.start("dehaze/tests", "registry", default_uri(tmp_path_factory.mktemp("registry")))


@pytest.fixture
def models(
    tracker: Tracker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> Registry:
    import mlflow

    found = Registry(tracker, Path(tracker.tracking_uri.removeprefix("sqlite:///")).parent, request.node.name)
    original = mlflow.artifacts.download_artifacts

    def counted(artifact_uri: str, dst_path: str) -> str:
        found.fetched.append(artifact_uri)
        return str(original(artifact_uri=artifact_uri, dst_path=dst_path))

    monkeypatch.setattr(mlflow.artifacts, "download_artifacts", counted)
    monkeypatch.setenv("DEHAZE_CACHE", str(tmp_path / "cache"))
    return found


def config_of(found: Registry, **more: Any) -> ServingConfig:
    given = {"model": found.champion, "tracking_uri": found.uri, "scorer": None, "threads": 1}
    return ServingConfig(**(given | more))


def test_a_version_is_fetched_once(models: Registry) -> None:
    first = models.register()
    assert [download_model(models.champion, models.uri) for _ in range(3)] == [download_model(first, models.uri)] * 3
    assert models.fetched == [first]
    second = models.register()
    assert download_model(models.champion, models.uri) != download_model(first, models.uri)
    assert models.fetched == [first, second]
    assert len(list(cache().iterdir())) == 2


def test_an_alias_that_mlflow_would_refuse_makes_no_version(models: Registry) -> None:
    assert models.register().endswith("/1")
    for alias in ("latest", "Latest", "v1", "V12", "two words", "a.b", "", "a" * 256):
        with pytest.raises(ConfigError, match="cannot be an alias"):
            register_model(
                models.folder / "checkpoint",
                tracking_uri=models.uri,
                run_id=models.tracker.run_id,
                name=models.name,
                alias=alias,
            )
    assert models.register().endswith("/2")


def test_versions_that_another_user_fetched_are_used(models: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    name = models.register()
    mine = download_model(name, models.uri)

    def refuses(path: Path) -> None:
        raise PermissionError(f"[Errno 1] Operation not permitted: {path}")

    monkeypatch.setattr(os, "utime", refuses)
    assert download_model(name, models.uri) == mine


def test_a_model_that_was_made_anew_is_another(models: Registry) -> None:
    from mlflow import MlflowClient

    name = models.register()
    one = download_model(name, models.uri)
    MlflowClient(models.uri, models.uri).delete_registered_model(models.name)
    assert models.register() == name
    assert download_model(name, models.uri) != one


def test_old_versions_leave_the_cache(models: Registry) -> None:
    day = time.time() - 2 * 86400
    for number in range(8):
        (cache() / f"old-{number}").mkdir()
        os.utime(cache() / f"old-{number}", (day + number, day + number))
    for name, used in ((".fetching-old", day), (".fetching-now", time.time() - 7200)):
        (cache() / name).mkdir()
        os.utime(cache() / name, (used, used))
    mine = download_model(models.register(), models.uri)
    left = {path.name for path in cache().iterdir()}
    assert left == {".fetching-now", mine.relative_to(cache()).parts[0], *(f"old-{number}" for number in (4, 5, 6, 7))}


def test_a_fetch_that_breaks_leaves_nothing(models: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    import mlflow

    name = models.register()
    whole = mlflow.artifacts.download_artifacts

    def breaks(artifact_uri: str, dst_path: str) -> str:
        (Path(dst_path) / "model.safetensors").write_bytes(b"half")
        raise OSError("the connection broke")

    monkeypatch.setattr(mlflow.artifacts, "download_artifacts", breaks)
    with pytest.raises(ConfigError, match="the connection broke") as caught:
        download_model(name, models.uri)
    assert not isinstance(caught.value, RefusedError)
    assert not list(cache().iterdir())
    monkeypatch.setattr(mlflow.artifacts, "download_artifacts", whole)
    assert download_model(name, models.uri).is_dir()


def test_where_no_cache_can_be_a_process_has_its_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("DEHAZE_CACHE", str(tmp_path / "file" / "cache"))
    assert cache().is_dir()
    monkeypatch.delenv("DEHAZE_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache() == tmp_path / "ray-dehaze" / "models"


class TestRefused:
    def test_the_champion_is_fetched_and_loaded_once(self, models: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
        good = models.register()
        loads = counted_loads(monkeypatch)
        replica = Replica(config_of(models))
        bad = models.register(network=torch.nn.Conv2d(3, 3, 1))
        for _ in range(3):
            replica.refresh()
        assert models.fetched == loads == [good, bad]
        (state,) = asyncio.run(models_of(replica))
        assert state.version == good
        assert bad in state.problem
        assert str(models.folder) not in state.problem
        better = models.register()
        replica.refresh()
        (state,) = asyncio.run(models_of(replica))
        assert (state.version, state.problem) == (better, None)

    def test_requests_for_it_neither_fetch_nor_load_it_again(
        self, models: Registry, monkeypatch: pytest.MonkeyPatch, jpeg: Callable[..., bytes]
    ) -> None:
        bad = models.register(network=torch.nn.Conv2d(3, 3, 1))
        loads = counted_loads(monkeypatch)
        replica = Replica(config_of(models, model="dcp").model_copy(update={"models": {"candidate": bad}}))

        async def ask() -> list[Any]:
            return [await replica.dehaze(DehazeTask(jpeg(), DEFAULT_OPTIONS, model="candidate")) for _ in range(3)]

        answers = asyncio.run(ask())
        assert all(isinstance(answer, Problem) and answer.status == 503 for answer in answers)
        assert (models.fetched, loads) == ([bad], ["dcp", bad])

    def test_what_holds_no_checkpoint_is_refused(self, models: Registry) -> None:
        name = models.register()
        folder = download_model(name, models.uri)
        (folder / "model.safetensors").unlink()
        with pytest.raises(RefusedError, match="holds no checkpoint"):
            download_model(name, models.uri)

    def test_what_cannot_be_had_is_not(self, models: Registry) -> None:
        name = models.register()
        (models.folder / "mlartifacts").rename(models.folder / "moved")
        for _ in range(2):
            with pytest.raises(ConfigError, match=str(models.folder / "mlartifacts")) as caught:
                Predictor(name, models.uri)
            assert not isinstance(caught.value, RefusedError)
        (models.folder / "moved").rename(models.folder / "mlartifacts")
        Predictor(name, models.uri)


def counted_loads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    loads: list[str] = []
    original = Replica._load

    def load(self: Replica, version: str) -> Predictor:
        loads.append(version)
        return original(self, version)

    monkeypatch.setattr(Replica, "_load", load)
    return loads


async def models_of(replica: Replica) -> list[Any]:
    found = await replica.models()
    assert isinstance(found, list)
    return found


@pytest.fixture
def silent() -> Iterator[str]:
    """A server that takes connections and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


def test_a_server_that_says_nothing_is_not_waited_for(silent: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(mlflow_client._QUESTION, "MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    began = time.monotonic()
    with pytest.raises(ConfigError, match=f"{silent}.*nothing answers there") as caught:
        resolve(CHAMPION, silent)
    assert time.monotonic() - began < 8
    assert "\n" not in str(caught.value)
    assert "MLFLOW_HTTP_REQUEST_TIMEOUT" not in os.environ  # other questions, of other programs, have their times


def test_times_that_the_user_has_set_stay(silent: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with mlflow_client._impatient():
        assert os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"] == "1"
        assert os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] == "0"
    assert os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] == "0"


@pytest.mark.parametrize(
    ("uri", "told"),
    [
        ("http://127.0.0.1:9", "nothing answers there .*; start the server, or give another tracking URI"),
        (
            "postgresql://somebody:secret@127.0.0.1:9/mlflow",
            "nothing answers there .*; start the server, or give another tracking URI",
        ),
        ("sqlite:///{folder}", "that is a folder; name the file of the database"),
        ("{folder}", "MLflow does not write to folders any more; use a database"),
        ("file://{folder}", "MLflow does not write to folders any more; use a database"),
        ("sqlite:///{folder}/note.txt", "that file is no SQLite database"),
        ("sqlite:///{folder}/nothing.db", "there is no MLflow database"),
    ],
)
def test_addresses_of_no_use(uri: str, told: str, tmp_path: Path) -> None:
    (tmp_path / "note.txt").write_text("this is a note, and no database")
    began = time.monotonic()
    uri = uri.format(folder=tmp_path)
    for ask in (resolve, download_model, lambda name, at: require_model(ServingConfig(model=name, tracking_uri=at))):
        with pytest.raises(ConfigError, match=told) as caught:
            ask(CHAMPION, uri)
        assert "\n" not in str(caught.value)
        assert "secret" not in str(caught.value)
        assert uri.rpartition("@")[2].removeprefix("sqlite:///") in str(caught.value)
    assert time.monotonic() - began < 20


def test_a_question_makes_no_database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "mlflow.db"  # MLflow's own setting is that of the current folder
    monkeypatch.setattr("mlflow.get_tracking_uri", lambda: f"sqlite:///{file}")
    for ask in (resolve, download_model):
        with pytest.raises(
            ConfigError, match=r"there is no MLflow database .*; train .*, or give another tracking URI"
        ):
            ask(CHAMPION)
    assert not file.exists()


def test_a_server_of_another_kind_is_said_to_be_none() -> None:
    class Other(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_error(404)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Other) as server:
        Thread(target=server.serve_forever).start()
        try:
            with pytest.raises(
                ConfigError, match=r"nothing answers there that speaks MLflow's language \(HTTP 404\); st"
            ):
                resolve(CHAMPION, f"http://127.0.0.1:{server.server_port}")
        finally:
            server.shutdown()
