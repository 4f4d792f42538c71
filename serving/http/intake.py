"""How a request gets in: admission, its body, the model it names, and its time."""

from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncIterator, Awaitable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

from fastapi import Request

from serving.archive import ArchiveLimits, Photographs, ZipPhotographs, is_litter, is_zip
from serving.config import ServingConfig
from serving.engine import Answer, DehazeTask, Frame, FrameTask, ModelState, Score
from serving.errors import Problem, ProblemError, refused
from serving.http.requests import Upload, is_form, read_form, read_image, read_raw
from serving.limits import Admission, AnswerPace, Reservation
from serving.metrics import Metrics
from serving.sniff import explain

_READY_WITHIN_S = 2.0
R = TypeVar("R")


class Backend(Protocol):
    """Where photographs are worked on."""

    async def dehaze(self, task: DehazeTask) -> Answer | Problem:
        """Dehaze one photograph."""

    async def frame(self, task: FrameTask) -> Frame | Problem:
        """One frame of a video."""

    async def score(self, data: bytes) -> Score | Problem:
        """Score one photograph, as it is."""

    async def models(self) -> list[ModelState] | Problem:
        """Return the models that there are, once the default one is warm."""

    async def there(self) -> bool:
        """Say whether any worker is there, though perhaps too busy to answer :meth:`models`."""


@dataclass
class BodyReader:
    """What the routes share: who gets in, what a request holds, and how long it may take."""

    config: ServingConfig
    backend: Backend
    metrics: Metrics
    admission: Admission
    pace: AnswerPace = field(default_factory=AnswerPace)

    async def worked(self, answer: Awaitable[R]) -> R:
        """Return what the backend makes of a picture, which those that come later wait for."""
        with self.pace.under_way():
            found = await answer
            if isinstance(found, Answer | Score):
                self.pace.answered()
        return found

    async def models(self) -> list[ModelState]:
        """Return the models that there are.

        Raises:
            ProblemError: 503 when there is no backend that says so in time.
        """
        try:
            return await self._states(self.config.requests.timeout_s)
        except TimeoutError:
            raise refused(503, "no replica answers", retry_after=_READY_WITHIN_S) from None

    async def _states(self, seconds: float) -> list[ModelState]:
        async with asyncio.timeout(seconds):
            states = await self.backend.models()
        if isinstance(states, Problem):
            raise ProblemError(states)
        return states

    async def default_model(self) -> str:
        """Return the name of the default model, when there is a backend that can compute; it may be too busy to say so.

        Raises:
            ProblemError: 503 when there is none, or the service is about to end.
        """
        if self.admission.closed:
            raise refused(503, "the service is about to end", retry_after=_READY_WITHIN_S)
        with suppress(TimeoutError):
            return next(state.name for state in await self._states(_READY_WITHIN_S / 2) if state.default)
        with suppress(TimeoutError):
            async with asyncio.timeout(_READY_WITHIN_S / 2):
                if await self.backend.there():
                    return self.config.default_name
        raise refused(503, "no replica answers", retry_after=_READY_WITHIN_S)

    @contextmanager
    def admitted(self, request: Request) -> Iterator[Reservation]:
        """Take a place for a request.

        Raises:
            ProblemError: 429 or 503, as :meth:`Admission.admitted`.
        """
        try:
            with self.admission.admitted(request.state.client) as place:
                self.metrics.pending(self.admission.pending)
                yield place
        finally:
            self.metrics.pending(self.admission.pending)

    @contextmanager
    def queued(self, request: Request) -> Iterator[Reservation]:
        """Take a place for a request with pictures, whose turn comes after those that are worked on.

        Raises:
            ProblemError: as :meth:`admitted`, and 503 when its turn would come too late.
        """
        limits = self.config.requests
        if self.pace.wait_s > limits.max_wait_s:
            detail = f"the queue is about {self.pace.wait_s:.0f} s long; try again later"
            raise refused(503, detail, "overloaded", limits.retry_after_s)
        with self.admitted(request) as place:
            yield place

    @asynccontextmanager
    async def within(self, seconds: float) -> AsyncIterator[None]:
        """Work that ends in time, or with 504."""
        try:
            async with asyncio.timeout(seconds):
                yield
        except TimeoutError:
            raise refused(504, f"not done within {seconds:g} s; send a smaller picture") from None

    def known(self, model: str | None) -> str | None:
        """Check a model's name and return it; None for the default.

        Raises:
            ProblemError: 400 for a name that there is not.
        """
        if model in (None, self.config.default_name):
            return None
        if model not in self.config.models:
            names = ", ".join(sorted([self.config.default_name, *self.config.models]))
            raise refused(400, f"model: there is no '{model}'; known: {names}", "unknown_model")
        return model

    async def image(self, request: Request, place: Reservation) -> bytes:
        """Read the photograph of a request."""
        return await read_image(request, place, self.config.limits.max_bytes, self.config.requests.read_timeout_s)

    async def photographs(self, request: Request, place: Reservation) -> Photographs:
        """Read the files of a batch."""
        limits = self.config.requests
        if is_form(request):
            uploads = await read_form(request, place, limits.batch_bytes, limits.batch_files, limits.read_timeout_s)
            if len(uploads) > 1 or not is_zip(uploads[0].data):
                return UploadedPhotographs(uploads)
            data = uploads[0].data
        else:
            data = await read_raw(request, place, limits.batch_bytes, limits.read_timeout_s)
            if not is_zip(data):
                known = explain(data) or "this is no zip archive"
                detail = f"{known}; a batch is a zip archive, or several files as a multipart form"
                raise refused(415, detail, "unsupported_format")
        archive = ArchiveLimits(limits.batch_files, self.config.limits.max_bytes, limits.batch_bytes)
        return await asyncio.to_thread(ZipPhotographs, io.BytesIO(data), archive)


class UploadedPhotographs:
    """The files of a form, without :func:`serving.archive.is_litter`; see :class:`serving.archive.Photographs`."""

    def __init__(self, uploads: Sequence[Upload]) -> None:
        self._kept = [upload for upload in uploads if not is_litter(upload.name)]
        self.names = [upload.name for upload in self._kept]
        self.skipped = [upload.name for upload in uploads if is_litter(upload.name)]

    def read(self, index: int) -> bytes:
        """Return one of them."""
        return self._kept[index].data
