"""The dehazer on Ray Serve: an HTTP shell around :class:`serving.predictor.Predictor`.

A replica answers on its event loop and works on pictures in threads, so it stays responsive while it computes.
"""

# Serve copies the routes by value while the class below is made: what they use must stand above it or in another
# module, and annotations must be values (no `from __future__ import annotations`).

import asyncio
import logging
import os
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, cast

from fastapi import FastAPI, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from ray import serve
from starlette.exceptions import HTTPException

from models.images import ImageError
from models.settings import parse
from serving.config import ServingConfig, require_free_port, require_loopback
from serving.errors import MEDIA_TYPE, Problem, http_problem, image_problem
from serving.predictor import MEDIA_TYPES, DehazeInfo, DehazeOptions, Predictor
from serving.requests import read_body, read_options, server_timing

APPLICATION = "dehaze"
LOGGING = {"log_level": "WARNING", "enable_access_log": False}
_state = {"started_ray": False}

api = FastAPI(title="dehaze", version="1", docs_url="/docs")


def _answer(request: Request, problem: Problem) -> JSONResponse:
    body = problem.body(request.headers.get("x-request-id", ""))  # Serve names each request, and its answer
    return JSONResponse(body, problem.status, media_type=MEDIA_TYPE)


@api.exception_handler(ImageError)
async def _on_image_error(request: Request, error: ImageError) -> JSONResponse:
    return _answer(request, image_problem(error))


@api.exception_handler(RequestValidationError)
async def _on_bad_query(request: Request, error: RequestValidationError) -> JSONResponse:
    first = error.errors()[0]
    return _answer(request, http_problem(400, f"{first['loc'][-1]}: {first['msg']}"))


@api.exception_handler(HTTPException)
async def _on_http_error(request: Request, error: HTTPException) -> JSONResponse:
    return _answer(request, http_problem(error.status_code, str(error.detail)))


@serve.deployment(name="Dehazer")
@serve.ingress(api)
class Dehazer:
    """One replica: the model and the routes."""

    def __init__(self, config: dict[str, Any]) -> None:
        self._config = parse(ServingConfig, config, "serving")
        settings = self._config
        self._predictor = Predictor(
            settings.model, settings.tracking_uri, settings.threads, settings.limits, settings.inference
        )
        # Torch already uses its threads for one picture; a second one decodes meanwhile.
        self._working = asyncio.Semaphore(2)

    @api.post("/v1/dehaze")
    async def dehaze(
        self,
        request: Request,
        strength: Annotated[float, Query(ge=0, le=1)] = 1.0,
        format: Annotated[str | None, Query()] = None,  # noqa: A002 - the name in the URL
        quality: Annotated[int, Query(ge=1, le=100)] = 95,
    ) -> Response:
        """The photograph of the request body (raw, or ``file`` of a multipart form), dehazed."""
        options = read_options(strength, format, quality)
        data = await read_body(request, self._config.limits.max_bytes)
        result, info = await self._compute(data, options)
        headers = {"X-Model": self._predictor.name, "Server-Timing": server_timing(info)}
        return Response(result, media_type=MEDIA_TYPES[info.format], headers=headers)

    async def _compute(self, data: bytes, options: DehazeOptions) -> tuple[bytes, DehazeInfo]:
        try:
            async with asyncio.timeout(self._config.request_timeout_s), self._working:
                return await asyncio.to_thread(self._predictor.dehaze_bytes, data, options)
        except TimeoutError:
            limit = self._config.request_timeout_s
            raise HTTPException(504, f"not done within {limit:g} s; send a smaller picture") from None
        except MemoryError:
            raise HTTPException(503, "not enough memory at the moment; send a smaller picture or try later") from None

    @api.get("/healthz")
    async def healthz(self) -> dict[str, str]:
        """The process answers."""
        return {"status": "ok"}

    @api.get("/readyz")
    async def readyz(self) -> dict[str, str]:
        """A model is loaded: a replica takes requests only then."""
        return {"status": "ready", "model": self._predictor.name}

    @api.get("/v1/models")
    async def models(self) -> dict[str, list[dict[str, str]]]:
        """The models that this service has."""
        return {"models": [{"name": self._predictor.name}]}


def build(args: Mapping[str, Any]) -> serve.Application:
    """The application from plain values, as ``serve deploy`` calls it.

    Raises:
        ConfigError: an unknown or bad key.
    """
    config = parse(ServingConfig, args, "args")
    deployment: serve.Deployment = cast("serve.Deployment", Dehazer)
    options = deployment.options(
        num_replicas=config.replicas,
        ray_actor_options={"num_cpus": config.num_cpus},
        max_ongoing_requests=config.max_ongoing_requests,
        max_queued_requests=config.max_queued_requests,
        logging_config=LOGGING,
    )
    application: serve.Application = options.bind(config.model_dump(mode="json"))
    return application


def start(config: ServingConfig) -> str:
    """Start the service, on the Ray of this process or on one of its own.

    Returns:
        its URL. It takes requests when this returns.

    Raises:
        ConfigError: the host is not loopback, the port is taken, or the model is missing.
    """
    require_loopback(config.host)
    require_free_port(config.host, config.port)
    _require_model(config)
    _start_ray()
    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    try:
        serve.start(
            logging_config=LOGGING,
            http_options={
                "host": config.host,
                "port": config.port,
                "request_timeout_s": config.request_timeout_s + 5,  # our own answer comes first
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
    """:func:`start`, tell the URL, wait for Ctrl-C, :func:`stop`."""
    url = start(config)
    try:
        announce(url)
        threading.Event().wait()
    finally:
        stop()


def _start_ray() -> None:
    import ray

    if ray.is_initialized():
        return
    root = Path(__file__).resolve().parents[1]
    if (root / "pyproject.toml").exists():  # from source, perhaps not installed: replicas must find it too
        os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (str(root), os.environ.get("PYTHONPATH"))))
    cpus = max(2, os.cpu_count() or 1)
    ray.init(address="local", num_cpus=cpus, include_dashboard=False, logging_level=logging.WARNING)
    _state["started_ray"] = True


def _require_model(config: ServingConfig) -> None:
    """Find out here that a model is missing, where the message is one line, and not in replicas that keep dying."""
    from models import zoo
    from serving.registry import SCHEME, download_model

    if config.model.startswith(SCHEME):
        download_model(config.model, config.tracking_uri)
    else:
        zoo.load(config.model)
