"""The id of a request, and what goes before Ray Serve's HTTP proxy so that an answer has one id, and a valid one.

Serve's proxy puts whatever ``X-Request-Id`` a request has into its answer, or makes one up; it also takes orders from
headers. :func:`serving.connections.guard` puts this before it.
"""

from __future__ import annotations

import re
import uuid

from starlette.types import ASGIApp, Receive, Scope, Send

_REQUEST_ID = re.compile(r"[A-Za-z0-9._:=+/@-]{1,128}")
_NAME = b"x-request-id"
# What Serve's proxy lets clients say: how long it waits, whether it notices that they went away, where it routes them.
_ORDERS = frozenset({b"x-request-timeout-seconds", b"x-request-disconnect-disabled"})
_ROUTES = frozenset({b"serve-multiplexed-model-id", b"x-session-id"})  # also with underscores


def request_id(given: str) -> tuple[str, bool]:
    """The id of a request, and whether it is the one that was given."""
    valid = _REQUEST_ID.fullmatch(given) is not None
    return (given if valid else uuid.uuid4().hex), valid


class Identity:
    """Every request that the proxy sees has exactly one id, a valid one, and gives the proxy no orders."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        if scope["type"] == "http":
            given = next((value for name, value in scope["headers"] if name == _NAME), b"")
            identity, _ = request_id(given.decode("latin-1"))
            kept = [(name, value) for name, value in scope["headers"] if not _for_proxy(name)]
            scope["headers"] = [*kept, (_NAME, identity.encode())]
        await self._app(scope, receive, send)


def _for_proxy(name: bytes) -> bool:
    return name == _NAME or name in _ORDERS or name.replace(b"_", b"-") in _ROUTES
