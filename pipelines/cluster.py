"""Where jobs meet Ray: join a cluster, or start one on this machine and take it down again."""

from __future__ import annotations

import importlib
import logging
import os
import signal
import sys
import threading
import warnings
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

from models.config import ConfigError, environment, starting_ray
from models.inference import local_cpus

NAMESPACE = "ray-dehaze"
SOURCE_ROOT = Path(__file__).resolve().parents[1]
MIN_CPUS = 2  # a trainer, its data tasks and the label workers wait for each other on a single logical CPU
LEAVING_SECONDS = 60.0  # that a thread of Ray Data gets to end

# Both kinds of session; whatever the user set wins.
QUIET = {
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.1",  # the default of 2 s is what each ray.train.report() would wait
    "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",
    # For the room that a plan takes for granted. Ray Train's plans know within 20 s that a node is gone; by default it
    # waits for a minute.
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "20",
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",  # workers use this environment, also under `uv run`
    "RAY_DATA_USE_DATASOURCE_V2": "0",  # V2 packs a corpus into a few huge read tasks
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}
QUIET_WORKERS = {"worker_process_setup_hook": "pipelines.cluster.quiet_worker"}


@contextmanager
def ray_session(
    address: str | None = None,
    num_cpus: int | None = None,
    *,
    log_to_driver: bool = True,
    local: Mapping[str, str] | None = None,
) -> Iterator[None]:
    """Run Ray for the length of a ``with`` block.

    Uses, in this order: Ray as this process already runs it; the cluster at ``address``; the cluster at
    ``RAY_ADDRESS`` (as in ``ray job submit``); a new one on this machine with all its cores. On the way
    out, also after Ctrl-C, it disconnects or stops what it started here and nothing else.

    Args:
        address: ``host:port``, ``ray://host:port`` or ``auto``.
        num_cpus: logical CPUs of a cluster started here, at least 2; a cluster that is joined keeps its own.
        log_to_driver: print what workers print.
        local: further variables for a cluster started here.

    Raises:
        ConfigError: nothing answers at the address, or it refuses our token; or Ray cannot start here.
    """
    address = address or os.environ.get("RAY_ADDRESS")
    joins = address not in (None, "local")
    with _environment(QUIET if joins or _ray_runs() else QUIET | _local_environment() | dict(local or {})):
        import ray  # after the environment: Ray reads parts of it while it is imported

        if ray.is_initialized():
            yield
            return
        with _shut_down_after():
            if joins:
                _join(str(address), log_to_driver)
            else:
                _start(num_cpus, log_to_driver)
            yield


def _ray_runs() -> bool:
    ray = sys.modules.get("ray")
    return ray is not None and bool(ray.is_initialized())


def _start(num_cpus: int | None, log_to_driver: bool) -> None:
    import ray

    with starting_ray():
        ray.init(
            address="local",
            num_cpus=max(MIN_CPUS, num_cpus or local_cpus()),
            include_dashboard=False,  # about a dozen processes
            namespace=NAMESPACE,
            log_to_driver=log_to_driver,
            logging_level=logging.WARNING,
            runtime_env=QUIET_WORKERS,
        )


def quiet_worker() -> None:
    """Hide the notices of libraries that nobody can act on; this runs in every worker of a job.

    Some of Ray's own processes set the levels of their loggers anew after this: for them, the process-wide switch.
    """
    logging.disable(logging.INFO)
    for name in ("ray.train", "ray.data", "ray.data._internal.progress", "ray.serve"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="ray")


def token_needed() -> bool:
    """Return whether Ray wants its token of whoever talks to it, as far as this process can tell; else False."""
    raylet: Any = importlib.import_module("ray._raylet")  # which has no types
    mode = getattr(raylet, "get_authentication_mode", None)  # older ones have none
    return mode is not None and bool(mode() == raylet.AuthenticationMode.TOKEN)


def submitted() -> bool:
    """Return whether this is a job of ``ray job submit``, whose current folder is one of Ray's own."""
    return "job_submission_id" in os.environ.get("RAY_JOB_CONFIG_JSON_ENV_VAR", "")


