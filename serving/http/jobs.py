"""Routes of long work: what is sent goes into the folder of jobs, and the answer comes at once."""

from __future__ import annotations

import asyncio
import time
import zipfile
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.util import find_spec
from typing import Annotated, Any

from fastapi import APIRouter, FastAPI, Query, Request
from fastapi.responses import Response, StreamingResponse

from models.config import ConfigError, Settings
from models.images import kind_of
from models.options import DehazeOptions
from models.paths import absolute, replacing, require_writable
from serving.archive import ArchiveLimits, Names, ZipPhotographs, is_zip, safe_name
from serving.errors import refused
from serving.exchange import Job
from serving.http.auth import Tokens
from serving.http.intake import BodyReader
from serving.http.openapi import CANCEL, JOB, JOBS, RESULT
from serving.http.parameters import Absent, Options, Seconds, named_model
from serving.http.requests import Upload, is_form, read_form, read_into, read_raw, says
from serving.jobs import (
    TYPES,
    Asked,
    Doors,
    JobState,
    Runner,
    Store,
    allowed,
    require_allowed,
    require_apart,
    secret_of,
    suffix_of,
    video_options,
)
from serving.jobs_config import JobsConfig
from serving.sniff import explain

_PIECE = 1 << 20
NO_FOLDER = "its configuration names no jobs.folder (--jobs FOLDER)"
_DESCRIPTION = 64 << 10  # bytes of a job's JSON
Webhook = Annotated[str | Absent, Query(description="an address to call at the end, on a host of jobs.webhooks")]


class Folders(Settings):
    """A job on folders; in and out."""

    source: str
    target: str


def _time(seconds: float | None) -> str | None:
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")


def _doors(service: BodyReader) -> Doors:
    return Doors(
        service.backend.dehaze, service.backend.frame, lambda: service.pace.busy, lambda: service.admission.closed,
        service.config.requests.longest_work_s, service.config.limits.max_bytes, service.metrics,
    )  # fmt: skip


