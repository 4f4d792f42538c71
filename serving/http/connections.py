"""Before the application: how long and how large the head of an HTTP request may be, and one valid id for each.

Serve's proxy is uvicorn, which waits for ever for a head that does not end, and keeps all of it. Ray calls
:func:`guard` in each proxy that is started where :data:`HOOK` is in the environment, as ``python -m serving`` has it.
Bodies are bounded by the application (:mod:`serving.http.requests`).
"""

from __future__ import annotations

import asyncio
import json
import re
import uuid
from http import HTTPStatus

from starlette.middleware import Middleware
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.protocols.http import auto
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from serving.errors import MEDIA_TYPE, http_problem

HEAD_S = 10.0
HEAD_BYTES = 64 << 10
_REQUEST_ID = re.compile(r"[A-Za-z0-9._:=+/@-]{1,128}")
_NAME = b"x-request-id"
# What Serve's proxy lets clients say: how long it waits, whether it notices that they went away, where it routes them.
_ORDERS = frozenset({b"x-request-timeout-seconds", b"x-request-disconnect-disabled"})
_ROUTES = frozenset({b"serve-multiplexed-model-id", b"x-session-id"})  # also with underscores


def request_id(given: str) -> tuple[str, bool]:
    """Return the id of a request, and whether it is the one that was given."""
    valid = _REQUEST_ID.fullmatch(given) is not None
    return (given if valid else uuid.uuid4().hex), valid


class RequestIdentity:
    """Every request that the proxy sees has exactly one id, a valid one, and gives the proxy no orders."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Give every request an id, as ASGI."""
        if scope["type"] == "http":
            given = next((value for name, value in scope["headers"] if name == _NAME), b"")
            identity, _ = request_id(given.decode("latin-1"))
            kept = [(name, value) for name, value in scope["headers"] if not _for_proxy(name)]
            scope["headers"] = [*kept, (_NAME, identity.encode())]
        await self._app(scope, receive, send)


def _for_proxy(name: bytes) -> bool:
    return name == _NAME or name in _ORDERS or name.replace(b"_", b"-") in _ROUTES


class GuardedProtocol(HttpToolsProtocol):
    """A connection on which every head, and what is left of a body after its answer, ends in time.

    What cannot be read as HTTP is answered with a problem, as everything else, and the connection closed.
    """

    head_s = HEAD_S
    head_bytes = HEAD_BYTES
    _deadline: asyncio.TimerHandle | None = None
    _begun = False  # a head
    _in_body = False
    _heads = 0  # that were complete
    _trailers = 0  # bytes after the last chunk
    _size = 0  # bytes of the present head

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start to wait for a head: a client has come."""
        super().connection_made(transport)
        self._wait()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop waiting: the client has gone."""
        self._stop_waiting()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Take bytes of a head or of a body, also after its answer, and refuse a head that is too long."""
        if self._deadline is None and self._idle:
            self._wait()
        in_body, heads = self._in_body, self._heads
        super().data_received(data)
        if (self._begun or self._deadline is not None) and not in_body and heads == self._heads:
            self._size += len(data)
            if self._size > self.head_bytes:
                self._refuse(431, f"the head of a request has at most {self.head_bytes:,} bytes")

    def on_message_begin(self) -> None:
        """Begin a head. One that came before the last was answered has time until it is read."""
        super().on_message_begin()
        self._begun, self._size = True, 0
        if self._deadline is None and self._idle:
            self._wait()

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a line of a head, or a trailer after the last chunk of a body."""
        if self._in_body:
            self._trailers += len(name) + len(value)
            if self._trailers > self.head_bytes:
                self.transport.close()
            return  # nobody asks for them
        super().on_header(name, value)

    def on_response_complete(self) -> None:
        """Start the clock of a head that has begun while the last answer went out."""
        super().on_response_complete()
        if self._begun and self._deadline is None and self._idle:
            self._wait()

    def on_headers_complete(self) -> None:
        """Stop the clock at the last byte of a head."""
        self._stop_waiting()
        self._in_body, self._heads, self._trailers = True, self._heads + 1, 0
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        """End a body at its last byte."""
        self._in_body = False
        if self._deadline is not None:  # it was answered before
            self._stop_waiting()
            self._wait()
        super().on_message_complete()

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002 - ours is a sentence
        """Answer what is not HTTP with 400."""
        self._refuse(400, "this is no valid HTTP request")

    @property
    def _idle(self) -> bool:
        return not self.pipeline and (self.cycle is None or self.cycle.response_complete)

    def _wait(self) -> None:
        self._size = 0
        self._deadline = self.loop.call_later(self.head_s, self._too_late)

    def _stop_waiting(self) -> None:
        self._begun = False
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _too_late(self) -> None:
        if self._begun:
            self._refuse(408, f"the head of the request did not arrive within {self.head_s:g} s")
        else:
            self.transport.close()

    def _refuse(self, status: int, detail: str) -> None:
        self._stop_waiting()
        if self.transport.is_closing():
            return
        if not self._idle and (status != 400 or self.cycle.response_started):  # it would stand in another's answer
            self.transport.close()
            return
        body = json.dumps(http_problem(status, detail).body(uuid.uuid4().hex)).encode()
        head = (
            f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\ncontent-type: {MEDIA_TYPE}\r\n"
            f"content-length: {len(body)}\r\nconnection: close\r\nx-content-type-options: nosniff\r\n\r\n"
        )
        self.transport.write(head.encode() + body)
        self.transport.close()


def guard() -> list[Middleware]:
    """Let the servers that this process starts from now on guard their connections.

    Returns:
        what Serve's proxy is to put around itself.
    """
    auto.AutoHTTPProtocol = GuardedProtocol
    return [Middleware(RequestIdentity)]
