"""The service on Ray Serve: an ingress that speaks HTTP, and replicas with models in them.

Both are thin: :func:`serving.http.routes.make_api` is the interface, :class:`serving.engine.replica.Replica` does the
work. The ingress admits requests and hands them on, once more when a replica dies with one.
"""

# Ray copies the classes below to its processes; annotations must be values (no `from __future__ import annotations`).

import asyncio
import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import ray.util.metrics
from ray import serve
from ray.exceptions import RayActorError
from ray.serve.handle import DeploymentHandle

from models.config import parse, starting_ray
from serving.config import ServingConfig, require_free_port
from serving.engine import (
    Answer,
    Compute,
    DehazeTask,
    Frame,
    FrameTask,
    ModelState,
    Open,
    Replica,
    Score,
    Together,
    require_model,
)
from serving.errors import Problem, refused
from serving.http import require_protection
from serving.jobs import require_jobs
from serving.metrics import Metrics

log = logging.getLogger(__name__)

APPLICATION = "dehaze"
LOGGING = {"log_level": "WARNING", "enable_access_log": False}
_ROOM_TO_REFUSE = 1000  # requests beyond those admitted that the ingress takes in, to refuse them itself
_MARGIN_S = 5.0  # beyond the times of the configuration: the service's own answer comes first
_LOOK_S = 1.0  # how often a replica that is to end looks whether its work is done
_state = {"started_ray": False}


class Dehazer:
    """The deployment with models in it."""

    async def __init__(self, config: dict[str, Any]) -> None:  # type: ignore[misc]  # Serve awaits it
        settings = parse(ServingConfig, config, "serving")

        def batched(together: Together) -> Compute:
            # The names that Serve's metrics show are those of the functions.
            async def compute(works: Any) -> Any:
                return await together(works)

            batching = settings.batching
            collected: Any = serve.batch(
                max_batch_size=batching.max_size, batch_wait_timeout_s=batching.wait_ms / 1000
            )(compute)
            return collected  # type: ignore[no-any-return]

        def cached(load: Open) -> Open:
            async def model(name: str) -> Any:
                return await load(name)

            kept: Any = serve.multiplexed(max_num_models_per_replica=settings.models_per_replica)(model)
            return kept  # type: ignore[no-any-return]

        metrics = Metrics(ray.util.metrics)
        self._replica = await asyncio.to_thread(
            Replica, settings, metrics, batched=batched, cached=cached, on_sick=_end
        )
        self._following = asyncio.create_task(self._replica.follow())

    async def dehaze(self, task: DehazeTask) -> Answer | Problem:
        """Dehaze one photograph."""
        return await self._replica.dehaze(task)

    async def frame(self, task: FrameTask) -> Frame | Problem:
        """Dehaze one frame of a video."""
        return await self._replica.frame(task)

    async def score(self, data: bytes) -> Score | Problem:
        """Score one photograph, as it is."""
        return await self._replica.score(data)

    async def models(self) -> list[ModelState] | Problem:
        """Return the states of the models."""
        return await self._replica.models()

    async def check_health(self) -> None:
        """Serve asks every ``health.check_s``."""
        self._replica.check_health()


def _end() -> None:
    """End this process, whose replica is sick; Serve starts another one, and the ingress sends its work there.

    At once: Serve would ask three times, and then wait for work that never ends, with the GPU that the next replica
    needs. Until then the sick one would get most of the work, as nobody else is done with it so soon.
    """
    logging.shutdown()
    os._exit(1)


