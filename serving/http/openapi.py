"""What ``/docs`` says of requests and answers that are no JSON."""

from __future__ import annotations

from typing import Any

from fastapi.responses import Response
from fastapi.security import HTTPBearer

from models.inference import VERDICTS
from models.options import MEDIA_TYPES
from serving.errors import CODES, MEDIA_TYPE
from serving.http.requests import FORMATS
from serving.jobs import TYPES

FORMAT: dict[str, Any] = {"enum": [*sorted(FORMATS), *sorted(set(FORMATS.values()))]}
BEARER = HTTPBearer(auto_error=False, description="a token of the service")  # says so; serving.http.middleware checks

_BINARY = {"schema": {"type": "string", "format": "binary"}}
_REQUEST_ID = {"X-Request-Id": {"description": "that of the request, or a new one", "schema": {"type": "string"}}}
_RETRY = {"Retry-After": {"description": "seconds", "schema": {"type": "integer", "minimum": 1}}}
_REASONS = {
    400: "a parameter, or the form", 401: "no valid token", 403: "no token in use, and not over loopback",
    404: "no such job", 408: "the body came too slowly", 409: "no result", 413: "too many bytes or pixels",
    415: "no accepted format",
    422: "damaged or truncated", 429: "too many requests of one client", 500: "a fault of the service",
    503: "busy; see Retry-After", 504: "not done in time",
}  # fmt: skip


def _problem(status: int) -> dict[str, Any]:
    text, codes = {"type": "string"}, [code for code, of in CODES.items() if of == status]
    properties = {
        "type": text,
        "title": text,
        "status": {"type": "integer", "enum": [status]},
        "code": {"type": "string", "enum": codes, "description": "stable: program against this"},
        "detail": text,
        "request_id": text,
    }
    headers = _REQUEST_ID | (_RETRY if status in (429, 503) else {})
    schema = {"type": "object", "required": list(properties), "properties": properties}
    return {"description": _REASONS[status], "headers": headers, "content": {MEDIA_TYPE: {"schema": schema}}}


def _answers(good: dict[str, Any], *statuses: int, status: int = 200) -> dict[int | str, dict[str, Any]]:
    """``responses`` of a route: the good one, and problems of these statuses."""
    answers: dict[int | str, dict[str, Any]] = {status: good | {"headers": _REQUEST_ID | good.get("headers", {})}}
    return answers | {status: _problem(status) for status in (*statuses, 500)}


def _form(schema: dict[str, Any], *media_types: str) -> dict[str, Any]:
    """A form with files of these media types in its field ``file``."""
    content = {"type": "object", "required": ["file"], "properties": {"file": schema}, "additionalProperties": False}
    return {"schema": content, "encoding": {"file": {"contentType": ", ".join(media_types)}}}


_FILE = {"type": "string", "format": "binary"}
_IMAGES = dict.fromkeys(MEDIA_TYPES.values(), _BINARY)
_ANY = {"application/octet-stream": _BINARY}  # whatever the header says, the bytes tell what they are
_READ = (*MEDIA_TYPES.values(), "image/heic", "image/heif")
_IMAGE_BODY = {
    "required": True,
    "content": dict.fromkeys(_READ, _BINARY) | _ANY | {"multipart/form-data": _form(_FILE, *_READ)},
}
_WORDS = [words for _, words in VERDICTS]
_CLEARNESS = {"type": "number", "minimum": 0, "maximum": 1}
HEADERS = {
    "X-Model": {"description": "what dehazed it", "schema": {"type": "string"}},
    "X-Clearness-Before": {"description": "not without a scorer", "schema": _CLEARNESS},
    "X-Clearness-After": {"description": "not without a scorer", "schema": _CLEARNESS},
    "X-Haze": {
        "description": "how much haze there was, 1 - mean transmission; not with a model that gives none",
        "schema": {"type": "number", "minimum": 0, "maximum": 1},
    },
    "X-Haze-Verdict": {"description": "the same in words", "schema": {"type": "string", "enum": _WORDS}},
    "X-Notes": {
        "description": "what is not as the photograph had it, such as rows that its file lacks; mostly absent",
        "schema": {"type": "string"},
    },
    "Server-Timing": {
        "description": "milliseconds of decode, queue, model, score and encode",
        "schema": {"type": "string"},
    },
}
_IN_WORK = (400, 401, 403, 408, 413, 415, 422, 429, 503, 504)

