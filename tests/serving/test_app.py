"""The service over HTTP, on a real Ray Serve."""

from __future__ import annotations

import io
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from models.settings import ConfigError
from serving.config import ServingConfig, read_config, require_free_port, require_loopback
from serving.predictor import DehazeOptions, Predictor

Pixels = NDArray[np.uint8]
LIMIT = 200_000


def jpeg(pixels: Pixels) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=92)
    return buffer.getvalue()


@pytest.fixture(scope="module")
def service(ray_cluster: None) -> Iterator[httpx.Client]:
    from serving import app

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    limits = {"max_bytes": LIMIT, "formats": ["JPEG", "PNG"]}
    url = app.start(ServingConfig.model_validate({"port": port, "model": "dcp", "threads": 1, "limits": limits}))
    with httpx.Client(base_url=url, timeout=60) as client:
        yield client
    app.stop()


def test_a_photograph_comes_back_as_from_the_command_line(service: httpx.Client, photo: Callable[..., Pixels]) -> None:
    data = jpeg(photo(1, hazy=True))
    answer = service.post("/v1/dehaze", content=data, headers={"X-Request-Id": "abc-1"})
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "image/jpeg"
    assert answer.headers["x-model"] == "dcp"
    assert answer.headers["x-request-id"] == "abc-1"
    assert "model;dur=" in answer.headers["server-timing"]
    assert answer.content == Predictor("dcp").dehaze_bytes(data)[0]
    form = service.post("/v1/dehaze", files={"file": ("hazy.jpg", data, "image/jpeg")})
    assert form.content == answer.content


def test_format_and_strength(service: httpx.Client, photo: Callable[..., Pixels]) -> None:
    pixels = photo(2, height=31, width=45)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    answer = service.post("/v1/dehaze", params={"strength": 0, "format": "png"}, content=buffer.getvalue())
    assert answer.headers["content-type"] == "image/png"
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(answer.content))), pixels)


@pytest.mark.parametrize(
    ("content", "query", "status", "code"),
    [
        (b"just some text", {}, 415, "unsupported_format"),
        ("truncated", {}, 422, "truncated"),
        (b"\xff\xd8\xff" + bytes(LIMIT), {}, 413, "too_large"),
        (b"", {}, 400, "bad_request"),
        ("whole", {"strength": "2"}, 400, "bad_request"),
        ("whole", {"format": "gif"}, 400, "bad_request"),
    ],
)
def test_problems_have_a_status_and_a_code(
    service: httpx.Client,
    photo: Callable[..., Pixels],
    content: bytes | str,
    query: dict[str, str],
    status: int,
    code: str,
) -> None:
    if isinstance(content, str):
        whole = jpeg(photo(3))
        content = whole[: len(whole) // 2] if content == "truncated" else whole
    answer = service.post("/v1/dehaze", params=query, content=content)
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/problem+json"
    problem = answer.json()
    assert (problem["status"], problem["code"]) == (status, code)
    assert problem["request_id"] == answer.headers["x-request-id"]


def test_health_and_models(service: httpx.Client) -> None:
    assert service.get("/healthz").json() == {"status": "ok"}
    assert service.get("/readyz").json() == {"status": "ready", "model": "dcp"}
    assert service.get("/v1/models").json() == {"models": [{"name": "dcp"}]}
    assert service.get("/nothing").json()["code"] == "not_found"


def test_a_missing_model_is_found_before_anything_starts() -> None:
    from serving import app

    with pytest.raises(ConfigError, match="did you mean 'corun-compact'"):
        app.start(ServingConfig(model="corun-compakt"))


def test_a_taken_port_is_one_clear_error() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=f"cannot listen on 127.0.0.1:{port}"):
            require_free_port("127.0.0.1", port)
    require_free_port("127.0.0.1", port)


def test_only_loopback_hosts() -> None:
    for host in ("127.0.0.1", "127.8.0.1", "::1", "localhost"):
        require_loopback(host)
    for host in ("0.0.0.0", "192.0.2.7", "example.org", "::"):
        with pytest.raises(ConfigError, match="no authentication"):
            require_loopback(host)


def test_the_packaged_configuration_is_the_default() -> None:
    assert read_config(Path(__file__).parents[2] / "serving" / "config.yaml") == ServingConfig()


def test_unknown_keys_in_the_configuration_are_named(tmp_path: Path) -> None:
    path = tmp_path / "serve.yaml"
    path.write_text("applications:\n  - args: {replica: 2}\n")
    with pytest.raises(ConfigError, match=r"'replica'.*did you mean 'replicas'"):
        read_config(path)
    path.write_text("model: dcp\n")
    with pytest.raises(ConfigError, match="applications"):
        read_config(path)


def test_options_out_of_range_are_refused() -> None:
    with pytest.raises(ValueError, match="strength"):
        DehazeOptions(strength=1.5)
