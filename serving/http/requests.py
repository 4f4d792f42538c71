"""What the HTTP interface reads and writes around a picture: query, body, headers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from fastapi import Request
from python_multipart.multipart import parse_options_header
from starlette.formparsers import MultiPartException, MultiPartParser

from models.config import ConfigError, nearest, parse
from models.images import ImageTooLarge
from models.options import MEDIA_TYPES, OTHER_NAMES, DehazeOptions
from serving.engine import Answer
from serving.errors import refused
from serving.limits import Reservation

FORMATS = dict(zip(map(str.lower, MEDIA_TYPES), MEDIA_TYPES, strict=True)) | OTHER_NAMES
MULTIPART_EXTRA = 64 << 10  # what a form may have around each file
_PIECE = 1 << 20  # of a body that is written as it comes


def read_options(name: str | None, **chosen: Any) -> DehazeOptions:
    """Read the options of a query; ``name`` is a format in any case, also ``jpg`` and ``tif``.

    Raises:
        ProblemError: 400 for one that is not known or out of range.
    """
    if name is not None and name.lower() not in FORMATS:
        raise refused(400, f"format: '{name}' is not one of {', '.join(sorted(FORMATS))}")
    if name is not None:
        chosen["format"] = FORMATS[name.lower()]
    try:
        return parse(DehazeOptions, chosen)
    except ConfigError as problem:
        raise refused(400, str(problem)) from problem


async def refuse_unknown_parameters(request: Request) -> None:
    """Refuse query parameters that the route does not have, or that are there twice: a misspelt one would be dropped.

    Raises:
        ProblemError: 400 that names the first that is not, and what is nearest to it.
    """
    described = request.app.openapi()["paths"][request.scope["route"].path][request.method.lower()]
    known = [parameter["name"] for parameter in described.get("parameters", ()) if parameter["in"] == "query"]
    given = [name for name, _ in request.query_params.multi_items()]
    for name in given:
        if name not in known:
            told = nearest(name[:100], known) if known else "; this path takes none"
            raise refused(400, f"there is no query parameter '{name[:100]}'{told}")
        if given.count(name) > 1:
            raise refused(400, f"the query parameter '{name}' is there {given.count(name)} times; expected once")


def is_form(request: Request) -> bool:
    """Say whether the body is a multipart form."""
    return says(request, "multipart/form-data")


def says(request: Request, media_type: str) -> bool:
    """Say whether the header names this media type for the body."""
    return request.headers.get("content-type", "").lower().startswith(media_type)


async def read_image(request: Request, place: Reservation, limit: int, seconds: float) -> bytes:
    """Read the image of a request, raw or as ``file`` of a form.

    Raises:
        ImageTooLarge: as soon as it is known to have more than ``limit`` bytes.
        ProblemError: 400 when there is none, 408 when it does not arrive in time, 503 when there is no room for it.
    """
    if not is_form(request):
        return await read_raw(request, place, limit, seconds)
    (upload,) = await read_form(request, place, limit, 1, seconds)
    if upload.field != "file":
        raise refused(400, f"the form's file is in its field '{upload.field[:100]}'; expected 'file'")
    if not upload.data:
        raise refused(400, "the form's 'file' is empty")
    return upload.data


async def read_raw(request: Request, place: Reservation, limit: int, seconds: float) -> bytes:
    """Read the body as it is.

    Raises:
        ImageTooLarge, ProblemError: as :func:`read_image`.
    """
    body = bytearray()
    async with _in_time(seconds):
        async for chunk in _chunks(request, place, limit):
            body += chunk
    if not body:
        raise refused(400, "the body is empty; send an image as the body or as the form's 'file'")
    return bytes(body)


async def read_into(request: Request, stream: Any, limit: int, seconds: float, check: Callable[[bytes], None]) -> int:
    """Write the body to a stream as it comes, and return its size.

    Args:
        request: not yet read.
        stream: takes bytes; it may block.
        limit: bytes.
        seconds: in which it has to arrive.
        check: of its first bytes; raises when they are none that are wanted.

    Raises:
        ImageTooLarge, ProblemError: as :func:`read_image`, and what ``check`` raises.
    """
    size, held = 0, bytearray()

    async def write() -> int:
        if not size:
            check(bytes(held))
        await asyncio.to_thread(stream.write, bytes(held))
        return len(held)

    async with _in_time(seconds):
        async for chunk in _chunks(request, None, limit):
            held += chunk
            if len(held) >= _PIECE:
                size += await write()
                held.clear()
        if held:
            size += await write()
    if not size:
        raise refused(400, "the body is empty")
    return size


@dataclass(frozen=True)
class Upload:
    """A file of a form: the field's name, the file's name as the client wrote it, and its bytes."""

    field: str
    name: str
    data: bytes


class _InMemory(MultiPartParser):
    spool_max_size = 1 << 40  # photographs never touch the disk; their bytes are bounded before they come here
    ended = False

    def on_end(self) -> None:
        """The last boundary has come."""
        self.ended = True

    def on_headers_finished(self) -> None:
        """RFC 7578: a file may come without a name."""
        part = self._current_part
        _, options = parse_options_header(part.content_disposition)
        if options.get(b"name") == b"file" and b"filename" not in options and part.content_disposition:
            part.content_disposition += b'; filename="file"'
        super().on_headers_finished()


async def read_form(request: Request, place: Reservation, limit: int, files: int, seconds: float) -> list[Upload]:
    """Read the files of a form, at least one.

    Args:
        request: has a multipart body.
        place: accounts for the bytes.
        limit: bytes of all files together.
        files: that are accepted.
        seconds: in which the body has to arrive.

    Raises:
        ImageTooLarge, ProblemError: as :func:`read_image`.
    """
    body = _chunks(request, place, limit + MULTIPART_EXTRA * files)
    parser = _InMemory(request.headers, body, max_files=files, max_fields=files)
    try:
        async with _in_time(seconds):
            form = await parser.parse()
    except MultiPartException as problem:
        if "Too many files" in problem.message:
            advice = "send several to /v1/batch" if files == 1 else "send fewer at a time"
            raise refused(413, f"the form has more than {files} file(s); {advice}", "too_many_files") from problem
        raise refused(400, f"the form cannot be read: {problem.message}") from problem
    if not parser.ended:
        raise refused(400, "the form ends before its last boundary")
    found = []
    for field, upload in form.multi_items():
        if isinstance(upload, str):
            detail = f"the form's field '{field[:100]}' is no file; options go into the query (?strength=0.5)"
            raise refused(400, detail)
        data = await upload.read()
        if len(data) > limit:
            raise ImageTooLarge(f"a file of the form has more than the {limit:,} bytes that are accepted")
        found.append(Upload(field, upload.filename or "", data))
    if not found:
        raise refused(400, "the form has no 'file'")
    return found


@asynccontextmanager
async def _in_time(seconds: float) -> AsyncIterator[None]:
    try:
        async with asyncio.timeout(seconds):
            yield
    except TimeoutError:
        raise refused(408, f"the body did not arrive within {seconds:g} s") from None


async def _chunks(request: Request, place: Reservation | None, limit: int) -> AsyncGenerator[bytes, None]:
    """The body piece by piece, of at most ``limit`` bytes, for which there is room."""
    encoding = request.headers.get("content-encoding", "").strip().lower()
    if encoding not in ("", "identity"):
        detail = f"the body has Content-Encoding: {encoding[:40]}; send it as it is, not compressed"
        raise refused(415, detail, "unsupported_format")
    declared = request.headers.get("content-length", "")
    if declared.isdigit() and int(declared) > limit:
        raise ImageTooLarge(f"the request has {int(declared):,} bytes; at most {limit:,} are accepted")
    size = 0
    async for chunk in request.stream():
        size += len(chunk)
        if size > limit:
            raise ImageTooLarge(f"the request has more than the {limit:,} bytes that are accepted")
        if place is not None:  # kept in memory
            place.hold(len(chunk))
        yield chunk


def answer_headers(answer: Answer) -> dict[str, str]:
    """Return the headers that tell how a picture was made."""
    headers = {"X-Model": quote(answer.model, safe="/:@ +=,"), "Server-Timing": server_timing(answer.timing)}
    scores = {"X-Clearness-Before": answer.clearness_before, "X-Clearness-After": answer.clearness_after}
    if answer.haze is not None:
        headers |= {"X-Haze": f"{answer.haze:.4f}", "X-Haze-Verdict": str(answer.verdict)}
    if answer.notes:
        headers["X-Notes"] = "; ".join(answer.notes).encode("ascii", "replace").decode()
    return headers | {name: f"{value:.4f}" for name, value in scores.items() if value is not None}


def server_timing(timing: dict[str, float]) -> str:
    """Return the ``Server-Timing`` header: milliseconds of each part."""
    return ", ".join(f"{name};dur={seconds * 1000:.1f}" for name, seconds in timing.items())