DEHAZE: dict[str, Any] = {
    "response_class": Response,
    "openapi_extra": {"requestBody": _IMAGE_BODY},
    "responses": _answers({"description": "the picture", "content": _IMAGES, "headers": HEADERS}, *_IN_WORK),
}
BATCH: dict[str, Any] = {
    "response_class": Response,
    "openapi_extra": {
        "requestBody": {
            "required": True,
            "content": {
                "application/zip": _BINARY,
                "multipart/form-data": _form(
                    {"type": "array", "minItems": 1, "items": _FILE}, *_READ, "application/zip"
                ),
            },
        }
    },
    "responses": _answers(
        {"description": "a zip archive with a manifest.json", "content": {"application/zip": _BINARY}}, *_IN_WORK
    ),
}
_LOCATION = {"Location": {"description": "of the job's state", "schema": {"type": "string"}}}
_FOLDERS = {
    "type": "object", "required": ["source", "target"], "additionalProperties": False,
    "properties": {"source": {"type": "string"}, "target": {"type": "string"}},
}  # fmt: skip
_VIDEOS = dict.fromkeys(TYPES.values(), _BINARY)
_LONG = {
    "application/zip": _BINARY,
    "application/json": {"schema": _FOLDERS},
    "multipart/form-data": _form(
        {"type": "array", "minItems": 1, "items": _FILE}, *_READ, "application/zip", *TYPES.values()
    ),
}
JOBS: dict[str, Any] = {
    "openapi_extra": {"requestBody": {"required": True, "content": _LONG | _VIDEOS}},
    "responses": _answers(
        {"description": "the job", "headers": _LOCATION}, 400, 401, 403, 408, 413, 415, 422, 429, 503, status=202
    ),
}
_ASKED = (400, 401, 403, 404, 429, 503)
JOB: dict[str, Any] = {"responses": _answers({"description": "how far it is"}, *_ASKED)}
RESULT: dict[str, Any] = {
    "response_class": Response,
    "responses": _answers(
        {
            "description": "a video; a zip archive with a manifest.json; or that manifest, with results in a folder",
            "content": {"application/zip": _BINARY, "application/json": {"schema": {"type": "object"}}} | _VIDEOS,
        },
        *_ASKED,
        409,
    ),
}
CANCEL: dict[str, Any] = {
    "response_class": Response,
    "responses": _answers({"description": "it is no more"}, *_ASKED, status=204),
}
SCORE: dict[str, Any] = {
    "openapi_extra": {"requestBody": _IMAGE_BODY},
    "responses": _answers({"description": "how clear and how good it is"}, *_IN_WORK),
}
MODELS: dict[str, Any] = {"responses": _answers({"description": "the models"}, 400, 401, 403, 503)}
ALIVE: dict[str, Any] = {"responses": _answers({"description": "the process answers"}, 400)}
READY: dict[str, Any] = {"responses": _answers({"description": "a model is warm"}, 400, 503)}


def forget_validation_errors(schema: dict[str, Any]) -> None:
    """Take FastAPI's own 422 out of a schema: the service answers such requests with 400."""
    for operations in schema["paths"].values():
        for operation in operations.values():
            if "application/json" in operation["responses"].get("422", {}).get("content", {}):
                del operation["responses"]["422"]
    for name in ("HTTPValidationError", "ValidationError"):
        schema["components"]["schemas"].pop(name, None)
