"""Exactly one request id in every answer, and no orders to Serve's proxy."""

from __future__ import annotations

import asyncio
import socket
from typing import Any
from urllib.parse import urlsplit

import pytest

from serving.http.connections import RequestIdentity, request_id

INVALID = (b"", b"a b", b"x" * 129, "ü".encode("latin-1"), "ü".encode(), b"<script>")


def seen_by_the_proxy(headers: list[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    """The headers after :class:`RequestIdentity`."""
    scopes: list[dict[str, Any]] = []

    async def proxy(scope: Any, receive: Any, send: Any) -> None:
        scopes.append(scope)

    asyncio.run(RequestIdentity(proxy)({"type": "http", "headers": headers}, None, None))  # type: ignore[arg-type]
    found: list[tuple[bytes, bytes]] = scopes[0]["headers"]
    return found


def test_a_valid_id_stays() -> None:
    assert seen_by_the_proxy([(b"a", b"1"), (b"x-request-id", b"abc-1")]) == [(b"a", b"1"), (b"x-request-id", b"abc-1")]


@pytest.mark.parametrize("given", INVALID)
def test_an_invalid_id_is_replaced(given: bytes) -> None:
    ((name, value),) = seen_by_the_proxy([(b"x-request-id", given), (b"x-request-id", b"second")])
    assert name == b"x-request-id"
    assert request_id(value.decode())[1]
    assert value not in (given, b"second")


def test_clients_give_the_proxy_no_orders() -> None:
    orders = [
        (b"x-request-timeout-seconds", b"0"),
        (b"x-request-disconnect-disabled", b"?1"),
        (b"serve_multiplexed_model_id", b"x"),
        (b"Serve-Multiplexed-Model-Id".lower(), b"x"),
        (b"x-session-id", b"\xff"),
    ]
    assert [name for name, _ in seen_by_the_proxy([*orders, (b"accept", b"*/*")])] == [b"accept", b"x-request-id"]


def ids_over_http(url: str, lines: list[bytes]) -> tuple[bytes, list[bytes]]:
    """The status line and the request ids of the answer to a GET with these header lines; clients' libraries would
    refuse to send some.
    """
    place = urlsplit(url)
    with socket.create_connection((place.hostname, place.port), timeout=30) as connection:
        head = [b"GET /healthz HTTP/1.1", b"Host: x", b"Connection: close", *lines]
        connection.sendall(b"\r\n".join(head) + b"\r\n\r\n")
        received = b"".join(iter(lambda: connection.recv(65536), b""))
    status, *headers = received.partition(b"\r\n\r\n")[0].split(b"\r\n")
    return status, [line.partition(b":")[2].strip() for line in headers if line.lower().startswith(b"x-request-id:")]


def test_on_ray_serve_an_answer_has_one_id(ray_service: Any) -> None:
    cases = [[], [b"X-Request-Id: abc-1"], [b"X-Request-Id: a", b"x-request-id: b"]]
    cases += [[b"X-Request-Id: " + given] for given in INVALID]
    for lines in cases:
        status, ids = ids_over_http(ray_service.url, lines)
        assert status == b"HTTP/1.1 200 OK", (lines, status)
        assert len(ids) == 1, (lines, ids)
        assert request_id(ids[0].decode("latin-1"))[1], (lines, ids)
        if lines[:1] == [b"X-Request-Id: abc-1"]:
            assert ids == [b"abc-1"]


def test_on_ray_serve_a_client_cannot_end_the_proxy_s_patience(ray_service: Any, jpeg: Any) -> None:
    answer = ray_service.client.post("/v1/dehaze", content=jpeg(1), headers={"X-Request-Timeout-Seconds": "0.001"})
    assert answer.status_code == 200, answer.text
