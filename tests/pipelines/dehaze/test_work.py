"""A batch of photographs: what is done, what is left, what fails."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from models import checkpoints, zoo
from models.options import DehazeOptions, InferenceConfig
from models.predictor import Predictor
from pipelines.dehaze import work as folder_work
from pipelines.dehaze.plan import make_plan, tasks
from pipelines.dehaze.work import (
    ExistingResults,
    FolderWorker,
    NoSpaceError,
    PhotoResult,
    WorkerSetup,
    states,
    write,
)

Folder = Callable[..., Path]


def worker(rules: ExistingResults | None = None) -> FolderWorker:
    return WorkerSetup("dcp", None, DehazeOptions(), InferenceConfig(), "cpu", rules or ExistingResults(0)).worker()


def batch(source: Path, out: Path) -> list[folder_work.PhotoTask]:
    return list(tasks(make_plan([str(source)], str(out), None)))


def test_results_are_those_of_the_service_and_what_is_done_stays_done(photo_folder: Folder, tmp_path: Path) -> None:
    source = photo_folder(count=3)
    found = batch(source, tmp_path / "out")
    one = worker()
    assert [result.status for result in one.work(0, found)] == ["written"] * 3
    photograph = source / "photo_001.jpg"
    assert Path(found[1].target).read_bytes() == Predictor("dcp").dehaze_bytes(photograph.read_bytes())[0]
    before = [Path(task.target).stat().st_mtime_ns for task in found]
    assert [result.status for result in one.work(0, found)] == ["kept"] * 3
    assert [Path(task.target).stat().st_mtime_ns for task in found] == before


def test_failures_are_told_and_the_rest_goes_on(photo_folder: Folder, tmp_path: Path) -> None:
    source = photo_folder(count=4)
    whole = (source / "photo_000.jpg").read_bytes()
    (source / "photo_000.jpg").write_bytes(whole[:700])
    found = batch(source, tmp_path / "out")
    Path(found[1].source).unlink()
    Path(found[2].target).mkdir(parents=True)
    results = list(worker().work(0, found))
    assert [result.status for result in results] == ["failed", "failed", "failed", "written"]
    assert results[1].reason == os.strerror(errno.ENOENT)
    assert results[2] == PhotoResult(found[2].source, "failed", f"there is a folder at {found[2].target}")
    assert all(result.reason for result in results[:3])


def test_a_photograph_that_is_gone_meanwhile_fails_alone(
    photo_folder: Folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = batch(photo_folder(count=2), tmp_path / "out")
    dehaze = Predictor.dehaze_bytes

    def meanwhile(self: Predictor, *args: object) -> object:
        Path(found[0].source).unlink(missing_ok=True)
        return dehaze(self, *args)  # type: ignore[arg-type]

    monkeypatch.setattr(Predictor, "dehaze_bytes", meanwhile)
    first, second = worker().work(0, found)
    assert first == PhotoResult(found[0].source, "failed", os.strerror(errno.ENOENT))
    assert second.status == "written"


def test_a_full_disk_for_feature_maps_says_what_to_do(
    photo_folder: Folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = batch(photo_folder(count=1, height=160, width=200), tmp_path / "out")
    network = {"name": "corun", "stages": 1, "dim": 30}
    model = checkpoints.save(tmp_path / "model", zoo.build(network), {"network": network})
    setup = WorkerSetup(str(model), None, DehazeOptions(), InferenceConfig(memory_mb=16), "cpu", ExistingResults(0))

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", full)
    (result,) = setup.worker().work(0, found)
    assert result.status == "failed"
    assert re.fullmatch(r"no space for \d+ MiB of feature maps; set TMPDIR to a larger disk", result.reason)


def test_what_counts_as_done(photo_folder: Folder, tmp_path: Path) -> None:
    source = photo_folder(count=1)
    (task,) = batch(source, tmp_path / "out")
    target = Path(task.target)

    def state(rules: ExistingResults) -> str:
        return states([task], rules)[0]

    assert state(ExistingResults(0)) == state(ExistingResults(None)) == "todo"
    target.parent.mkdir()
    target.write_bytes(b"result")
    now = target.stat().st_mtime_ns
    assert state(ExistingResults(0)) == state(ExistingResults(now)) == state(ExistingResults(None)) == "done"
    assert "--overwrite replaces it" in state(ExistingResults(now + 1))
    assert state(ExistingResults(now + 1, replace=True)) == state(ExistingResults(None, replace=True)) == "todo"
    os.utime(target, ns=(task.mtime - 1, task.mtime - 1))
    assert state(ExistingResults(0)) == "todo"  # the photograph is newer
    target.write_bytes(b"")
    assert state(ExistingResults(0)) == "todo"
    target.unlink()
    os.link(task.source, target)
    assert "is the photograph itself" in state(ExistingResults(0, replace=True))


def test_a_full_disk_stops_and_leaves_nothing_half_written(
    photo_folder: Folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = batch(photo_folder(count=4), tmp_path / "out")
    written = []

    def full(place: str, data: bytes) -> None:
        if len(written) == 2:
            raise NoSpaceError(errno.ENOSPC, f"No space left on device: {place}")
        written.append(place)
        write(place, data)

    monkeypatch.setattr(folder_work, "write", full)
    results = []
    with pytest.raises(NoSpaceError, match="No space left"):
        results.extend(worker().work(0, found))
    assert sorted(str(path) for path in (tmp_path / "out").iterdir()) == written


def test_no_space_is_told_from_other_errors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(code: int) -> Callable[[str], None]:
        def replacing(place: str) -> None:
            raise OSError(code, os.strerror(code))

        return replacing

    for code in (errno.ENOSPC, errno.EDQUOT, errno.EROFS):
        monkeypatch.setattr(folder_work, "replacing", failing(code))
        with pytest.raises(NoSpaceError):
            write(str(tmp_path / "a"), b"")
    monkeypatch.setattr(folder_work, "replacing", failing(errno.EACCES))
    with pytest.raises(PermissionError):
        write(str(tmp_path / "a"), b"")


def test_a_sheet_shows_the_whole_batch_also_after_it_went_on(photo_folder: Folder, tmp_path: Path) -> None:
    found = batch(photo_folder(count=3), tmp_path / "out")
    one = worker(ExistingResults(0, previews=str(tmp_path / "out" / "previews")))
    list(one.work(None, found[:1]))
    assert not (tmp_path / "out" / "previews").exists()
    list(one.work(7, found))
    sheet = tmp_path / "out" / "previews" / "sheet-000007.jpg"
    with Image.open(sheet) as drawn:
        whole = drawn.tobytes()
    Path(found[0].target).unlink()
    list(one.work(7, found))
    with Image.open(sheet) as drawn:
        assert drawn.tobytes() == whole
    before = sheet.stat().st_mtime_ns
    list(one.work(7, found))
    assert sheet.stat().st_mtime_ns == before


def test_a_sheet_of_other_photographs_is_drawn_anew(photo_folder: Folder, tmp_path: Path) -> None:
    found = batch(photo_folder(count=3), tmp_path / "out")
    one = worker(ExistingResults(0, previews=str(tmp_path / "previews")))
    list(one.work(0, found))
    sheet = tmp_path / "previews" / "sheet-000000.jpg"
    whole = sheet.read_bytes()
    list(one.work(0, found[1:]))  # all of them are done, and one is no longer there
    assert sheet.read_bytes() != whole
    list(one.work(0, found))
    again = sheet.stat().st_mtime_ns
    Path(found[0].target).write_bytes(Path(found[1].target).read_bytes())  # by a call that was killed before the sheet
    list(one.work(0, found))
    assert sheet.stat().st_mtime_ns > again
    Path(found[0].target).unlink()
    sheet.write_bytes(b"no picture")
    list(one.work(0, found))
    with Image.open(sheet) as drawn:
        assert drawn.format == "JPEG"
