"""Paths and URIs, and files that are there whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from models import paths
from models.config import ConfigError


@pytest.mark.parametrize(
    "uri", ["file:///a?strenght=1", "file:///photos/?.jpg", "file:///a#1", "s3://bucket/a?region=eu-west-1#1"]
)
def test_what_would_be_dropped_from_a_uri_is_refused(uri: str) -> None:
    with pytest.raises(ConfigError, match=r"cannot open '.*': it has no options; a # of a name is written %23"):
        paths.filesystem(uri)


def test_failed_replacement_leaves_the_old_file(tmp_path: Path) -> None:
    target = tmp_path / "deep" / "file"
    with paths.replacing(str(target)) as stream:
        stream.write(b"old")

    def fail_half_way() -> None:
        with paths.replacing(str(target)) as stream:
            stream.write(b"half of the new")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail_half_way()
    assert target.read_bytes() == b"old"
    assert list(target.parent.iterdir()) == [target]


def test_a_durable_file_is_on_the_disk_before_it_has_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "manifest.json"
    target.write_text("old")
    synced: list[tuple[str, str]] = []

    def note(path: str) -> None:
        what = "folder" if Path(path).is_dir() else Path(path).read_text()
        synced.append((what, target.read_text()))

    monkeypatch.setattr(paths, "persist", note)
    with paths.replacing(str(target), durable=True) as stream:
        stream.write(b"new")
    assert synced == [("new", "old"), ("folder", "old"), ("folder", "new")]
    synced.clear()
    with paths.replacing(str(target)) as stream:
        stream.write(b"not so important")
    assert synced == []


def test_a_file_of_the_longest_name_is_replaced(tmp_path: Path) -> None:
    for name in ("n" * 255, "\U0001f600" * 63, os.fsdecode(b"\xff" * 255), "a\nb"):
        with paths.replacing(str(tmp_path / name)) as stream:
            stream.write(b"whole")
        assert (tmp_path / name).read_bytes() == b"whole"
    assert len(list(tmp_path.iterdir())) == 4
