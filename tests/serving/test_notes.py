"""What an answer is not as the photograph had it is said: by the service in a header and in manifests."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Callable
from typing import Any

from fastapi.testclient import TestClient

from models.options import DehazeOptions
from models.predictor import Predictor

Service = Callable[..., TestClient]
Jpeg = Callable[..., bytes]


def test_the_service_says_what_a_nearly_whole_file_lacked(service: Service, jpeg: Jpeg) -> None:
    client, whole = service(), jpeg()
    assert "X-Notes" not in client.post("/v1/dehaze", content=whole).headers
    answer = client.post("/v1/dehaze", content=whole[:-2])
    assert answer.status_code == 200
    assert answer.headers["X-Notes"] == "the JPEG file has no end marker"
    assert answer.content == client.post("/v1/dehaze", content=whole).content
    files: Any = [("file", (name, data)) for name, data in (("a.jpg", whole), ("b.jpg", whole[:-2]))]
    archive = zipfile.ZipFile(io.BytesIO(client.post("/v1/batch", files=files).content))
    manifest = json.loads(archive.read("manifest.json"))
    assert [entry["notes"] for entry in manifest["files"]] == [[], ["the JPEG file has no end marker"]]


def test_a_strict_service_refuses_it(service: Service, jpeg: Jpeg) -> None:
    answer = service(limits={"strict": True}).post("/v1/dehaze", content=jpeg()[:-2])
    assert (answer.status_code, answer.json()["code"]) == (422, "truncated")


def test_names_of_damaged_parts_do_no_harm_in_a_header(service: Service, jpeg: Jpeg) -> None:
    png = jpeg(format="PNG")
    parts = b"".join(
        b"\0\0\0\0" + bytes([0x61 + number % 26]) + b"\r\n" + bytes([number]) + bytes(4) for number in range(200)
    )
    notes = service().post("/v1/dehaze", content=png[:33] + parts + png[33:]).headers["X-Notes"]
    assert notes == "damaged parts of the PNG file were left out: ?"


def test_the_command_line_is_told_too(jpeg: Jpeg) -> None:
    predictor, comment = Predictor("dcp", threads=1), b"\xff\xe5\0\5abc"
    data = jpeg()[:2] + comment + jpeg()[2:-2]
    _, info = predictor.dehaze_bytes(data, DehazeOptions(keep_metadata=True))
    assert (info.notes, info.lost) == (("the JPEG file has no end marker",), ("unknown application data",))
    assert predictor.dehaze_bytes(data)[1].lost == ()