def local_out(out: str | os.PathLike[str]) -> Path:
    """Return the absolute ``--out`` of a job that writes to local folders only.

    Raises:
        ConfigError: it is a URI, or relative in a submitted job.
    """
    text = os.fspath(out)
    if "://" in text:
        raise ConfigError(
            f"--out is '{text}'; object storage is not supported here: give a folder that all nodes mount"
        )
    require_absolute(text)
    return Path(text).expanduser().absolute()


def require_absolute(out: str) -> None:
    """Refuse a relative place for results in a submitted job: it would lie in Ray's cache, which is cleared.

    Raises:
        ConfigError: it is one.
    """
    if submitted() and "://" not in out and not Path(out).expanduser().is_absolute():
        raise ConfigError(f"'{out}' is relative, and this job runs in Ray's cache, which is cleared: give a whole path")


def data_context_defaults() -> None:
    """Make Ray Data's settings in this process ours: quiet unless on a terminal, a task per corpus shard."""
    from ray.data import DataContext

    context = DataContext.get_current()
    context.enable_progress_bars = sys.stderr.isatty()
    context.print_on_execution_start = False
    context.use_datasource_v2 = False
    context.raise_original_map_exception = True  # user_error() looks for it
    logging.getLogger("ray.data.exceptions").setLevel(logging.CRITICAL)  # it would print what is about to be raised
    logging.getLogger("ray.data._internal.progress").setLevel(logging.ERROR)  # it would say that there are no bars
    if not sys.stderr.isatty():
        logging.getLogger("ray.data").setLevel(logging.WARNING)


def _join(address: str, log_to_driver: bool) -> None:
    import ray

    from pseudolabel.inspect import answering

    where = f"the Ray cluster at '{address}'"
    remedy = "use the Ray and the Python that run there, and see `ray status`"
    with answering(address), starting_ray(f"{where} cannot be joined", remedy):
        try:
            ray.init(
                address=address,
                namespace=NAMESPACE,
                log_to_driver=log_to_driver,
                logging_level=logging.WARNING,
                runtime_env=QUIET_WORKERS,
            )
        except ConnectionError as problem:
            raise ConfigError(f"no Ray cluster answers at '{address}': {problem}") from problem
        except ray.exceptions.AuthenticationError as problem:
            raise ConfigError(
                f"{where} wants another token: set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN_PATH"
            ) from problem


def _local_environment() -> dict[str, str]:
    """Return the environment of a cluster on this machine; one elsewhere has such settings from its own set-up."""
    environment = {
        # Confined to loopback, where a token would protect from nobody but this machine's other users; what listens
        # elsewhere sets RAY_AUTH_MODE=token (cluster.yaml, and Serve: serving.config.local_ray_environment).
        "RAY_AUTH_MODE": "disabled",
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
        "RAY_idle_worker_killing_time_threshold_ms": "60000",  # the default of 1 s ends workers before their first task
    }
    if (SOURCE_ROOT / "pyproject.toml").exists():  # running from source, perhaps not installed
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, (str(SOURCE_ROOT), os.environ.get("PYTHONPATH"))))
    return environment


def _environment(defaults: Mapping[str, str]) -> AbstractContextManager[None]:
    """Set variables for a while; those that are set already stay, except that PYTHONPATH is replaced."""
    return environment({key: value for key, value in defaults.items() if key == "PYTHONPATH" or key not in os.environ})


@contextmanager
def _shut_down_after() -> Iterator[None]:
    import ray

    try:
        yield
    finally:
        with _uninterrupted():
            _end_data_threads()
            ray.shutdown()


def _end_data_threads() -> None:
    """Wait for Ray Data's threads, which end this process with a code of their own when Ray goes while they use it.

    They are still there after an error or Ctrl-C; on a busy machine the two seconds that Ray Data waits are not enough.
    """
    module: Any = sys.modules.get("ray.data._internal.execution.streaming_executor")
    for thread in threading.enumerate() if module else ():
        if isinstance(thread, module.StreamingExecutor):
            thread.shutdown(force=True)
            thread.join(LEAVING_SECONDS)


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """Let an impatient second Ctrl-C not leave processes behind."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
