"""The pages about the service: their examples run, and their tables are those of the code."""

from __future__ import annotations

import ast
import io
import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from models.images.limits import ImageError
from serving.archive import done_entry, failed_entry
from serving.engine import Answer
from serving.errors import CODES, Problem
from serving.metrics import Metrics
from tests.documents import Block, blocks_of

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "docs" / "how-to" / "serve.md", ROOT / "docs" / "reference" / "http-api.md"]
REFERENCE = PAGES[1].read_text()
SOURCES = sorted((ROOT / "serving").rglob("*.py"))
BLOCKS = [block for page in PAGES for block in blocks_of(page)]


def answer_after(block: Block) -> Any:
    """Return what the page says that an example prints, or None."""
    following = BLOCKS[BLOCKS.index(block) + 1 :]
    if following and following[0].page == block.page and following[0].word == "answer":
        return json.loads(following[0].text)
    return None


EXAMPLES = [block for block in BLOCKS if block.word == "run"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, jpeg: Callable[..., bytes]) -> Path:
    """The files that the examples send."""
    where = tmp_path_factory.mktemp("examples")
    (where / "hazy.jpg").write_bytes(jpeg(1))
    (where / "notes.txt").write_text("no photograph")
    with zipfile.ZipFile(where / "trip.zip", "w") as archive:
        archive.writestr("one.jpg", jpeg(2))
        archive.writestr("day 2/two.jpg", jpeg(3))
    return where


def run(block: Block, folder: Path, url: str, token: str) -> str:
    """Run an example as a reader would, and return what it prints."""
    if block.language == "sh":
        command = ["bash", "-euo", "pipefail", "-c", block.text]
    else:
        command = [sys.executable, "-c", block.text]
    environment = os.environ | {"URL": url, "TOKEN": token}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=90, check=False)
    assert done.returncode == 0, f"{block}: {done.stdout}{done.stderr}"
    return done.stdout


def shape(value: Any) -> Any:
    """The keys and types of a JSON value."""
    return {key: shape(item) for key, item in value.items()} if isinstance(value, dict) else type(value).__name__


@pytest.mark.parametrize("block", EXAMPLES, ids=str)
def test_examples_run(block: Block, ray_service: Any, folder: Path) -> None:
    if block.language == "sh" and shutil.which("curl") is None:
        pytest.skip("curl is not installed")
    printed = run(block, folder, ray_service.url, ray_service.token)
    told = answer_after(block)
    if told is not None:
        got = json.loads(printed)
        assert shape(got) == shape(told)
        assert {key: got[key] for key in ("status", "code", "detail") if key in told} == {
            key: told[key] for key in ("status", "code", "detail") if key in told
        }
    for name in re.findall(r"--output (\S+)|Path\(\"(\S+?)\"\)\.write|result\(job, \"(\S+?)\"\)", block.text):
        check_file(folder / "".join(name))


def check_file(path: Path) -> None:
    """A picture of the size that was sent, or an archive with a manifest."""
    data = path.read_bytes()
    if path.suffix == ".zip":
        archive = zipfile.ZipFile(io.BytesIO(data))
        manifest = json.loads(archive.read("manifest.json"))
        assert manifest["ok"] >= 1
        return
    width = 256 if path.stem == "pair" else 128
    assert Image.open(io.BytesIO(data)).size == (width, 96)


def test_there_are_examples_of_every_route_in_both_languages() -> None:
    assert {block.language for block in EXAMPLES} == {"sh", "python"}
    text = "".join(block.text for block in EXAMPLES)
    for route in ("/v1/dehaze", "/v1/batch", "/v1/score", "/v1/jobs", "/v1/models", "/readyz"):
        assert route in text
    unmarked = [str(block) for block in BLOCKS if "$URL" in block.text and block.word != "run"]
    assert not unmarked, f"{unmarked} use $URL and are not run"


def rows(header: str) -> Iterator[list[str]]:
    """The cells of the table whose header row begins so."""
    lines = REFERENCE.splitlines()
    start = next(index for index, line in enumerate(lines) if line.startswith(f"| {header} |"))
    for line in lines[start + 2 :]:
        if not line.startswith("|"):
            return
        yield [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]


def test_the_entries_of_a_manifest_are_told() -> None:
    told = {key.strip("`") for cells, _ in rows("key of an entry") for key in cells.split(", ")}
    answer = Answer(b"", "JPEG", 8, 8, "dcp", None, None, {})
    assert told == {*done_entry("a.jpg", "a.jpg", answer), *failed_entry("a.jpg", Problem(422, "corrupt", ""))}


def used_codes() -> set[str]:
    """The codes that the service's sources write out: arguments of Problem() and refused()."""
    kinds = (kind for kind in ImageError.__subclasses__() if kind.__module__ == ImageError.__module__)
    found = {kind.code for kind in kinds}
    for source in SOURCES:
        for node in ast.walk(ast.parse(source.read_text())):
            if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name):
                continue
            place = {"Problem": 1, "refused": 2}.get(node.func.id)
            given = [] if place is None else [*node.args[place : place + 1]]
            given += [keyword.value for keyword in node.keywords if keyword.arg == "code"]
            found |= {part.value for part in given if isinstance(part, ast.Constant) and isinstance(part.value, str)}
    return found


def test_the_table_of_errors_is_that_of_the_code() -> None:
    told = {code.strip("`"): int(status) for status, code, _ in rows("status")}
    assert told == CODES
    assert used_codes() <= set(CODES)
    assert {"no_scorer", "overloaded", "unknown_model"} <= used_codes()


class Named:
    """Stands for ``ray.util.metrics``: remembers names and labels, with the suffix that Prometheus shows."""

    def __init__(self) -> None:
        self.names: dict[str, tuple[str, ...]] = {}

    def _keep(self, name: str, labels: tuple[str, ...]) -> None:
        self.names[f"ray_{name}"] = labels

    def Counter(self, name: str, _: str, labels: tuple[str, ...] = ()) -> None:  # noqa: N802 - Ray's names
        self._keep(f"{name}_total", labels)

    def Gauge(self, name: str, _: str, labels: tuple[str, ...] = ()) -> None:  # noqa: N802
        self._keep(name, labels)

    def Histogram(self, name: str, _: str, __: list[float], labels: tuple[str, ...] = ()) -> None:  # noqa: N802
        self._keep(name, labels)


def test_the_table_of_metrics_is_that_of_the_code() -> None:
    maker = Named()
    Metrics(maker)
    told = {name.strip("`"): set(re.findall(r"`(\w+)`", labels)) for name, labels, _ in rows("metric")}
    assert told == {name: set(labels) for name, labels in maker.names.items()}
    for name in re.findall(r"ray_dehaze_\w+", REFERENCE):
        assert re.sub(r"_(bucket|sum|count)$", "", name) in maker.names
