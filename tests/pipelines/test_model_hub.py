"""Models on the Hugging Face hub, against a server that answers as the hub does."""

from __future__ import annotations

import base64
import http.server
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import constants

from models import zoo
from models.checkpoints import save
from models.config import ConfigError
from pipelines import cli

TINY = {"name": "corun", "stages": 1, "dim": 4}


class Hub(http.server.ThreadingHTTPServer):
    """Repositories in memory: files by name; small ones come in the commit itself."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Answers)
        self.repositories: dict[str, dict[str, bytes]] = {}
        self.tokens: set[str | None] = set()


class _Answers(http.server.BaseHTTPRequestHandler):
    server: Hub

    def _json(self, value: Any, code: int = 200) -> None:
        self._send(json.dumps(value).encode(), code, {"content-type": "application/json"})

    def _send(self, body: bytes, code: int, headers: dict[str, str]) -> None:
        self.send_response(code)
        for name, value in {**headers, "content-length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        for name, files in self.server.repositories.items():
            if path == f"/api/models/{name}":
                return self._json({"id": name, "sha": "0" * 40})
            if path.startswith(f"/api/models/{name}/tree/"):
                tree = [{"type": "file", "path": f, "size": len(b), "oid": "1" * 40} for f, b in files.items()]
                return self._json(tree)
            if path.startswith(f"/{name}/resolve/"):
                return self._file(files[path.rpartition("/")[2]])
        return self._json({"error": "Repository not found"}, 404)

    do_HEAD = do_GET  # noqa: N815 - the name that http.server looks for

    def _file(self, data: bytes) -> None:
        headers, wanted, code = {"etag": '"1"', "x-repo-commit": "0" * 40}, self.headers.get("range"), 200
        if wanted:
            first, last = (int(end) for end in wanted.removeprefix("bytes=").split("-"))
            headers["content-range"] = f"bytes {first}-{last}/{len(data)}"
            data, code = data[first : last + 1], 206
        self._send(data, code, headers)

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length") or 0))
        self.server.tokens.add(self.headers.get("authorization"))
        if self.path == "/api/validate-yaml":
            return self._json({})
        if self.headers.get("authorization") != "Bearer hf_good":
            return self._json({"error": "Invalid username or password."}, 401)
        if self.path == "/api/repos/create":
            asked = json.loads(body)
            name = "/".join(filter(None, (asked.get("organization"), asked["name"])))
            self.server.repositories.setdefault(name, {})
            return self._json({"url": f"http://127.0.0.1:{self.server.server_port}/{name}"})
        name = self.path.removeprefix("/api/models/").split("?")[0].rsplit("/", 2)[0]
        if "/preupload/" in self.path:
            wanted = json.loads(body)["files"]
            return self._json(
                {"files": [{"path": f["path"], "uploadMode": "regular", "shouldIgnore": False} for f in wanted]}
            )
        for line in map(json.loads, body.splitlines()):
            if line["key"] == "file":
                self.server.repositories[name][line["value"]["path"]] = base64.b64decode(line["value"]["content"])
        return self._json(
            {
                "commitUrl": f"http://127.0.0.1:{self.server.server_port}/{name}/commit/1",
                "commitOid": "1",
                "success": True,
            }
        )

    def log_message(self, *_args: Any) -> None:
        pass


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    """A hub of this machine, with an account that may write."""
    server = Hub()
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    endpoint = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setenv("HF_TOKEN", "hf_good")
    monkeypatch.setenv("HF_ENDPOINT", endpoint)
    monkeypatch.setattr(constants, "ENDPOINT", endpoint)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", endpoint + "/{repo_id}/resolve/{revision}/{filename}")
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A checkpoint as training leaves it."""
    torch.manual_seed(0)
    config = {"network": TINY, "recipe": {"method": "supervised", "train": {"steps": 1200}}}
    return save(tmp_path / "model", zoo.build(TINY), config, metrics={"l1": 0.1}, state={"step": 3})


def test_a_model_goes_to_the_hub_with_a_card_and_comes_back_the_same(
    hub: Hub, model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["models", "push", str(model), "me/my-dehazer", "--license", "apache-2.0"]) == 0
    assert "hf://me/my-dehazer" in capsys.readouterr().out
    sent = hub.repositories["me/my-dehazer"]
    assert set(sent) == {"model.safetensors", "config.json", "metrics.json", "README.md"}, "no training state"
    card = sent["README.md"].decode()
    for part in (
        "license: apache-2.0",
        "pipeline_tag: image-to-image",
        "for 1,200 steps",
        'load("hf://me/my-dehazer")',
    ):
        assert part in card
    loaded, own = zoo.load("hf://me/my-dehazer"), zoo.load(str(model))
    assert loaded.config == own.config
    image = torch.rand(1, 3, 16, 24)
    assert torch.equal(loaded.network(image).scene, own.network(image).scene)


def test_a_push_without_a_good_token_says_where_one_comes_from(
    hub: Hub, model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_bad")
    assert cli.main(["models", "push", str(model), "me/my-dehazer"]) == 2
    said = capsys.readouterr().err
    assert "HF_TOKEN" in said
    assert "hf_bad" not in said
    assert not hub.repositories


@pytest.mark.parametrize(
    "name", ["./out", "/tmp/out", "a/b/c", "hf://me/x", "s3://bucket/x", "my-dehazer", "me/my dehazer"]
)
def test_what_is_no_repository_is_refused_by_its_name_and_asks_for_no_token(
    hub: Hub, model: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["models", "push", str(model), name]) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"error: '{name}' is no name of a hub's repository; expected OWNER/NAME, such as me/my")
    assert "token" not in said
    assert hub.tokens == set()


@pytest.mark.parametrize("name", ["dcp", "model.onnx"])
def test_what_is_no_checkpoint_is_not_sent(hub: Hub, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["models", "push", name, "me/my-dehazer"]) == 2
    assert f"error: {name} is no checkpoint; expected a packaged name" in capsys.readouterr().err
    assert not hub.repositories


def test_a_checkpoint_at_a_uri_is_sent(hub: Hub, model: Path) -> None:
    assert cli.main(["models", "push", model.as_uri(), "me/my-dehazer"]) == 0
    assert set(hub.repositories["me/my-dehazer"]) == {"model.safetensors", "config.json", "metrics.json", "README.md"}


def test_a_hub_that_does_not_answer_is_one_line(hub: Hub) -> None:
    hub.server_close()
    with pytest.raises(ConfigError, match="cannot read hf://me/my-dehazer: the Hugging Face hub does not answer"):
        zoo.load("hf://me/my-dehazer")


def test_a_repository_that_is_not_there_is_named(hub: Hub) -> None:
    with pytest.raises(ConfigError, match="hf://me/nothing"):
        zoo.load("hf://me/nothing")
    assert hub.tokens == set()