class Replicas:
    """The backend of the ingress: Serve's handle, with one more try."""

    def __init__(self, handle: DeploymentHandle[Any], metrics: Metrics) -> None:
        self._handle, self._metrics = handle, metrics
        self._asking: asyncio.Task[bool] | None = None

    async def dehaze(self, task: DehazeTask) -> Answer | Problem:
        """Dehaze one photograph."""
        answer: Answer | Problem = await self._ask(lambda: self._for(task.model).dehaze.remote(task))
        return answer

    async def frame(self, task: FrameTask) -> Frame | Problem:
        """Dehaze one frame of a video."""
        answer: Frame | Problem = await self._ask(lambda: self._for(task.model).frame.remote(task))
        return answer

    async def score(self, data: bytes) -> Score | Problem:
        """Score one photograph, as it is."""
        score: Score | Problem = await self._ask(lambda: self._handle.score.remote(data))
        return score

    async def models(self) -> list[ModelState] | Problem:
        """Return the states of the models."""
        states: list[ModelState] | Problem = await self._ask(self._handle.models.remote)
        return states

    async def there(self) -> bool:
        """Serve knows a replica that runs."""
        if self._asking is None or self._asking.done():  # one question at a time, however many ask
            self._asking = asyncio.create_task(asyncio.to_thread(_runs))
        return await asyncio.shield(self._asking)

    def _for(self, model: str | None) -> DeploymentHandle[Any]:
        return self._handle if model is None else self._handle.options(multiplexed_model_id=model)

    async def _ask(self, call: Callable[[], Any]) -> Any:
        """Return the answer. Work that a replica took with it is sent again, once: dehazing twice does no harm."""
        try:
            return await _awaited(call)
        except RayActorError as problem:
            log.warning("a replica died, and its work is sent again: %s", type(problem).__name__)
            self._metrics.retried()
        try:
            return await _awaited(call)
        except RayActorError as problem:
            raise refused(503, "the work was lost twice; try again", "replica_lost", 1.0) from problem


def _runs() -> bool:
    application = serve.status().applications.get(serve.get_replica_context().app_name)
    states = application.deployments["Dehazer"].replica_states if application is not None else {}
    return any(count for state, count in states.items() if state == "RUNNING")


async def _awaited(call: Callable[[], Any]) -> Any:
    """Return the result; cancel work that nobody waits for any more."""
    response = call()
    try:
        return await response
    except asyncio.CancelledError:
        response.cancel()
        raise


@serve.ingress()
class Ingress:
    """The deployment that speaks HTTP."""

    def __init__(self, config: dict[str, Any], dehazer: DeploymentHandle[Any]) -> None:
        self._config = parse(ServingConfig, config, "serving")
        self._dehazer = dehazer

    def __serve_build_asgi_app__(self) -> Any:
        """Make the application, as Serve asks for it."""
        from serving.http import make_api

        metrics = Metrics(ray.util.metrics)
        app = make_api(self._config, Replicas(self._dehazer, metrics), metrics=metrics, names_requests=True)
        self._admission = app.state.admission
        return app

    def close(self) -> int:
        """Take no more requests.

        Returns:
            how many are not answered yet.
        """
        self._admission.closed = True
        return int(self._admission.pending)


def build(args: Mapping[str, Any]) -> serve.Application:
    """Make the application from plain values, as ``serve deploy`` calls it.

    Raises:
        ConfigError: an unknown or bad key, or a host beyond loopback without a token.
    """
    config = parse(ServingConfig, args, "args")
    require_protection(config.host, config.auth)
    require_jobs(config.jobs)
    plain = config.model_dump(mode="json")
    scaling = config.scaling
    dehazer: Any = serve.deployment(
        name="Dehazer",
        ray_actor_options={
            "num_cpus": scaling.num_cpus,
            "num_gpus": scaling.num_gpus,
            # Ray says 1 for less than two CPUs, and OpenMP is slower for it whatever torch is told later.
            "runtime_env": {"env_vars": {"OMP_NUM_THREADS": str(config.threads)}},
        },
        max_ongoing_requests=scaling.max_ongoing_requests,
        health_check_period_s=config.health.check_s,
        graceful_shutdown_timeout_s=config.requests.longest_work_s + _MARGIN_S,
        graceful_shutdown_wait_loop_s=_LOOK_S,
        logging_config=LOGGING,
        **_replicas(config),
    )(Dehazer)
    ingress: Any = serve.deployment(
        name="Ingress",
        num_replicas=scaling.ingresses,
        ray_actor_options={"num_cpus": scaling.ingress_cpus},
        max_ongoing_requests=config.requests.max_pending + _ROOM_TO_REFUSE,
        graceful_shutdown_timeout_s=config.requests.longest_s + _MARGIN_S,
        graceful_shutdown_wait_loop_s=_LOOK_S,
        logging_config=LOGGING,
    )(Ingress)
    application: serve.Application = ingress.bind(plain, dehazer.bind(plain))
    return application


