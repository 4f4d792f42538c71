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
# Every code of an answer or a manifest: its status, and what it means. The first of a status is its usual one.
CODES: dict[str, tuple[int, str]] = {
    "bad_request": (400, "a parameter, the form or the body is missing or wrong; `detail` says which"),
    "unknown_model": (400, "`model` is none of those that `/v1/models` lists"),
    "no_transmission": (400, "`output=transmission`, and the model estimates none"),
    "unauthorized": (401, "no valid bearer token"),
    "unprotected": (403, "the service has no token, and the request did not come over loopback"),
    "not_allowed": (403, "a folder or webhook of a job that the configuration does not allow"),
    "not_found": (404, "there is no such path, job or file"),
    "method_not_allowed": (405, "the path takes another method; see `Allow`"),
    "slow_request": (408, "the body did not arrive within `requests.read_timeout_s`"),
    "no_result": (409, "the job has not ended, or failed, or was cancelled; `detail` says which"),
    "too_large": (413, "more bytes, pixels or frames, or a longer shape, than the limits accept"),
    "too_many_files": (413, "more files in a form or an archive than accepted"),
    "answer_full": (413, "of a file in a batch, or a video: there is no room for its result"),
    "unsupported_format": (
        415,
        "no image, one of a format or kind that is not accepted, no zip archive or video, or compressed",
    ),
    "unsupported_compression": (415, "of a file in an archive: neither stored nor deflated"),
    "corrupt": (422, "the file contradicts its format"),
    "truncated": (422, "the file ends before the picture does"),
    "bad_video": (422, "of a job: the video cannot be read or written; `detail` says why"),
    "corrupt_archive": (422, "the zip archive cannot be read"),
    "encrypted": (422, "of a file in an archive: it is encrypted"),
    "too_many_requests": (429, "this client has as many requests, or jobs, in work as `max_per_client` says"),
    "head_too_large": (431, "the head of the request has more than 64 KiB"),
    "internal": (500, "a fault of the service; its log has the `request_id`"),
    "unavailable": (503, "no replica answers, or the service is about to end"),
    "overloaded": (503, "the queue is full, in requests or in bytes"),
    "jobs_full": (503, "no room for another job, in number or in bytes"),
    "no_scorer": (503, "`/v1/score` of a service with `scorer: null`"),
    "out_of_memory": (503, "not enough memory for this picture at the moment"),
    "model_unavailable": (503, "a model that is loaded on demand cannot be loaded"),
    "replica_lost": (503, "the replicas that worked on it died or broke, twice"),
    "timeout": (504, "not done within `requests.timeout_s`, or `batch_timeout_s`"),
}
_USUAL = {status: code for code, (status, _) in reversed(CODES.items())}


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
    status = next((status for kind, status in _IMAGE_STATUS.items() if isinstance(error, kind)), 422)
    return Problem(status, error.code, str(error))


def http_problem(status: int, detail: str) -> Problem:
    """Return the problem of a request that the framework refused."""
    return Problem(status, _USUAL.get(status, "bad_request"), detail)
