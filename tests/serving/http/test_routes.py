"""The routes: what comes back, with which headers, and what a problem looks like. Without Ray."""

from __future__ import annotations

import asyncio
import io
import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient
from PIL import Image

from models import checkpoints, zoo
from models.predictor import Predictor
from pipelines.dehaze.apply import main as apply_main
from serving.engine.engine import Answer, DehazeTask
from tests.serving.hostile import archive as zipped

Jpeg = Callable[..., bytes]
Service = Callable[..., TestClient]


@pytest.mark.parametrize("model", ["dcp", "corun-compact"])
@pytest.mark.parametrize(
    ("kind", "query", "flags"),
    [
        ("JPEG", {}, []),
        ("PNG", {"strength": "0.6"}, ["--strength", "0.6"]),
        ("JPEG", {"format": "webp", "quality": "80"}, ["--format", "webp", "--quality", "80"]),
        (
            "PNG",
            {"strength": "-0.5", "distance": "0.3", "keep_exposure": "true", "protect": "1"},
            ["--strength", "-0.5", "--distance", "0.3", "--keep-exposure", "--protect"],
        ),
        ("PNG", {"strength": "auto"}, ["--strength", "auto"]),
    ],
)
def test_bytes_are_those_of_the_command_line(
    service: Service, jpeg: Jpeg, tmp_path: Path, model: str, kind: str, query: dict[str, str], flags: list[str]
) -> None:
    data = jpeg(3, 75, 101, kind)
    file = tmp_path / f"photo.{kind.lower()}"
    file.write_bytes(data)
    assert apply_main([str(file), "--model", model, "--out", str(tmp_path / "out"), *flags]) == 0
    (expected,) = (tmp_path / "out").iterdir()
    client = service(model=model, batching={"max_size": 8})
    answer = client.post("/v1/dehaze", params=query, content=data)
    assert answer.status_code == 200, answer.text
    assert answer.content == expected.read_bytes()


HEIC = Path(__file__).parents[2] / "models" / "images" / "heic" / "turned.heic"  # 48x64 when it is upright


