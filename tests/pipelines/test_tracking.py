"""MLflow runs and the registry, on a SQLite database."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from models import checkpoints as checkpoint
from models import zoo
from models.config import ConfigError
from models.predictor import Predictor
from pipelines.register import main as register_main
from pipelines.tracking import Tracker, default_uri, download_model, flatten, register_model

NETWORK = {"name": "corun", "stages": 1, "dim": 2}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tracking")


@pytest.fixture(scope="module")
def tracker(folder: Path) -> Tracker:
    return Tracker.start("dehaze/tests", "first", default_uri(folder / "out"))


@pytest.fixture(scope="module")
def weights(folder: Path) -> Path:
    return checkpoint.save(folder / "checkpoint", zoo.build(NETWORK), {"network": NETWORK})


def test_what_is_logged_can_be_read(tracker: Tracker, folder: Path) -> None:
    from mlflow import MlflowClient

    (folder / "note.txt").write_text("hello")
    tracker.log_params({"train": {"steps": 10, "note": "x" * 900}, "seed": 1})
    tracker.log_metrics({"loss": 0.5}, step=1)
    again = Tracker.resume(tracker.tracking_uri, tracker.run_id)
    again.log_metrics({"loss": 0.25}, step=2)
    again.log_artifact(folder / "note.txt", "notes")
    client = MlflowClient(tracker.tracking_uri)
    run = client.get_run(tracker.run_id)
    assert run.data.params == {"train.steps": "10", "train.note": "x" * 500, "seed": "1"}
    assert [(m.step, m.value) for m in client.get_metric_history(run.info.run_id, "loss")] == [(1, 0.5), (2, 0.25)]
    assert run.info.artifact_uri.startswith((folder / "out").as_uri())
    assert [item.path for item in client.list_artifacts(run.info.run_id, "notes")] == ["notes/note.txt"]
    assert run.info.status == "RUNNING"


def test_a_registered_checkpoint_comes_back_and_predicts(
    tracker: Tracker, weights: Path, photo: Callable[..., NDArray[np.uint8]]
) -> None:
    from mlflow import MlflowClient

    version = register_model(weights, tracking_uri=tracker.tracking_uri, run_id=tracker.run_id)
    assert MlflowClient(tracker.tracking_uri).get_run(tracker.run_id).info.status == "RUNNING"
    name = "models:/dehazer@champion"
    found = download_model(name, tracker.tracking_uri)
    for file in (checkpoint.MODEL, checkpoint.CONFIG):
        assert (found / file).read_bytes() == (weights / file).read_bytes()
    buffer = io.BytesIO()
    Image.fromarray(photo(1)).save(buffer, "PNG")
    registered = Predictor(name, tracker.tracking_uri).dehaze_bytes(buffer.getvalue())[0]
    assert registered == Predictor(str(weights)).dehaze_bytes(buffer.getvalue())[0]
    newer = register_model(weights, tracking_uri=tracker.tracking_uri, run_id=tracker.run_id)
    client = MlflowClient(tracker.tracking_uri, registry_uri=tracker.tracking_uri)
    champion = client.get_model_version_by_alias("dehazer", "champion")
    assert (version, str(champion.version)) == ("1", newer)
    tracker.finish()
    assert client.get_run(tracker.run_id).info.status == "FINISHED"


def test_mlflow_itself_loads_the_model(
    tracker: Tracker, weights: Path, photo: Callable[..., NDArray[np.uint8]]
) -> None:
    import mlflow

    from models.registry import mlflow_at

    register_model(weights, tracking_uri=tracker.tracking_uri, run_id=tracker.run_id, name="loaded")
    buffer = io.BytesIO()
    Image.fromarray(photo(2)).save(buffer, "PNG")
    with mlflow_at(tracker.tracking_uri):
        model = mlflow.pyfunc.load_model("models:/loaded@champion")
    assert model.predict([buffer.getvalue()]) == [Predictor(str(weights)).dehaze_bytes(buffer.getvalue())[0]]


def test_register_command(tracker: Tracker, weights: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--tracking-uri", tracker.tracking_uri, "--name", "other", "--alias", "best"]
    assert register_main([str(weights), *words]) == 0
    assert "models:/other@best" in capsys.readouterr().out
    assert download_model("models:/other@best", tracker.tracking_uri).is_dir()
    assert register_main([str(weights / "nothing"), *words]) == 2
    assert "is no checkpoint" in capsys.readouterr().err


def test_missing_models_are_one_clear_error(tracker: Tracker, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="nobody"):
        download_model("models:/nobody@champion", tracker.tracking_uri)
    with pytest.raises(ConfigError, match="no MLflow database"):
        download_model("models:/dehazer@champion", default_uri(tmp_path))
    assert not (tmp_path / "mlflow.db").exists()
    with pytest.raises(ConfigError, match="no registry name"):
        download_model("dehazer", tracker.tracking_uri)


def test_flatten() -> None:
    assert flatten({"a": {"b": 1, "c": {"d": None}}, "e": {}}) == {"a.b": 1, "a.c.d": None, "e": {}}
