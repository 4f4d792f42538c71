"""Admission, the budget of pixels, and forms and archives that are larger than they say."""

from __future__ import annotations

import asyncio
import io
import tempfile
import threading
import time
import zipfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from fastapi import Request
from fastapi.testclient import TestClient
from hypothesis import example, given
from hypothesis import strategies as st

from models.images import ImageTooLarge
from serving.archive import ArchiveLimits, ZipPhotographs, safe_name
from serving.engine.engine import Answer
from serving.engine.slots import ModelState
from serving.errors import Problem, ProblemError
from serving.http.requests import Upload, read_form
from serving.limits import Admission, AnswerPace, Budget, RequestLimits
from tests.serving.hostile import archive

Jpeg = Callable[..., bytes]
Service = Callable[..., TestClient]
LIMITS = ArchiveLimits(max_files=8, max_bytes=1000, max_total=5000)


class TestAdmission:
    def gate(self, **limits: Any) -> Admission:
        return Admission(RequestLimits(**limits))

    def refusal(self, gate: Admission, client: str) -> Problem | None:
        try:
            with gate.admitted(client):
                return None
        except ProblemError as problem:
            return problem.problem

    def test_a_client_and_all_of_them(self) -> None:
        gate = self.gate(max_pending=3, max_per_client=2)
        with gate.admitted("a"), gate.admitted("a"):
            refused = self.refusal(gate, "a")
            assert refused is not None
            assert (refused.status, refused.code, refused.headers()["Retry-After"]) == (429, "too_many_requests", "2")
            with gate.admitted("b"):
                refused = self.refusal(gate, "c")
                assert refused is not None
                assert (refused.status, refused.code) == (503, "overloaded")
            assert self.refusal(gate, "c") is None
        assert self.refusal(gate, "a") is None
        assert gate.pending == 0

    def test_bytes_are_given_back(self) -> None:
        gate = self.gate(max_pending_bytes=100)
        with gate.admitted("a") as first, gate.admitted("b") as second:
            first.hold(70)
            with pytest.raises(ProblemError):
                second.hold(31)
            second.hold(30)
        assert gate.held == 0


class TestPace:
    def test_it_is_that_of_late_and_does_not_count_idle_time(self) -> None:
        now = [0.0]
        pace = AnswerPace(lambda: now[0])

        def answer(seconds: float, count: int) -> None:
            for _ in range(count):
                now[0] += seconds
                pace.answered()

        with pace.under_way(), pace.under_way():
            answer(2.0, 4)
            assert pace.wait_s == 0  # too little is known yet
            answer(2.0, 1)
            assert pace.wait_s == 2 * 2.0
        assert pace.wait_s == 0
        now[0] += 1000.0
        with pace.under_way():
            answer(2.0, 5)
            assert pace.wait_s == 2.0
            answer(60.0, 1)
            assert pace.wait_s == 2.0
            answer(0.5, 9)
            assert pace.wait_s == 0.5


class TestBudget:
    @given(st.lists(st.tuples(st.integers(1, 15), st.booleans()), max_size=25))
    def test_never_more_than_all_and_nobody_waits_for_ever(self, asked: list[tuple[int, bool]]) -> None:
        budget, used = Budget(10), [0]

        async def take(units: int) -> None:
            async with budget.taken(units):
                used[0] += min(units, 10)
                assert used[0] <= 10
                try:
                    await asyncio.sleep(0)
                finally:
                    used[0] -= min(units, 10)

        async def main() -> None:
            tasks = [asyncio.create_task(take(units)) for units, _ in asked]
            for task, (_, cancelled) in zip(tasks, asked, strict=True):
                if cancelled:
                    await asyncio.sleep(0)
                    task.cancel()
            ended = await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), 5)
            assert not [problem for problem in ended if isinstance(problem, AssertionError)]
            await asyncio.wait_for(take(10), 5)  # all of it is free again

        asyncio.run(main())


def form(*parts: tuple[str, bytes], boundary: bytes = b"xx") -> bytes:
    return b"".join(b"--%s\r\n%s\r\n\r\n%s\r\n" % (boundary, head.encode(), body) for head, body in parts) + (
        b"--%s--\r\n" % boundary
    )


FILE = 'Content-Disposition: form-data; name="file"; filename="{}"'


def read(
    body: bytes, *, piece: int = 1000, files: int = 1, each: int = 10, boundary: str = "boundary=xx"
) -> list[Upload]:
    """The files of a form that arrives in pieces."""
    pieces = [body[start : start + piece] for start in range(0, len(body), piece)]

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": pieces.pop(0) if pieces else b"", "more_body": bool(pieces)}

    headers = [(b"content-type", f"multipart/form-data; {boundary}".encode())]
    request = Request({"type": "http", "method": "POST", "headers": headers}, receive)
    with Admission(RequestLimits()).admitted("a") as place:
        return asyncio.run(read_form(request, place, files * each, files, 5.0))