class TestDehaze:
    def test_heic_is_answered_with_jpeg(self, service: Service) -> None:
        client, data = service(), HEIC.read_bytes()
        for query, kind, media in (({}, "JPEG", "image/jpeg"), ({"format": "avif"}, "AVIF", "image/avif")):
            for sent in ({"content": data}, {"files": {"file": ("a.heic", data, "image/heic")}}):
                answer = client.post("/v1/dehaze", params=query, **sent)
                assert (answer.status_code, answer.headers["content-type"]) == (200, media), answer.text
                with Image.open(io.BytesIO(answer.content)) as image:
                    assert (image.format, image.size) == (kind, (48, 64))
        answer = client.post("/v1/dehaze", params={"format": "heic"}, content=data)
        assert (answer.status_code, answer.json()["code"]) == (400, "bad_request")
        assert "'heic' is not one of avif, bmp" in answer.json()["detail"]
        assert client.post("/v1/dehaze", content=data[:600]).json()["code"] == "truncated"

    def test_headers_tell_how_it_was_made(self, service: Service, jpeg: Jpeg) -> None:
        answer = service(scorer={}).post("/v1/dehaze", content=jpeg(), headers={"X-Request-Id": "abc-1"})
        assert answer.headers["content-type"] == "image/jpeg"
        assert answer.headers["x-model"] == "dcp"
        assert answer.headers["x-request-id"] == "abc-1"
        for part in ("decode", "queue", "model", "encode"):
            assert f"{part};dur=" in answer.headers["server-timing"]
        before, after = (float(answer.headers[f"x-clearness-{when}"]) for when in ("before", "after"))
        assert 0 <= before < after <= 1

    def test_the_haze_is_told_in_a_number_and_in_words(self, service: Service, jpeg: Jpeg) -> None:
        answer = service().post("/v1/dehaze", content=jpeg())
        info = Predictor("dcp").dehaze_bytes(jpeg())[1]
        assert info.haze is not None
        assert float(answer.headers["x-haze"]) == pytest.approx(info.haze, abs=1e-4)
        assert answer.headers["x-haze-verdict"] == info.verdict in ("light haze", "haze", "dense haze")

    def test_without_a_transmission_controls_that_need_it_say_so(
        self, service: Service, jpeg: Jpeg, tmp_path: Path
    ) -> None:
        network = {"name": "cddgan", "width": 4, "blocks": 1}
        client = service(model=str(checkpoints.save(tmp_path / "model", zoo.build(network), {"network": network})))
        for query in ({"distance": "0.5"}, {"strength": "auto"}, {"strength": "-1"}):
            answer = client.post("/v1/dehaze", params=query, content=jpeg())
            assert (answer.status_code, answer.json()["code"]) == (400, "no_transmission")
            assert answer.json()["detail"].startswith(next(iter(query)))
        answer = client.post("/v1/dehaze", params={"strength": "1.5", "keep_exposure": "true"}, content=jpeg())
        assert answer.status_code == 200
        assert "x-haze" not in answer.headers

    def test_without_a_scorer_there_is_no_clearness(self, service: Service, jpeg: Jpeg) -> None:
        client = service()
        assert "x-clearness-before" not in client.post("/v1/dehaze", content=jpeg()).headers
        assert client.post("/v1/score", content=jpeg()).json()["code"] == "no_scorer"

    def test_forms_and_bodies_are_the_same(self, service: Service, jpeg: Jpeg) -> None:
        client, data = service(), jpeg()
        form = client.post("/v1/dehaze", files={"file": ("hazy.jpg", data, "image/jpeg")})
        assert form.content == client.post("/v1/dehaze", content=data).content
        nameless = b'--x\r\nContent-Disposition: form-data; name="file"\r\n\r\n' + data + b"\r\n--x--\r\n"
        headers = {"Content-Type": "multipart/form-data; boundary=x"}
        assert client.post("/v1/dehaze", content=nameless, headers=headers).content == form.content

    def test_panoramas_are_wrapped_by_what_they_say_or_what_is_asked(self, service: Service) -> None:
        pixels = np.random.default_rng(0).integers(100, 220, (48, 96, 3), dtype=np.uint8)
        said = '<x GPano:ProjectionType="equirectangular" GPano:FullPanoWidthPixels="96" xmlns:GPano="http://g/"/>'
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, "JPEG", quality=95, xmp=said.encode())
        client, data = service(batching={"max_size": 4}), buffer.getvalue()
        default, *others = (
            client.post("/v1/dehaze", params=query, content=data) for query in ({}, {"wrap": "true"}, {"wrap": "false"})
        )
        assert [answer.status_code for answer in (default, *others)] == [200] * 3
        assert default.content == others[0].content == Predictor("dcp").dehaze_bytes(data)[0]
        assert default.content != others[1].content
        assert "panorama of 360 degrees" in default.headers["x-notes"]

    def test_an_invalid_id_is_replaced(self, service: Service, jpeg: Jpeg) -> None:
        client = service()
        for given in ("", "a b", "x" * 129, "ü".encode()):
            answer = client.get("/healthz", headers={"X-Request-Id": given})
            assert len(answer.headers["x-request-id"]) == 32

    def test_transmission(self, service: Service, jpeg: Jpeg) -> None:
        answer = service().post("/v1/dehaze", params={"output": "transmission"}, content=jpeg())
        pixels = np.asarray(Image.open(io.BytesIO(answer.content)).convert("RGB")).astype(int)
        assert pixels.shape == (96, 128, 3)
        assert np.abs(pixels - pixels[:, :, :1]).max() <= 2  # gray, as far as JPEG can
        assert pixels[-20:].mean() > pixels[:20].mean() + 20  # the haze is at the top

    def test_side_by_side(self, service: Service, jpeg: Jpeg) -> None:
        client, data = service(), jpeg(format="PNG")
        pair, alone = (
            np.asarray(Image.open(io.BytesIO(client.post("/v1/dehaze", params=query, content=data).content)))
            for query in ({"output": "side-by-side"}, {})
        )
        assert np.array_equal(pair[:, :128], np.asarray(Image.open(io.BytesIO(data))))
        assert np.array_equal(pair[:, 128:], alone)

    def test_other_models(self, service: Service, jpeg: Jpeg) -> None:
        client, data = service(models={"compact": "corun-compact"}), jpeg()
        answer = client.post("/v1/dehaze", params={"model": "compact"}, content=data)
        assert answer.headers["x-model"] == "corun-compact"
        assert answer.content == Predictor("corun-compact").dehaze_bytes(data)[0]
        assert client.post("/v1/dehaze", params={"model": "dcp"}, content=data).headers["x-model"] == "dcp"


