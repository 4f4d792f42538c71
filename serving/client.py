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
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx

from models.config import DehazeError

BUSY = (429, 503)
_NO_PROBLEM = "no_problem"  # the code of answers that are not the service's
LONGEST_WAIT = 30.0  # seconds before the next try, whatever the service asks for
Photo = bytes | str | os.PathLike[str]
Control = str | float | bool


class ServiceError(DehazeError):
    """What the service refused or failed at.

    Attributes:
        status: of HTTP; 0 where no answer came.
        code: a name that stays the same, such as ``too_large``; ``unreachable`` where no answer came.
        detail: for people.
        request_id: in the service's log.
    """

    def __init__(self, status: int, code: str, detail: str, request_id: str = "") -> None:
        super().__init__(f"{code}: {detail}" + (f" (request {request_id})" if request_id else ""))
        self.status, self.code, self.detail, self.request_id = status, code, detail, request_id


@dataclass(frozen=True)
class Answer:
    """A file that came back.

    Attributes:
        content: of the file.
        media_type: such as ``image/jpeg``.
        model: what dehazed it, with its version.
        haze: 0 to 1; None where the model cannot tell.
        verdict: the same in words.
        notes: what is not as the photograph had it.
        request_id: in the service's log.
        milliseconds: ``decode``, ``queue``, ``model``, ``score`` and ``encode``.
    """

    content: bytes = field(repr=False)
    media_type: str
    model: str
    haze: float | None
    verdict: str
    notes: str
    request_id: str
    milliseconds: Mapping[str, float]

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the file; return its path."""
        target = Path(path)
        target.write_bytes(self.content)
        return target


def _content(photo: Photo) -> bytes:
    return photo if isinstance(photo, bytes) else Path(photo).read_bytes()


def _parameters(controls: Mapping[str, Control]) -> dict[str, str]:
    return {name: str(value).lower() if isinstance(value, bool) else str(value) for name, value in controls.items()}


def _named(photos: Sequence[str | os.PathLike[str]]) -> list[tuple[str, tuple[str, bytes]]]:
    return [("file", (Path(photo).name, _content(photo))) for photo in photos]


def _times(header: str) -> dict[str, float]:
    """``decode;dur=1.5, model;dur=20`` as numbers."""
    parts = (part.strip().partition(";dur=") for part in header.split(",") if ";dur=" in part)
    return {name: float(milliseconds) for name, _, milliseconds in parts}


def _answer(response: httpx.Response) -> Answer:
    get = response.headers.get
    return Answer(
        response.content, get("content-type", ""), get("x-model", ""), float(get("x-haze")) if get("x-haze") else None,
        get("x-haze-verdict", ""), get("x-notes", ""), get("x-request-id", ""), _times(get("server-timing", "")),
    )  # fmt: skip


def _error(response: httpx.Response) -> ServiceError:
    try:
        problem = response.json()
        told = problem["code"], problem["detail"], problem.get("request_id", "")
    except (ValueError, KeyError, TypeError):  # of a proxy before the service
        told = _NO_PROBLEM, f"HTTP {response.status_code} without a reason that the service gives", ""
    return ServiceError(response.status_code, *told)


def _lost_on_the_way(response: httpx.Response) -> bool:
    """Whether a proxy answers for the service: Serve's does, when the host that has the request dies."""
    return response.status_code >= 500 and _error(response).code == _NO_PROBLEM


class _Tries:
    """Whether to send a request once more, and when. All requests may be: the service keeps nothing."""

    def __init__(self, most: int) -> None:
        self._left, self._pause = most, 0.5

    def wait(self, outcome: httpx.Response | httpx.TransportError) -> float | None:
        """Return the seconds before the next try; None where the outcome is final."""
        self._left -= 1
        if isinstance(outcome, httpx.Response) and not _lost_on_the_way(outcome):
            asked = outcome.headers.get("retry-after", "")
            if outcome.status_code not in BUSY or not asked.isdecimal():
                return None
            pause = float(asked)
        else:
            pause, self._pause = self._pause, 2 * self._pause
        return min(pause, LONGEST_WAIT) if self._left > 0 else None

    @staticmethod
    def end(outcome: httpx.Response | httpx.TransportError) -> httpx.Response:
        """Return a good answer.

        Raises:
            ServiceError: it is none.
        """
        if isinstance(outcome, httpx.TransportError):
            reason = str(outcome) or type(outcome).__name__
            raise ServiceError(0, "unreachable", f"no answer from the service: {reason}") from outcome
        if outcome.is_error:
            raise _error(outcome)
        return outcome