class Jobs:
    """The jobs of a service.

    Args:
        service: takes requests, and dehazes.
        tokens: who may use it.

    Raises:
        ConfigError: there are webhooks and no secret for them.
    """

    def __init__(self, service: BodyReader, tokens: Tokens) -> None:
        self._service, self._tokens, self._config = service, tokens, service.config.jobs
        self._store = Store(absolute(str(self._config.folder)))
        self._runner = Runner(
            self._config, self._store, _doors(service), key=secret_of(self._config),
            view=lambda job, asked, state: asdict(self.view(job, asked, state)),
        )  # fmt: skip

    @asynccontextmanager
    async def running(self, _: FastAPI) -> AsyncIterator[None]:
        """Work on jobs as long as the application lives."""
        task = asyncio.create_task(self._runner.run())
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    def view(self, job: str, asked: Asked, state: JobState) -> Job:
        """Return a job as a client sees it."""
        ended = state.ended
        return Job(
            job, state.status, state.total, state.done, state.failed, str(_time(asked.created)),
            _time(ended), _time(ended and ended + self._config.keep_s), state.code, state.detail,
        )  # fmt: skip

    async def submit(
        self, request: Request, options: DehazeOptions, model: str | None, smoothing: float | None, webhook: str | None
    ) -> Job:
        """Take a job."""
        client, job = request.state.client, self._store.new_id()
        if webhook is not None:
            require_allowed(webhook, self._config.webhooks)
        asked: dict[str, Any] = {
            "client": client, "created": time.time(), "options": options, "model": model, "smoothing": smoothing,
            "webhook": webhook,
        }  # fmt: skip
        with self._service.admitted(request) as place, self._runner.place(client):
            try:
                if says(request, "application/json"):
                    body = await read_raw(request, place, _DESCRIPTION, self._config.read_timeout_s)
                    asked |= await asyncio.to_thread(self._folders, body)
                elif is_form(request):
                    uploads = await self._uploads(request, place)
                    asked["video"] = _video(uploads[0].data, options, self._config) if len(uploads) == 1 else None
                    alone = len(uploads) == 1 and (asked["video"] is not None or is_zip(uploads[0].data))
                    asked["size"] = await asyncio.to_thread(self._packed, job, uploads, alone=alone)
                else:
                    asked["video"], asked["size"] = await self._body(request, job, options, smoothing)
                _require_video(asked.get("video"), smoothing)
                if "size" in asked and asked["video"] is None:
                    await asyncio.to_thread(self._check, job)
                known = Asked(**asked)
                await self._runner.accept(job, known)
            except Exception:
                await asyncio.to_thread(self._store.remove, job)
                raise
        return self.view(job, known, self._runner.state(job) or JobState())

    async def found(self, request: Request, job: str) -> tuple[Asked, JobState]:
        """Find a job of this client.

        Raises:
            ProblemError: 404 where there is none.
        """
        asked = await asyncio.to_thread(self._store.asked, job)
        if asked is None or (self._tokens.required and asked.client != request.state.client):
            raise refused(404, "there is no such job; it may have expired")
        state = self._runner.state(job)
        return asked, await asyncio.to_thread(self._store.state, job) if state is None else state

    async def result(self, request: Request, job: str) -> Response:
        """Return the archive of a job, its manifest where the results are in a folder, or its video."""
        asked, state = await self.found(request, job)
        if state.status != "done":
            said = f"the job is {state.status}" + (f": {state.detail}" if state.detail else "")
            raise refused(409, f"{said}; only one that is done has a result", "no_result")
        stack = ExitStack()
        try:
            file = await asyncio.to_thread(stack.enter_context, self._store.opened(job, "result"))
            size = await asyncio.to_thread(file.size)
        except FileNotFoundError as problem:
            raise refused(404, "there is no such job; it may have expired") from problem
        name, kind = ("manifest.json", "application/json") if asked.target else ("dehazed.zip", "application/zip")
        if asked.video is not None:
            name, kind = f"dehazed{asked.video}", TYPES[asked.video]
        headers = {
            "Content-Disposition": f'attachment; filename="{name}"',
            "Content-Length": str(size),
        }
        return StreamingResponse(_pieces(file, stack), media_type=kind, headers=headers)

    async def cancel(self, request: Request, job: str) -> None:
        """End a job, and forget its files."""
        await self.found(request, job)
        await self._runner.cancel(job)

    def _folders(self, body: bytes) -> dict[str, str]:
        try:
            folders = Folders.model_validate_json(body)
        except ValueError as problem:
            raise refused(400, 'the body is no {"source": "...", "target": "..."}') from problem
        source = allowed("source", folders.source, self._config.prefixes)
        target = allowed("target", folders.target, self._config.prefixes)
        require_apart(source, target)
        try:
            require_writable(target)
        except ConfigError as problem:
            raise refused(400, "target: cannot write there") from problem
        return {"source": source, "target": target}

    async def _uploads(self, request: Request, place: Any) -> list[Upload]:
        """The files of a form; they are held in memory, so the bytes of a batch count."""
        limits = self._service.config.requests
        most = min(limits.batch_bytes, self._config.max_bytes)
        return await read_form(request, place, most, self._config.max_files, self._config.read_timeout_s)

    def _packed(self, job: str, uploads: list[Upload], *, alone: bool) -> int:
        with replacing(self._store.file(job, "input"), durable=True) as stream:
            if alone:
                stream.write(uploads[0].data)
                return int(stream.tell())
            names = Names()
            with zipfile.ZipFile(stream, "w") as archive:
                for upload in uploads:
                    archive.writestr(zipfile.ZipInfo(names.free(safe_name(upload.name))), upload.data)
            return int(stream.tell())

    async def _body(
        self, request: Request, job: str, options: DehazeOptions, smoothing: float | None
    ) -> tuple[str | None, int]:
        """A zip archive or a video, written as it comes: it may be larger than what fits into memory."""
        video = None

        def check(head: bytes) -> None:
            nonlocal video
            if (video := _video(head, options, self._config)) is None and not is_zip(head):
                known = explain(head) or "this is neither a zip archive nor a video"
                detail = f"{known}; a job is a zip archive, a video, files of a form, or JSON"
                if known.startswith("this is JSON"):
                    detail = "this is JSON; its request wants the header Content-Type: application/json"
                raise refused(415, detail, "unsupported_format")
            _require_video(video, smoothing)

        most = min(self._config.max_bytes, max(1, self._runner.room))
        async with _replacing(self._store.file(job, "input")) as stream:
            size = await read_into(request, stream, most, self._config.read_timeout_s, check)
        return video, size

    def _check(self, job: str) -> None:
        """Refuse an archive with a fault at once."""
        config, each = self._config, self._service.config.limits.max_bytes
        with self._store.opened(job) as file:
            ZipPhotographs(file, ArchiveLimits(config.max_files, each, config.max_bytes))


