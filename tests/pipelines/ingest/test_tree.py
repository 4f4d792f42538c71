"""Listing in parts: the same files as in one piece, and a driver that holds no more of them, however many there are."""

from __future__ import annotations

import pickle
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import fs as pafs

from models.config import ConfigError, parse
from pipelines.ingest import discover, survey, tree
from pipelines.ingest.config import IngestConfig
from pipelines.ingest.decide.parts import Work, load
from pipelines.ingest.first_pass import spool
from pipelines.ingest.survey import Listing


class Remote(pafs.SubTreeFileSystem):
    """A local folder that looks like object storage: listed a call at a time, and calls are noted."""

    calls: Counter[bool]

    def get_file_info(self, what: Any) -> Any:
        if isinstance(what, pafs.FileSelector):
            self.calls[what.recursive] += 1
        return super().get_file_info(what)


@pytest.fixture
def remote(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Counter[bool]:
    """``mock://`` is ``tmp_path/bucket``; how many listings were asked for, by whether they were recursive."""
    (tmp_path / "bucket").mkdir()
    files = Remote(str(tmp_path / "bucket"), pafs.LocalFileSystem())
    files.calls = Counter()
    plain = discover.filesystem

    def opened(uri: str) -> Any:
        return (files, uri.removeprefix("mock://").rstrip("/")) if uri.startswith("mock://") else plain(uri)

    monkeypatch.setattr(discover, "filesystem", opened)
    return files.calls


def touch(folder: Path, folders: int, each: int) -> Path:
    for number in range(folders * each):
        path = folder / f"{number // each % 5}" / f"{number // each}" / f"{number}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return folder


def listed(source: str, work: Path, **more: Any) -> tuple[survey.SourceSurvey, survey.SourceSurvey]:
    """Before tasks and after them; they are done here."""
    config = parse(IngestConfig, {"sources": [source], "domain": "hazy", "out": str(work / "out"), **more})
    plan = survey.survey(config)
    return plan, tree.complete(Work(str(work), alone=True), plan)


def rows(work: Path, listing: Listing) -> list[dict[str, Any]]:
    spooled = spool(Work(str(work), alone=True), "spooled", listing)
    table = pa.concat_tables([load(uri) for uri in spooled.files])
    assert spooled.photographs == table.num_rows
    assert spooled.example in table["key"].to_pylist()
    return table.sort_by("uri").to_pylist()


def test_parts_are_the_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = touch(tmp_path / "in", folders=20, each=7)
    (source / "more.zip").write_bytes(b"damaged")
    (source / "3" / "3" / "notes.txt").touch()
    (source / "3" / "caf\udce9").mkdir()
    (source / "3" / "caf\udce9" / "x.jpg").touch()
    (source / "3" / "up").symlink_to(source)
    _, whole = listed(str(source), tmp_path / "one")
    monkeypatch.setattr(survey, "ROWS", 30)
    monkeypatch.setattr(tree, "ROWS", 9)
    before, parts = listed(str(source), tmp_path / "two")
    assert whole.photographs.parts == ()
    assert not before.is_complete
    assert parts.is_complete
    assert len(parts.photographs.parts) > 4
    assert rows(tmp_path / "two", parts.photographs) == rows(tmp_path / "one", whole.photographs)
    assert parts.photographs.left == whole.photographs.left == {"TXT": 1}
    assert parts.photographs.fingerprint() == whole.photographs.fingerprint()
    (source / "3" / "3" / "3.jpg").unlink(missing_ok=True)
    (source / "4" / "4" / "28.jpg").write_bytes(b"changed")
    _, changed = listed(str(source), tmp_path / "three")
    assert changed.photographs.fingerprint() != whole.photographs.fingerprint()


def test_globs_hold_in_parts_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = touch(tmp_path / "in", folders=10, each=4)
    monkeypatch.setattr(survey, "ROWS", 5)
    _, plan = listed(f"{source}/*/1/*.jpg", tmp_path / "work")
    assert [Path(row["uri"]).name for row in rows(tmp_path / "work", plan.photographs)] == [
        "4.jpg", "5.jpg", "6.jpg", "7.jpg",
    ]  # fmt: skip
    with pytest.raises(ConfigError, match=r"there are no photographs in .*/\*\*/\*\.png; looked for"):
        listed(f"{source}/**/*.png", tmp_path / "none")


@pytest.mark.parametrize("flat", [False, True])
def test_the_driver_holds_no_more_of_more_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flat: bool) -> None:
    monkeypatch.setattr(survey, "ROWS", 50)
    kept = []
    for count in (10, 40):
        source = touch(tmp_path / f"in{count}", folders=1 if flat else 5, each=count * 20 if flat else count * 4)
        before, plan = listed(str(source), tmp_path / f"work{count}")
        assert len(rows(tmp_path / f"work{count}", plan.photographs)) == count * 20
        kept.append((len(pickle.dumps(before)), len(pickle.dumps(plan))))
    assert all(large <= 1.05 * small for small, large in zip(*kept, strict=True))


def test_a_part_of_a_flat_folder_is_written_as_it_is_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = touch(tmp_path / "in", folders=1, each=95)
    monkeypatch.setattr(survey, "ROWS", 5)
    monkeypatch.setattr(tree, "ROWS", 10)
    _, plan = listed(str(source), tmp_path / "work")
    assert [load(uri).num_rows for uri in plan.photographs.parts] == [10] * 9 + [5]


def test_object_storage_is_listed_by_prefix(tmp_path: Path, remote: Counter[bool]) -> None:
    touch(tmp_path / "bucket" / "photographs", folders=25, each=3)
    before, plan = listed("mock://photographs", tmp_path / "work")
    assert before.photographs.files.num_rows == 0
    assert len(rows(tmp_path / "work", plan.photographs)) == 75
    assert remote == {False: 1 + 5, True: 25}  # the top, what is in it, and below that a call for each folder
    (tmp_path / "bucket" / "empty").mkdir()
    with pytest.raises(ConfigError, match="there are no photographs in mock://empty"):
        listed("mock://empty", tmp_path / "none")


def test_folders_too_many_to_hand_back_are_listed_where_they_are(
    tmp_path: Path, remote: Counter[bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    touch(tmp_path / "bucket" / "photographs", folders=25, each=2)
    monkeypatch.setattr(tree, "_MANY", 3)
    _, plan = listed("mock://photographs", tmp_path / "work")
    assert len(plan.photographs.parts) == 1
    assert len(rows(tmp_path / "work", plan.photographs)) == 50
    assert remote == {False: 1, True: 5}


@pytest.mark.usefixtures("ray_cluster")
def test_in_tasks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = touch(tmp_path / "in", folders=10, each=6)
    config = parse(IngestConfig, {"sources": [str(source)], "domain": "hazy", "out": str(tmp_path / "out")})
    whole = survey.survey(config)
    monkeypatch.setattr(survey, "ROWS", 20)
    plan = tree.complete(Work(str(tmp_path / "work")), survey.survey(config))
    assert len(plan.photographs.parts) > 1
    assert plan.fingerprint == whole.fingerprint
