"""Jobs over HTTP: their life, their limits, and what they leave behind."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import sys
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi.testclient import TestClient

from models.config import ConfigError
from serving.engine import Answer, DehazeTask
from serving.errors import Problem
from tests.documents import blocks_of
from tests.serving.conftest import ended, submitted
from tests.serving.hostile import archive
from tests.waiting import wait_for

Service = Callable[..., TestClient]
Jobs = Callable[..., TestClient]
SERVE = Path(__file__).parents[3] / "docs" / "how-to" / "serve.md"
TOKENS = ("a-token-of-sixteen-1", "a-token-of-sixteen-2")


class Fake:
    """A backend that gives back what it gets; photographs wait until they are let go, and there are no videos."""

    frame = None

    def __init__(self) -> None:
        self.seen: list[bytes] = []
        self.open = threading.Event()
        self.open.set()
        self.answers: dict[bytes, list[Any]] = {}

    async def dehaze(self, task: DehazeTask) -> Answer | Problem:
        self.seen.append(task.data)
        while not self.open.is_set():  # noqa: ASYNC110 - an event of threads
            await asyncio.sleep(0.01)
        if task.data in self.answers:
            answer = self.answers[task.data].pop(0)
            if isinstance(answer, BaseException):
                raise answer
            if answer is not None:
                return answer  # type: ignore[no-any-return]
        if task.data == b"bad":
            return Problem(422, "corrupt", "no picture")
        return Answer(b"clear " + task.data, "JPEG", 8, 8, "fake", None, None, {}, haze=0.5)


@pytest.fixture
def backend() -> Iterator[Fake]:
    made = Fake()
    yield made
    made.open.set()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "jobs"


@pytest.fixture
def jobs(service: Service, backend: Fake, folder: Path) -> Jobs:
    """``jobs(**settings)``: a client of a service that takes jobs, with these settings of them."""
    return lambda **settings: service(backend, jobs={"folder": str(folder)} | settings)


def photographs(*contents: bytes) -> bytes:
    return archive([(f"{index}.jpg", content) for index, content in enumerate(contents)])


def opened(content: bytes) -> tuple[dict[str, bytes], dict[str, Any]]:
    with zipfile.ZipFile(io.BytesIO(content)) as found:
        files = {name: found.read(name) for name in found.namelist()}
    return files, json.loads(files.pop("manifest.json"))


def test_a_job_goes_from_photographs_to_an_archive(jobs: Jobs, folder: Path) -> None:
    client = jobs()
    files = [("day/a.jpg", b"one"), ("__MACOSX/._a.jpg", b"x"), ("a.jpg", b"bad"), ("A.JPEG", b"two")]
    job = submitted(client, archive(files), "?strength=0.5")
    state = ended(client, job["id"])
    assert (state["status"], state["total"], state["done"], state["failed"]) == ("done", 3, 3, 1)
    assert state["created"] <= state["ended"] < state["expires"]
    answer = client.get(f"/v1/jobs/{job['id']}/result")
    assert answer.headers["content-type"] == "application/zip"
    results, manifest = opened(answer.content)
    assert results == {"day/a.jpg": b"clear one", "A.JPEG": b"clear two"}
    assert (manifest["ok"], manifest["failed"], manifest["skipped"]) == (2, 1, ["__MACOSX/._a.jpg"])
    assert [(entry["source"], entry["status"]) for entry in manifest["files"]] == [
        ("day/a.jpg", "ok"),
        ("a.jpg", "failed"),
        ("A.JPEG", "ok"),
    ]
    assert manifest["files"][1]["problem"]["code"] == "corrupt"
    kept = {"ended.json", "job.json", "result", "runner"}
    wait_for(lambda: {path.name for path in (folder / job["id"]).iterdir()} - {"state.json"} == kept, 10)


def test_files_of_a_form_are_a_job_too(jobs: Jobs) -> None:
    client = jobs()
    files = [("file", ("a.jpg", b"one")), ("file", ("a.jpg", b"two"))]
    answer = client.post("/v1/jobs", files=files)
    assert answer.status_code == 202, answer.text
    ended(client, answer.json()["id"])
    results, _ = opened(client.get(f"/v1/jobs/{answer.json()['id']}/result").content)
    assert results == {"a.jpg": b"clear one", "a (2).jpg": b"clear two"}


def test_there_are_no_jobs_without_a_folder(service: Service, backend: Fake) -> None:
    client = service(backend)
    answer = client.post("/v1/jobs", content=photographs(b"a"))
    assert answer.status_code == 404
    assert "--jobs FOLDER" in answer.json()["detail"]
    assert not [path for path in client.get("/openapi.json").json()["paths"] if "jobs" in path]


def test_every_error_of_a_job_is_described_as_a_problem(jobs: Jobs) -> None:
    schema = jobs().get("/openapi.json").json()
    assert not [name for name in schema["components"]["schemas"] if "ValidationError" in name]
    for path in schema["paths"].values():
        for operation in path.values():
            errors = [answer["content"] for status, answer in operation["responses"].items() if status >= "4"]
            assert all(list(content) == ["application/problem+json"] for content in errors)


def test_a_cancelled_job_stops_and_leaves_no_photograph(jobs: Jobs, backend: Fake, folder: Path) -> None:
    client = jobs()
    backend.open.clear()
    job = submitted(client, photographs(b"a", b"b"))["id"]
    wait_for(lambda: backend.seen)
    running = client.get(f"/v1/jobs/{job}/result")
    assert (running.status_code, running.json()["code"]) == (409, "no_result")
    assert client.delete(f"/v1/jobs/{job}").status_code == 204
    backend.open.set()
    assert client.get(f"/v1/jobs/{job}").json()["status"] == "cancelled"
    assert client.get(f"/v1/jobs/{job}/result").status_code == 409
    assert client.delete(f"/v1/jobs/{job}").status_code == 204
    left = {path.name for path in (folder / job).rglob("*")}
    assert left <= {"job.json", "runner", "state.json", "cancelled"}
    assert backend.seen == [b"a"]


def test_a_job_is_forgotten_when_its_time_is_over(jobs: Jobs, folder: Path) -> None:
    client = jobs(keep_s=0.3)
    job = submitted(client, photographs(b"a"))["id"]
    wait_for(lambda: client.get(f"/v1/jobs/{job}").status_code == 404)
    assert not (folder / job).exists()


def test_jobs_of_another_token_are_not_there(jobs: Jobs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DEHAZE_TOKENS", " ".join(TOKENS))
    client = jobs()
    mine, other = ({"headers": {"Authorization": f"Bearer {token}"}} for token in TOKENS)
    job = submitted(client, photographs(b"a"), **mine)["id"]
    assert ended(client, job, **mine)["status"] == "done"
    for path in (f"/v1/jobs/{job}", f"/v1/jobs/{job}/result"):
        assert client.get(path).status_code == 401
        foreign = client.get(path, **other)
        unknown = client.get(path.replace(job, "20200101T000000-0123456789abcdef"), **other)
        assert (foreign.status_code, foreign.json()["detail"]) == (404, unknown.json()["detail"])
    assert client.delete(f"/v1/jobs/{job}", **other).status_code == 404
    assert client.get(f"/v1/jobs/{job}/result", **mine).status_code == 200


@pytest.mark.parametrize("job", ["..", "%2e%2e", "x/../y", "20200101T000000-0123456789abcdeg", "a" * 3000])
def test_no_other_name_reaches_a_file(jobs: Jobs, folder: Path, job: str) -> None:
    client = jobs()
    (folder.parent / "job.json").write_text("{}")
    assert client.get(f"/v1/jobs/{job}").status_code in (404, 405)


def test_what_is_wrong_with_a_body_is_said_at_once_and_nothing_is_kept(jobs: Jobs, backend: Fake, folder: Path) -> None:
    client = jobs(max_files=2, max_bytes=3000)
    good = photographs(b"a")
    for body, status, code in [
        (b"", 400, "bad_request"),
        (b"\xff\xd8\xff\xe0 a JPEG", 415, "unsupported_format"),
        (good[:-10], 422, "corrupt_archive"),
        (photographs(b"a", b"b", b"c"), 413, "too_many_files"),
        (archive([("a.jpg", bytes(4000))], zipfile.ZIP_DEFLATED), 413, "too_large"),
        (archive([("a.jpg", bytes(4000))]), 413, "too_large"),
        (archive([(".DS_Store", b"a")]), 400, "bad_request"),
    ]:
        answer = client.post("/v1/jobs", content=body)
        assert (answer.status_code, answer.json()["code"]) == (status, code), answer.text
    assert client.post("/v1/jobs?strenght=1", content=good).status_code == 400
    assert client.post("/v1/jobs?model=none", content=good).json()["code"] == "unknown_model"
    assert not backend.seen
    assert not list(folder.iterdir())


def test_a_client_has_only_so_many_jobs_and_the_folder_too(jobs: Jobs, backend: Fake) -> None:
    client = jobs(max_per_client=1, max_jobs=2)
    backend.open.clear()
    first = submitted(client, photographs(b"a"))["id"]
    refused = client.post("/v1/jobs", content=photographs(b"b"))
    assert (refused.status_code, refused.json()["code"]) == (429, "too_many_requests")
    assert int(refused.headers["retry-after"]) >= 1
    backend.open.set()
    ended(client, first)
    second = submitted(client, photographs(b"c"))["id"]
    ended(client, second)
    wait_for(lambda: client.post("/v1/jobs", content=photographs(b"d")).json()["code"] == "jobs_full")


def test_a_job_that_was_deleted_takes_no_place(jobs: Jobs) -> None:
    client = jobs(max_jobs=1)
    for content in (b"a", b"b", b"c"):
        job = submitted(client, photographs(content))["id"]
        ended(client, job)
        assert client.delete(f"/v1/jobs/{job}").status_code == 204
        time.sleep(0.3)  # the service has looked at its folder


def test_results_do_not_outgrow_the_folder(jobs: Jobs) -> None:
    body = photographs(b"a" * 200, b"b" * 200, b"c")
    client = jobs(store_bytes=len(body) + 250)
    job = submitted(client, body)["id"]
    assert ended(client, job)["failed"] == 1
    results, manifest = opened(client.get(f"/v1/jobs/{job}/result").content)
    assert sorted(results) == ["0.jpg", "2.jpg"]
    assert manifest["files"][1]["problem"]["code"] == "answer_full"


def test_ordinary_requests_go_first(jobs: Jobs, backend: Fake) -> None:
    client = jobs(yield_s=600)
    backend.open.clear()
    request = threading.Thread(target=client.post, args=("/v1/dehaze",), kwargs={"content": b"ordinary"})
    request.start()
    wait_for(lambda: backend.seen == [b"ordinary"])
    job = submitted(client, photographs(b"a"))["id"]
    time.sleep(0.4)
    assert backend.seen == [b"ordinary"]
    backend.open.set()
    assert ended(client, job)["done"] == 1
    request.join()


def test_jobs_alternate(jobs: Jobs, backend: Fake) -> None:
    client = jobs()
    backend.open.clear()
    first = submitted(client, photographs(*(b"a%d" % index for index in range(6))))["id"]
    wait_for(lambda: backend.seen)
    second = submitted(client, photographs(b"b"))["id"]
    wait_for(lambda: client.get(f"/v1/jobs/{second}").json()["total"] == 1)
    backend.open.set()
    ended(client, first)
    assert backend.seen.index(b"b") <= 3


def test_what_the_service_cannot_do_at_the_moment_is_tried_again(
    jobs: Jobs, backend: Fake, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("serving.jobs.work._AGAIN_S", 0.01)
    busy = Problem(503, "out_of_memory", "not now", 0.01)
    lost = Problem(503, "replica_lost", "twice", 0.01)
    backend.answers = {b"a": [busy, None], b"b": [busy] * 3, b"c": [lost, None], b"d": [RuntimeError("x"), None]}
    client = jobs()
    job = submitted(client, photographs(b"a", b"b", b"c", b"d"))["id"]
    ended(client, job)
    _, manifest = opened(client.get(f"/v1/jobs/{job}/result").content)
    codes = [entry.get("problem", {}).get("code") for entry in manifest["files"]]
    assert codes == [None, "out_of_memory", "replica_lost", None]
    assert backend.seen.count(b"c") == 1


def test_a_job_goes_on_where_the_service_stopped(jobs: Jobs, backend: Fake, folder: Path) -> None:
    first = jobs()
    job = submitted(first, photographs(b"a", b"b", b"c"))
    wait_for(lambda: first.get(f"/v1/jobs/{job['id']}").json()["done"] == 3)
    backend.open.clear()
    job = submitted(first, photographs(b"d", b"e", b"f"))["id"]
    wait_for(lambda: b"d" in backend.seen)
    first.__exit__(None, None, None)  # an orderly end, in the middle of the first photograph
    assert not list((folder / job).rglob("*.tried")), "it would count against the photograph"
    backend.open.set()
    second = jobs()
    assert ended(second, job)["status"] == "done"
    results, _ = opened(second.get(f"/v1/jobs/{job}/result").content)
    assert results == {"0.jpg": b"clear d", "1.jpg": b"clear e", "2.jpg": b"clear f"}


def test_a_new_ingress_takes_over_and_the_old_one_stops(
    jobs: Jobs, service: Service, backend: Fake, folder: Path
) -> None:
    old = jobs()
    backend.open.clear()
    job = submitted(old, photographs(b"a", b"b"))["id"]
    wait_for(lambda: backend.seen)
    fresh = Fake()
    new = service(fresh, jobs={"folder": str(folder)})
    assert ended(new, job)["status"] == "done"
    backend.open.set()
    time.sleep(0.3)
    assert fresh.seen == [b"a", b"b"]
    assert backend.seen == [b"a"]
    assert len(opened(new.get(f"/v1/jobs/{job}/result").content)[0]) == 2


def test_a_photograph_that_ends_the_process_does_not_loop(jobs: Jobs, backend: Fake, folder: Path) -> None:
    """What a process that was killed leaves: a photograph that was begun, and no note of its end."""
    client = jobs()
    backend.open.clear()
    job = submitted(client, photographs(b"killer", b"b"))["id"]
    wait_for(lambda: list((folder / job).rglob("*.tried")))
    (tried,) = (folder / job).rglob("*.tried")
    client.__exit__(None, None, None)
    backend.open.set()
    tried.write_text("2")
    backend.seen.clear()
    again = jobs()
    assert ended(again, job)["failed"] == 1
    assert backend.seen == [b"b"]
    _, manifest = opened(again.get(f"/v1/jobs/{job}/result").content)
    assert manifest["files"][0]["problem"]["code"] == "replica_lost"


def test_what_an_upload_left_is_removed(jobs: Jobs, folder: Path) -> None:
    left = folder / "20200101T000000-0123456789abcdef"
    left.mkdir(parents=True)
    (left / "input.zip").write_bytes(b"half")
    (folder / "notes").mkdir()
    jobs()
    wait_for(lambda: not left.exists())
    assert (folder / "notes").exists()


# Folders


def of_folders(client: TestClient, source: Any, target: Any) -> httpx.Response:
    return client.post("/v1/jobs", json={"source": str(source), "target": str(target)})


def test_a_job_reads_a_folder_and_writes_another(jobs: Jobs, backend: Fake, tmp_path: Path) -> None:
    (tmp_path / "data/in/day").mkdir(parents=True)
    for name, content in {"a.jpg": b"one", "day/b.jpeg": b"bad", "day/c.JPG": b"two", "notes.txt": b"x"}.items():
        (tmp_path / "data/in" / name).write_bytes(content)
    (tmp_path / "secret.jpg").write_bytes(b"secret")
    (tmp_path / "data/in/link.jpg").symlink_to(tmp_path / "secret.jpg")
    client = jobs(prefixes=[str(tmp_path / "data")])
    answer = of_folders(client, tmp_path / "data/in", tmp_path / "data/out")
    assert answer.status_code == 202, answer.text
    state = ended(client, answer.json()["id"])
    assert (state["status"], state["total"], state["failed"]) == ("done", 4, 2)
    written = {path.relative_to(tmp_path / "data/out").as_posix() for path in (tmp_path / "data/out").rglob("*.*")}
    assert written == {"a.jpg", "day/c.JPG"}
    assert (tmp_path / "data/out/day/c.JPG").read_bytes() == b"clear two"
    result = client.get(f"/v1/jobs/{answer.json()['id']}/result")
    assert result.headers["content-type"] == "application/json"
    codes = {entry["source"]: entry.get("problem", {}).get("code") for entry in result.json()["files"]}
    assert codes == {"a.jpg": None, "day/b.jpeg": "corrupt", "day/c.JPG": None, "link.jpg": "not_allowed"}
    assert result.json()["skipped"] == ["notes.txt"]
    assert b"secret" not in backend.seen


def test_json_is_known_by_its_header(jobs: Jobs) -> None:
    client = jobs()
    body = b'{"source": "/photos", "target": "/clear"}'
    for kind in ("application/json", "Application/JSON; charset=utf-8"):
        assert client.post("/v1/jobs", content=body, headers={"Content-Type": kind}).json()["code"] == "not_allowed"
    unmarked = client.post("/v1/jobs", content=body, headers={"Content-Type": "application/x-www-form-urlencoded"})
    assert unmarked.status_code == 415
    assert unmarked.json()["detail"] == "this is JSON; its request wants the header Content-Type: application/json"


def test_only_allowed_folders_are_read_or_written(jobs: Jobs, tmp_path: Path) -> None:
    for name in ("data/in", "data-2", "elsewhere"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "data/way-out").symlink_to(tmp_path / "elsewhere")
    data = tmp_path / "data"
    client = jobs(prefixes=[str(data), "s3://bucket/photos?region=x"])
    for bad in (
        tmp_path / "data-2", tmp_path / "elsewhere", f"{data}/../elsewhere", f"{data}/in/./x", data / "way-out",
        "data/in", f"file://{data}/in", "s3://bucket/photographs", "s3://bucket/photos/%2e%2e/x", "s3://other/photos",
        "s3://bucket/photos/a?endpoint_override=http://127.0.0.1", "http://127.0.0.1/",
    ):  # fmt: skip
        for source, target in ((bad, data / "out"), (data / "in", bad)):
            answer = of_folders(client, source, target)
            assert (answer.status_code, answer.json()["code"]) == (403, "not_allowed"), bad
    for target in (data / "in", data / "in/out", data):
        assert of_folders(client, data / "in", target).status_code == 400
    assert client.post("/v1/jobs", json={"source": "a"}).status_code == 400
    empty = of_folders(client, data / "in", data / "out").json()["id"]
    assert ended(client, empty)["status"] == "failed"
    assert "no photographs" in client.get(f"/v1/jobs/{empty}").json()["detail"]
    assert client.get(f"/v1/jobs/{empty}/result").status_code == 409
    closed = jobs(folder=str(tmp_path / "others"))
    assert of_folders(closed, data / "in", data / "out").status_code == 403


# Webhooks

SECRET = base64.b64encode(b"a secret of thirty-two bytes ..!").decode()


class Hook:
    """A server that takes webhooks, after it has refused some."""

    def __init__(self, refused: int) -> None:
        self.calls: list[tuple[dict[str, str], bytes]] = []
        hook = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                hook.calls.append(({name.lower(): value for name, value in self.headers.items()}, body))
                self.send_response(503 if len(hook.calls) <= refused else 204)
                self.end_headers()

            def log_message(self, *_: Any) -> None: ...

        self.server = HTTPServer(("127.0.0.1", 0), Handler)
        self.origin = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


@pytest.fixture
def hook() -> Iterator[Hook]:
    made = Hook(refused=1)
    yield made
    made.server.shutdown()
    made.server.server_close()


def documented() -> Callable[[dict[str, str], bytes, str], bool]:
    """What the docs tell clients to verify messages by."""
    (block,) = [block for block in blocks_of(SERVE) if "def is_genuine" in block.text]
    names: dict[str, Any] = {}
    exec(compile(block.text, str(block), "exec"), names)  # noqa: S102 - our own
    return names["is_genuine"]  # type: ignore[no-any-return]


def test_a_webhook_is_signed_and_told_until_it_is_taken(
    jobs: Jobs, folder: Path, hook: Hook, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DEHAZE_WEBHOOK_SECRET", f"whsec_{SECRET}")
    monkeypatch.setattr("serving.jobs.webhooks._PAUSES", (0.01, 0.01))
    client = jobs(webhooks=[hook.origin])
    job = submitted(client, photographs(b"a"), f"?webhook={hook.origin}/ended")["id"]
    wait_for((folder / job / "told").exists)
    assert len(hook.calls) == 2
    is_genuine = documented()
    for headers, body in hook.calls:
        assert is_genuine(headers, body, SECRET)
        assert not is_genuine(headers, body + b" ", SECRET)
        assert not is_genuine(headers, body, SECRET.swapcase())
        assert not is_genuine(headers | {"webhook-timestamp": "1700000000"}, body, SECRET)
        assert headers["webhook-id"] == job
        assert json.loads(body) == client.get(f"/v1/jobs/{job}").json()
    jobs(webhooks=[hook.origin])
    time.sleep(0.3)
    assert len(hook.calls) == 2, "told once, over restarts too"


def test_webhooks_go_to_hosts_of_the_configuration_only(jobs: Jobs, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="DEHAZE_WEBHOOK_SECRET"):
        jobs(webhooks=["https://hooks.example.org"])
    monkeypatch.setenv("DEHAZE_WEBHOOK_SECRET", SECRET)
    client = jobs(webhooks=["https://hooks.example.org"])
    for url in (
        "http://hooks.example.org/a", "https://hooks.example.org:8443/a", "https://hooks.example.org.evil.org/",
        "https://hooks.example.org@127.0.0.1/", "http://127.0.0.1:1/", "ftp://hooks.example.org",
    ):  # fmt: skip
        answer = client.post("/v1/jobs", params={"webhook": url}, content=photographs(b"a"))
        assert (answer.status_code, answer.json()["code"]) == (403, "not_allowed"), url
    for url in ("https://hooks.example.org/\x01", "https://[::1/"):
        answer = client.post("/v1/jobs", params={"webhook": url}, content=photographs(b"a"))
        assert (answer.status_code, answer.json()["code"]) == (400, "bad_request"), url


def test_the_interface_describes_jobs(jobs: Jobs) -> None:
    paths = jobs().get("/openapi.json").json()["paths"]
    assert set(paths["/v1/jobs/{job}"]) == {"get", "delete"}
    assert set(paths["/v1/jobs"]["post"]["responses"]) >= {"202", "403", "429"}
    assert set(paths["/v1/jobs"]["post"]["requestBody"]["content"]) == {
        "application/zip",
        "multipart/form-data",
        "application/json",
        "video/mp4",
        "video/quicktime",
        "video/x-matroska",
        "video/webm",
    }


def test_photographs_at_a_time_do_not_take_each_other_s_names_nor_counts(jobs: Jobs, tmp_path: Path) -> None:
    """Results of a.png and a.webp are both a.jpg at first."""
    (tmp_path / "in").mkdir()
    for index in range(60):
        for suffix in ("png", "webp", "bmp", "avif"):
            (tmp_path / "in" / f"{index}.{suffix}").write_bytes(f"{index}{suffix}".encode())
    client = jobs(prefixes=[str(tmp_path)], parallel=8)
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        folders = {"source": str(tmp_path / "in"), "target": str(tmp_path / "out")}
        state = ended(client, client.post("/v1/jobs", json=folders).json()["id"])
    finally:
        sys.setswitchinterval(before)
    assert len(list((tmp_path / "out").iterdir())) == 240
    assert (state["total"], state["done"]) == (240, 240)