class TestForms:
    @given(st.lists(st.binary(max_size=60), min_size=1, max_size=4), st.integers(1, 30))
    def test_any_bytes_in_any_pieces(self, files: list[bytes], piece: int) -> None:
        body = form(*((FILE.format(index), data) for index, data in enumerate(files)), boundary=b"b0undary")
        found = read(body, piece=piece, files=4, each=60, boundary="boundary=b0undary")
        assert [(upload.name, upload.data) for upload in found] == [(str(i), data) for i, data in enumerate(files)]

    def test_limits(self) -> None:
        with pytest.raises(ImageTooLarge):
            read(form((FILE.format("a"), bytes(11))))
        with pytest.raises(ProblemError, match="more than 1"):
            read(form((FILE.format("a"), b"1"), (FILE.format("b"), b"2")))
        with pytest.raises(ProblemError, match="'strength' is no file; options go into the query"):
            read(form(('Content-Disposition: form-data; name="strength"', b"0.1")))

    def test_what_is_no_form(self) -> None:
        whole = form((FILE.format("a"), b"1"))
        for boundary in ("", "boundary=" + "x" * 400):
            with pytest.raises(ProblemError, match="cannot be read"):
                read(whole, boundary=boundary)
        with pytest.raises(ProblemError, match="cannot be read"):
            read(b"nothing of the kind")
        with pytest.raises(ProblemError, match="ends before"):
            read(whole[:-6])

    def test_uploads_never_touch_the_disk(self, service: Service, jpeg: Jpeg, monkeypatch: pytest.MonkeyPatch) -> None:
        def nothing(*args: Any, **kwargs: Any) -> None:
            raise AssertionError("a temporary file was made")

        backend = Slow()
        backend.go.set()
        client = service(backend)
        for name in ("TemporaryFile", "SpooledTemporaryFile", "NamedTemporaryFile", "mkstemp"):
            monkeypatch.setattr(tempfile, name, nothing)
        large = jpeg(1, 700, 900, "BMP")
        assert len(large) > 1 << 20
        assert client.post("/v1/dehaze", files={"file": ("a.bmp", large)}).json()["code"] == "corrupt"
        assert client.post("/v1/batch", files=[("file", ("a.bmp", large))]).status_code == 200


def unpacked(data: bytes | bytearray) -> list[bytes | Problem]:
    found = ZipPhotographs(io.BytesIO(data), LIMITS)
    return [found.read(index) for index in range(len(found.names))]


class TestArchives:
    def test_a_bomb_by_what_it_says(self) -> None:
        with pytest.raises(ProblemError, match="unpacks to"):
            unpacked(archive([("a", bytes(3000)), ("b", bytes(3000))]))
        (one,) = unpacked(archive([("a", bytes(3000))]))
        assert isinstance(one, Problem)
        assert (one.status, one.code) == (413, "too_large")

    def test_a_bomb_that_lies(self) -> None:
        data = bytearray(archive([("a", bytes(4_000_000))]))
        for header in (data.find(b"PK\x03\x04") + 22, data.rfind(b"PK\x01\x02") + 24):
            data[header : header + 4] = (900).to_bytes(4, "little")
        (one,) = unpacked(data)
        assert isinstance(one, Problem)
        assert one.code in ("corrupt", "too_large")

    def test_a_directory_that_is_too_large(self) -> None:
        with pytest.raises(ProblemError, match="directory") as caught:
            unpacked(archive((f"{index}" * 60, b"") for index in range(400)))
        assert caught.value.problem.code == "too_many_files"

    def test_encrypted_and_rare_kinds(self) -> None:
        data = bytearray(archive([("a", b"x")]))
        place = data.rfind(b"PK\x01\x02")
        data[place + 8] |= 1
        (one,) = unpacked(data)
        assert isinstance(one, Problem)
        assert one.code == "encrypted"
        (one,) = unpacked(archive([("a", b"x")], zipfile.ZIP_LZMA))
        assert isinstance(one, Problem)
        assert one.code == "unsupported_compression"

    @given(st.data())
    def test_damage_is_a_problem_and_nothing_else(self, data: st.DataObject) -> None:
        content = bytearray(archive([("a.jpg", b"0123456789" * 20), ("b/c.png", b"abc")]))
        for _ in range(data.draw(st.integers(1, 4))):
            place = data.draw(st.integers(0, len(content) - 1))
            content[place] = data.draw(st.integers(0, 255))
        try:
            for one in unpacked(content[: data.draw(st.integers(0, len(content)))]):
                assert isinstance(one, Problem) or len(one) <= 1000
        except ProblemError:
            pass

    @given(st.text(max_size=300))
    @example("/\\")
    def test_names_stay_inside(self, name: str) -> None:
        safe = safe_name(name)
        assert safe
        assert not safe.startswith("/")
        assert not {"", ".", ".."} & set(safe.split("/"))
        assert safe.isprintable()
        assert "\\" not in safe