def _options(url: str, token: str | None, timeout: float) -> dict[str, Any]:
    headers = {"authorization": f"Bearer {token}"} if token else {}
    return {"base_url": url, "headers": headers, "timeout": timeout}


class Client:
    """A connection to a service.

    Args:
        url: such as ``http://127.0.0.1:8000``.
        token: where the service wants one.
        timeout: seconds for one try; above the service's own ``requests.timeout_s``, so that its answer comes first.
        tries: of a request at most, while the service is busy or cannot be reached.
        transport: of httpx, in place of the network.
    """

    def __init__(
        self, url: str, token: str | None = None, *, timeout: float = 90.0, tries: int = 5,
        transport: httpx.BaseTransport | None = None,
    ) -> None:  # fmt: skip
        self._http = httpx.Client(**_options(url, token, timeout), transport=transport)
        self._tries = tries

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """End the connection."""
        self._http.close()

    def _send(self, method: str, path: str, **what: Any) -> httpx.Response:
        tries = _Tries(self._tries)
        while True:
            outcome: httpx.Response | httpx.TransportError
            try:
                outcome = self._http.request(method, path, **what)
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
        return _answer(self._send("POST", "/v1/dehaze", params=_parameters(controls), content=_content(photo)))

    def batch(self, photos: Sequence[str | os.PathLike[str]], **controls: Control) -> Answer:
        """Dehaze several files; the answer is a zip archive with a ``manifest.json``. See :meth:`dehaze`."""
        return _answer(self._send("POST", "/v1/batch", params=_parameters(controls), files=_named(photos)))

    def score(self, photo: Photo) -> dict[str, Any]:
        """Return ``clearness`` and ``quality`` of a photograph, 0 to 1; raise as :meth:`dehaze` does."""
        found: dict[str, Any] = self._send("POST", "/v1/score", content=_content(photo)).json()
        return found

    def models(self) -> Any:
        """Return what the service's ``/v1/models`` lists; raise as :meth:`dehaze` does."""
        return self._send("GET", "/v1/models").json()


class AsyncClient:
    """:class:`Client` for ``async`` programs: the same arguments, methods and errors."""

    def __init__(
        self, url: str, token: str | None = None, *, timeout: float = 90.0, tries: int = 5,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:  # fmt: skip
        self._http = httpx.AsyncClient(**_options(url, token, timeout), transport=transport)
        self._tries = tries

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """End the connection."""
        await self._http.aclose()

    async def _send(self, method: str, path: str, **what: Any) -> httpx.Response:
        tries = _Tries(self._tries)
        while True:
            outcome: httpx.Response | httpx.TransportError
            try:
                outcome = await self._http.request(method, path, **what)
            except httpx.TransportError as problem:
                outcome = problem
            pause = tries.wait(outcome)
            if pause is None:
                return tries.end(outcome)
            await asyncio.sleep(pause)

    async def dehaze(self, photo: Photo, **controls: Control) -> Answer:
        """See :meth:`Client.dehaze`."""
        content = await asyncio.to_thread(_content, photo)
        return _answer(await self._send("POST", "/v1/dehaze", params=_parameters(controls), content=content))

    async def batch(self, photos: Sequence[str | os.PathLike[str]], **controls: Control) -> Answer:
        """See :meth:`Client.batch`."""
        files = await asyncio.to_thread(_named, photos)
        return _answer(await self._send("POST", "/v1/batch", params=_parameters(controls), files=files))

    async def score(self, photo: Photo) -> dict[str, Any]:
        """See :meth:`Client.score`."""
        content = await asyncio.to_thread(_content, photo)
        found: dict[str, Any] = (await self._send("POST", "/v1/score", content=content)).json()
        return found

    async def models(self) -> Any:
        """See :meth:`Client.models`."""
        return (await self._send("GET", "/v1/models")).json()
