"""Around every request: its id, who sent it, headers that keep browsers careful, and no stack trace in any answer."""

from __future__ import annotations

import logging
import time
from typing import Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serving.config import ServingConfig
from serving.errors import MEDIA_TYPE, Problem, ProblemError, http_problem, refused
from serving.http import page
from serving.http.auth import Tokens, is_loopback
from serving.http.connections import request_id
from serving.metrics import Metrics

log = logging.getLogger(__name__)

PROBES = frozenset({"/healthz", "/readyz"})
_POLICY = "default-src 'none'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}


def problem_response(problem: Problem, identity: str) -> JSONResponse:
    """Return a problem as an answer."""
    return JSONResponse(problem.body(identity), problem.status, problem.headers(), MEDIA_TYPE)


class RequestMiddleware:
    """The middleware. Puts ``request_id`` and ``client`` into the request's state.

    Args:
        app: what is inside.
        config: of the service.
        tokens: who may use it.
        metrics: counts.
        names_requests: the server around this app already puts a given ``X-Request-Id`` into the answer.
    """

    def __init__(
        self, app: ASGIApp, config: ServingConfig, tokens: Tokens, metrics: Metrics, *, names_requests: bool = False
    ) -> None:
        self._app, self._config, self._tokens, self._metrics = app, config, tokens, metrics
        self._names_requests = names_requests

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request as ASGI, with its id, its client and its metrics."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        start, status = time.perf_counter(), [0]
        alone = scope["method"] == "HEAD"
        if alone:  # whatever answers GET: the head of that answer
            scope = dict(scope, method="GET")
        headers = Headers(scope=scope)
        identity, given = request_id(headers.get("x-request-id", ""))
        state: dict[str, Any] = scope.setdefault("state", {})
        state["request_id"] = identity

        async def named(message: Message) -> None:
            if message["type"] == "http.response.start":
                status[0] = message["status"]
                self._dress(MutableHeaders(scope=message), scope["path"], None if given else identity)
                if given and not self._names_requests:
                    message["headers"].append((b"x-request-id", identity.encode()))
            elif alone:
                message = {**message, "body": b""}
            await send(message)

        try:
            state["client"] = self._client(scope, headers)
            await self._app(scope, receive, named)
        except ProblemError as problem:
            self._metrics.rejected(problem.problem.code)
            await problem_response(problem.problem, identity)(scope, receive, named)
        except Exception:
            log.exception("request %s failed", identity)
            if status[0]:  # the answer has begun: nothing can be said any more
                raise
            await problem_response(http_problem(500, "the service failed; its log says why"), identity)(
                scope, receive, named
            )
        finally:
            route = getattr(scope.get("route"), "path", "other")
            self._metrics.request(route, status[0], time.perf_counter() - start)

    def _client(self, scope: Scope, headers: Headers) -> str:
        """Return the sender: a token's name, or an address.

        Raises:
            ProblemError: 401 without a valid token; 403 when there are none and the request comes over a network.
        """
        if scope["path"] not in PROBES and not page.is_page(
            scope["path"]
        ):  # probes have no token, and the page asks for it
            if self._tokens.required:
                owner = self._tokens.owner(headers.get("authorization", ""))
                if owner is None:
                    raise refused(401, "send a valid token: 'Authorization: Bearer ...'")
                return owner
            self._require_local(scope)
        forwarded = headers.get("x-forwarded-for", "") if self._config.requests.forwarded_for else ""
        address = forwarded.rpartition(",")[2].strip() or str((scope.get("client") or ("",))[0])
        return address[:64]

    def _require_local(self, scope: Scope) -> None:
        """Refuse requests from other machines without tokens, however the server listens, unless the configuration says
        so.
        """
        address = str((scope.get("server") or ("127.0.0.1",))[0])
        if self._config.auth.without_token is None and not is_loopback(address) and address != "testserver":
            raise refused(403, "this service has no token and answers only on loopback", "unprotected")

    def _dress(self, headers: MutableHeaders, path: str, identity: str | None) -> None:
        for name, value in _HEADERS.items():
            headers.setdefault(name, value)
        headers.setdefault("Content-Security-Policy", page.POLICY if page.is_page(path) else _POLICY)
        if identity is not None:
            headers["X-Request-Id"] = identity
