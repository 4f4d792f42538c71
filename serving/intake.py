"""How a request gets in: admission, its body, the model it names, and its time."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncIterator, Awaitable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

from fastapi import Request

from serving.archive import ArchiveLimits, Source, is_zip, unpack
from serving.config import ServingConfig
from serving.engine import Answer, Score, Task
from serving.errors import Problem, refused
from serving.limits import Admission, Pace, Place
from serving.metrics import Metrics
from serving.requests import is_form, read_form, read_image, read_raw
from serving.slots import ModelState

_READY_WITHIN_S = 2.0
_THERE_FOR_S = 60.0
R = TypeVar("R")


class Backend(Protocol):
    """Where photographs are worked on."""

    async def dehaze(self, task: Task) -> Answer | Problem:
        """One photograph."""

    async def score(self, data: bytes) -> Score | Problem:
        """One photograph, as it is."""

    async def models(self) -> list[ModelState]:
        """What there is; answers only when the default model is warm."""


@dataclass
class Intake:
    """What the routes share: who gets in, what a request holds, and how long it may take."""

    config: ServingConfig
    backend: Backend
    metrics: Metrics
    admission: Admission
    answered_at: float = -math.inf
    pace: Pace = field(default_factory=Pace)

    async def asked(self, answer: Awaitable[R]) -> R:
        """What the backend answers; and it is known to be there."""
        found = await answer
        self.answered_at = time.monotonic()
        return found

    async def worked(self, answer: Awaitable[R]) -> R:
        """:meth:`asked` for the work on a picture, which those that come later wait for."""
        with self.pace.under_way():
            found = await self.asked(answer)
            if isinstance(found, Answer | Score):
                self.pace.answered()
        return found

    async def default_model(self) -> str:
        """The name of the default model, when the backend is there. A backend that is too busy to say so is there.

        Raises:
            ProblemError: 503 when it has not answered anything for a minute.
        """
        try:
            async with asyncio.timeout(_READY_WITHIN_S):
                states = await self.asked(self.backend.models())
            return next(state.name for state in states if state.default)
        except TimeoutError:
            if time.monotonic() - self.answered_at < _THERE_FOR_S:
                return self.config.default_name
            raise refused(503, "no replica answers yet", retry_after=_READY_WITHIN_S) from None

    @contextmanager
    def admitted(self, request: Request) -> Iterator[Place]:
        """A place for a request.

        Raises:
            ProblemError: 429 or 503, as :meth:`Admission.admitted`, and 503 when its turn would come too late.
        """
        limits = self.config.requests
        if self.pace.wait_s > limits.max_wait_s:
            detail = f"the queue is about {self.pace.wait_s:.0f} s long; try again later"
            raise refused(503, detail, "overloaded", limits.retry_after_s)
        with self.admission.admitted(request.state.client) as place:
            self.metrics.pending(self.admission.pending)
            try:
                yield place
            finally:
                self.metrics.pending(self.admission.pending - 1)

    @asynccontextmanager
    async def within(self, seconds: float) -> AsyncIterator[None]:
        """Work that ends in time, or with 504."""
        try:
            async with asyncio.timeout(seconds):
                yield
        except TimeoutError:
            raise refused(504, f"not done within {seconds:g} s; send a smaller picture") from None

    def known(self, model: str | None) -> str | None:
        """The model's name; None for the default.

        Raises:
            ProblemError: 400 for a name that there is not.
        """
        if model in (None, self.config.default_name):
            return None
        if model not in self.config.models:
            names = ", ".join(sorted([self.config.default_name, *self.config.models]))
            raise refused(400, f"model: there is no '{model}'; known: {names}", "unknown_model")
        return model

    async def image(self, request: Request, place: Place) -> bytes:
        """The photograph of a request."""
        return await read_image(request, place, self.config.limits.max_bytes, self.config.requests.read_timeout_s)

    async def sources(self, request: Request, place: Place) -> Iterator[Source]:
        """The files of a batch."""
        limits, each = self.config.requests, self.config.limits.max_bytes
        archive = ArchiveLimits(limits.batch_files, each, limits.batch_bytes)
        if not is_form(request):
            data = await read_raw(request, place, limits.batch_bytes, limits.read_timeout_s)
            if not is_zip(data):
                raise refused(415, "send a zip archive, or several files as a multipart form", "unsupported_format")
            return await asyncio.to_thread(unpack, data, archive)
        uploads = await read_form(
            request,
            place,
            total=limits.batch_bytes,
            each=limits.batch_bytes,
            files=limits.batch_files,
            seconds=limits.read_timeout_s,
        )
        if not uploads:
            raise refused(400, "the form has no files")
        if len(uploads) == 1 and is_zip(uploads[0].data):
            return await asyncio.to_thread(unpack, uploads[0].data, archive)
        return iter([Source(upload.name, upload.data) for upload in uploads])