class Slow:
    """A backend that waits until it is told to go on, and counts who gave up."""

    def __init__(self) -> None:
        self.go = threading.Event()
        self.alive = True
        self.inside = 0
        self.cancelled = 0

    async def dehaze(self, task: Any) -> Problem:
        self.inside += 1
        try:
            await asyncio.to_thread(self.go.wait, 5)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        return Problem(422, "corrupt", "done")

    score = dehaze

    async def models(self) -> list[ModelState]:
        await asyncio.to_thread(self.go.wait, 5)
        return []

    async def there(self) -> bool:
        return self.alive


def test_a_request_that_takes_too_long_is_cancelled(service: Service, jpeg: Jpeg) -> None:
    backend = Slow()
    client = service(backend, requests={"timeout_s": 0.2, "batch_timeout_s": 0.2})
    answer = client.post("/v1/dehaze", content=jpeg())
    assert (answer.status_code, answer.json()["code"]) == (504, "timeout")
    many = client.post("/v1/batch", files=[("file", (f"{index}.jpg", jpeg())) for index in range(9)])
    assert many.status_code == 504
    assert backend.cancelled == backend.inside == 1 + 4  # four at a time: the others were never begun
    models = client.get("/v1/models")
    assert (models.status_code, models.json()["detail"]) == (503, "no replica answers"), "it is about no picture"


def test_full_queues_answer_at_once(service: Service, jpeg: Jpeg) -> None:
    backend = Slow()
    client = service(backend, requests={"max_pending": 2, "max_per_client": 2})
    waiting = [threading.Thread(target=client.post, args=("/v1/dehaze",), kwargs={"content": jpeg()}) for _ in range(2)]
    for thread in waiting:
        thread.start()
    while backend.inside < 2:
        pass
    answer = client.post("/v1/dehaze", content=jpeg())
    assert (answer.status_code, answer.headers["retry-after"]) == (429, "2")
    assert client.get("/readyz").status_code == 200  # busy is not gone
    backend.alive = False
    assert client.get("/readyz").status_code == 503
    backend.go.set()
    for thread in waiting:
        thread.join()
    assert client.post("/v1/dehaze", content=jpeg()).status_code == 422


class Steady:
    """Answers each picture after so many seconds, one after the other."""

    def __init__(self, seconds: float) -> None:
        self.seconds, self.turn = seconds, asyncio.Lock()

    async def dehaze(self, task: Any) -> Answer:
        async with self.turn:
            await asyncio.sleep(self.seconds)
        return Answer(task.data, "JPEG", 1, 1, "steady", None, None, {})


class Probed(Steady):
    """Also says which models there are, after a while."""

    async def models(self) -> list[ModelState]:
        await asyncio.sleep(0.5)
        return []


def test_probes_are_no_queue(service: Service, jpeg: Jpeg) -> None:
    client = service(Probed(0.05), requests={"max_wait_s": 0.3})
    for _ in range(9):  # so that the pace is known
        assert client.post("/v1/dehaze", content=jpeg()).status_code == 200
    with ThreadPoolExecutor(24) as pool:
        probes = [pool.submit(client.get, "/v1/models") for _ in range(24)]
        time.sleep(0.2)
        assert client.post("/v1/dehaze", content=jpeg()).status_code == 200
        assert {probe.result().status_code for probe in probes} == {200}


def test_who_would_wait_too_long_is_refused_at_once(service: Service, jpeg: Jpeg) -> None:
    client = service(Steady(0.1), requests={"max_wait_s": 0.55})
    data = jpeg()
    for _ in range(5):  # so that the pace is known
        assert client.post("/v1/dehaze", content=data).status_code == 200
    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda _: client.post("/v1/dehaze", content=data), range(16)))
    refused = [answer.json()["code"] for answer in answers if answer.status_code == 503]
    assert 3 <= len(refused) <= 13
    assert set(refused) == {"overloaded"}
    assert client.post("/v1/dehaze", content=data).status_code == 200


def test_a_body_that_never_ends(service: Service) -> None:
    async def drip() -> Any:
        while True:
            yield b"x"
            await asyncio.sleep(0.05)

    async def main() -> int:
        import httpx

        client = service(requests={"read_timeout_s": 0.3})
        transport = httpx.ASGITransport(client.app)  # type: ignore[arg-type]
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as slow:
            return (await slow.post("/v1/dehaze", content=drip())).status_code

    assert asyncio.run(main()) == 408
