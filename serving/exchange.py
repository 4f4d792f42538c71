"""What a client sends, and what it makes of answers: shared by both clients, without any connection."""

from __future__ import annotations

import asyncio
import os
import tempfile
import warnings
import zipfile
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import IO, Any, Literal
from urllib.parse import quote, unquote

import httpx

from models.config import ConfigError, DehazeError

BUSY = (429, 503)
_NO_PROBLEM = "no_problem"  # the code of answers that are not the service's
LONGEST_WAIT = 30.0  # seconds before the next try, whatever the service asks for
Photo = bytes | str | os.PathLike[str]
Control = str | float | bool
JobStatus = Literal["queued", "running", "done", "failed", "cancelled"]
Jobs = str | os.PathLike[str] | Sequence[str | os.PathLike[str]]
BYTES = {"content-type": "application/octet-stream"}  # which say themselves what they are
_PIECE = 1 << 20


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


@dataclass(frozen=True)
class Job:
    """Long work that the service keeps.

    Attributes:
        id: its name; all that :meth:`Client.job` needs later, in another program too.
        status: ``queued``, ``running``; at the end ``done``, ``failed`` or ``cancelled``.
        total: photographs, or frames of a video; 0 until they were counted.
        done: of them, with those that failed.
        failed: photographs that failed; the manifest of the result says why.
        created, ended, expires: times in UTC, as in ``2026-11-28T10:15:00+00:00``; the last two None until the end.
        code, detail: why the whole job failed; ``detail`` also says what a video lacks.
    """

    id: str
    status: JobStatus
    total: int
    done: int
    failed: int
    created: str
    ended: str | None = None
    expires: str | None = None
    code: str | None = None
    detail: str | None = None

    @property
    def has_ended(self) -> bool:
        """Say whether the job is over."""
        return self.status not in ("queued", "running")


def job_of(response: httpx.Response) -> Job:
    known = {each.name for each in fields(Job)}
    return Job(**{name: value for name, value in response.json().items() if name in known})


@contextmanager
def archived(photos: Path | Sequence[Path]) -> Iterator[IO[bytes]]:
    """Open what to send: the archive or video that is given, or an archive of the files, made on the disk."""
    if isinstance(photos, Path):
        with photos.open("rb") as file:
            yield file
        return
    with tempfile.TemporaryFile() as file:
        archive = zipfile.ZipFile(file, "w", strict_timestamps=False)  # what is older counts as of 1980
        with archive, warnings.catch_warnings(action="ignore"):  # equal names are fine
            for photo in photos:
                archive.write(photo, photo.name)
        file.seek(0)
        yield file


def pieces(file: IO[bytes]) -> Iterator[bytes]:
    """Yield all of a file, also when it is sent once more."""
    file.seek(0)
    while piece := file.read(_PIECE):
        yield piece


async def async_pieces(file: IO[bytes]) -> AsyncIterator[bytes]:
    file.seek(0)
    while piece := await asyncio.to_thread(file.read, _PIECE):
        yield piece


def require_done(job: Job) -> None:
    if job.status != "done":
        raise ServiceError(
            409, "no_result", f"job {job.id} is {job.status}" + (f": {job.detail}" if job.detail else "")
        )


def content_of(photo: Photo) -> bytes:
    return photo if isinstance(photo, bytes) else Path(photo).read_bytes()


def parameters_of(controls: Mapping[str, Control]) -> dict[str, str]:
    return {name: str(value).lower() if isinstance(value, bool) else str(value) for name, value in controls.items()}


def named_files(photos: Sequence[str | os.PathLike[str]]) -> list[tuple[str, tuple[str, bytes]]]:
    return [("file", (Path(photo).name, content_of(photo))) for photo in photos]


def _times(header: str) -> dict[str, float]:
    """``decode;dur=1.5, model;dur=20`` as numbers."""
    parts = (part.strip().partition(";dur=") for part in header.split(",") if ";dur=" in part)
    return {name: float(milliseconds) for name, _, milliseconds in parts}


def answer_of(response: httpx.Response) -> Answer:
    get = response.headers.get
    return Answer(
        response.content, get("content-type", ""), unquote(get("x-model", "")),
        float(get("x-haze")) if get("x-haze") else None, get("x-haze-verdict", ""), get("x-notes", ""),
        get("x-request-id", ""), _times(get("server-timing", "")),
    )  # fmt: skip


def error_of(response: httpx.Response) -> ServiceError:
    try:
        problem = response.json()
        told = problem["code"], problem["detail"], problem.get("request_id", "")
    except (ValueError, KeyError, TypeError):  # of a proxy before the service
        told = _NO_PROBLEM, f"HTTP {response.status_code} without a reason that the service gives", ""
    return ServiceError(response.status_code, *told)


def _is_lost(response: httpx.Response) -> bool:
    """Whether a proxy answers for the service: Serve's does, when the host that has the request dies."""
    return response.status_code >= 500 and error_of(response).code == _NO_PROBLEM


class Tries:
    """Whether to send a request once more, and when.

    Args:
        most: tries.
        repeatable: it may be sent again where no answer came; a job that the service has taken would begin twice.
    """

    def __init__(self, most: int, *, repeatable: bool = True) -> None:
        self._left, self._pause, self._repeatable = most, 0.5, repeatable

    def wait(self, outcome: httpx.Response | httpx.TransportError) -> float | None:
        """Return the seconds before the next try; None where the outcome is final."""
        self._left -= 1
        if isinstance(outcome, httpx.Response) and not _is_lost(outcome):
            asked = outcome.headers.get("retry-after", "")
            if outcome.status_code not in BUSY or not asked.isdecimal():
                return None
            pause = float(asked)
        else:
            if not self._repeatable and not isinstance(outcome, httpx.ConnectError):
                return None
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
            raise error_of(outcome)
        return outcome


def paths_of(photos: Jobs) -> Path | list[Path]:
    return Path(photos) if isinstance(photos, str | os.PathLike) else [Path(photo) for photo in photos]


def folder_of(photos: Jobs) -> str:
    if not isinstance(photos, str | os.PathLike):
        raise TypeError("with a target, photos are one folder or URI")
    return os.fspath(photos)


def path_of(job: Job | str) -> str:
    return f"/v1/jobs/{job.id if isinstance(job, Job) else quote(job, safe='')}"


def connection(url: str, token: str | None, timeout: float) -> dict[str, Any]:
    if not url.lower().startswith(("http://", "https://")):  # it would be tried for a while
        raise ConfigError(f"'{url}' is no address of a service: give it as http://host:port")
    headers = {"authorization": f"Bearer {token}"} if token else {}
    return {"base_url": url, "headers": headers, "timeout": timeout}
