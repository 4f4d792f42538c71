"""Problems as HTTP answers (RFC 9457): status, a stable ``code`` to program against, one sentence to read."""

from __future__ import annotations

import math
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

from models.images import ImageError

MEDIA_TYPE = "application/problem+json"

# Every code of an answer or a manifest, and its status; docs/reference/http-api.md says what each means. The first of a
# status is its usual one.
CODES = {
    "bad_request": 400,
    "unknown_model": 400,
    "no_transmission": 400,
    "unauthorized": 401,
    "unprotected": 403,
    "not_allowed": 403,
    "not_found": 404,
    "method_not_allowed": 405,
    "slow_request": 408,
    "no_result": 409,
    "too_large": 413,
    "too_many_files": 413,
    "answer_full": 413,
    "unsupported_format": 415,
    "unsupported_compression": 415,
    "corrupt": 422,
    "truncated": 422,
    "bad_video": 422,
    "corrupt_archive": 422,
    "encrypted": 422,
    "too_many_requests": 429,
    "head_too_large": 431,
    "internal": 500,
    "unavailable": 503,
    "overloaded": 503,
    "jobs_full": 503,
    "no_scorer": 503,
    "out_of_memory": 503,
    "model_unavailable": 503,
    "replica_lost": 503,
    "timeout": 504,
}
_USUAL = {status: code for code, status in reversed(CODES.items())}


@dataclass(frozen=True)
class Problem:
    """One answer that is no picture. ``retry_after`` are seconds, for 429 and 503."""

    status: int
    code: str
    detail: str
    retry_after: float | None = None

    def body(self, request_id: str) -> dict[str, Any]:
        """Return the problem as a JSON object."""
        return {
            "type": "about:blank",
            "title": HTTPStatus(self.status).phrase,
            "status": self.status,
            "code": self.code,
            "detail": self.detail,
            "request_id": request_id,
        }

    def headers(self) -> dict[str, str]:
        """Return the headers that belong to the status."""
        headers = {} if self.retry_after is None else {"Retry-After": str(max(1, math.ceil(self.retry_after)))}
        return headers | ({"WWW-Authenticate": "Bearer"} if self.status == 401 else {})


class ProblemError(Exception):
    """A request that ends in a :class:`Problem`."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.detail)
        self.problem = problem


def refused(status: int, detail: str, code: str | None = None, retry_after: float | None = None) -> ProblemError:
    """Return the error that answers with ``status``; ``code`` is that of the status unless given."""
    return ProblemError(Problem(status, code or _USUAL.get(status, "bad_request"), detail, retry_after))


def image_problem(error: ImageError) -> Problem:
    """Return the problem of a bad image; its ``code`` is the error's own."""
    return Problem(CODES.get(error.code, 422), error.code, str(error))


def http_problem(status: int, detail: str) -> Problem:
    """Return the problem of a request that the framework refused."""
    return Problem(status, _USUAL.get(status, "bad_request"), detail)
