"""Bodies that are damaged or made up: a problem, never a failure of the service."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from fastapi.testclient import TestClient

from models.config import parse
from serving.config import ServingConfig
from serving.engine.replica import Replica
from tests.serving.hostile import FORM, Nothing, archive, damaged, form

COUNT = 600
HEIC = Path(__file__).parents[2] / "models" / "images" / "heic" / "plain.heic"


@pytest.fixture
def bodies(jpeg: Callable[..., bytes]) -> dict[str, bytes]:
    whole = {kind: jpeg(1, 24, 32, kind) for kind in ("JPEG", "PNG", "WEBP", "AVIF", "TIFF", "BMP")}
    whole["HEIC"] = HEIC.read_bytes()
    zipped = archive([(f"photo.{kind.lower()}", data) for kind, data in whole.items()])
    return whole | {"ZIP": zipped, "FORM": form(whole.values())}


def test_no_body_makes_the_service_fail(service: Callable[..., TestClient], bodies: dict[str, bytes]) -> None:
    settings = {"model": "dcp", "scorer": None, "threads": 1}
    replica = Replica(parse(ServingConfig, settings))
    replica._default.current = "nothing", Nothing()
    client = service(replica, requests={"batch_files": 5})
    random = np.random.default_rng(6)
    kinds = list(bodies)
    for index in range(COUNT):
        kind = kinds[index % len(kinds)]
        path = ("/v1/dehaze", "/v1/batch")[random.integers(0, 2)]
        headers = FORM if kind == "FORM" else {}
        answer = client.post(path, content=damaged(random, bodies[kind]), headers=headers)
        assert answer.status_code in (200, 400, 413, 415, 422), (index, kind, answer.text)
        assert answer.status_code == 200 or set(answer.json()) >= {"status", "code", "detail", "request_id"}
