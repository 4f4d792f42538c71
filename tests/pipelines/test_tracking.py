"""MLflow runs and the registry, on a SQLite database."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from numpy.typing import NDArray
from PIL import Image

from models import checkpoints as checkpoint
from models import zoo
from models.config import ConfigError
from models.mlflow_client import default_uri
from models.options import DEFAULT_OPTIONS, DehazeOptions
from models.paths import upload
from models.predictor import Predictor
from models.registry import download_model, register_model
from pipelines import cluster, tracking
from pipelines.dehaze import apply
from pipelines.evaluate import __main__ as evaluate
from pipelines.register import main as register_main
from pipelines.tracking import Tracker, flatten, running
from pipelines.train import __main__ as train_command
from pipelines.train import job as train
from pipelines.train.loop import Loop
from serving.__main__ import main as serving_main
from tests.conftest import encoded

NETWORK = {"name": "corun", "stages": 1, "dim": 2}
ADDRESSES = ("MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI")
ROOT = Path(__file__).parents[2]


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
    (folder / "note.txt").write_text("hello")
    tracker.log_params({"train": {"steps": 10, "note": "x" * 900}, "seed": 1})
    tracker.log_metrics({"loss": 0.5}, step=1)
    tracker.flush()
    again = Tracker.resume(tracker.tracking_uri, tracker.run_id)
    again.log_metrics({"loss": 0.25}, step=2)
    again.log_artifact(folder / "note.txt", "notes")
    again.flush()
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
    version = register_model(weights, tracking_uri=tracker.tracking_uri, run_id=tracker.run_id)
    assert MlflowClient(tracker.tracking_uri).get_run(tracker.run_id).info.status == "RUNNING"
    name = "models:/dehazer@champion"
    found = download_model(name, tracker.tracking_uri)
    for file in (checkpoint.MODEL, checkpoint.CONFIG):
        assert (found / file).read_bytes() == (weights / file).read_bytes()
    png = encoded(photo(1))
    registered = Predictor(name, tracker.tracking_uri).dehaze_bytes(png)[0]
    assert registered == Predictor(str(weights)).dehaze_bytes(png)[0]
    newer = register_model(weights, tracking_uri=tracker.tracking_uri, run_id=tracker.run_id)
    client = MlflowClient(tracker.tracking_uri, registry_uri=tracker.tracking_uri)
    champion = client.get_model_version_by_alias("dehazer", "champion")
    assert (version, str(champion.version)) == ("1", newer)
    tracker.finish()
    assert client.get_run(tracker.run_id).info.status == "FINISHED"


@pytest.fixture(scope="module")
def loaded(tracker: Tracker, weights: Path) -> Any:
    """The model as MLflow gives it out."""
    import mlflow

    from models.mlflow_client import mlflow_at

    register_model(weights, tracking_uri=tracker.tracking_uri, run_id=tracker.run_id, name="loaded")
    with mlflow_at(tracker.tracking_uri):
        return mlflow.pyfunc.load_model("models:/loaded@champion")


@pytest.fixture(scope="module")
def png(photo: Callable[..., NDArray[np.uint8]]) -> bytes:
    return encoded(photo(2))


class TestTheModelAsMlflowLoadsIt:
    def test_it_dehazes(self, loaded: Any, weights: Path, png: bytes) -> None:
        assert loaded.predict([png]) == [Predictor(str(weights)).dehaze_bytes(png)[0]]

    def test_params_are_those_of_the_options(self, loaded: Any, weights: Path, png: bytes) -> None:
        (same,) = loaded.predict([png], params={"strength": 0})
        with Image.open(io.BytesIO(png)) as before, Image.open(io.BytesIO(same)) as after:
            assert np.array_equal(np.asarray(before), np.asarray(after))
        options = {"format": "JPEG", "quality": 50, "wrap": True, "keep_metadata": True, "output": "transmission"}
        told = Predictor(str(weights)).dehaze_bytes(png, DehazeOptions.model_validate(options))[0]
        assert loaded.predict([png], params=options) == [told]

    def test_the_signature_names_all_options(self, loaded: Any) -> None:
        known = {param.name: param.default for param in loaded.metadata.get_params_schema().params}
        assert known == DEFAULT_OPTIONS.model_dump()

    @pytest.mark.parametrize("params", [{"strenght": 0.5}, {"strength": 3.0}, {"format": "GIF"}, {"quality": "best"}])
    def test_others_are_refused(self, loaded: Any, png: bytes, params: dict[str, Any]) -> None:
        with pytest.raises((ConfigError, MlflowException), match=next(iter(params))):
            loaded.predict([png], params=params)

    def test_it_needs_nothing_of_this_project(
        self, tracker: Tracker, weights: Path, loaded: Any, png: bytes, tmp_path: Path
    ) -> None:
        (tmp_path / "hazy.png").write_bytes(png)
        script = f"""
            import sys
            sys.meta_path = [f for f in sys.meta_path if "editable" not in getattr(f, "__module__", "")]
            for name in ("ray", "open_clip", "torchvision", "fade", "h5py", "imagehash", "lmdb", "multipart"):
                sys.modules[name] = None  # what the model does not ask for
            import mlflow
            mlflow.set_tracking_uri({tracker.tracking_uri!r})
            model = mlflow.pyfunc.load_model("models:/loaded@champion")
            open("clear.png", "wb").write(model.predict([open("hazy.png", "rb").read()])[0])
            import models
            print(models.__file__)
        """
        command = [sys.executable, "-I", "-c", textwrap.dedent(script)]
        environment = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "MLFLOW"))}
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert (tmp_path / "clear.png").read_bytes() == Predictor(str(weights)).dehaze_bytes(png)[0]
        assert str(ROOT) not in done.stdout.split()[-1]


class Failing:
    """An MLflow that takes nothing, after some time."""

    def __init__(self, seconds: float = 0.0) -> None:
        self.seconds, self.calls = seconds, 0

    def log_batch(self, *_: Any, **__: Any) -> None:
        self.calls += 1
        time.sleep(self.seconds)
        raise ConnectionError("Max retries exceeded ([Errno 111] Connection refused)")

    set_terminated = log_artifact = log_batch


class Away:
    """An MLflow that is away for some calls, and then back."""

    def __init__(self, calls: int) -> None:
        self.left, self.steps = calls, list[int]()

    def log_batch(self, _: str, metrics: Any) -> None:
        self.left -= 1
        if self.left >= 0:
            raise ConnectionError("Max retries exceeded ([Errno 111] Connection refused)")
        self.steps += [metric.step for metric in metrics]


class TestLoggingIsBesideTheWork:
    @pytest.fixture(autouse=True)
    def soon(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(tracking, "_PAUSE_S", 0.01)

    def test_what_is_logged_while_the_server_is_away_is_written_when_it_is_back(
        self, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        away = Away(calls=5)
        monkeypatch.setattr(tracking, "_client", lambda uri: away)
        tracker = Tracker("http://user:secret@127.0.0.1:9", "abc")
        for step in range(50):
            tracker.log_metrics({"loss": 1.0}, step)
        tracker.flush()
        assert away.steps == list(range(50))
        assert [record.getMessage() for record in caplog.records] == [
            (
                "MLflow at http://127.0.0.1:9 does not take metrics of step 0 yet: nothing answers there "
                "([Errno 111] Connection refused); what is logged waits for it"
            ),
            "MLflow at http://127.0.0.1:9 is back",
        ]

    def test_a_server_that_does_not_come_back_costs_what_waits_for_it(
        self, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        monkeypatch.setattr(tracking, "_client", lambda uri: Failing())
        gone = Tracker("http://127.0.0.1:9", "abc")
        for step in range(50):
            gone.log_metrics({"loss": 1.0}, step)
        gone.log_artifact("nothing.png")
        gone.finish(patience_s=0.1)
        _, last = [record.getMessage() for record in caplog.records]
        assert last == "MLflow at http://127.0.0.1:9 did not take 52 entries, the last of them the run's end"

    def test_no_step_waits_and_the_queue_has_an_end(
        self, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        slow = Failing(seconds=0.5)
        monkeypatch.setattr(tracking, "_client", lambda uri: slow)
        monkeypatch.setattr(tracking, "_PENDING", 20)
        tracker = Tracker("http://127.0.0.1:9", "abc")
        began = time.monotonic()
        for step in range(100):
            tracker.log_metrics({"loss": 1.0}, step)
        assert time.monotonic() - began < 0.4
        tracker.flush(0.1)
        assert time.monotonic() - began < 2
        assert tracker._calls.qsize() <= 20
        assert "it is away, or too slow" in caplog.text
        assert "did not take 100 entries" in caplog.text

    def test_the_end_of_a_run_finds_room(self, tracker: Tracker, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(tracking, "_PENDING", 2)
        run = Tracker.start("dehaze/tests", "full", tracker.tracking_uri)
        for step in range(100):
            run.log_metrics({"loss": 1.0}, step)
        run.finish("FAILED")
        assert self.client(run).get_run(run.run_id).info.status == "FAILED"

    def test_values_that_mlflow_refuses_end_nothing(self, tracker: Tracker, caplog: pytest.LogCaptureFixture) -> None:
        other = Tracker.start("dehaze/tests", "refused", tracker.tracking_uri)
        other.log_params({"a": 1})
        other.log_params({"a": 2})
        other.log_metrics({"loss": 1.0}, 1)
        other.flush()
        assert "does not take params" in caplog.text
        assert self.client(other).get_run(other.run_id).data.metrics == {"loss": 1.0}

    @pytest.mark.parametrize(
        ("problem", "status"),
        [(None, "FINISHED"), (RuntimeError(), "FAILED"), (KeyboardInterrupt(), "KILLED"), (SystemExit(1), "KILLED")],
    )
    def test_a_run_ends_as_its_work_did(self, tracker: Tracker, problem: BaseException | None, status: str) -> None:
        run = Tracker.start("dehaze/tests", "ends", tracker.tracking_uri)
        with nullcontext() if problem is None else pytest.raises(type(problem)), running(run):
            run.log_metrics({"loss": 1.0}, 1)
            if problem is not None:
                raise problem
        found = self.client(run).get_run(run.run_id)
        assert (found.info.status, found.data.metrics) == (status, {"loss": 1.0})

    @pytest.mark.parametrize(
        ("problem", "status", "code"), [(ConfigError("no room"), "FAILED", 2), (KeyboardInterrupt(), "KILLED", 130)]
    )
    def test_a_training_job_ends_its_run(
        self,
        tracker: Tracker,
        problem: BaseException,
        status: str,
        code: int,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        def fails(*_: Any) -> None:
            raise problem

        monkeypatch.setattr(train, "prepare", lambda *_, **__: None)
        monkeypatch.setattr(cluster, "ray_session", lambda *_: nullcontext())
        monkeypatch.setattr(train, "train", fails)
        words = ["--recipe", "demo_pretrain", "--clear", "corpus", "--out", str(tmp_path)]
        assert train_command.main([*words, "--tracking-uri", tracker.tracking_uri]) == code
        run = json.loads((tmp_path / "tracking.json").read_text())["run_id"]
        assert self.client(tracker).get_run(run).info.status == status

    def test_a_worker_asks_nobody_and_leaves_nothing_unwritten(self, monkeypatch: pytest.MonkeyPatch) -> None:
        there = Away(calls=0)
        monkeypatch.setattr(tracking, "_client", lambda uri: there)
        worker: Any = Loop.__new__(Loop)
        worker.host = SimpleNamespace(first=True)
        worker.job = SimpleNamespace(tracking=("http://127.0.0.1:9", "abc"), out="/out")
        worker.tracker = worker._tracker()
        assert there.left == 0

        def steps() -> None:
            worker.tracker.log_metrics({"loss": 1.0}, 1)
            raise FloatingPointError("a loss that is no number")

        worker._steps = steps
        with pytest.raises(FloatingPointError):
            worker.run()
        assert there.steps == [1]

    def test_a_registration_that_fails_leaves_the_status(
        self, tracker: Tracker, weights: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        import mlflow.pyfunc  # itself, and not what loads it at its first use

        run = Tracker.start("dehaze/tests", "register", tracker.tracking_uri)
        run.finish()

        def refuses(*_: Any, **__: Any) -> None:
            raise MlflowException("no room")

        monkeypatch.setattr(mlflow.pyfunc, "log_model", refuses)
        with pytest.raises(ConfigError, match="no room"):
            register_model(weights, tracking_uri=tracker.tracking_uri, run_id=run.run_id)
        assert self.client(run).get_run(run.run_id).info.status == "FINISHED"

    @staticmethod
    def client(tracker: Tracker) -> MlflowClient:
        return MlflowClient(tracker.tracking_uri)


Door = Callable[[str, Path, Path], int]
DOORS: dict[str, Door] = {
    "train": lambda uri, out, _: train_command.main(
        ["--recipe", "demo_pretrain", "--clear", "corpus", "--out", str(out), "--tracking-uri", uri]
    ),
    "register": lambda uri, _, weights: register_main([str(weights), "--tracking-uri", uri]),
    "evaluate": lambda uri, out, _: evaluate.main(
        [
            "--data",
            str(out),
            "--out",
            str(out.with_name(f"{out.name}-results")),
            "--models",
            "dcp",
            "--scorer",
            "none",
            "--tracking-uri",
            uri,
        ]
    ),
    "serve": lambda uri, *_: serving_main(["--model", "models:/dehazer@champion", "--tracking-uri", uri]),
    "apply": lambda uri, out, _: apply.main(
        [str(out), str(out / "clear"), "--model", "models:/dehazer@champion", "--tracking-uri", uri]
    ),
    "apply one": lambda uri, out, _: apply.main(
        [str(out / "a.png"), str(out / "b.png"), "--model", "models:/dehazer@champion", "--tracking-uri", uri]
    ),
}


@pytest.mark.parametrize("uri", ["http://127.0.0.1:9", "/{folder}"])
@pytest.mark.parametrize("door", DOORS)
def test_an_address_of_no_use_is_one_line_at_every_door(
    door: str,
    uri: str,
    weights: Path,
    png: bytes,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(train, "prepare", lambda *_, **__: None)
    (tmp_path / "a.png").write_bytes(png)
    began, uri = time.monotonic(), uri.format(folder=str(tmp_path).lstrip("/"))
    assert DOORS[door](uri, tmp_path, weights) == 2
    assert time.monotonic() - began < 20
    told = [line for line in capfd.readouterr().err.splitlines() if line.strip()]
    assert [line for line in told if line.startswith("error: ") and uri in line] == told[-1:]
    assert not [line for line in told if "Traceback" in line]


@pytest.fixture
def no_addresses(tracker: Tracker, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """MLflow as in a new process, without an address from anywhere; those of this process come back."""
    import mlflow

    before = mlflow.get_tracking_uri(), mlflow.get_registry_uri()
    for name in ADDRESSES:
        monkeypatch.delenv(name, raising=False)
    mlflow.set_tracking_uri(None)  # type: ignore[arg-type]
    mlflow.set_registry_uri(None)  # type: ignore[arg-type]
    yield
    mlflow.set_tracking_uri(before[0])
    mlflow.set_registry_uri(before[1])


@pytest.mark.usefixtures("no_addresses")
def test_a_model_that_was_loaded_leaves_mlflow_s_addresses_alone(tracker: Tracker, weights: Path) -> None:
    import mlflow

    register_model(weights, tracking_uri=tracker.tracking_uri, run_id=tracker.run_id)
    assert not mlflow.is_tracking_uri_set()  # type: ignore[no-untyped-call]
    assert not set(ADDRESSES) & os.environ.keys()
    mlflow.set_tracking_uri("sqlite:////another/mlflow.db")
    assert mlflow.get_registry_uri() == "sqlite:////another/mlflow.db"


@pytest.mark.parametrize("name", ["100% done", "50%25 a#b?c"])
def test_a_database_may_be_in_a_folder_of_any_name(name: str, tmp_path: Path) -> None:
    tracker = Tracker.start("any", "name", default_uri(tmp_path / name))
    tracker.finish()
    assert (tmp_path / name / "mlflow.db").stat().st_size > 100_000


@pytest.mark.usefixtures("no_addresses")
@pytest.mark.parametrize("name", ["a#b?c", "two words"])
def test_a_model_of_the_database_in_the_current_folder_is_found(
    name: str, weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / name
    folder.mkdir()
    monkeypatch.chdir(folder)
    assert register_main([str(weights)]) == 0
    assert {path.name for path in folder.iterdir()} == {"mlflow.db", "mlartifacts"}
    assert download_model("models:/dehazer@champion").is_dir()  # MLflow's own: here


def test_register_command(tracker: Tracker, weights: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--tracking-uri", tracker.tracking_uri, "--name", "other", "--alias", "best"]
    assert register_main([str(weights), *words]) == 0
    assert "models:/other@best" in capsys.readouterr().out
    assert download_model("models:/other@best", tracker.tracking_uri).is_dir()
    assert register_main([str(weights / "nothing"), *words]) == 2
    assert "is no checkpoint" in capsys.readouterr().err


def test_a_checkpoint_is_registered_where_models_are_looked_up(
    tracker: Tracker, weights: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", tracker.tracking_uri)
    monkeypatch.chdir(tmp_path)
    assert register_main([str(weights), "--name", "elsewhere"]) == 0
    assert download_model("models:/elsewhere@champion", tracker.tracking_uri).is_dir()
    assert not list(tmp_path.glob("*.db"))


def test_a_checkpoint_on_object_storage_is_registered(
    tracker: Tracker, weights: Path, bucket: Callable[[str], str], capsys: pytest.CaptureFixture[str]
) -> None:
    upload(weights, bucket("runs/one/model"), checkpoint.CONFIG)
    words = ["--tracking-uri", tracker.tracking_uri, "--name", "stored"]
    assert register_main([bucket("runs/one/model"), *words]) == 0, capsys.readouterr()
    found = download_model("models:/stored@champion", tracker.tracking_uri)
    assert (found / checkpoint.MODEL).read_bytes() == (weights / checkpoint.MODEL).read_bytes()
    assert register_main([bucket("runs/one/nothing"), *words]) == 2
    assert "/runs/one/nothing" in capsys.readouterr().err


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
