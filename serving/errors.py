"""Problems as HTTP answers (RFC 9457): status, a stable ``code`` to program against, one sentence to read."""

from __future__ import annotations

import math
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
    400: "bad_request", 401: "unauthorized", 403: "forbidden", 404: "not_found", 405: "method_not_allowed",
    408: "slow_request", 413: "too_large", 415: "unsupported_format", 422: "invalid", 429: "too_many_requests",
    431: "head_too_large", 500: "internal", 503: "unavailable", 504: "timeout",
}  # fmt: skip


@dataclass(frozen=True)
class Problem:
    """One answer that is no picture. ``retry_after`` are seconds, for 429 and 503."""

    status: int
    code: str
    detail: str
    retry_after: float | None = None

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

    def headers(self) -> dict[str, str]:
        """The headers that belong to the status."""
        headers = {} if self.retry_after is None else {"Retry-After": str(max(1, math.ceil(self.retry_after)))}
        return headers | ({"WWW-Authenticate": "Bearer"} if self.status == 401 else {})


class ProblemError(Exception):
    """A request that ends in a :class:`Problem`."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.detail)
        self.problem = problem


def refused(status: int, detail: str, code: str | None = None, retry_after: float | None = None) -> ProblemError:
    """The error that answers with ``status``; ``code`` is that of the status unless given."""
    return ProblemError(Problem(status, code or _CODES.get(status, "error"), detail, retry_after))


def image_problem(error: ImageError) -> Problem:
    """What a bad image answers; its ``code`` is the error's own."""
    status = next((status for kind, status in _IMAGE_STATUS.items() if isinstance(error, kind)), 422)
    return Problem(status, error.code, str(error))


def http_problem(status: int, detail: str) -> Problem:
    """What the framework refused."""
    return Problem(status, _CODES.get(status, "error"), detail)
