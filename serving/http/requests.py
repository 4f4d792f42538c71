"""What the HTTP interface reads and writes around a picture: query, body, headers."""

from __future__ import annotations

import asyncio
from typing import Any
from urllib.parse import quote

from fastapi import Request

from models.config import ConfigError, nearest, parse
from models.images import ImageTooLarge
from models.predictor import MEDIA_TYPES, DehazeOptions
from serving.engine import Answer
from serving.errors import refused
from serving.http.multipart import FormReader, Upload
from serving.limits import Place

FORMATS = dict(zip(map(str.lower, MEDIA_TYPES), MEDIA_TYPES, strict=True)) | {"jpg": "JPEG", "tif": "TIFF"}
MULTIPART_EXTRA = 64 << 10  # what a form may have around each file


def read_options(strength: float, name: str | None, quality: int, output: str) -> DehazeOptions:
    """The options of a query; ``name`` is a format in any case, also ``jpg`` and ``tif``.

    Raises:
        ProblemError: 400 for one that is not known or out of range.
    """
    if name is not None and name.lower() not in FORMATS:
        raise refused(400, f"format: '{name}' is not one of {', '.join(sorted(FORMATS))}")
    chosen: dict[str, Any] = {"strength": strength, "quality": quality, "output": output}
    if name is not None:
        chosen["format"] = FORMATS[name.lower()]
    try:
        return parse(DehazeOptions, chosen)
    except ConfigError as problem:
        raise refused(400, str(problem)) from problem


async def refuse_unknown_parameters(request: Request) -> None:
    """Every parameter of the query is one that the route has, and is there once: a misspelt one would be dropped.

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
    """The body is a multipart form."""
    return request.headers.get("content-type", "").lower().startswith("multipart/form-data")


async def read_image(request: Request, place: Place, limit: int, seconds: float) -> bytes:
    """The image of a request, raw or as ``file`` of a form.

    Raises:
        ImageTooLarge: as soon as it is known to have more than ``limit`` bytes.
        ProblemError: 400 when there is none, 408 when it does not arrive in time, 503 when there is no room for it.
    """
    if not is_form(request):
        return await read_raw(request, place, limit, seconds)
    for upload in await read_form(request, place, total=limit, each=limit, files=1, seconds=seconds):
        if upload.field != "file":
            raise refused(400, f"the form's file is in its field '{upload.field[:100]}'; expected 'file'")
        if not upload.data:
            raise refused(400, "the form's 'file' is empty")
        return upload.data
    raise refused(400, "the form has no 'file'")


async def read_raw(request: Request, place: Place, limit: int, seconds: float) -> bytes:
    """The body as it is.

    Raises:
        ImageTooLarge, ProblemError: as :func:`read_image`.
    """
    body = bytearray()
    await _read(request, place, limit, seconds, body.extend)
    if not body:
        raise refused(400, "the body is empty; send an image as the body or as the form's 'file'")
    return bytes(body)


async def read_form(
    request: Request, place: Place, *, total: int, each: int, files: int, seconds: float
) -> list[Upload]:
    """The files of a form.

    Args:
        request: has a multipart body.
        place: accounts for the bytes.
        total, each: bytes of all files, and of each.
        files: that are accepted.
        seconds: in which the body has to arrive.

    Raises:
        ImageTooLarge, ProblemError: as :func:`read_image`.
    """
    reader = FormReader(request.headers["content-type"], max_files=files, max_bytes=each)
    await _read(request, place, total + MULTIPART_EXTRA * files, seconds, reader.feed)
    return reader.finish()


async def _read(request: Request, place: Place, limit: int, seconds: float, take: Any) -> None:
    encoding = request.headers.get("content-encoding", "").strip().lower()
    if encoding not in ("", "identity"):
        detail = f"the body has Content-Encoding: {encoding[:40]}; send it as it is, not compressed"
        raise refused(415, detail, "unsupported_format")
    declared = request.headers.get("content-length", "")
    if declared.isdigit() and int(declared) > limit:
        raise ImageTooLarge(f"the request has {int(declared):,} bytes; at most {limit:,} are accepted")
    size = 0
    try:
        async with asyncio.timeout(seconds):
            async for chunk in request.stream():
                size += len(chunk)
                if size > limit:
                    raise ImageTooLarge(f"the request has more than the {limit:,} bytes that are accepted")
                place.hold(len(chunk))
                take(chunk)
    except TimeoutError:
        raise refused(408, f"the body did not arrive within {seconds:g} s") from None


def answer_headers(answer: Answer) -> dict[str, str]:
    """The headers that tell how a picture was made."""
    headers = {"X-Model": quote(answer.model, safe="/:@ +=,"), "Server-Timing": server_timing(answer.timing)}
    scores = {"X-Clearness-Before": answer.clearness_before, "X-Clearness-After": answer.clearness_after}
    if answer.notes:
        headers["X-Notes"] = "; ".join(answer.notes).encode("ascii", "replace").decode()
    return headers | {name: f"{value:.4f}" for name, value in scores.items() if value is not None}


def server_timing(timing: dict[str, float]) -> str:
    """The ``Server-Timing`` header: milliseconds of each part."""
    return ", ".join(f"{name};dur={seconds * 1000:.1f}" for name, seconds in timing.items())
