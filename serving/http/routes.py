"""The HTTP interface: routes over a :class:`serving.http.intake.Backend`."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from fastapi import APIRouter, Depends, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.middleware.cors import CORSMiddleware
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException

from models.config import nearest
from models.images import ImageError
from models.options import MEDIA_TYPES, DehazeOptions
from serving.config import ServingConfig
from serving.engine import Answer, DehazeTask, ModelState, Score
from serving.errors import Problem, ProblemError, http_problem, image_problem
from serving.http.auth import Tokens
from serving.http.batch import dehaze_all
from serving.http.intake import Backend, BodyReader
from serving.http.jobs import NO_FOLDER, Jobs, add_jobs, no_videos
from serving.http.middleware import RequestMiddleware, problem_response
from serving.http.openapi import ALIVE, BATCH, BEARER, DEHAZE, HEADERS, MODELS, READY, SCORE, forget_validation_errors
from serving.http.page import add_page
from serving.http.parameters import Absent, Options, named_model
from serving.http.requests import answer_headers, refuse_unknown_parameters
from serving.limits import Admission
from serving.metrics import Metrics


@dataclass(frozen=True)
class Accepted:
    """Which photographs and videos the service takes.

    Attributes:
        max_bytes, max_pixels, formats: of a photograph.
        max_video_bytes: of a video.
        no_videos: why it takes no videos; None where it does.
    """

    max_bytes: int
    max_pixels: int
    formats: tuple[str, ...]
    max_video_bytes: int
    no_videos: str | None


@dataclass(frozen=True)
class Offered:
    """Answer of ``/v1/models``."""

    models: list[ModelState]
    limits: Accepted


def make_api(
    config: ServingConfig,
    backend: Backend,
    metrics: Metrics | None = None,
    *,
    names_requests: bool = False,
) -> FastAPI:
    """Make the application.

    Args:
        config: of the service.
        backend: does the work.
        metrics: counts; None does not.
        names_requests: see :class:`serving.http.middleware.RequestMiddleware`.
    """
    metrics = metrics or Metrics()
    service = BodyReader(config, backend, metrics, Admission(config.requests))
    tokens = Tokens(config.auth)
    jobs = Jobs(service, tokens) if config.jobs.folder else None
    app = FastAPI(
        title="dehaze", version=_version(), docs_url=None, redoc_url=None, redirect_slashes=False,
        lifespan=None if jobs is None else jobs.running,
    )  # fmt: skip
    app.state.admission = service.admission
    app.add_middleware(RequestMiddleware, config=config, tokens=tokens, metrics=metrics, names_requests=names_requests)
    if config.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=list(config.cors_origins),
            allow_methods=["GET", "POST", "DELETE"],
            allow_headers=["Authorization", "Content-Type", "X-Request-Id"],
            expose_headers=["X-Request-Id", "Location", "Retry-After", *HEADERS],
        )
    logging.getLogger("python_multipart").setLevel(logging.ERROR)  # it warns of every byte that is out of place
    _add_problems(app, metrics, jobs=jobs is not None)
    strict = [Depends(refuse_unknown_parameters)]
    protected = APIRouter(prefix="/v1", dependencies=[*([Depends(BEARER)] if tokens.required else []), *strict])
    _add_pictures(protected, service)
    _add_models(protected, service)
    if jobs is not None:
        add_jobs(protected, jobs, service)
    app.include_router(protected)
    state = APIRouter(dependencies=strict)
    _add_state(state, service)
    app.include_router(state)
    add_page(app)
    forget_validation_errors(app.openapi())
    return app


def _version() -> str:
    try:
        return version("ray-dehaze")
    except PackageNotFoundError:  # from source, not installed
        return "0"


def _add_problems(app: FastAPI, metrics: Metrics, *, jobs: bool) -> None:
    def answer(request: Request, problem: Problem) -> JSONResponse:
        metrics.rejected(problem.code)
        return problem_response(problem, request.state.request_id)

    @app.exception_handler(ImageError)
    async def on_image(request: Request, error: ImageError) -> JSONResponse:
        return answer(request, image_problem(error))

    @app.exception_handler(ProblemError)
    async def on_problem(request: Request, error: ProblemError) -> JSONResponse:
        return answer(request, error.problem)

    @app.exception_handler(RequestValidationError)
    async def on_query(request: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        told = first["msg"].removeprefix("Value error, ")  # of a validator of ours
        return answer(request, http_problem(400, f"{first['loc'][:2][-1]}={str(first['input'])[:100]}: {told}"))

    @app.exception_handler(HTTPException)
    async def on_http(request: Request, error: HTTPException) -> JSONResponse:
        detail, path = str(error.detail), request.url.path[:100]
        if error.status_code == 404 and path.startswith("/v1/jobs") and not jobs:
            detail = f"this service takes no jobs: {NO_FOLDER}"
        elif error.status_code == 404:
            detail = f"there is no path '{path}'{nearest(path, list(app.openapi()['paths']))}"
        allow = error.headers["Allow"] if error.status_code == 405 and error.headers else ""
        if allow:  # of the first route of this path; there may be others
            route = getattr(request.scope.get("route"), "path", "")
            known = {method.upper() for method in app.openapi()["paths"].get(route, ())} or set(allow.split(", "))
            methods = sorted(known - {"HEAD"})
            detail = f"'{path}' takes {' or '.join(methods)}, not {request.method}"
            allow = ", ".join(methods).replace("GET", "GET, HEAD")
        response = answer(request, http_problem(error.status_code, detail))
        response.headers.update({**(error.headers or {}), **({"Allow": allow} if allow else {})})
        return response


def _add_pictures(app: APIRouter, service: BodyReader) -> None:
    limits = service.config.requests
    named = named_model(service.config)

    @app.post("/dehaze", **DEHAZE)
    async def dehaze(request: Request, options: Options, model: str | Absent = named) -> Response:
        """The photograph of the request body (raw, or ``file`` of a multipart form), dehazed."""
        name = service.known(model)
        with service.queued(request) as place:
            data = await service.image(request, place)
            async with service.within(limits.timeout_s):
                answer = _good(await service.worked(service.backend.dehaze(DehazeTask(data, options, name))))
        return Response(answer.data, media_type=MEDIA_TYPES[answer.format], headers=answer_headers(answer))

    @app.post("/batch", **BATCH)
    async def batch(request: Request, options: Options, model: str | Absent = named) -> Response:
        """The files of a form, or of a zip archive, dehazed: a zip archive with a ``manifest.json``."""
        name = service.known(model)
        with service.queued(request) as place:
            photographs = await service.photographs(request, place)
            async with service.within(limits.batch_timeout_s):
                archive = await dehaze_all(
                    photographs, _one(service, options, name), parallel=limits.batch_parallel,
                    max_bytes=limits.batch_answer_bytes,
                )  # fmt: skip
        headers = {"Content-Disposition": 'attachment; filename="dehazed.zip"'}
        return Response(archive, media_type="application/zip", headers=headers)

    @app.post("/score", **SCORE)
    async def score(request: Request) -> Score:
        """Clearness and quality of the photograph as it is, in [0, 1], higher is better."""
        with service.queued(request) as place:
            data = await service.image(request, place)
            async with service.within(limits.timeout_s):
                score: Score = _good(await service.worked(service.backend.score(data)))
        return score


def _one(service: BodyReader, options: DehazeOptions, model: str | None) -> Any:
    async def dehaze(data: bytes) -> Answer | Problem:
        if len(data) > service.config.limits.max_bytes:
            return Problem(413, "too_large", f"the file has {len(data):,} bytes; too many")
        found = await service.worked(service.backend.dehaze(DehazeTask(data, options, model)))
        if isinstance(found, Problem):
            service.metrics.rejected(found.code)
        return found

    return dehaze


def _good(found: Any) -> Any:
    """An answer that is none is raised."""
    if isinstance(found, Problem):
        raise ProblemError(found)
    return found


def _add_models(app: APIRouter, service: BodyReader) -> None:
    @app.get("/models", **MODELS)
    async def models() -> Offered:
        """The models that this service has, why a newer version is not served, and which files it takes."""
        limits, jobs = service.config.limits, service.config.jobs
        accepted = Accepted(limits.max_bytes, limits.max_pixels, limits.formats, jobs.max_bytes, no_videos(jobs))
        return Offered(await service.models(), accepted)


def _add_state(app: APIRouter, service: BodyReader) -> None:
    @app.get("/healthz", **ALIVE)
    async def healthz() -> dict[str, str]:
        """The process answers."""
        return {"status": "ok"}

    @app.get("/readyz", **READY)
    async def readyz() -> dict[str, str]:
        """A model is loaded and has dehazed its warm-up image."""
        return {"status": "ready", "model": await service.default_model()}
