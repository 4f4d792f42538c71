"""The service on a real Ray Serve: what only shows there."""

from __future__ import annotations

import io
import os
import time
import zipfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from benchmarks.serving_service import replicas
from models.config import ConfigError
from models.predictor import Predictor
from serving.config import ServingConfig
from tests.serving.hostile import broken, requests, status_of, talk
from tests.waiting import repeated, wait_for

Jpeg = Callable[..., bytes]


@pytest.fixture
def service(ray_service: Any) -> httpx.Client:
    client: httpx.Client = ray_service.client
    return client


def test_a_photograph_comes_back_as_from_the_predictor(service: httpx.Client, jpeg: Jpeg, registry: Any) -> None:
    data = jpeg(1)
    answer = service.post("/v1/dehaze", content=data, headers={"X-Request-Id": "abc-1"})
    assert answer.status_code == 200, answer.text
    assert answer.headers.get_list("x-request-id") == ["abc-1"]
    assert answer.headers["x-model"] == "models:/dehazer/1"
    assert 0 <= float(answer.headers["x-clearness-after"]) <= 1
    assert answer.content == Predictor(str(registry.folder / "first")).dehaze_bytes(data)[0]
    other = service.post("/v1/dehaze", params={"model": "dark-channel"}, content=data)
    assert other.headers["x-model"] == "dcp"
    assert other.content == Predictor("dcp").dehaze_bytes(data)[0]
    files = [("file", ("a.jpg", data)), ("file", ("b.jpg", b"nothing"))]
    many = zipfile.ZipFile(io.BytesIO(service.post("/v1/batch", files=files).content))
    assert many.read("a.jpg") == answer.content
    assert many.namelist() == ["a.jpg", "manifest.json"]
    assert set(service.post("/v1/score", content=data).json()) == {"width", "height", "clearness", "quality"}


def test_problems_and_state(service: httpx.Client, jpeg: Jpeg) -> None:
    assert service.get("/healthz").json() == {"status": "ok"}
    assert service.get("/readyz").json()["status"] == "ready"
    cut = service.post("/v1/dehaze", content=jpeg(1)[:900])
    assert (cut.status_code, cut.json()["code"]) == (422, "truncated")
    assert cut.json()["request_id"] == cut.headers["x-request-id"]
    assert service.post("/v1/dehaze", content=bytes(200_001)).status_code == 413
    assert service.get("/nothing").json()["code"] == "not_found"


def test_too_many_requests_are_refused_at_once(service: httpx.Client, jpeg: Jpeg) -> None:
    data = jpeg(2, 600, 800)

    def send(_: int) -> tuple[int, float]:
        start = time.perf_counter()
        answer = service.post("/v1/dehaze", content=data)
        return answer.status_code, time.perf_counter() - start

    with ThreadPoolExecutor(24) as pool:
        outcomes = list(pool.map(send, range(48)))
    assert {status for status, _ in outcomes} == {200, 503}
    assert service.post("/v1/dehaze", content=data).status_code == 200


def test_hostile_requests_do_it_no_harm(service: httpx.Client, jpeg: Jpeg) -> None:
    """As tests/faults/test_serving_hostile.py, which sends more of them."""
    before = replicas(os.getpid())
    assert len(before) == 2
    for request in requests(100):
        answer = service.post(request.path, content=request.body, headers=request.headers)
        assert answer.status_code in (200, 400, 401, 413, 415, 422), (request.what, answer.text)
    port = service.base_url.port or 0
    token = f"Authorization: {service.headers['Authorization']}".encode()
    for name, case in broken(jpeg(1)).items():
        raw = case.raw.replace(b"Host: a\r\n", b"Host: a\r\n%s\r\n" % token, 1)
        assert status_of(talk(port, [raw], half_close=case.half_close)) in case.statuses, name
    assert service.post("/v1/dehaze", content=jpeg(1)).status_code == 200
    assert replicas(os.getpid()) == before


def test_a_new_champion_takes_over_without_a_failed_request(service: httpx.Client, jpeg: Jpeg, registry: Any) -> None:
    def default() -> Any:
        return service.get("/v1/models").json()["models"][0]

    def sent() -> tuple[int, str | None]:
        answer = service.post("/v1/dehaze", content=jpeg(3))
        return answer.status_code, answer.headers.get("x-model")

    with repeated(sent, 2) as seen:
        newer = f"models:/dehazer/{registry.register('second')}"
        wait_for(lambda: seen and seen[-1][1] == newer)
        broken = f"models:/dehazer/{registry.register('broken', broken=True)}"
        wait_for(lambda: default()["problem"])
        assert broken in default()["problem"]
        count = len(seen)
        wait_for(lambda: len(seen) > count + 3)
    assert {status for status, _ in seen} == {200}
    assert seen[-1][1] == newer
    assert default()["version"] == newer


def test_a_missing_model_is_found_before_anything_starts() -> None:
    from serving import app

    with pytest.raises(ConfigError, match="did you mean 'corun-compact'"):
        app.start(ServingConfig(model="corun-compakt"))
