"""Paths and URIs, and files that are there whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

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


def test_a_path_has_one_name_from_wherever_it_is_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "runs").mkdir()
    (tmp_path / "deep" / "er").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "deep" / "er")
    monkeypatch.chdir(tmp_path / "runs")
    for given, path in {
        "../new/*.jpg": "new/*.jpg",
        "./a/../b": "runs/b",
        str(tmp_path / "runs" / ".." / "b"): "b",
        "../link/../b": "deep/b",  # which is where it leads
        "../link/b": "link/b",
        "a..b/..c": "runs/a..b/..c",
    }.items():
        assert paths.absolute(given) == str(tmp_path / path)


SECRET = "s3cr3t"


@pytest.mark.parametrize(
    "uri",
    [
        f"s3://AKIA:{SECRET}@bucket/run",
        f"s3://AKIA:{SECRET}@bucket/run?nonsense=1",
        f"abfs://container/run?account_key={SECRET}",
        f"s3://bucket/run?session_token={SECRET}&region=eu-west-1",
    ],
)
def test_a_uri_with_a_secret_is_refused_without_saying_it(uri: str) -> None:
    with pytest.raises(ConfigError, match=r"comes with a secret .* AWS_SECRET_ACCESS_KEY") as caught:
        paths.absolute(uri)
    assert SECRET not in str(caught.value)


class TestObjectStorage:
    """On an S3 server of its own address."""

    def test_files_and_folders_are_as_on_a_disk(self, bucket: Callable[[str], str], tmp_path: Path) -> None:
        for folder in (bucket("runs/one"), str(tmp_path / "one")):
            paths.require_writable(folder)
            assert paths.names_in(folder) == []
            for name in ("b/c", "a", "b/d e%"):
                with paths.replacing(paths.child(folder, name)) as stream:
                    stream.write(name.encode())
            assert paths.names_in(folder) == ["a", "b"]
            assert paths.names_in(folder, folders=True) == ["b"]
            assert paths.names_in(paths.child(folder, "none")) == []
            paths.move(paths.child(folder, "b"), paths.child(folder, "moved"))
            assert paths.names_in(folder) == ["a", "moved"]
            assert paths.read_file(paths.child(folder, "moved/d e%")) == b"b/d e%"
            assert paths.read_file(paths.child(folder, "none")) is None
            with paths.local_copy(paths.child(folder, "moved")) as copy:
                assert sorted(path.name for path in copy.iterdir()) == ["c", "d e%"]
            for _ in range(2):
                paths.remove_folder(paths.child(folder, "moved"))
                assert paths.names_in(folder) == ["a"]
                assert not paths.exists(paths.child(folder, "moved"))

    def test_folders_are_uploaded_with_what_is_below_them(self, bucket: Callable[[str], str], tmp_path: Path) -> None:
        (tmp_path / "rows" / "of it").mkdir(parents=True)
        (tmp_path / "rows" / "of it" / "a").write_text("a")
        (tmp_path / "last").write_text("b")
        paths.upload(tmp_path, bucket("out"), "last")
        assert paths.read_file(paths.child(bucket("out"), "rows/of it/a")) == b"a"

    def test_what_completes_a_folder_comes_last(
        self, bucket: Callable[[str], str], object_storage: Any, tmp_path: Path
    ) -> None:
        for name in ("config.json", "model.safetensors", "zebra"):
            (tmp_path / name).write_text(name)
        object_storage.requests.clear()
        paths.upload(tmp_path, bucket("model"), "config.json")
        put = [path.rpartition("/")[2] for method, path in object_storage.requests if method == "PUT"]
        assert list(dict.fromkeys(put)) == ["model.safetensors", "zebra", "config.json"]

    def test_the_address_may_come_by_the_environment(
        self, bucket: Callable[[str], str], object_storage: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with paths.replacing(bucket("a")) as stream:
            stream.write(b"here")
        monkeypatch.setenv("AWS_ENDPOINT_URL", object_storage.endpoint)
        assert paths.read_file(bucket("a").partition("?")[0]) == b"here"

    def test_a_busy_server_is_asked_again_but_not_for_ever(
        self, bucket: Callable[[str], str], object_storage: Any
    ) -> None:
        place = bucket("busy")
        object_storage.failures = 2
        with paths.replacing(place) as stream:
            stream.write(b"written")
        object_storage.failures = 2
        assert paths.read_file(place) == b"written"
        object_storage.failures = 1000
        try:
            with pytest.raises(OSError, match="AWS Error"):
                paths.read_file(place)
            assert object_storage.failures > 900
        finally:
            object_storage.failures = 0

    @pytest.mark.parametrize("uri", ["s3://none/run", "s3://none/run?endpoint_override=http%3A%2F%2F127.0.0.1%3A9"])
    def test_what_cannot_be_written_is_said_without_the_credentials(
        self, uri: str, bucket: Callable[[str], str], object_storage: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("AWS_ENDPOINT_URL", object_storage.endpoint)
        monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
        with pytest.raises(ConfigError, match=r"cannot write to s3://none/run.*: ") as caught:
            paths.require_writable(uri)
        assert os.environ["AWS_SECRET_ACCESS_KEY"] not in str(caught.value)
