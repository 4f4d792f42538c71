"""The files of the page: who gets them, with which headers, and that they name no other host."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from models.options import MEDIA_TYPES, VideoOptions
from serving import errors
from serving.engine.slots import ModelState
from serving.http import page

Service = Callable[..., TestClient]
SERVING = Path(page.__file__).parents[1]
OWN = sorted(path for path in (SERVING / "web").iterdir())
SWAGGER = ("/web/swagger-ui-bundle.js", "/web/swagger-ui.css")
PATHS = sorted({"/", "/docs", *SWAGGER, *(f"/web/{path.name}" for path in OWN if path.suffix != ".html")})
TOKEN = "a-token-of-some-length"


class Idle:
    """A backend that is there."""

    dehaze = frame = None

    async def models(self) -> list[ModelState]:
        return [ModelState("dcp", "dcp", "dcp", "ready", default=True)]


@pytest.fixture
def client(service: Service) -> TestClient:
    return service(Idle())


@pytest.mark.parametrize("path", PATHS)
def test_headers(client: TestClient, path: str) -> None:
    answer = client.get(path)
    kind = {"css": "text/css", "js": "text/javascript", "svg": "image/svg+xml"}.get(
        path.rpartition(".")[2], "text/html"
    )
    assert answer.status_code == 200
    assert answer.headers["content-type"].partition(";")[0] == kind
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["x-frame-options"] == "DENY"
    assert answer.headers["referrer-policy"] == "no-referrer"
    assert answer.headers["cross-origin-resource-policy"] == "same-origin"
    assert answer.headers["cache-control"] == "no-cache"
    policy = dict(part.strip().split(" ", 1) for part in answer.headers["content-security-policy"].split(";"))
    assert (policy["default-src"], policy["script-src"], policy["style-src"]) == ("'none'", "'self'", "'self'")
    assert policy["connect-src"] == "'self'"


@pytest.mark.parametrize("path", ["/", "/web/app.js", "/web/swagger-ui.css"])
def test_head_and_what_the_browser_has_already(client: TestClient, path: str) -> None:
    whole, head = client.get(path), client.head(path)
    assert (head.status_code, head.content) == (200, b"")
    for name in ("content-length", "content-type", "etag", "cache-control", "content-security-policy"):
        assert head.headers[name] == whole.headers[name]
    assert int(head.headers["content-length"]) == len(whole.content)
    for known in (whole.headers["etag"], f'"x", W/{whole.headers["etag"]}', "*"):
        again = client.get(path, headers={"If-None-Match": known})
        assert (again.status_code, again.content) == (304, b"")
        assert again.headers["etag"] == whole.headers["etag"]
    assert client.get(path, headers={"If-None-Match": '"other"'}).status_code == 200


def test_files_are_open_and_data_is_not(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DEHAZE_TOKENS", TOKEN)
    client = service(Idle())
    assert {client.get(path).status_code for path in PATHS} == {200}
    assert {client.get(path).status_code for path in ("/v1/models", "/openapi.json")} == {401}


@pytest.mark.parametrize(
    "path",
    [
        "/web/",
        "/web/../page.py",
        "/web/%2e%2e/page.py",
        "/web/..%2fpage.py",
        "/page.py",
    ],
)
def test_nothing_else_is_served(client: TestClient, path: str) -> None:
    assert client.get(path).json()["code"] == "not_found"


@pytest.mark.parametrize("path", OWN, ids=lambda path: path.name)
def test_no_other_host_and_nothing_inline(path: Path) -> None:
    text = path.read_text()
    addresses = set(re.findall(r"(?:https?:)?//[\w.-]+\.\w+[^\s\"']*", text)) - {"http://www.w3.org/2000/svg"}
    assert addresses == set()
    assert not re.search(r"@import|url\((?!#)|\son\w+=\"|\sstyle=\"|<style|javascript:|innerHTML|\beval\(", text)
    assert not re.search(r"<script(?![^>]*\ssrc=)", text)


def test_references_are_relative_and_lead_somewhere(client: TestClient) -> None:
    """Relative, so that the page also works below a path of a reverse proxy."""
    for path in OWN:
        for reference in re.findall(r'(?:href|src)="([^"#]+)"', path.read_text()):
            assert not reference.startswith("/"), (path.name, reference)
            assert client.get("/" + reference.removeprefix("./")).status_code == 200, (path.name, reference)
        for name in re.findall(r'from "\./([\w.]+)"', path.read_text()):
            assert f"/web/{name}" in PATHS, (path.name, name)


def test_every_code_has_a_sentence() -> None:
    sentences = set(re.findall(r"^  (\w+): \{ text:", (SERVING / "web" / "messages.js").read_text(), re.MULTILINE))
    assert set(errors.CODES) - sentences == set()


def test_the_page_takes_every_format(service: Service) -> None:
    """Its own lists, against those of the service: what it recognizes, what it offers to save, what it lets choose."""
    script = (SERVING / "web" / "photo.js").read_text()
    told = service(Idle()).get("/v1/models").json()["limits"]["formats"]
    assert set(re.findall(r'\["([A-Z]+)", /', script)) == set(told)
    media = re.search(r"const MEDIA = \{(.*?)\};", script)
    assert media is not None
    assert dict(re.findall(r'(\w+): "([\w/]+)"', media[1])) == MEDIA_TYPES
    chosen = re.findall(r'accept="([^"]+)"', (SERVING / "web" / "index.html").read_text())
    assert len(chosen) == 2
    for accept in chosen:
        assert {".avif", ".heic", ".heif", ".hif"} <= set(accept.split(","))


def test_the_page_knows_the_smoothing_of_the_service() -> None:
    """It asks for another one only."""
    told = re.search(r"^const SMOOTHING = ([0-9.]+);", (SERVING / "web" / "gallery.js").read_text(), re.MULTILINE)
    assert told is not None
    assert float(told[1]) == VideoOptions.model_fields["smoothing"].default


def test_limits_are_told(service: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings: dict[str, Any] = {"limits": {"max_bytes": 1000, "max_pixels": 2000, "formats": ["PNG", "JPEG"]}}
    told = service(Idle(), **settings).get("/v1/models").json()["limits"]
    assert told.pop("no_videos") == "its configuration names no jobs.folder (--jobs FOLDER)"
    assert told.pop("max_video_bytes") > 0
    assert told == settings["limits"]
    settings["jobs"] = {"folder": str(tmp_path), "max_bytes": 3000}
    told = service(Idle(), **settings).get("/v1/models").json()["limits"]
    assert (told["max_video_bytes"], told["no_videos"]) == (3000, None)
    monkeypatch.setattr("serving.http.jobs.find_spec", lambda name: None)
    client = service(Idle(), **settings)
    assert client.get("/v1/models").json()["limits"]["no_videos"] == "PyAV is not installed"
    answer = client.post("/v1/jobs", content=b"\0\0\0\x18ftypmp42")
    assert (answer.status_code, answer.json()["code"]) == (415, "unsupported_format")
    assert "PyAV is not installed" in answer.json()["detail"]
