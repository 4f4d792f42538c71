"""Bodies that are damaged or made up: a problem, never a failure of the service."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable

import numpy as np
import pytest
from fastapi.testclient import TestClient
from torch import Tensor

from models.inference import Dehazed
from models.settings import parse
from serving.config import ServingConfig
from serving.replica import Replica

COUNT = 600
FORM = {"content-type": "multipart/form-data; boundary=xyz"}


class Nothing:
    """A network that changes nothing, at once."""

    def run(self, hazy: Tensor) -> Dehazed:
        return Dehazed(hazy, hazy[:, :1])


@pytest.fixture
def bodies(jpeg: Callable[..., bytes]) -> dict[str, bytes]:
    whole = {kind: jpeg(1, 24, 32, kind) for kind in ("JPEG", "PNG", "WEBP", "TIFF", "BMP")}
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for kind, data in whole.items():
            archive.writestr(f"photo.{kind.lower()}", data)
    head = b'--xyz\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n'
    form = b"".join(head + data + b"\r\n" for data in whole.values()) + b"--xyz--\r\n"
    return whole | {"ZIP": buffer.getvalue(), "FORM": form}


def damaged(random: np.random.Generator, whole: bytes) -> bytes:
    """A few bytes changed, left out or put in, or the end cut off."""
    data = bytearray(whole)
    for _ in range(random.integers(1, 6)):
        place, size = int(random.integers(0, len(data))), int(random.integers(1, 30))
        match random.integers(0, 4):
            case 0:
                data[place] = random.integers(0, 256)
            case 1:
                del data[place : place + size]
            case 2:
                data[place:place] = random.bytes(size)
            case _:
                del data[max(1, place) :]
        data = data or bytearray(b"x")
    return bytes(data)


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
