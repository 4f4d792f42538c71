"""MLflow runs, written through a client: no process-wide state, so a worker can resume the driver's run by its id."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from models.registry import download_model, prepare_mlflow, register_model

if TYPE_CHECKING:
    from mlflow import MlflowClient
import platform
from collections.abc import Iterable
from importlib import metadata


def versions(packages: Iterable[str]) -> dict[str, str]:
    """Of Python, this project and ``packages``, which are distribution names."""
    found = {"python": platform.python_version()}
    for name in ("ray-dehaze", *packages):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "from source" if name == "ray-dehaze" else "not installed"
    return found


__all__ = ["Tracker", "default_uri", "download_model", "flatten", "register_model"]

LONGEST_VALUE = 500  # the length that MLflow's server and its databases guarantee
_PARAMS_PER_CALL = 100  # MLflow's own limit
_SQLITE = "sqlite:///"


def default_uri(out: str | os.PathLike[str]) -> str:
    """The tracking address of a database file in ``out``; absolute, because Ray's workers change folders."""
    return f"{_SQLITE}{Path(out).resolve() / 'mlflow.db'}"


class Tracker:
    """One MLflow run.

    Attributes:
        tracking_uri: of the server or database.
        run_id: of the run.
    """

    def __init__(self, tracking_uri: str, run_id: str) -> None:
        self.tracking_uri = tracking_uri
        self.run_id = run_id
        self._client = _client(tracking_uri)

    @classmethod
    def start(cls, experiment: str, run_name: str, tracking_uri: str) -> Tracker:
        """Begin a run; the experiment is made when missing, with its files next to a SQLite database."""
        client = _client(tracking_uri)
        found = client.get_experiment_by_name(experiment)
        if found is None:
            experiment_id = client.create_experiment(experiment, artifact_location=_artifacts(tracking_uri, experiment))
        else:
            experiment_id = found.experiment_id
        return cls(tracking_uri, client.create_run(experiment_id, run_name=run_name).info.run_id)

    @classmethod
    def resume(cls, tracking_uri: str, run_id: str) -> Tracker:
        """Go on with a run that exists, perhaps from another process; it counts as running again."""
        tracker = cls(tracking_uri, run_id)
        tracker._client.update_run(run_id, status="RUNNING")
        return tracker

    def log_params(self, params: Mapping[str, Any]) -> None:
        """Log a nested mapping as ``outer.inner`` names; values that are too long for MLflow are cut.

        A value logged before stays as it was when it is the same; MLflow refuses another one.
        """
        from mlflow.entities import Param

        items = [Param(key, str(value)[:LONGEST_VALUE]) for key, value in flatten(params).items()]
        for first in range(0, len(items), _PARAMS_PER_CALL):
            self._client.log_batch(self.run_id, params=items[first : first + _PARAMS_PER_CALL])

    def log_metrics(self, metrics: Mapping[str, float], step: int = 0) -> None:
        """Log numbers of one step."""
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        items = [Metric(key, float(value), now, step) for key, value in metrics.items()]
        self._client.log_batch(self.run_id, metrics=items)

    def log_artifact(self, path: str | os.PathLike[str], folder: str | None = None) -> None:
        """Copy a file, or a folder with all that is in it, to the run's files, into ``folder`` there."""
        if Path(path).is_dir():
            self._client.log_artifacts(self.run_id, str(path), artifact_path=folder)
        else:
            self._client.log_artifact(self.run_id, str(path), artifact_path=folder)

    def finish(self, status: str = "FINISHED") -> None:
        """End the run: ``FINISHED``, ``FAILED`` or ``KILLED``."""
        self._client.set_terminated(self.run_id, status=status)


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """``{"a": {"b": 1}}`` as ``{"a.b": 1}``."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            flat.update(flatten(value, f"{prefix}{key}."))
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def _client(tracking_uri: str) -> MlflowClient:
    prepare_mlflow()
    from mlflow import MlflowClient

    if tracking_uri.startswith(_SQLITE):  # SQLite makes the file but not its folder
        Path(tracking_uri.removeprefix(_SQLITE)).parent.mkdir(parents=True, exist_ok=True)
    return MlflowClient(tracking_uri=tracking_uri, registry_uri=tracking_uri)


def _artifacts(tracking_uri: str, experiment: str) -> str | None:
    """Beside a local database, where MLflow would use the current folder; a server has a place of its own."""
    if not tracking_uri.startswith(_SQLITE):
        return None
    name = "".join(letter if letter.isalnum() or letter in "-_." else "-" for letter in experiment)
    return (Path(tracking_uri.removeprefix(_SQLITE)).resolve().parent / "mlartifacts" / name).as_uri()