def no_videos(config: JobsConfig) -> str | None:
    """Say why a service takes no videos; None where it does."""
    if not config.folder:
        return NO_FOLDER
    return "PyAV is not installed" if find_spec("av") is None else None


def _video(head: bytes, options: DehazeOptions, config: JobsConfig) -> str | None:
    """Return the suffix of the result where a video begins so; refuse wrong options at once."""
    suffix = suffix_of(head, kind_of(head))
    if suffix is not None:
        if reason := no_videos(config):
            raise refused(415, f"this service takes no videos: {reason}", "unsupported_format")
        video_options(options)
    return suffix


def _require_video(video: str | None, smoothing: float | None) -> None:
    """Refuse for anything else what only videos have."""
    if video is None and smoothing is not None:
        raise refused(400, f"smoothing={smoothing:g}: this is for videos, and none was sent")


@asynccontextmanager
async def _replacing(file: str) -> AsyncIterator[Any]:
    """Run :func:`models.paths.replacing`, which blocks, in a thread."""
    with ExitStack() as stack:
        yield await asyncio.to_thread(stack.enter_context, replacing(file, durable=True))
        await asyncio.to_thread(stack.close)


async def _pieces(file: Any, stack: ExitStack) -> AsyncIterator[bytes]:
    with stack:
        while piece := await asyncio.to_thread(file.read, _PIECE):
            yield piece


def add_jobs(app: APIRouter, jobs: Jobs, service: BodyReader) -> None:
    """Add the routes of jobs."""
    named = named_model(service.config)

    @app.post("/jobs", status_code=202, **JOBS)
    async def submit(
        request: Request, response: Response, options: Options, model: str | Absent = named,
        smoothing: Seconds = None, webhook: Webhook = None,
    ) -> Job:  # fmt: skip
        """Take many photographs, a folder's name or a video, and dehaze them behind ordinary requests."""
        view = await jobs.submit(request, options, service.known(model), smoothing, webhook)
        response.headers["Location"] = f"/v1/jobs/{view.id}"
        return view

    @app.get("/jobs/{job}", **JOB)
    async def state(request: Request, job: str) -> Job:
        """Return how far a job is."""
        with service.admitted(request):
            return jobs.view(job, *await jobs.found(request, job))

    @app.get("/jobs/{job}/result", **RESULT)
    async def result(request: Request, job: str) -> Response:
        """A video, or photographs in a zip archive with a ``manifest.json``; with a folder, that manifest alone."""
        with service.admitted(request):
            return await jobs.result(request, job)

    @app.delete("/jobs/{job}", status_code=204, **CANCEL)
    async def cancel(request: Request, job: str) -> Response:
        """End a job, and remove what was sent and what came of it."""
        with service.admitted(request):
            await jobs.cancel(request, job)
        return Response(status_code=204)
