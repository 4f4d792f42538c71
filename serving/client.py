"""A client of the service, for programs: waits when the service is busy, and raises what it answers.

    from serving.client import Client

    with Client("http://127.0.0.1:8000", token="...") as service:
        answer = service.dehaze("hazy.jpg", strength=0.8)
        answer.save("clear.jpg")

:class:`AsyncClient` has the same methods, to be awaited. Neither needs Ray or torch.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Any, Self

import httpx

from models.paths import replacing
from serving.exchange import (
    BYTES,
    Control,
    Jobs,
    Photo,
    Tries,
    answer_of,
    archived,
    async_pieces,
    connection,
    content_of,
    folder_of,
    job_of,
    named_files,
    parameters_of,
    path_of,
    paths_of,
    pieces,
    require_done,
)
from serving.exchange import Answer as Answer
from serving.exchange import Job as Job
from serving.exchange import ServiceError as ServiceError


class Client:
    """A connection to a service.

    Args:
        url: such as ``http://127.0.0.1:8000``.
        token: where the service wants one.
        timeout: seconds for one try; above the service's own ``requests.timeout_s``, so that its answer comes first.
        tries: of a request at most, while the service is busy or cannot be reached.
        transport: of httpx, in place of the network.

    Raises:
        ConfigError: an address that does not begin with ``http://`` or ``https://``.
    """

    def __init__(
        self, url: str, token: str | None = None, *, timeout: float = 90.0, tries: int = 5,
        transport: httpx.BaseTransport | None = None,
    ) -> None:  # fmt: skip
        self._http = httpx.Client(**connection(url, token, timeout), transport=transport)
        self._tries = tries

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the connection."""
        self._http.close()

    def _send(
        self, method: str, path: str, *, repeatable: bool = True, body: IO[bytes] | None = None, **what: Any
    ) -> httpx.Response:
        def sent() -> httpx.Response:
            if body is not None:
                what["content"] = pieces(body)
            return self._http.request(method, path, **what)

        return self._tried(sent, repeatable=repeatable)

    def _tried(self, call: Callable[[], httpx.Response], *, repeatable: bool = True) -> httpx.Response:
        """Call until there is an answer to be content with, or no more tries."""
        tries = Tries(self._tries, repeatable=repeatable)
        while True:
            outcome: httpx.Response | httpx.TransportError
            try:
                outcome = call()
            except httpx.TransportError as problem:
                outcome = problem
            pause = tries.wait(outcome)
            if pause is None:
                return tries.end(outcome)
            time.sleep(pause)

    def dehaze(self, photo: Photo, **controls: Control) -> Answer:
        """Dehaze a photograph.

        Args:
            photo: a file, or what is in it.
            controls: ``strength``, ``distance``, ``keep_exposure``, ``protect``, ``format``, ``quality``, ``output``,
                ``wrap``, ``model``.

        Raises:
            ServiceError: refused, failed, or still busy after all tries.
        """
        return answer_of(self._send("POST", "/v1/dehaze", params=parameters_of(controls), content=content_of(photo)))

    def batch(self, photos: Sequence[str | os.PathLike[str]], **controls: Control) -> Answer:
        """Dehaze several files; the answer is a zip archive with a ``manifest.json``. See :meth:`dehaze`."""
        return answer_of(self._send("POST", "/v1/batch", params=parameters_of(controls), files=named_files(photos)))

    def score(self, photo: Photo) -> dict[str, Any]:
        """Return ``clearness`` and ``quality`` of a photograph, 0 to 1; raise as :meth:`dehaze` does."""
        found: dict[str, Any] = self._send("POST", "/v1/score", content=content_of(photo)).json()
        return found

    def models(self) -> Any:
        """Return what the service's ``/v1/models`` lists; raise as :meth:`dehaze` does."""
        return self._send("GET", "/v1/models").json()

    def submit(self, photos: Jobs, *, target: str | None = None, **controls: Control) -> Job:
        """Hand in long work and return at once.

        Args:
            photos: a zip archive, a video, or a list of files; with ``target``, a folder or URI that the service can
                read.
            target: where the service shall write results, a folder or URI; None keeps them for :meth:`result`.
            controls: as of :meth:`dehaze`; of a video also ``smoothing``; and ``webhook``, an address that the service
                calls at the end.

        Raises:
            ServiceError: as :meth:`dehaze`; where no answer came, the service may have taken the job.
        """
        parameters = parameters_of(controls)
        if target is not None:
            folders = {"source": folder_of(photos), "target": target}
            return job_of(self._send("POST", "/v1/jobs", repeatable=False, params=parameters, json=folders))
        with archived(paths_of(photos)) as file:
            return job_of(self._send("POST", "/v1/jobs", repeatable=False, params=parameters, body=file, headers=BYTES))

    def job(self, job: Job | str) -> Job:
        """Return how far a job is; ``job`` may be its id."""
        return job_of(self._send("GET", path_of(job)))

    def wait(self, job: Job | str, progress: Callable[[Job], object] | None = None, *, every: float = 1.0) -> Job:
        """Wait until a job has ended, and return how.

        Args:
            job: or its id.
            progress: called with the job each time it was asked for.
            every: seconds between two questions.
        """
        while True:
            now = self.job(job)
            if progress is not None:
                progress(now)
            if now.has_ended:
                return now
            time.sleep(every)

    def result(self, job: Job | str, path: str | os.PathLike[str]) -> Path:
        """Write the result of a job that is done to a file, which is whole or not there, and return its path: a zip
        archive with a ``manifest.json``; where the results are in a folder, that manifest alone; of a video, a video.

        Raises:
            ServiceError: the job is not done; or as :meth:`dehaze`.
        """
        require_done(self.job(job))

        def fetched() -> httpx.Response:
            with self._http.stream("GET", f"{path_of(job)}/result") as response:
                if response.is_error:
                    response.read()
                    return response
                with replacing(os.fspath(path)) as file:
                    for piece in response.iter_bytes():
                        file.write(piece)
                return response

        self._tried(fetched)
        return Path(path)

    def cancel(self, job: Job | str) -> None:
        """End a job, and let the service forget its photographs and results."""
        self._send("DELETE", path_of(job))


