"""MLflow runs, written through a client: no process-wide state, so a worker can resume the driver's run by its id.

To begin a run MLflow must answer, within seconds. After that, what is logged is written by a thread of its own: no step
waits for it. While the server is away, what is logged waits in memory, up to a thousand entries, and is written when it
is back; a run that ends before that loses its figures, nothing else.
"""

from __future__ import annotations

import logging
import os
import platform
import queue
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from models.mlflow_client import asking, database_of, database_uri, is_away, prepare_mlflow, public_uri, reason_of

if TYPE_CHECKING:
    from mlflow import MlflowClient

log = logging.getLogger(__name__)


def versions(packages: Iterable[str]) -> dict[str, str]:
    """Return the versions of Python, this project and ``packages``, which are distribution names."""
    found = {"python": platform.python_version()}
    for name in ("ray-dehaze", *packages):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "from source" if name == "ray-dehaze" else "not installed"
    return found


LONGEST_VALUE = 500  # the length that MLflow's server and its databases guarantee
_PARAMS_PER_CALL = 100  # MLflow's own limit
_PENDING = 1000  # calls that may wait to be written
_PAUSE_S = 5.0  # before a server that is away is asked again
PATIENCE_S = 180.0  # for what is still to be written at the end of a run, which may have taken days

Call = Callable[["MlflowClient"], object]


def absolute_uri(uri: str) -> str:
    """Return a tracking address that means the same in every process: that of a database file is made absolute."""
    database = database_of(uri)
    return uri if database is None or database.is_absolute() else database_uri(database.absolute())


def require_tracking(uri: str) -> None:
    """Find out before a long job that its figures could not be logged.

    Raises:
        ConfigError: MLflow cannot be used at that address.
    """
    with asking("track", uri) as client:
        client.get_experiment_by_name("Default")


