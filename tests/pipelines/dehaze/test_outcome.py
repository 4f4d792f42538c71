"""Counts and the list of failures."""

from __future__ import annotations

import csv
import itertools
from pathlib import Path

import pytest

from models.config import ConfigError
from pipelines.dehaze.outcome import FAILURES, FolderReport
from pipelines.dehaze.work import PhotoResult


def test_failures_are_listed_and_an_old_list_is_removed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / FAILURES).write_text("path,reason\nold,gone\n")
    with FolderReport(3, str(tmp_path)) as report:
        assert not (tmp_path / FAILURES).exists()
        report.add(PhotoResult("a.jpg", "written"))
        report.add_many({"kept": 1, "failed": 1}, [PhotoResult('b, "c".jpg', "failed", "it is broken")])
        assert report.exit_code == 1
    with (tmp_path / FAILURES).open(newline="") as file:
        assert list(csv.reader(file)) == [["path", "reason"], ['b, "c".jpg', "it is broken"]]
    assert report.summary() == f"1 dehazed, 1 there already, 1 failed; see {tmp_path / FAILURES}"
    assert 'failed: b, "c".jpg: it is broken' in capsys.readouterr().err


def test_names_that_are_no_text(tmp_path: Path) -> None:
    with FolderReport(1, str(tmp_path), quiet=True) as report:
        report.add(PhotoResult("caf\udce9.jpg", "failed", "broken"))
    assert b"caf\xe9.jpg,broken\n" in (tmp_path / FAILURES).read_bytes()


def test_nothing_failed(tmp_path: Path) -> None:
    with FolderReport(1, str(tmp_path)) as report:
        report.add(PhotoResult("a.jpg", "written"))
    assert report.exit_code == 0
    assert not (tmp_path / FAILURES).exists()
    assert report.summary() == "1 dehazed, 0 there already, 0 failed"


@pytest.mark.parametrize(("quiet", "seconds", "shown"), [(False, 11, True), (False, 0, False), (True, 11, False)])
def test_a_log_shows_how_far_long_work_is(
    quiet: bool, seconds: int, shown: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("tqdm.std.time", itertools.count(0, seconds).__next__)
    with FolderReport(2, None, quiet=quiet) as report:
        report.add_many({"kept": 1, "written": 1}, [])
    assert ("dehaze: 100%" in capsys.readouterr().err) is shown


def test_a_file_that_is_no_list_of_failures_stays(tmp_path: Path) -> None:
    (tmp_path / FAILURES).write_text("pump,hours\n")
    with pytest.raises(ConfigError, match="is no list of failures"):
        FolderReport(1, str(tmp_path))
    assert (tmp_path / FAILURES).read_text() == "pump,hours\n"


@pytest.mark.parametrize("cut", ["", "path,re"])
def test_a_list_that_a_full_disk_cut_is_removed(cut: str, tmp_path: Path) -> None:
    (tmp_path / FAILURES).write_text(cut)
    with FolderReport(1, str(tmp_path), quiet=True):
        assert not (tmp_path / FAILURES).exists()
