"""Read models from the MLflow registry, and write them there: a checkpoint folder in, the same folder out."""

from __future__ import annotations

import functools
import hashlib
import json
import os
import re
import shutil
import tempfile
import time
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from models.config import ConfigError
from models.mlflow_client import asking, database_of, mlflow_at, prepare_mlflow, public_uri, reason_of
from models.paths import absolute, local_copy, persist

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.models import ModelSignature

SCHEME = "models:/"
NAME = "dehazer"
ALIAS = "champion"
CHECKPOINT = "checkpoint"
CODE = Path(__file__).parent  # all that a registered model needs of this project
REQUIREMENTS = (
    "imagecodecs", "lazy_loader", "numpy", "pillow", "pyarrow", "pydantic", "safetensors", "tifffile", "torch",
)  # fmt: skip

_POSSIBLE_ALIAS = re.compile(r"(?!(latest|v\d+)$)[\w-]{1,255}", re.IGNORECASE)
_KEPT = 5  # versions in the cache
_IN_USE_S = 3600.0  # after which nobody is about to load a version that was fetched
_ABANDONED_S = 86400.0  # after which nobody is still fetching one


class RefusedError(ConfigError):
    """A version that is at hand and cannot be used; it will be no other the next time."""


def download_model(name: str, tracking_uri: str | None = None) -> Path:
    """Fetch a registered model and return its checkpoint folder on this machine.

    Args:
        name: ``models:/dehazer@champion`` or ``models:/dehazer/3``.
        tracking_uri: of the registry, such as ``sqlite:////abs/mlflow.db``; None takes MLflow's own setting.

    Raises:
        ConfigError: no such model, alias or version, or it cannot be had at the moment.
        RefusedError: it holds no checkpoint.
    """
    if not name.startswith(SCHEME):
        raise ConfigError(f"{name!r} is no registry name; expected {SCHEME}{NAME}@{ALIAS} or {SCHEME}{NAME}/1")
    _require_database(tracking_uri)
    with asking(f"load {name}", tracking_uri) as client:
        found_version = _version(client, name)
    folder = cache() / found_version.key
    try:
        os.utime(folder)  # least recently used first, when others leave
    except FileNotFoundError:
        _fetch(found_version, tracking_uri, folder)
    except PermissionError:  # another user's, in a cache that is shared
        pass
    _clean(folder.parent)
    found = sorted(path.parent for path in folder.rglob("model.safetensors") if path.with_name("config.json").is_file())
    if not found:
        raise RefusedError(f"{name} holds no checkpoint (model.safetensors and config.json)")
    return found[0]


def cache() -> Path:
    """Return the folder of the versions that were fetched: ``$DEHAZE_CACHE``, else ``ray-dehaze/models`` in
    ``$XDG_CACHE_HOME`` or ``~/.cache``; where nothing can be written there, one of this process alone.
    """
    try:
        home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
        folder = Path(os.environ.get("DEHAZE_CACHE") or Path(home) / "ray-dehaze" / "models").absolute()
        folder.mkdir(parents=True, exist_ok=True)
        if os.access(folder, os.W_OK):
            return folder
    except (OSError, RuntimeError):  # the latter: this user has no home
        pass
    return Path(_own_cache().name)


@functools.cache
def _own_cache() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="dehaze-models-")


class _Version(NamedTuple):
    """A version: its pinned name, where its files are, and what tells it from all others, those of a registry that was
    made anew at the same place too.
    """

    name: str
    location: str
    key: str


def _version(client: MlflowClient, name: str) -> _Version:
    path = name.removeprefix(SCHEME)
    model, at, alias = path.partition("@")
    if at:
        found = client.get_model_version_by_alias(model, alias)
    else:
        model, _, number = path.partition("/")
        found = client.get_model_version(model, number)
    location = str(found.source)
    if location.startswith(SCHEME):
        location = str(client.get_logged_model(location.removeprefix(SCHEME)).artifact_location)
    text = json.dumps([model, found.version, found.source, location, found.creation_timestamp])
    key = f"{found.version}-{hashlib.sha256(text.encode()).hexdigest()[:16]}"
    return _Version(f"{SCHEME}{model}/{found.version}", location, key)


def _fetch(wanted: _Version, tracking_uri: str | None, folder: Path) -> None:
    """Bring a version into the cache; it is whole there or not at all."""
    import mlflow

    try:
        with tempfile.TemporaryDirectory(prefix=".fetching-", dir=folder.parent) as partial, mlflow_at(tracking_uri):
            made = Path(partial) / "model"
            made.mkdir()
            mlflow.artifacts.download_artifacts(artifact_uri=wanted.name, dst_path=str(made))
            _publish(made, folder)
    except Exception as problem:  # of MLflow's, and of all libraries that it fetches with
        if folder.is_dir():  # another process was first
            return
        where = public_uri(tracking_uri or mlflow.get_tracking_uri())
        raise ConfigError(
            f"cannot load {wanted.name} from {where}: {reason_of(problem)}; its files should be at "
            f"{public_uri(wanted.location)}: if they were moved, move them back, or register the model again"
        ) from problem


