"""MLflow as this project asks it: its settings, and within seconds an answer or one line on why there is none."""

from __future__ import annotations

import logging
import os
import re
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from models.config import ConfigError, environment

if TYPE_CHECKING:
    from mlflow import MlflowClient

SQLITE = "sqlite:///"
_ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",  # safetensors and code: nothing here needs unpickling
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "GIT_PYTHON_REFRESH": "quiet",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "3",  # its own 7 are minutes of silence
}
_QUESTION = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1", "MLFLOW_HTTP_REQUEST_TIMEOUT": "10"}
_ADDRESSES = ("MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI")
_PORTS = {"postgresql": 5432, "mysql": 3306, "mssql": 1433}
_SILENCE = "nothing answers there"
_REMEDY = "start the server, or give another tracking URI"
_PATIENCE_S = 5.0  # for a database server to take a connection


def database_uri(path: Path) -> str:
    """Return the address of a SQLite file: a % that would begin a code is %25, a ? that would begin options %3F."""
    return SQLITE + re.sub(r"%(?=[0-9a-fA-F]{2})", "%25", str(path)).replace("?", "%3F")


def default_uri(out: str | os.PathLike[str]) -> str:
    """Return the tracking address of a database file in ``out``; absolute, because Ray's workers change folders."""
    return database_uri(Path(out).resolve() / "mlflow.db")


def database_of(uri: str) -> Path | None:
    """Return the file of a SQLite address; None for another one."""
    return Path(unquote(uri.removeprefix(SQLITE).partition("?")[0])) if uri.startswith(SQLITE) else None


def prepare_mlflow() -> None:
    """Set what MLflow reads when it is imported, and quiet its log. Call this before importing it."""
    for key, value in _ENVIRONMENT.items():
        os.environ.setdefault(key, value)
    for name in ("alembic", "alembic.runtime.migration", "mlflow.store.db.utils", "mlflow.tracking.fluent"):
        logging.getLogger(name).setLevel(logging.WARNING)
    logging.getLogger("mlflow.utils.environment").setLevel(logging.ERROR)  # uv's environments have no pip: fine


_asking = threading.RLock()  # one question at a time: the environment is the process's
_addresses = threading.RLock()  # they are the process's, and a service loads models in threads


@contextmanager
def mlflow_at(tracking_uri: str | None) -> Iterator[None]:
    """Set MLflow's process-wide tracking and registry addresses for a while; None keeps those that are set."""
    prepare_mlflow()

    if tracking_uri is None:
        yield
        return
    import mlflow

    with _addresses:
        # What is not set follows the environment, the registry follows the tracking server; so they do afterwards.
        tracking = mlflow.get_tracking_uri() if mlflow.is_tracking_uri_set() else None  # type: ignore[no-untyped-call]
        registry = None if mlflow.get_registry_uri() == mlflow.get_tracking_uri() else mlflow.get_registry_uri()
        with environment(dict.fromkeys(_ADDRESSES, tracking_uri)):  # MLflow sets these too
            mlflow.set_tracking_uri(tracking_uri)
            mlflow.set_registry_uri(tracking_uri)
            try:
                yield
            finally:
                mlflow.set_tracking_uri(tracking)  # type: ignore[arg-type]
                mlflow.set_registry_uri(registry)  # type: ignore[arg-type]


@contextmanager
def asking(what: str, tracking_uri: str | None) -> Iterator[MlflowClient]:
    """Yield a client for a short question. Inside, MLflow gives up soon, and each of its exceptions becomes one line.

    Args:
        what: the line begins with ``cannot``, this, and the address.
        tracking_uri: server or database; None takes MLflow's own setting.

    Raises:
        ConfigError: the address makes no sense, nothing answers there, or MLflow refuses.
    """
    prepare_mlflow()
    import mlflow
    from mlflow import MlflowClient

    where = mlflow.get_tracking_uri() if tracking_uri is None else tracking_uri
    try:
        _require_answer(where)
        with _impatient():
            yield MlflowClient(tracking_uri, registry_uri=tracking_uri)
    except ConfigError as problem:
        raise ConfigError(f"cannot {what} at {public_uri(where)}: {problem}") from problem
    except Exception as problem:  # MLflow, SQLAlchemy, requests and database drivers raise many kinds
        reason = reason_of(problem)
        remedy = f"; {_REMEDY}" if reason.startswith(_SILENCE) else ""
        raise ConfigError(f"cannot {what} at {public_uri(where)}: {reason}{remedy}") from problem


def reason_of(problem: BaseException) -> str:
    """Return one of MLflow's errors in few words and one line."""
    text = " ".join(str(problem).split()) or type(problem).__name__
    if "filesystem tracking backend" in text:
        return f"MLflow does not write to folders any more; use a database, as in {SQLITE}/abs/mlflow.db, or a server"
    if isinstance(problem, ModuleNotFoundError):
        return f"its driver is not installed ({text})"
    cause = re.search(r"\[Errno [^]]*\] [\w ]+|Failed to resolve '[^']*'|[Tt]imed out|connect timeout", text)
    if "Max retries exceeded" in text:
        return f"{_SILENCE} ({cause[0] if cause else text[:200]})"
    code = re.match(r"API request to endpoint .* failed with error code (\d+)", text)
    if code is not None:
        return f"{_SILENCE} that speaks MLflow's language (HTTP {code[1]})"
    return re.sub(r" ?\((?:Background on this error|sqlite3\.)[^)]*\)| \[SQL: .*\]", "", text)[:400]


def is_away(problem: BaseException) -> bool:
    """Return whether the same call may succeed later: nothing answers, or a database is busy, full or away."""
    return reason_of(problem).startswith(_SILENCE) or getattr(problem, "error_code", "") == "TEMPORARILY_UNAVAILABLE"


def public_uri(uri: str) -> str:
    """Return an address without the password in it."""
    return re.sub(r"//[^/@]*@", "//", uri)


@contextmanager
def _impatient() -> Iterator[None]:
    """Set short times in the environment, where MLflow looks for them; those that the user has set stay."""
    with _asking:
        ours = {key: new for key, new in _QUESTION.items() if os.environ.get(key) in (None, _ENVIRONMENT.get(key))}
        with environment(ours):
            yield


def _require_answer(uri: str) -> None:
    """Refuse an address that does not answer: MLflow would try a database for two minutes, whatever its fault."""
    database = database_of(uri)
    if database is not None:
        _require_file(database)
        return
    parts = urlsplit(uri)
    port = next((number for name, number in _PORTS.items() if parts.scheme.startswith(name)), None)
    if port is None or parts.hostname is None:
        return
    try:
        socket.create_connection((parts.hostname, parts.port or port), timeout=_PATIENCE_S).close()
    except OSError as problem:
        raise ConfigError(f"{_SILENCE} ({problem.strerror or problem}); {_REMEDY}") from problem


def _require_file(path: Path) -> None:
    if path.is_dir():
        raise ConfigError(f"that is a folder; name the file of the database, as in {database_uri(path / 'mlflow.db')}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)  # SQLite makes the file but not its folder
        with path.open("rb" if path.is_file() else "ab+") as stream:
            head = stream.read(16)
    except OSError as problem:
        raise ConfigError(f"the database cannot be opened ({problem.strerror or problem})") from problem
    if head and not head.startswith(b"SQLite format 3"):
        raise ConfigError("that file is no SQLite database")