class Tracker:
    """One MLflow run. What is logged is written in the background, in its order; :meth:`flush` waits for it.

    Attributes:
        tracking_uri: of the server or database.
        run_id: of the run.
    """

    def __init__(self, tracking_uri: str, run_id: str) -> None:
        self.tracking_uri = tracking_uri
        self.run_id = run_id
        self._calls: queue.Queue[tuple[str, Call]] = queue.Queue(_PENDING)
        self._lost = 0
        self._told = 0
        self._last = ""
        self._newest = ""
        self._away = False
        self._client: MlflowClient | None = None
        self._thread: threading.Thread | None = None

    @classmethod
    def start(cls, experiment: str, run_name: str, tracking_uri: str) -> Tracker:
        """Begin a run; the experiment is made when missing, with its files next to a SQLite database.

        Raises:
            ConfigError: MLflow cannot be used at that address.
        """
        with asking("begin an MLflow run", tracking_uri) as client:
            found = client.get_experiment_by_name(experiment)
            if found is None:
                place = _artifacts(tracking_uri, experiment)
                experiment_id = client.create_experiment(experiment, artifact_location=place)
            else:
                experiment_id = found.experiment_id
            return cls(tracking_uri, client.create_run(experiment_id, run_name=run_name).info.run_id)

    @classmethod
    def resume(cls, tracking_uri: str, run_id: str) -> Tracker:
        """Go on with a run that exists; it counts as running again.

        Raises:
            ConfigError: MLflow cannot be used at that address, or has no such run.
        """
        with asking(f"go on with the MLflow run {run_id}", tracking_uri) as client:
            client.update_run(run_id, status="RUNNING")
        return cls(tracking_uri, run_id)

    def log_params(self, params: Mapping[str, Any]) -> None:
        """Log a nested mapping as ``outer.inner`` names; values that are too long for MLflow are cut.

        A value logged before stays as it was when it is the same; MLflow refuses another one.
        """
        from mlflow import MlflowClient
        from mlflow.entities import Param

        items = [Param(key, str(value)[:LONGEST_VALUE]) for key, value in flatten(params).items()]
        for first in range(0, len(items), _PARAMS_PER_CALL):
            part = items[first : first + _PARAMS_PER_CALL]
            self._write("params", partial(MlflowClient.log_batch, run_id=self.run_id, params=part))

    def log_metrics(self, metrics: Mapping[str, float], step: int = 0) -> None:
        """Log numbers of one step."""
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        items = [Metric(key, float(value), now, step) for key, value in metrics.items()]
        self._write(f"metrics of step {step}", lambda client: client.log_batch(self.run_id, metrics=items))

    def log_artifact(self, path: str | os.PathLike[str], folder: str | None = None) -> None:
        """Copy a file, or a folder with all that is in it, to the run's files, into ``folder`` there."""

        def copy(client: MlflowClient) -> None:
            log_it = client.log_artifacts if Path(path).is_dir() else client.log_artifact
            log_it(self.run_id, str(path), artifact_path=folder)

        self._write(Path(path).name, copy)

    def flush(self, patience_s: float = PATIENCE_S) -> None:
        """Wait until all that was logged is written, but not for ever; say what is lost."""
        end = time.monotonic() + patience_s
        while self._calls.unfinished_tasks and time.monotonic() < end:
            time.sleep(0.01)
        late = self._calls.unfinished_tasks
        if late or self._lost > self._told:
            named = f", the last of them {self._newest if late else self._last}"
            where = public_uri(self.tracking_uri)
            log.warning("MLflow at %s did not take %d entries%s", where, self._lost + late, named)
        self._told = self._lost

    def finish(self, status: str = "FINISHED", patience_s: float = PATIENCE_S) -> None:
        """End the run: ``FINISHED``, ``FAILED`` or ``KILLED``."""
        self._write("the run's end", lambda client: client.set_terminated(self.run_id, status=status), patience_s)
        self.flush(patience_s)

    def _write(self, what: str, call: Call, patience_s: float = 0.0) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._write_all, name="mlflow", daemon=True)
            self._thread.start()
        self._newest = what
        try:
            self._calls.put((what, call), timeout=patience_s)
        except queue.Full:
            self._lose(what, "it is away, or too slow")

    def _write_all(self) -> None:
        while True:
            what, call = self._calls.get()
            while not self._is_settled(what, call):
                time.sleep(_PAUSE_S)
            self._calls.task_done()

    def _is_settled(self, what: str, call: Call) -> bool:
        """Whether MLflow has taken an entry, or refuses it for good; while it is away, neither."""
        try:
            self._client = self._client or _client(self.tracking_uri)
            call(self._client)
        except Exception as problem:  # noqa: BLE001 - training goes on, whatever MLflow and its libraries raise
            if not is_away(problem):
                self._lose(what, reason_of(problem))
                return True
            if not self._away:
                where, reason = public_uri(self.tracking_uri), reason_of(problem)
                log.warning("MLflow at %s does not take %s yet: %s; what is logged waits for it", where, what, reason)
            self._away = True
            return False
        if self._away:
            log.warning("MLflow at %s is back", public_uri(self.tracking_uri))
        self._away = False
        return True

    def _lose(self, what: str, reason: str) -> None:
        if not self._lost:  # once: the end says how many there were
            where = public_uri(self.tracking_uri)
            log.warning("MLflow at %s does not take %s: %s; the run goes on without", where, what, reason)
        self._lost += 1
        self._last = what


@contextmanager
def running(tracker: Tracker | None) -> Iterator[None]:
    """End a run with the block: as finished, failed, or killed by Ctrl-C or a signal."""
    try:
        yield
    except BaseException as problem:
        if tracker is not None:
            killed = isinstance(problem, KeyboardInterrupt | SystemExit)
            tracker.finish("KILLED" if killed else "FAILED", 2.0 if killed else 10.0)  # who stops a job, kills it soon
        raise
    if tracker is not None:
        tracker.finish()


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return ``{"a": {"b": 1}}`` as ``{"a.b": 1}``."""
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

    return MlflowClient(tracking_uri=tracking_uri, registry_uri=tracking_uri)


def _artifacts(tracking_uri: str, experiment: str) -> str | None:
    """Return a folder beside a local database, where MLflow would use the current folder; a server has a place of its
    own.
    """
    database = database_of(tracking_uri)
    if database is None:
        return None
    name = "".join(letter if letter.isalnum() or letter in "-_." else "-" for letter in experiment)
    return (database.resolve().parent / "mlartifacts" / name).as_uri()
