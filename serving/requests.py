"""What the HTTP interface reads and writes around a picture: query, body, headers."""

from typing import Any

from fastapi import HTTPException, Request
from starlette.datastructures import UploadFile

from models.images import ImageTooLarge
from models.settings import ConfigError, parse
from serving.predictor import MEDIA_TYPES, DehazeInfo, DehazeOptions

MULTIPART_EXTRA = 64 << 10  # what a multipart body may have around the file


def read_options(strength: float, name: str | None, quality: int) -> DehazeOptions:
    """The options of a query; ``name`` is a format in any case, also ``jpg`` and ``tif``.

    Raises:
        HTTPException: 400 for one that is not known or out of range.
    """
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


async def read_body(request: Request, limit: int) -> bytes:
    """The image of a request, raw or as ``file`` of a form.

    Raises:
        ImageTooLarge: as soon as it is known to have more than ``limit`` bytes.
        HTTPException: 400 when there is none.
    """
    multipart = request.headers.get("content-type", "").startswith("multipart/form-data")
    bound = limit + (MULTIPART_EXTRA if multipart else 0)
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


def server_timing(info: DehazeInfo) -> str:
    """The ``Server-Timing`` header: milliseconds of each part."""
    parts = {"decode": info.decode_s, "model": info.model_s, "encode": info.encode_s}
    return ", ".join(f"{name};dur={seconds * 1000:.1f}" for name, seconds in parts.items())