def _publish(made: Path, folder: Path) -> None:
    if not next(made.iterdir(), None):  # MLflow is content with that
        raise FileNotFoundError("there are no files")
    for path in (*made.rglob("*"), made):
        persist(path)
    made.rename(folder)


def _clean(folder: Path) -> None:
    """Leave the versions that were used last, and what somebody may be fetching. Others may do the same meanwhile."""
    now, versions = time.time(), []
    for path in folder.iterdir():
        with suppress(FileNotFoundError):
            used = path.stat().st_mtime
            if not path.name.startswith("."):
                versions.append((used, path))
            elif now - used > _ABANDONED_S:
                shutil.rmtree(path, ignore_errors=True)
    for used, path in sorted(versions, reverse=True)[_KEPT:]:
        if now - used > _IN_USE_S:
            with suppress(OSError), tempfile.TemporaryDirectory(prefix=".leaving-", dir=folder) as leaving:
                path.rename(Path(leaving) / "model")  # in one step: nobody finds half a version


def resolve(name: str, tracking_uri: str | None = None) -> str:
    """Return the version that a name stands for now: ``models:/dehazer@champion`` becomes ``models:/dehazer/3``, and
    other names stay as they are.

    Raises:
        ConfigError: there is no such alias, or the registry cannot be asked.
    """
    model, at, alias = name.removeprefix(SCHEME).partition("@")
    if not name.startswith(SCHEME) or not at:
        return name
    _require_database(tracking_uri)
    with asking(f"resolve {name}", tracking_uri) as client:
        found = client.get_model_version_by_alias(model, alias)
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
        checkpoint_folder: with ``model.safetensors`` and ``config.json``; or its URI.
        tracking_uri: where the run is.
        run_id: the run the model belongs to; its status stays what it was.
        name: of the registered model; made when missing.
        alias: moved to the new version.

    Returns:
        The new version, such as ``"1"``.

    Raises:
        ConfigError: the folder is no checkpoint, or MLflow takes no such alias or model.
    """
    from models.checkpoints import read_config

    if not _POSSIBLE_ALIAS.fullmatch(alias):  # MLflow tells only once the version is there
        raise ConfigError(
            f"{alias!r} cannot be an alias of {name!r}: MLflow takes letters, digits, _ and -, "
            "and keeps 'latest' and version numbers such as 'v1' for itself"
        )
    place = absolute(checkpoint_folder)
    read_config(place)
    with asking(f"register {place} as {name!r}", tracking_uri) as client:
        status = client.get_run(run_id).info.status
    with mlflow_at(tracking_uri):
        from mlflow.exceptions import MlflowException

        try:
            try:
                with local_copy(place) as folder:
                    registered = _log_model(folder, run_id, name)
            finally:  # leaving the run's context marked it finished or failed
                client.update_run(run_id, status=status)
            client.set_registered_model_alias(name, alias, registered)
        except (MlflowException, OSError) as problem:
            where = public_uri(tracking_uri)
            raise ConfigError(f"cannot register {place} as {name!r} at {where}: {reason_of(problem)}") from problem
    return registered


def _log_model(folder: Path, run_id: str, name: str) -> str:
    import mlflow

    with mlflow.start_run(run_id=run_id), tempfile.TemporaryDirectory() as staged:
        info = mlflow.pyfunc.log_model(
            name="model",
            python_model=str(CODE / "mlflow_model.py"),
            artifacts={CHECKPOINT: str(folder)},
            code_paths=_code(Path(staged)),
            model_config={"allow_networks": []},
            pip_requirements=[f"{package}=={version(package).partition('+')[0]}" for package in REQUIREMENTS],
        )
    logged = f"{SCHEME}{info.model_id}"
    mlflow.models.set_signature(logged, _with_params(info.signature))  # of hints alone, log_model makes none of params
    return str(mlflow.register_model(logged, name).version)


def _code(staged: Path) -> list[str]:
    """The package that the model needs where this project is not installed, without packaged weights."""
    copied = shutil.copytree(CODE, staged / CODE.name, ignore=shutil.ignore_patterns("weights", "__pycache__"))
    return [str(copied)]


def _with_params(signature: ModelSignature) -> ModelSignature:
    """Add the params of ``DehazeOptions`` to a signature: MLflow hands on only those that it names."""
    from mlflow.types import ParamSchema, ParamSpec

    from models.options import DEFAULT_OPTIONS

    kinds = {"strength": "double", "distance": "double", "quality": "long"}
    kinds |= dict.fromkeys(("keep_exposure", "protect", "keep_metadata", "wrap"), "boolean")
    options = DEFAULT_OPTIONS.model_dump()
    specs = [ParamSpec(key, kinds.get(key, "string"), value) for key, value in options.items()]
    signature.params = ParamSchema(specs)
    return signature


def _require_database(tracking_uri: str | None) -> None:
    """Refuse a database that is not there: MLflow would make an empty one without a word."""
    prepare_mlflow()
    import mlflow

    where = mlflow.get_tracking_uri() if tracking_uri is None else tracking_uri
    path = database_of(where)
    if path is not None and not path.exists():
        raise ConfigError(
            f"there is no MLflow database {path}; train and register a model first, or give another tracking URI"
        )