def _replicas(config: ServingConfig) -> dict[str, Any]:
    scaling = config.scaling
    if scaling.min_replicas == scaling.max_replicas:
        return {"num_replicas": scaling.min_replicas}
    keys = ("min_replicas", "max_replicas", "target_ongoing_requests")
    return {"autoscaling_config": scaling.model_dump(include=set(keys))}


def start(config: ServingConfig) -> str:
    """Start the service, on the Ray of this process or on one of its own.

    Returns:
        its URL. It takes requests when this returns.

    Raises:
        ConfigError: the host is not loopback and there is no token, the port is taken, the model is missing, or Ray
            cannot start.
    """
    config = config.with_absolute_paths()
    require_protection(config.host, config.auth)
    require_jobs(config.jobs)
    require_free_port(config.host, config.port)
    require_model(config)
    _start_ray()
    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    try:
        serve.start(
            logging_config=LOGGING,
            http_options={
                "host": config.host,
                "port": config.port,
                "request_timeout_s": config.requests.longest_s + _MARGIN_S,
            },
        )
        serve.run(build(config.model_dump(mode="json")), name=APPLICATION, route_prefix="/")
    except BaseException:
        stop()
        raise
    host = f"[{config.host}]" if ":" in config.host else config.host
    return f"http://{host}:{config.port}"


def stop() -> None:
    """Stop the service, and Ray where :func:`start` started it."""
    import ray

    if ray.is_initialized():
        serve.shutdown()  # type: ignore[no-untyped-call]
    if _state["started_ray"]:
        ray.shutdown()
        _state["started_ray"] = False


def run_until_interrupted(config: ServingConfig, announce: Callable[[str], None]) -> None:
    """Call :func:`start`, tell the URL, wait for Ctrl-C or SIGTERM, answer what is under way, :func:`stop`. A second
    Ctrl-C ends it at once.
    """
    _end_on_sigterm()
    url = start(config)
    _end_on_sigterm()  # Ray has put its own in place
    try:
        announce(url)
        threading.Event().wait()
    except KeyboardInterrupt:
        finish(config.requests.longest_s + _MARGIN_S, config.port)
        raise
    finally:
        stop()


def finish(seconds: float, port: int) -> None:
    """Take no more requests, and wait until those under way are answered and clients have read the answers, or for so
    many seconds.
    """
    deadline = time.monotonic() + seconds
    ingress = serve.get_app_handle(APPLICATION)
    told = False
    while left := sum(ingress.broadcast("close").results(timeout_s=_MARGIN_S)) or _unread(port):
        if not told:
            log.warning("%d requests are under way; Ctrl-C once more drops them", left)
            told = True
        if time.monotonic() > deadline:
            log.error("%d requests were not answered in time", left)
            return
        time.sleep(_LOOK_S / 4)


def _unread(port: int) -> int:
    """Return how many connections to a port have an answer on the way; 0 where the system is not Linux.

    Serve's proxy has all of an answer in its memory long before a slow client has, and ends at once when Serve does.
    """
    tables = [Path("/proc/net") / name for name in ("tcp", "tcp6")]
    lines = [line.split() for table in tables if table.exists() for line in table.read_text().splitlines()[1:]]
    ours = [queues for _, local, _, state, queues, *_ in lines if local.endswith(f":{port:04X}") and state == "01"]
    return sum(int(queues.partition(":")[0], 16) > 0 for queues in ours)  # bytes to be sent : received


def _end_on_sigterm() -> None:
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, signal.default_int_handler)


def _start_ray() -> None:
    import ray

    from models.inference import local_cpus

    if ray.is_initialized():
        return
    root = Path(__file__).resolve().parents[1]
    if (root / "pyproject.toml").exists():  # from source, perhaps not installed: replicas must find it too
        os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (str(root), os.environ.get("PYTHONPATH"))))
    cpus = max(2, local_cpus())
    with starting_ray():
        ray.init(address="local", num_cpus=cpus, include_dashboard=False, logging_level=logging.WARNING)
    _state["started_ray"] = True
