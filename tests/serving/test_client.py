"""The client: what it sends, what it makes of answers, and when it tries again. Its live example is the docs'."""

from __future__ import annotations

import asyncio
import io
import json
import os
import subprocess
import sys
import zipfile
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import quote

import httpx
import pytest

from models.config import ConfigError
from serving import client as client_module
from serving.client import Answer, AsyncClient, Client, ServiceError

Reply = Callable[[], httpx.Response] | httpx.TransportError


def reply(*args: Any, **options: Any) -> Callable[[], httpx.Response]:
    """An answer, made anew each time: httpx opens one once."""
    return lambda: httpx.Response(*args, **options)


BUSY = reply(503, headers={"retry-after": "7"}, json={"code": "overloaded", "detail": "full"})
CLEAR = reply(
    200, content=b"clear",
    headers={
        "content-type": "image/png", "x-model": "corun-compact", "x-haze": "0.42", "x-haze-verdict": "haze",
        "x-request-id": "r1", "server-timing": "decode;dur=1.5, model;dur=20",
    },
)  # fmt: skip


class Service:
    """Replies in their order, the requests that came, and how long the client waited."""

    def __init__(self) -> None:
        self.replies: list[Reply] = []
        self.requests: list[httpx.Request] = []
        self.waits: list[float] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        request.read()
        self.requests.append(request)
        answer = self.replies.pop(0)
        if isinstance(answer, httpx.TransportError):
            raise answer
        return answer()


@pytest.fixture
def service(monkeypatch: pytest.MonkeyPatch) -> Service:
    """A service of this process. Only the client sleeps by the stand-ins: other threads of the process keep theirs."""
    made = Service()

    async def sleep(seconds: float) -> None:
        made.waits.append(seconds)

    monkeypatch.setattr(client_module, "time", SimpleNamespace(sleep=made.waits.append))
    monkeypatch.setattr(client_module, "asyncio", SimpleNamespace(sleep=sleep, to_thread=asyncio.to_thread))
    return made


def synchronous(service: Service, verb: str, *args: Any, **controls: Any) -> Any:
    with Client("http://service", "secret", tries=3, transport=httpx.MockTransport(service)) as made:
        return getattr(made, verb)(*args, **controls)


def asynchronous(service: Service, verb: str, *args: Any, **controls: Any) -> Any:
    async def work() -> Any:
        async with AsyncClient("http://service", "secret", tries=3, transport=httpx.MockTransport(service)) as made:
            return await getattr(made, verb)(*args, **controls)

    return asyncio.run(work())


both = pytest.mark.parametrize("call", [synchronous, asynchronous])
Call = Callable[..., Any]


@both
def test_a_photograph_goes_and_comes_with_what_the_service_says_of_it(
    call: Call, service: Service, tmp_path: Path
) -> None:
    (tmp_path / "hazy.jpg").write_bytes(b"hazy")
    service.replies = [CLEAR]
    answer: Answer = call(service, "dehaze", tmp_path / "hazy.jpg", strength=0.8, protect=True)
    (request,) = service.requests
    assert (request.method, str(request.url)) == ("POST", "http://service/v1/dehaze?strength=0.8&protect=true")
    assert (request.content, request.headers["authorization"]) == (b"hazy", "Bearer secret")
    assert answer.save(tmp_path / "clear.png").read_bytes() == b"clear"
    assert (answer.haze, answer.verdict, answer.model, answer.media_type) == (
        0.42,
        "haze",
        "corun-compact",
        "image/png",
    )
    assert answer.milliseconds == {"decode": 1.5, "model": 20.0}


@both
def test_it_waits_as_long_as_a_busy_service_asks_and_longer_each_time_where_nobody_is(
    call: Call, service: Service
) -> None:
    service.replies = [BUSY, httpx.ConnectError("refused"), CLEAR]
    assert call(service, "dehaze", b"hazy").content == b"clear"
    assert service.waits == [7.0, 0.5]
    service.replies = [httpx.ConnectError("refused")] * 3
    with pytest.raises(ServiceError, match="no answer from the service: refused") as caught:
        call(service, "dehaze", b"hazy")
    assert (caught.value.code, service.waits[2:]) == ("unreachable", [0.5, 1.0])


@both
@pytest.mark.parametrize(
    ("answer", "status", "code", "tried"),
    [
        (BUSY, 503, "overloaded", 3),
        (reply(503, json={"code": "no_scorer", "detail": "none"}), 503, "no_scorer", 1),
        (reply(413, json={"code": "too_large", "detail": "9 MB", "request_id": "r2"}), 413, "too_large", 1),
        (reply(502, text="<html>"), 502, "no_problem", 3),
    ],
)
def test_what_the_service_refuses_is_raised_with_its_code(
    call: Call, service: Service, answer: Reply, status: int, code: str, tried: int
) -> None:
    service.replies = [answer] * 3
    with pytest.raises(ServiceError, match=code) as caught:
        call(service, "score", b"hazy")
    assert (caught.value.code, caught.value.status) == (code, status)
    assert len(service.requests) == tried


@both
def test_batches_scores_and_models(call: Call, service: Service, tmp_path: Path) -> None:
    for name in ("a.jpg", "b.jpg"):
        (tmp_path / name).write_bytes(name.encode())
    zipped = reply(200, content=b"PK", headers={"content-type": "application/zip"})
    service.replies = [zipped, reply(200, json={"clearness": 0.2}), reply(200, json=["m"])]
    answer = call(service, "batch", [tmp_path / "a.jpg", tmp_path / "b.jpg"], strength="auto")
    assert (answer.content, answer.haze, answer.milliseconds) == (b"PK", None, {})
    sent = service.requests[0].content
    assert sent.count(b'name="file"') == 2
    assert b'filename="b.jpg"' in sent
    assert call(service, "score", b"hazy") == {"clearness": 0.2}
    assert call(service, "models") == ["m"]


