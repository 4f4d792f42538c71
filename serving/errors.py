"""Problems as HTTP answers (RFC 9457): status, a stable ``code`` to program against, one sentence to read."""

from __future__ import annotations

from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

from models.images import CorruptImage, ImageError, ImageTooLarge, TruncatedImage, UnsupportedFormat

MEDIA_TYPE = "application/problem+json"

_IMAGE_STATUS: dict[type[ImageError], int] = {
    ImageTooLarge: 413,
    UnsupportedFormat: 415,
    CorruptImage: 422,
    TruncatedImage: 422,
}
_CODES = {
    400: "bad_request", 404: "not_found", 405: "method_not_allowed", 413: "too_large", 415: "unsupported_format",
    422: "invalid", 503: "unavailable", 504: "timeout",
}  # fmt: skip


@dataclass(frozen=True)
class Problem:
    """One answer that is no picture."""

    status: int
    code: str
    detail: str

    def body(self, request_id: str) -> dict[str, Any]:
        """The JSON object."""
        return {
            "type": "about:blank",
            "title": HTTPStatus(self.status).phrase,
            "status": self.status,
            "code": self.code,
            "detail": self.detail,
            "request_id": request_id,
        }


def image_problem(error: ImageError) -> Problem:
    """What a bad image answers; its ``code`` is the error's own."""
    status = next((status for kind, status in _IMAGE_STATUS.items() if isinstance(error, kind)), 422)
    return Problem(status, error.code, str(error))


def http_problem(status: int, detail: str) -> Problem:
    """What the framework refused."""
    return Problem(status, _CODES.get(status, "error"), detail)
