"""What is no photograph is named, with what to do about it; what is one never is."""

from __future__ import annotations

import base64
import gzip
import io
import json
import lzma
import tarfile
from collections.abc import Callable
from typing import Any
from urllib.parse import urlencode

import pytest
from fastapi.testclient import TestClient
from PIL import Image

from serving.sniff import explain
from tests.models.images.raws import dng

Jpeg = Callable[..., bytes]
Service = Callable[..., TestClient]


def tar(data: bytes) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        entry = tarfile.TarInfo("photo.jpg")
        entry.size = len(data)
        archive.addfile(entry, io.BytesIO(data))
    return buffer.getvalue()


def gif() -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (9, 9)).save(buffer, "GIF")
    return buffer.getvalue()


MADE: dict[str, Callable[[bytes], bytes]] = {
    "a JPEG in base64": base64.b64encode,
    "a JPEG in base64; decode": base64.encodebytes,
    "a data: URL": lambda jpeg: b"data:image/jpeg;base64," + base64.b64encode(jpeg),
    "compressed by gzip": gzip.compress,
    "compressed by xz": lzma.compress,
    "a tar archive": tar,
    "JSON": lambda jpeg: json.dumps({"image": base64.b64encode(jpeg).decode()}).encode(),
    "JSON; ": lambda _: b'\xef\xbb\xbf [{"url": "x"}]',
    "PDF": lambda _: b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n1 0 obj",
    "a HEIC in base64": lambda _: base64.b64encode(b"\0\0\0\x24ftypheic\0\0\0\0mif1heic"),
    "an AVIF in base64": lambda _: base64.b64encode(b"\0\0\0\x20ftypavif\0\0\0\0avifmif1"),
    "a camera's raw file": lambda _: b"\0\0\0\x18ftypcrx \0\0\0\1crx isom",
    "a camera's raw file; ": lambda _: b"FUJIFILMCCD-RAW 0201FF129502",
    "a video (MP4)": lambda _: b"\0\0\0\x20ftypisom\0\0\2\0isomiso2avc1mp41",
    "a video (Matroska or WebM)": lambda _: b"\x1a\x45\xdf\xa3\xa3\x42\x86\x81\1",
    "a video (AVI); ": lambda _: b"RIFF\x24\0\1\0AVI LIST",
    "GIF": lambda _: gif(),
    "JPEG XL": lambda _: b"\xff\x0a\xfa\x7f",
    "an HTML page": lambda _: b"\n<!DOCTYPE html><html>404</html>",
    "SVG": lambda _: b"<?xml version='1.0'?>\n<svg xmlns='http://www.w3.org/2000/svg'/>",
    "a pointer of Git LFS": lambda _: b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n",
    "a multipart form": lambda jpeg: (
        b'--x1\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n' + jpeg
    ),
    "a url-encoded form": lambda jpeg: urlencode({"strength": 0.5, "file": jpeg}).encode(),
    "the name of a file": lambda _: b"photo.jpg\n",
    "a URL": lambda _: b"https://example.org/photo.jpg",
    "a picture read as text": lambda jpeg: jpeg.decode("utf-8", "replace").encode(),
    "a picture read as text; ": lambda jpeg: jpeg.decode("latin-1").encode(),
    "a picture without its line breaks": lambda jpeg: jpeg.translate(None, b"\0\r\n"),  # curl --data @photo.jpg
    "what Python prints": lambda jpeg: repr(jpeg).encode(),
    "text (UTF-16)": lambda _: "photo".encode("utf-16"),
    "text": lambda _: "no photograph: \N{SNOWMAN}".encode() * 300,
}


@pytest.mark.parametrize("what", MADE)
def test_what_it_is_is_said(service: Service, jpeg: Jpeg, what: str) -> None:
    client, body = service(), MADE[what](jpeg())
    for answer in (client.post("/v1/dehaze", content=body), client.post("/v1/score", files={"file": ("a.jpg", body)})):
        assert answer.status_code in (415, 422), answer.text
        detail = answer.json()["detail"]
        assert detail.startswith(f"this is {what}"), detail
        assert len(detail.partition("; ")[2]) > 10, "what to do?"
    entry = client.post("/v1/batch", content=body).json()
    assert entry["detail"].startswith(f"this is {what}")
    assert "a batch is a zip archive, or several files" in entry["detail"]


def test_a_raw_file_is_developed_by_its_sender(service: Service) -> None:
    for path in ("/v1/dehaze", "/v1/score"):
        answer = service().post(path, content=dng())
        assert (answer.status_code, answer.json()["code"]) == (415, "unsupported_format")
        assert answer.json()["detail"] == "this is a camera's raw file; develop it to JPEG, PNG or TIFF first"


def test_a_zip_archive_is_sent_to_the_batch(service: Service) -> None:
    answer = service().post("/v1/dehaze", content=b"PK\x03\x04" + bytes(100))
    assert answer.json()["detail"] == "this is a zip archive; send it to /v1/batch"


@pytest.mark.parametrize("encoding", ["gzip", "br", "deflate, gzip"])
def test_a_content_encoding_is_refused_by_name(service: Service, jpeg: Jpeg, encoding: str) -> None:
    for path in ("/v1/dehaze", "/v1/batch", "/v1/score"):
        answer = service().post(path, content=gzip.compress(jpeg()), headers={"Content-Encoding": encoding})
        assert (answer.status_code, answer.json()["code"]) == (415, "unsupported_format")
        assert f"Content-Encoding: {encoding}; send it as it is" in answer.json()["detail"]
    plain = service().post("/v1/dehaze", content=jpeg(), headers={"Content-Encoding": "identity"})
    assert plain.status_code == 200


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "AVIF", "TIFF", "BMP"])
def test_a_photograph_is_none_of_these(jpeg: Jpeg, kind: str) -> None:
    for seed in range(5):
        assert explain(jpeg(seed, format=kind)) is None


def test_damage_keeps_its_own_words(service: Service, jpeg: Jpeg) -> None:
    problem: Any = service().post("/v1/dehaze", content=jpeg()[:900]).json()
    assert problem["code"] == "truncated"
    assert "this is" not in problem["detail"]