def state(status: str, **more: Any) -> Reply:
    told = {"id": "j1", "status": status, "total": 2, "done": 1, "failed": 0, "created": "2026-11-28T10:00:00+00:00"}
    return reply(202 if status == "queued" else 200, json=told | more | {"added_later": 1})


@both
def test_long_work_is_handed_in_waited_for_and_fetched(call: Call, service: Service, tmp_path: Path) -> None:
    (tmp_path / "day").mkdir()
    for name in ("a.jpg", "day/a.jpg"):
        (tmp_path / name).write_bytes(name.encode())
    service.replies = [BUSY, state("queued")]
    job = call(service, "submit", [tmp_path / "a.jpg", tmp_path / "day/a.jpg"], strength=0.5)
    first, request = service.requests
    assert str(request.url) == "http://service/v1/jobs?strength=0.5"
    assert request.content == first.content, "sent once more, whole"
    with zipfile.ZipFile(io.BytesIO(request.content)) as sent:
        assert [sent.read(entry) for entry in sent.infolist()] == [b"a.jpg", b"day/a.jpg"]
    seen: list[int] = []
    service.replies = [state("running"), state("done", done=2)]
    service.waits.clear()
    done = call(service, "wait", job, lambda now: seen.append(now.done), every=3)
    assert (done.status, done.has_ended, seen, service.waits) == ("done", True, [1, 2], [3])
    service.replies = [state("done"), reply(200, content=b"PK")]
    assert call(service, "result", "j1", tmp_path / "out.zip").read_bytes() == b"PK"
    assert service.requests[-1].url.path == "/v1/jobs/j1/result"
    service.replies = [state("failed", detail="nothing there")]
    with pytest.raises(ServiceError, match="failed: nothing there"):
        call(service, "result", job, tmp_path / "none.zip")
    service.replies = [reply(204)]
    call(service, "cancel", job)
    assert (service.requests[-1].method, service.requests[-1].url.path) == ("DELETE", "/v1/jobs/j1")


@both
def test_a_job_that_the_service_may_have_taken_is_not_sent_again(call: Call, service: Service, tmp_path: Path) -> None:
    (tmp_path / "trip.zip").write_bytes(b"PK")
    service.replies = [httpx.ConnectError("refused"), httpx.ReadTimeout("slow"), state("queued")]
    with pytest.raises(ServiceError, match="slow"):
        call(service, "submit", tmp_path / "trip.zip")
    assert len(service.requests) == 2
    assert service.requests[-1].content == b"PK", "a file by itself, such as a video, is sent as it is"
    service.replies = [state("queued")]
    call(service, "submit", "s3://bucket/in", target="s3://bucket/out")
    assert json.loads(service.requests[-1].content) == {"source": "s3://bucket/in", "target": "s3://bucket/out"}


@pytest.mark.parametrize("url", ["localhost:8000", "127.0.0.1:8000", "//host", "", "ftp://host"])
@pytest.mark.parametrize("kind", [Client, AsyncClient])
def test_what_is_no_address_is_said_at_once(kind: Callable[[str], object], url: str) -> None:
    with pytest.raises(ConfigError, match="http://host:port"):
        kind(url)


def test_a_program_with_the_client_imports_neither_ray_nor_torch() -> None:
    code = "import sys, serving.client; print([m for m in ('ray', 'torch', 'fastapi', 'pyarrow') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


class Broken(httpx.SyncByteStream, httpx.AsyncByteStream):
    """An answer whose connection breaks in its middle."""

    def __iter__(self) -> Iterator[bytes]:
        yield b"PK"
        raise httpx.ReadError("broken")

    async def __aiter__(self) -> AsyncIterator[bytes]:
        yield b"PK"
        raise httpx.ReadError("broken")


@both
def test_a_result_is_whole_or_not_there_and_tried_again(call: Call, service: Service, tmp_path: Path) -> None:
    done = reply(200, json={"id": "j", "status": "done", "total": 1, "done": 1, "failed": 0, "created": ""})
    service.replies = [done, BUSY, reply(200, stream=Broken()), reply(200, content=b"PK whole")]
    (tmp_path / "clear.zip").write_bytes(b"earlier")
    assert call(service, "result", "j", tmp_path / "clear.zip").read_bytes() == b"PK whole"
    assert service.waits == [7.0, 0.5]
    service.replies = [done, *[reply(200, stream=Broken())] * 3]
    with pytest.raises(ServiceError, match="unreachable"):
        call(service, "result", "j", tmp_path / "clear.zip")
    assert (tmp_path / "clear.zip").read_bytes() == b"PK whole"
    assert [path.name for path in tmp_path.iterdir()] == ["clear.zip"]


@both
def test_files_older_than_zip_are_handed_in_too(call: Call, service: Service, tmp_path: Path) -> None:
    """As containers and package managers date them."""
    (tmp_path / "a.jpg").write_bytes(b"hazy")
    os.utime(tmp_path / "a.jpg", (0, 0))
    service.replies = [
        reply(202, json={"id": "j", "status": "queued", "total": 0, "done": 0, "failed": 0, "created": ""})
    ]
    call(service, "submit", [tmp_path / "a.jpg"])
    with zipfile.ZipFile(io.BytesIO(service.requests[0].content)) as sent:
        assert sent.read("a.jpg") == b"hazy"


@both
def test_a_model_has_its_name_again(call: Call, service: Service) -> None:
    """Headers hold ASCII, so the service quotes it."""
    service.replies = [reply(200, headers={"x-model": quote("modèle 50%", safe=" ")}, content=b"clear")]
    assert call(service, "dehaze", b"hazy").model == "modèle 50%"