class AsyncClient:
    """:class:`Client` for ``async`` programs: the same arguments, methods and errors."""

    def __init__(
        self, url: str, token: str | None = None, *, timeout: float = 90.0, tries: int = 5,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:  # fmt: skip
        self._http = httpx.AsyncClient(**connection(url, token, timeout), transport=transport)
        self._tries = tries

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """End the connection."""
        await self._http.aclose()

    async def _send(
        self, method: str, path: str, *, repeatable: bool = True, body: IO[bytes] | None = None, **what: Any
    ) -> httpx.Response:
        async def sent() -> httpx.Response:
            if body is not None:
                what["content"] = async_pieces(body)
            return await self._http.request(method, path, **what)

        return await self._tried(sent, repeatable=repeatable)

    async def _tried(self, call: Callable[[], Awaitable[httpx.Response]], *, repeatable: bool = True) -> httpx.Response:
        """Call until there is an answer to be content with, or no more tries."""
        tries = Tries(self._tries, repeatable=repeatable)
        while True:
            outcome: httpx.Response | httpx.TransportError
            try:
                outcome = await call()
            except httpx.TransportError as problem:
                outcome = problem
            pause = tries.wait(outcome)
            if pause is None:
                return tries.end(outcome)
            await asyncio.sleep(pause)

    async def dehaze(self, photo: Photo, **controls: Control) -> Answer:
        """See :meth:`Client.dehaze`."""
        content = await asyncio.to_thread(content_of, photo)
        return answer_of(await self._send("POST", "/v1/dehaze", params=parameters_of(controls), content=content))

    async def batch(self, photos: Sequence[str | os.PathLike[str]], **controls: Control) -> Answer:
        """See :meth:`Client.batch`."""
        files = await asyncio.to_thread(named_files, photos)
        return answer_of(await self._send("POST", "/v1/batch", params=parameters_of(controls), files=files))

    async def score(self, photo: Photo) -> dict[str, Any]:
        """See :meth:`Client.score`."""
        content = await asyncio.to_thread(content_of, photo)
        found: dict[str, Any] = (await self._send("POST", "/v1/score", content=content)).json()
        return found

    async def models(self) -> Any:
        """See :meth:`Client.models`."""
        return (await self._send("GET", "/v1/models")).json()

    async def submit(self, photos: Jobs, *, target: str | None = None, **controls: Control) -> Job:
        """See :meth:`Client.submit`."""
        parameters = parameters_of(controls)
        if target is not None:
            folders = {"source": folder_of(photos), "target": target}
            return job_of(await self._send("POST", "/v1/jobs", repeatable=False, params=parameters, json=folders))
        with ExitStack() as stack:
            file = await asyncio.to_thread(stack.enter_context, archived(paths_of(photos)))
            sent = self._send("POST", "/v1/jobs", repeatable=False, params=parameters, body=file, headers=BYTES)
            return job_of(await sent)

    async def job(self, job: Job | str) -> Job:
        """See :meth:`Client.job`."""
        return job_of(await self._send("GET", path_of(job)))

    async def wait(self, job: Job | str, progress: Callable[[Job], object] | None = None, *, every: float = 1.0) -> Job:
        """See :meth:`Client.wait`."""
        while True:
            now = await self.job(job)
            if progress is not None:
                progress(now)
            if now.has_ended:
                return now
            await asyncio.sleep(every)

    async def result(self, job: Job | str, path: str | os.PathLike[str]) -> Path:
        """See :meth:`Client.result`."""
        require_done(await self.job(job))

        async def fetched() -> httpx.Response:
            async with self._http.stream("GET", f"{path_of(job)}/result") as response:
                if response.is_error:
                    await response.aread()
                    return response
                with ExitStack() as stack:
                    file = await asyncio.to_thread(stack.enter_context, replacing(os.fspath(path)))
                    async for piece in response.aiter_bytes():
                        await asyncio.to_thread(file.write, piece)
                return response

        await self._tried(fetched)
        return Path(path)

    async def cancel(self, job: Job | str) -> None:
        """See :meth:`Client.cancel`."""
        await self._send("DELETE", path_of(job))
