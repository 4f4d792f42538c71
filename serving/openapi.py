"""What ``/docs`` says of requests and answers that are no JSON."""

from __future__ import annotations

from typing import Any

from fastapi.responses import Response

from serving.errors import MEDIA_TYPE
from serving.predictor import MEDIA_TYPES
from serving.requests import FORMATS

FORMAT: dict[str, Any] = {"enum": [*sorted(FORMATS), *sorted(set(FORMATS.values())), None]}

_BINARY = {"schema": {"type": "string", "format": "binary"}}
_PROBLEM = {
    "type": "object",
    "required": ["type", "title", "status", "code", "detail", "request_id"],
    "properties": {
        "type": {"type": "string"}, "title": {"type": "string"}, "status": {"type": "integer"},
        "code": {"type": "string", "description": "stable: program against this"},
        "detail": {"type": "string"}, "request_id": {"type": "string"},
    },
}  # fmt: skip
_REASONS = {
    400: "a parameter, or the form", 401: "no valid token", 408: "the body came too slowly",
    413: "too many bytes or pixels", 415: "no accepted format", 422: "damaged or truncated",
    429: "too many requests of one client", 503: "busy; see Retry-After", 504: "not done in time",
}  # fmt: skip
_PROBLEMS: dict[int | str, dict[str, Any]] = {
    status: {"description": reason, "content": {MEDIA_TYPE: {"schema": _PROBLEM}}}
    for status, reason in _REASONS.items()
}


def _form(name: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"schema": {"type": "object", "required": [name], "properties": {name: schema}}}


_FILE = {"type": "string", "format": "binary"}
_IMAGES = dict.fromkeys(MEDIA_TYPES.values(), _BINARY)
_IMAGE_BODY = {"required": True, "content": _IMAGES | {"multipart/form-data": _form("file", _FILE)}}
_HEADERS = {
    name: {"description": text, "schema": {"type": "string"}}
    for name, text in {
        "X-Model": "what dehazed it", "X-Clearness-Before": "0 to 1", "X-Clearness-After": "0 to 1",
        "Server-Timing": "milliseconds of decode, queue, model, score and encode",
    }.items()
}  # fmt: skip

DEHAZE: dict[str, Any] = {
    "response_class": Response,
    "openapi_extra": {"requestBody": _IMAGE_BODY},
    "responses": {200: {"description": "the picture", "content": _IMAGES, "headers": _HEADERS}} | _PROBLEMS,
}
BATCH: dict[str, Any] = {
    "response_class": Response,
    "openapi_extra": {
        "requestBody": {
            "required": True,
            "content": {
                "application/zip": _BINARY,
                "multipart/form-data": _form("file", {"type": "array", "items": _FILE}),
            },
        }
    },
    "responses": {200: {"description": "a zip archive", "content": {"application/zip": _BINARY}}} | _PROBLEMS,
}
SCORE: dict[str, Any] = {"openapi_extra": {"requestBody": _IMAGE_BODY}, "responses": _PROBLEMS}
