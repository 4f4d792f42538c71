"""Connections of clients that are slow, lie or do not speak HTTP, over real sockets."""

from __future__ import annotations

import asyncio
import http.client
import json
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import uvicorn

from models.config import parse
from serving.config import ServingConfig
from serving.engine.engine import Answer, DehazeTask
from serving.engine.replica import Replica
from serving.errors import Problem
from serving.http.connections import GuardedProtocol
from serving.http.routes import make_api
from tests.serving.hostile import HEAD, broken, endless, quick_model, status_of, talk

PATIENCE_S = 0.6
HEAD_BYTES = 20_000
CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"


class Impatient(GuardedProtocol):
    head_s = PATIENCE_S
    head_bytes = HEAD_BYTES


@pytest.fixture(scope="module")
def port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """A server of this process, without Ray, that waits for nothing longer than ``PATIENCE_S``."""
    model = quick_model(tmp_path_factory.mktemp("model"))
    settings: dict[str, Any] = {"model": model, "scorer": None, "threads": 1, "limits": {"max_bytes": 300_000}}
    config = parse(ServingConfig, settings | {"requests": {"read_timeout_s": PATIENCE_S}})
    app = make_api(config, Replica(config))

    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="critical", http=Impatient, timeout_keep_alive=30))
    thread = threading.Thread(target=lambda: asyncio.run(server.serve()))
    thread.start()
    while not server.started:
        time.sleep(0.02)
    yield int(server.servers[0].sockets[0].getsockname()[1])
    server.should_exit = True
    thread.join()


def sound(port: int, jpeg: Callable[..., bytes]) -> bool:
    """A photograph is dehazed, and quickly."""
    data = jpeg(2)
    start = time.monotonic()
    answer = talk(port, [HEAD + b"Content-Length: %d\r\n\r\n" % len(data) + data])
    return status_of(answer) == 200 and time.monotonic() - start < 5


@pytest.mark.parametrize("name", broken(b""))
def test_broken_http_is_refused(port: int, jpeg: Callable[..., bytes], name: str) -> None:
    case = broken(jpeg())[name]
    start = time.monotonic()
    answer = talk(port, [case.raw], half_close=case.half_close)
    assert status_of(answer) in case.statuses, answer[:300]
    assert time.monotonic() - start < 5
    if status_of(answer) in (400, 413, 431) and b"problem+json" in answer:
        assert json.loads(answer.partition(b"\r\n\r\n")[2].splitlines()[0])["status"] == status_of(answer)
    assert sound(port, jpeg)


@pytest.mark.parametrize(
    ("begin", "piece", "status"),
    [
        (HEAD, b"X-Slow: 1\r\n", 408),
        (HEAD + b"X-Slow: ", b"a", 408),
        (b"", b"\r\n", 0),
        (HEAD + b"Content-Length: 5000\r\n\r\n", b"a", 408),
        (CHUNKED, b"1\r\na\r\n", 408),
    ],
    ids=["headers", "a header", "nothing", "a body", "chunks"],
)
def test_slow_senders_are_left(port: int, jpeg: Callable[..., bytes], begin: bytes, piece: bytes, status: int) -> None:
    def pieces() -> Iterator[bytes]:
        yield begin
        yield from endless(piece, 300)

    found: dict[str, Any] = {}

    def trickle() -> None:
        start = time.monotonic()
        found["answer"] = talk(port, pieces(), pause=0.05)
        found["seconds"] = time.monotonic() - start

    senders = [threading.Thread(target=trickle) for _ in range(8)]
    for sender in senders:
        sender.start()
    assert sound(port, jpeg)  # while they trickle
    for sender in senders:
        sender.join()
    assert status_of(found["answer"]) == status
    assert 0.9 * PATIENCE_S < found["seconds"] < PATIENCE_S + 3


def test_who_says_nothing_is_left(port: int) -> None:
    start = time.monotonic()
    assert talk(port, []) == b""
    assert time.monotonic() - start < PATIENCE_S + 3


def test_chunks_without_end_are_refused(port: int) -> None:
    assert status_of(talk(port, [CHUNKED, *([b"4000\r\n" + bytes(0x4000) + b"\r\n"] * 40)])) == 413


def test_headers_without_end_are_refused(port: int) -> None:
    sent = 0

    def lines() -> Iterator[bytes]:
        nonlocal sent
        yield HEAD
        for piece in endless(b"X-More: " + b"m" * 1000 + b"\r\n"):
            sent += len(piece)
            yield piece

    assert status_of(talk(port, lines(), pause=0.001)) == 431
    assert sent < 4 * HEAD_BYTES


def test_a_kept_connection_goes_on(port: int) -> None:
    """The clock of a head runs for heads only, and for each anew."""
    ask = b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n"
    assert talk(port, [ask * 5]).count(b"200 OK") >= 1
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    connection.request("GET", "/healthz")
    assert connection.getresponse().read()
    socket = connection.sock
    time.sleep(1.5 * PATIENCE_S)  # idle between requests: that is what keeping is for
    connection.request("GET", "/healthz")
    assert connection.getresponse().status == 200
    assert connection.sock is socket
    connection.close()


def test_a_kept_connection_outlives_a_body_that_was_refused(port: int) -> None:
    """The rest of the body, which nobody reads, is no head that is too large."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    for _ in range(3):
        connection.request("POST", "/v1/dehaze", bytes(3_000_000))
        answer = connection.getresponse()
        assert (answer.status, answer.read()[:1]) == (413, b"{")
        kept = connection.sock
    assert kept is not None
    connection.close()


def test_what_follows_the_last_chunk_is_bounded(port: int, jpeg: Callable[..., bytes]) -> None:
    trailer = b"X-More: " + b"t" * 1000 + b"\r\n"
    start = time.monotonic()
    talk(port, [CHUNKED + b"1\r\na\r\n0\r\n", *[trailer] * 300], pause=0.001)
    assert time.monotonic() - start < PATIENCE_S  # closed for its size, not for its time
    assert sound(port, jpeg)


def test_a_head_that_came_early_costs_the_one_before_nothing(
    port: int, jpeg: Callable[..., bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half a head behind a request whose answer takes longer than heads may."""
    work = Replica.dehaze

    async def slow(replica: Replica, task: DehazeTask) -> Answer | Problem:
        await asyncio.sleep(2 * Impatient.head_s)
        return await work(replica, task)

    monkeypatch.setattr(Impatient, "head_s", 0.1)
    monkeypatch.setattr(Replica, "dehaze", slow)
    data = jpeg(3)
    first = HEAD + b"Content-Length: %d\r\n\r\n" % len(data) + data
    start = time.monotonic()
    answer = talk(port, [first + HEAD[:20]])
    assert time.monotonic() - start > Impatient.head_s, "the case is not met"
    assert status_of(answer) == 200
