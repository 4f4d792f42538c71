"""Read models from the MLflow registry, and write them there: a checkpoint folder in, the same folder out."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path

from models.config import ConfigError

SCHEME = "models:/"
NAME = "dehazer"
ALIAS = "champion"
CHECKPOINT = "checkpoint"
MODEL_CODE = Path(__file__).with_name("mlflow_model.py")
REQUIREMENTS = ("numpy", "pillow", "pydantic", "safetensors", "torch")

_ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",  # safetensors and code: nothing here needs unpickling
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "GIT_PYTHON_REFRESH": "quiet",
}


def prepare_mlflow(environment: Mapping[str, str] = _ENVIRONMENT) -> None:
    """Settings that MLflow reads when it is imported, and less to read on the terminal. Call before importing it."""
    for key, value in environment.items():
        os.environ.setdefault(key, value)
    for name in ("alembic", "alembic.runtime.migration", "mlflow.store.db.utils", "mlflow.tracking.fluent"):
        logging.getLogger(name).setLevel(logging.WARNING)
    logging.getLogger("mlflow.utils.environment").setLevel(logging.ERROR)  # uv's environments have no pip: fine


_addresses = threading.RLock()  # they are the process's, and a service loads models in threads


@contextmanager
def mlflow_at(tracking_uri: str | None) -> Iterator[None]:
    """MLflow's process-wide tracking and registry addresses for a while; None keeps those that are set."""
    prepare_mlflow()

    if tracking_uri is None:
        yield
        return
    with _addresses:
        yield from _with_addresses(tracking_uri)


def _with_addresses(tracking_uri: str) -> Iterator[None]:
    import mlflow

    before = mlflow.get_tracking_uri(), mlflow.get_registry_uri()
    mlflow.set_tracking_uri(tracking_uri)
    mlflow.set_registry_uri(tracking_uri)
    try:
        yield
    finally:
        mlflow.set_tracking_uri(before[0])
        mlflow.set_registry_uri(before[1])


def download_model(name: str, tracking_uri: str | None = None) -> Path:
    """The checkpoint folder of a registered model, on this machine.

    Args:
        name: ``models:/dehazer@champion`` or ``models:/dehazer/3``.
        tracking_uri: of the registry, such as ``sqlite:////abs/mlflow.db``; None takes MLflow's own setting.

    Raises:
        ConfigError: no such model, alias or version, or it holds no checkpoint.
    """
    if not name.startswith(SCHEME):
        raise ConfigError(f"{name!r} is no registry name; expected {SCHEME}{NAME}@{ALIAS} or {SCHEME}{NAME}/1")
    _require_database(tracking_uri)
    with mlflow_at(tracking_uri):
        import mlflow
        from mlflow.exceptions import MlflowException

        try:
            folder = Path(mlflow.artifacts.download_artifacts(artifact_uri=name))
        except (MlflowException, OSError) as problem:
            where = tracking_uri or mlflow.get_tracking_uri()
            raise ConfigError(f"cannot load {name} from {where}: {problem}") from problem
    found = sorted(path.parent for path in folder.rglob("model.safetensors") if path.with_name("config.json").is_file())
    if not found:
        raise ConfigError(f"{name} holds no checkpoint (model.safetensors and config.json)")
    return found[0]


def resolve(name: str, tracking_uri: str | None = None) -> str:
    """The version that a name stands for now: ``models:/dehazer@champion`` becomes ``models:/dehazer/3``, and other
    names stay as they are.

    Raises:
        ConfigError: there is no such alias, or the registry cannot be asked.
    """
    model, at, alias = name.removeprefix(SCHEME).partition("@")
    if not name.startswith(SCHEME) or not at:
        return name
    _require_database(tracking_uri)
    prepare_mlflow()
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    try:
        found = MlflowClient(tracking_uri, registry_uri=tracking_uri).get_model_version_by_alias(model, alias)
    except (MlflowException, OSError) as problem:
        raise ConfigError(f"cannot resolve {name}: {problem}") from problem
    return f"{SCHEME}{model}/{found.version}"


def register_model(
    checkpoint_folder: str | os.PathLike[str],
    *,
    tracking_uri: str,
    run_id: str,
    name: str = NAME,
    alias: str = ALIAS,
) -> str:
    """Log a checkpoint as a model of a run, register it, and point ``alias`` at it.

    Args:
        checkpoint_folder: with ``model.safetensors`` and ``config.json``.
        tracking_uri: where the run is.
        run_id: the run the model belongs to; its status stays what it was.
        name: of the registered model; made when missing.
        alias: moved to the new version.

    Returns:
        The new version, such as ``"1"``.

    Raises:
        ConfigError: the folder is no checkpoint, or MLflow refuses the model.
    """
    from models.checkpoints import read_config

    folder = Path(checkpoint_folder).resolve()
    read_config(folder)
    with mlflow_at(tracking_uri):
        from mlflow import MlflowClient
        from mlflow.exceptions import MlflowException

        client = MlflowClient()
        try:
            status = client.get_run(run_id).info.status
            registered = _log_model(folder, run_id, name)
            client.set_registered_model_alias(name, alias, registered)
        except MlflowException as problem:
            raise ConfigError(f"cannot register {folder} as {name!r} at {tracking_uri}: {problem}") from problem
        client.update_run(run_id, status=status)  # leaving the run's context marked it finished
    return registered


def _log_model(folder: Path, run_id: str, name: str) -> str:
    import mlflow

    with mlflow.start_run(run_id=run_id):
        info = mlflow.pyfunc.log_model(
            name="model",
            python_model=str(MODEL_CODE),
            artifacts={CHECKPOINT: str(folder)},
            pip_requirements=[f"{package}=={version(package)}" for package in REQUIREMENTS],
            registered_model_name=name,
        )
    return str(info.registered_model_version)


def _require_database(tracking_uri: str | None) -> None:
    """MLflow would make an empty database instead of saying that there is none."""
    if tracking_uri is not None and tracking_uri.startswith("sqlite:///"):
        path = Path(tracking_uri.removeprefix("sqlite:///"))
        if not path.is_file():
            raise ConfigError(f"there is no MLflow database {path}; train and register a model first")
