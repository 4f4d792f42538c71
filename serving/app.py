"""The dehazer on Ray Serve: an HTTP shell around :class:`serving.predictor.Predictor`.

A replica answers on its event loop and works on pictures in threads, so it stays responsive while it computes.
"""

# No `from __future__ import annotations`: Serve ships the routes by value, where names of this module do not resolve.

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
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException

from models.images import ImageError, ImageTooLarge
from models.settings import ConfigError, parse
from serving.config import ServingConfig, local_ray_environment, require_loopback
from serving.errors import MEDIA_TYPE, Problem, http_problem, image_problem
from serving.predictor import MEDIA_TYPES, DehazeInfo, DehazeOptions, Predictor

APPLICATION = "dehaze"
LOGGING = {"log_level": "WARNING", "enable_access_log": False}
_MULTIPART_EXTRA = 64 << 10  # what a multipart body may have around the file
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
        self._predictor = Predictor(settings.model, settings.tracking_uri, settings.threads, settings.limits)
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
        options = _options(strength, format, quality)
        data = await _body(request, self._config.limits.max_bytes)
        result, info = await self._compute(data, options)
        headers = {"X-Model": self._predictor.name, "Server-Timing": _timing(info)}
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
        ConfigError: the host is not loopback, or the model is missing.
    """
    require_loopback(config.host)
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
    os.environ.update({key: value for key, value in local_ray_environment().items() if key not in os.environ})
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


def _options(strength: float, name: str | None, quality: int) -> DehazeOptions:
    known = dict(zip(map(str.lower, MEDIA_TYPES), MEDIA_TYPES, strict=True)) | {"jpg": "JPEG", "tif": "TIFF"}
    if name is not None and name.lower() not in known:
        raise HTTPException(400, f"format: '{name}' is not one of {', '.join(sorted(known))}")
    chosen: dict[str, Any] = {"strength": strength, "quality": quality}
    if name is not None:
        chosen["format"] = known[name.lower()]
    try:
        return parse(DehazeOptions, chosen)
    except ConfigError as problem:
        raise HTTPException(400, str(problem)) from problem


async def _body(request: Request, limit: int) -> bytes:
    """The image of a request, refused as soon as it is known to be too large."""
    multipart = request.headers.get("content-type", "").startswith("multipart/form-data")
    bound = limit + (_MULTIPART_EXTRA if multipart else 0)
    declared = request.headers.get("content-length", "")
    if declared.isdigit() and int(declared) > bound:
        raise ImageTooLarge(f"the request has {int(declared):,} bytes; at most {limit:,} are accepted")
    if multipart:
        return await _form_file(request)
    chunks, size = [], 0
    async for chunk in request.stream():
        size += len(chunk)
        if size > bound:
            raise ImageTooLarge(f"the request has more than the {limit:,} bytes that are accepted")
        chunks.append(chunk)
    if not size:
        raise HTTPException(400, "the body is empty; send an image as the body or as the form's 'file'")
    return b"".join(chunks)


async def _form_file(request: Request) -> bytes:
    async with request.form(max_files=1, max_fields=8) as form:
        file = form.get("file")
        if not isinstance(file, UploadFile):
            raise HTTPException(400, "the form has no 'file'")
        data = await file.read()
    if not data:
        raise HTTPException(400, "the form's 'file' is empty")
    return data


def _timing(info: DehazeInfo) -> str:
    parts = {"decode": info.decode_s, "model": info.model_s, "encode": info.encode_s}
    return ", ".join(f"{name};dur={seconds * 1000:.1f}" for name, seconds in parts.items())