@pytest.mark.parametrize(
    ("content", "query", "status", "code"),
    [
        (b"just some text", {}, 415, "unsupported_format"),
        ("truncated", {}, 422, "truncated"),
        ("large", {}, 413, "too_large"),
        (b"\xff\xd8\xff" + bytes(200_000), {}, 413, "too_large"),
        (b"", {}, 400, "bad_request"),
        ("whole", {"distance": "1.5"}, 400, "bad_request"),
        ("whole", {"protect": "sky"}, 400, "bad_request"),
        ("whole", {"format": "gif"}, 400, "bad_request"),
        ("whole", {"output": "movie"}, 400, "bad_request"),
        ("whole", {"model": "../../etc"}, 400, "unknown_model"),
        ("whole", {"url": "http://127.0.0.1/x.jpg"}, 400, "bad_request"),
    ],
)
def test_problems_have_a_status_and_a_code(
    service: Service, jpeg: Jpeg, content: Any, query: dict[str, Any], status: int, code: str
) -> None:
    client = service(limits={"max_bytes": 150_000, "max_pixels": 50_000})
    if isinstance(content, str):
        whole = jpeg(3, 300, 300) if content == "large" else jpeg(3)
        content = whole[: len(whole) // 2] if content == "truncated" else whole
    answer = client.post("/v1/dehaze", params=query, content=content)
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    problem = answer.json()
    assert (problem["status"], problem["code"]) == (status, code)
    assert problem["request_id"] == answer.headers["x-request-id"]


def test_other_paths_and_methods_are_problems(service: Service, jpeg: Jpeg) -> None:
    client = service()
    assert client.get("/nothing").json()["code"] == "not_found"
    got = client.get("/v1/dehaze").json()
    assert (got["code"], got["detail"]) == ("method_not_allowed", "'/v1/dehaze' takes POST, not GET")
    for path in ("/v1/dehaze/", "//v1/dehaze", "/v1/dehase"):
        answer = client.post(path, content=jpeg(), follow_redirects=False)
        assert (answer.status_code, answer.json()["code"]) == (404, "not_found")
        assert "did you mean '/v1/dehaze'?" in answer.json()["detail"]
    for path in ("/healthz", "/", "/web/app.js", "/openapi.json"):
        answer = client.post(path)
        assert (answer.status_code, answer.headers["allow"]) == (405, "GET, HEAD")
        assert answer.json()["detail"] == f"'{path}' takes GET, not POST"


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/v1/models", "/openapi.json", "/", "/web/app.js", "/nothing"])
def test_head_is_the_head_of_get(service: Service, path: str) -> None:
    client = service()
    head, whole = client.head(path), client.get(path)
    assert head.content == b""
    assert (head.status_code, head.headers["content-length"]) == (whole.status_code, whole.headers["content-length"])
    assert head.headers["content-type"] == whole.headers["content-type"]
    assert client.head("/v1/dehaze").status_code == 405


class TestWhatIsNotKnownIsRefused:
    @pytest.mark.parametrize(
        ("method", "path", "told"),
        [
            ("POST", "/v1/dehaze?strenght=0.1", "'strenght'; did you mean 'strength'?"),
            ("POST", "/v1/dehaze?Strength=0.1", "'Strength'; did you mean 'strength'?"),
            ("POST", "/v1/batch?qualty=5", "'qualty'; did you mean 'quality'?"),
            ("POST", "/v1/dehaze?strength=0&strength=1", "'strength' is there 2 times"),
            ("POST", "/v1/score?strength=0.1", "'strength'; this path takes none"),
            ("GET", "/v1/models?name=dcp", "'name'; this path takes none"),
            ("GET", "/readyz?model=dcp", "'model'; this path takes none"),
            ("GET", "/healthz?x", "'x'; this path takes none"),
        ],
    )
    def test_in_the_query(self, service: Service, jpeg: Jpeg, method: str, path: str, told: str) -> None:
        answer = service().request(method, path, content=jpeg() if method == "POST" else None)
        assert (answer.status_code, answer.json()["code"]) == (400, "bad_request"), answer.text
        assert told in answer.json()["detail"]

    def test_links_to_the_page_may_have_a_query(self, service: Service) -> None:
        assert service().get("/?utm_source=mail").status_code == 200

    @pytest.mark.parametrize("path", ["/v1/dehaze", "/v1/batch", "/v1/score"])
    def test_in_a_form(self, service: Service, jpeg: Jpeg, path: str) -> None:
        answer = service().post(path, files={"file": ("a.jpg", jpeg())}, data={"strength": "0.1"})
        assert (answer.status_code, answer.json()["code"]) == (400, "bad_request"), answer.text
        assert answer.json()["detail"].startswith("the form's field 'strength' is no file")

    def test_a_file_under_another_name(self, service: Service, jpeg: Jpeg) -> None:
        answer = service().post("/v1/dehaze", files={"image": ("a.jpg", jpeg())})
        assert answer.status_code == 400
        assert "in its field 'image'; expected 'file'" in answer.json()["detail"]
        two = [("file", ("a.jpg", jpeg())), ("file", ("b.jpg", jpeg()))]
        refused = service().post("/v1/dehaze", files=two).json()
        assert refused["code"] == "too_many_files"
        assert refused["detail"].endswith("; send several to /v1/batch")


class TestScore:
    def test_clear_is_clearer_than_hazy(self, service: Service, jpeg: Jpeg, photo: Callable[..., Any]) -> None:
        client = service(scorer={})
        buffer = io.BytesIO()
        Image.fromarray(photo(1)).save(buffer, "PNG")
        hazy, clear = (client.post("/v1/score", content=data).json() for data in (jpeg(1), buffer.getvalue()))
        assert set(hazy) == {"width", "height", "clearness", "quality"}
        assert (hazy["width"], hazy["height"]) == (128, 96)
        assert hazy["clearness"] < clear["clearness"]


class TestState:
    def test_models_and_health(self, service: Service) -> None:
        client = service(models={"compact": "corun-compact"})
        assert client.get("/healthz").json() == {"status": "ok"}
        assert client.get("/readyz").json() == {"status": "ready", "model": "dcp"}
        default, other = client.get("/v1/models").json()["models"]
        assert default == {
            "name": "dcp", "source": "dcp", "version": "dcp", "status": "ready", "problem": None, "default": True,
        }  # fmt: skip
        assert (other["name"], other["status"], other["default"]) == ("compact", "on demand", False)


def opened(content: bytes) -> tuple[zipfile.ZipFile, dict[str, Any]]:
    archive = zipfile.ZipFile(io.BytesIO(content))
    return archive, json.loads(archive.read("manifest.json"))


class TestBatch:
    def test_a_form_of_files(self, service: Service, jpeg: Jpeg) -> None:
        client = service()
        files = [("file", (name, jpeg(seed))) for seed, name in enumerate(("a.jpg", "b.jpg", "a.jpg"))]
        archive, manifest = opened(client.post("/v1/batch", files=files).content)
        assert (manifest["ok"], manifest["failed"]) == (3, 0)
        assert [entry["source"] for entry in manifest["files"]] == ["a.jpg", "b.jpg", "a.jpg"]
        assert archive.namelist() == ["a.jpg", "b.jpg", "a (2).jpg", "manifest.json"]
        for seed, entry in enumerate(manifest["files"]):
            assert archive.read(entry["file"]) == client.post("/v1/dehaze", content=jpeg(seed)).content

    def test_heic_in_a_batch_becomes_jpeg(self, service: Service, jpeg: Jpeg) -> None:
        sent = zipped(
            {"trip/one.HEIC": HEIC.read_bytes(), "trip/one.jpg": jpeg(1), "two.avif": jpeg(2, 48, 64, "AVIF")}.items()
        )
        archive, manifest = opened(service().post("/v1/batch", content=sent).content)
        files = [entry["file"] for entry in manifest["files"]]
        assert (manifest["ok"], len(set(files))) == (3, 3)
        assert [Path(name).suffix for name in files] == [".jpg", ".jpg", ".avif"]
        for name, kind in zip(files, ("JPEG", "JPEG", "AVIF"), strict=True):
            assert Image.open(io.BytesIO(archive.read(name))).format == kind

    def test_a_zip_with_failures(self, service: Service, jpeg: Jpeg) -> None:
        sent = zipped({
                "trip/one.jpg": jpeg(1), "trip/": b"", "__MACOSX/trip/._one.jpg": b"x", "notes.txt": b"hello",
                "../../evil.jpg": jpeg(2), "cut.jpg": jpeg(3)[:900], "manifest.json": jpeg(4),
            }.items())  # fmt: skip
        answer = service().post("/v1/batch", params={"format": "png"}, content=sent)
        archive, manifest = opened(answer.content)
        assert answer.headers["content-type"] == "application/zip"
        found = {entry["source"]: entry for entry in manifest["files"]}
        assert {name: entry["file"] for name, entry in found.items()} == {
            "trip/one.jpg": "trip/one.png", "notes.txt": None, "../../evil.jpg": "evil.png", "cut.jpg": None,
            "manifest.json": "manifest.png",
        }  # fmt: skip
        assert found["notes.txt"]["problem"]["code"] == "unsupported_format"
        assert found["cut.jpg"]["problem"]["code"] == "truncated"
        assert archive.testzip() is None

    def test_equal_names_are_numbered_in_their_order(self, service: Service) -> None:
        class Later:
            """The first is done last."""

            async def dehaze(self, task: DehazeTask) -> Answer:
                await asyncio.sleep(0.4 / (1 + task.data[0]))
                return Answer(task.data, "JPEG", 1, 1, "later", None, None, {})

        files = [("file", ("a.jpg", bytes([index]))) for index in range(6)]
        archive, manifest = opened(service(Later()).post("/v1/batch", files=files).content)
        names = ["a.jpg", *(f"a ({index}).jpg" for index in range(2, 7))]
        assert [entry["file"] for entry in manifest["files"]] == names
        assert archive.namelist() == [*names, "manifest.json"]
        assert [archive.read(name) for name in names] == [bytes([index]) for index in range(6)]

    def test_litter_is_left_out_and_named(self, service: Service, jpeg: Jpeg) -> None:
        litter = (
            ".DS_Store", "trip/.DS_Store", "__MACOSX/trip/._one.jpg", "trip/._one.jpg", "Thumbs.db", "trip/desktop.ini",
            "@eaDir/one.jpg/SYNOFILE_THUMB.jpg",
        )  # fmt: skip
        client = service(requests={"batch_files": 1})
        sent = zipped(({"trip/one.jpg": jpeg(1)} | dict.fromkeys(litter, b"x")).items())
        _, manifest = opened(client.post("/v1/batch", content=sent).content)
        assert (manifest["ok"], manifest["failed"], manifest["skipped"]) == (1, 0, list(litter))
        files = [("file", ("one.jpg", jpeg(1))), ("file", (".DS_Store", b"x"))]
        _, manifest = opened(service().post("/v1/batch", files=files).content)
        assert (manifest["ok"], manifest["failed"], manifest["skipped"]) == (1, 0, [".DS_Store"])

    def test_names_that_macos_wrote(self, service: Service, jpeg: Jpeg) -> None:
        """UTF-8 without the flag that says so."""
        sent = zipped({"xx/Fujisan-Fuji-11.jpg": jpeg(1)}.items())
        sent = sent.replace(
            b"xx/Fujisan-Fuji-11.jpg", "\N{LATIN SMALL LETTER U WITH DIAERESIS}/\u5bcc\u58eb\u5c71-12345.jpg".encode()
        )
        archive, manifest = opened(service().post("/v1/batch", content=sent).content)
        assert manifest["files"][0]["source"] == "\xfc/\u5bcc\u58eb\u5c71-12345.jpg"
        assert archive.namelist() == ["\xfc/\u5bcc\u58eb\u5c71-12345.jpg", "manifest.json"]

    def test_a_zip_in_a_form(self, service: Service, jpeg: Jpeg) -> None:
        answer = service().post("/v1/batch", files={"file": ("photos.zip", zipped({"one.jpg": jpeg()}.items()))})
        assert opened(answer.content)[1]["ok"] == 1

    @pytest.mark.parametrize(
        ("content", "status", "code"),
        [
            (b"PK\x03\x04 and then nothing", 422, "corrupt_archive"),
            (b"text", 415, "unsupported_format"),
            (zipped({}.items()), 400, "bad_request"),
            (zipped({"trip/": b"", "trip/.DS_Store": b"x"}.items()), 400, "bad_request"),
            (b"", 400, "bad_request"),
            (zipped({f"{index}.jpg": b"x" for index in range(9)}.items()), 413, "too_many_files"),
            (zipped({"a.jpg": bytes(600_000), "b.jpg": bytes(600_000)}.items()), 413, "too_large"),
        ],
    )
    def test_archives_that_are_refused(self, service: Service, content: bytes, status: int, code: str) -> None:
        client = service(requests={"batch_files": 8, "batch_bytes": 1_000_000})
        answer = client.post("/v1/batch", content=content)
        assert (answer.status_code, answer.json()["code"]) == (status, code)

    def test_results_beyond_the_limit_are_failures(self, service: Service, jpeg: Jpeg) -> None:
        client = service(requests={"batch_answer_bytes": 40_000, "batch_parallel": 1})
        sent = zipped({f"{seed}.jpg": jpeg(seed) for seed in range(3)}.items())
        _, manifest = opened(client.post("/v1/batch", params={"format": "bmp"}, content=sent).content)
        assert [entry["status"] for entry in manifest["files"]] == ["ok", "failed", "failed"]
        assert manifest["files"][2]["problem"]["code"] == "answer_full"


def test_a_strength_that_is_none_is_told_what_may_be(
    service: Callable[..., TestClient], jpeg: Callable[..., bytes]
) -> None:
    client = service()
    for value in ("AUTO", "", "nan", "2.1", "much"):
        answer = client.post("/v1/dehaze", params={"strength": value}, content=jpeg())
        assert (answer.status_code, answer.json()["code"]) == (400, "bad_request")
        assert answer.json()["detail"] == f"strength={value}: expected a number from -1 to 2, or auto"


def test_a_path_of_several_methods_names_them_all(service: Callable[..., TestClient], tmp_path: Path) -> None:
    answer = service(jobs={"folder": str(tmp_path / "jobs")}).put("/v1/jobs/one")
    assert (answer.status_code, answer.headers["allow"]) == (405, "DELETE, GET, HEAD")
    assert answer.json()["detail"] == "'/v1/jobs/one' takes DELETE or GET, not PUT"
