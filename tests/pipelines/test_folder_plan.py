"""Which photograph becomes which file."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from models.settings import ConfigError
from pipelines import folder_plan
from pipelines.folder_names import ignores_case
from pipelines.folder_plan import batches, make_plan, survey, tasks

Folder = Callable[..., Path]


def touch(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(name.encode())
    return root


def names(sources: Path | list[str], target: Path | None, file_format: str | None = None, **kwargs: bool) -> list[str]:
    """Targets, relative to the target or the source."""
    listed = sources if isinstance(sources, list) else [str(sources)]
    plan = make_plan(listed, None if target is None else str(target), file_format, **kwargs)
    survey(plan)
    base = target if target is not None else Path(listed[0])
    return [os.path.relpath(task.target, base) for task in tasks(plan)]


def test_the_tree_is_kept_and_only_photographs_count(tmp_path: Path) -> None:
    source = touch(tmp_path / "in", "b.PNG", "a.jpg", "deep/er/c.webp", "notes.txt", ".hidden.jpg", ".git/x.jpg")
    assert names(source, tmp_path / "out") == ["a.jpg", "b.PNG", "deep/er/c.webp"]
    assert names(source, tmp_path / "out", recursive=False) == ["a.jpg", "b.PNG"]
    assert names(source, tmp_path / "out", "PNG") == ["a.png", "b.PNG", "deep/er/c.png"]


def test_globs(tmp_path: Path) -> None:
    source = touch(tmp_path / "in", "a.jpg", "b.png", "deep/c.jpg", "deep/er/d.jpg")
    out = tmp_path / "out"
    assert names([f"{source}/*.jpg"], out) == ["a.jpg"]
    assert names([f"{source}/**/*.jpg"], out) == ["a.jpg", "deep/c.jpg", "deep/er/d.jpg"]
    assert names([f"{source}/deep/[cd].jpg"], out) == ["c.jpg"]


def test_batches_are_the_tasks_in_the_same_order(tmp_path: Path) -> None:
    source = touch(tmp_path / "in", *(f"{folder}/{index}.jpg" for folder in "ba" for index in range(5)))
    plan = make_plan([str(source)], str(tmp_path / "out"), None)
    assert [len(batch) for batch in batches(plan, 4)] == [4, 4, 2]
    assert [task for batch in batches(plan, 4) for task in batch] == list(tasks(plan))
    assert survey(plan).count == 10
    assert survey(plan).size == sum(task.size for task in tasks(plan)) == 10 * len("a/0.jpg")


def test_one_photograph_can_be_named(tmp_path: Path) -> None:
    source = str(touch(tmp_path, "a.jpg") / "a.jpg")
    assert names([source], None)[0].endswith("a_dehazed.jpg")
    plan = make_plan([source], str(tmp_path / "clear.png"), None)
    assert (plan.file, plan.format, plan.single) == (str(tmp_path / "clear.png"), "PNG", True)
    with pytest.raises(ConfigError, match=r"suffix of PNG, but the format asked for is JPEG"):
        make_plan([source], str(tmp_path / "clear.png"), "JPEG")
    assert names([source], tmp_path / "folder") == ["a.jpg"]


def test_several_sources_need_a_folder(tmp_path: Path) -> None:
    touch(tmp_path, "a.jpg", "b.jpg", "c.jpg")
    with pytest.raises(ConfigError, match=r"c\.jpg is no folder"):
        make_plan([str(tmp_path / "a.jpg"), str(tmp_path / "b.jpg")], str(tmp_path / "c.jpg"), None)
    with pytest.raises(ConfigError, match="there is no file or folder"):
        make_plan([str(tmp_path / "nothing")], str(tmp_path / "out"), None)


def test_results_beside_are_no_input_of_the_next_call(tmp_path: Path) -> None:
    source = touch(tmp_path / "in", "a.jpg", "a_dehazed.jpg")
    assert names(source, None) == ["a_dehazed.jpg"]


def test_results_below_their_source_are_no_input(tmp_path: Path) -> None:
    source = touch(tmp_path / "in", "a.jpg", "clear/a.jpg", "clear/b.jpg")
    assert names(source, source / "clear") == ["a.jpg"]
    assert names(source, source / "not there yet") == ["a.jpg", "clear/a.jpg", "clear/b.jpg"]


def test_sheets_among_results_are_no_photographs(tmp_path: Path) -> None:
    made = touch(tmp_path / "in", "a.jpg", ".dehaze.json", "previews/sheet-000000.jpg", "deep/previews/b.jpg")
    assert names(made, tmp_path / "out") == ["a.jpg", "deep/previews/b.jpg"]


def test_a_name_that_is_no_text_is_named(tmp_path: Path) -> None:
    source = touch(tmp_path / "in", "a.jpg")
    (source / os.fsdecode(b"caf\xe9.jpg")).write_bytes(b"")
    with pytest.raises(ConfigError, match="not UTF-8"):
        names(source, tmp_path / "out")


class TestInputsAreNeverReplaced:
    def test_the_same_folder(self, tmp_path: Path) -> None:
        source = touch(tmp_path / "in", "a.jpg")
        with pytest.raises(ConfigError, match="is an input"):
            names(source, source)

    def test_through_a_link(self, tmp_path: Path) -> None:
        source = touch(tmp_path / "in", "deep/a.jpg")
        (tmp_path / "link").symlink_to(source)
        with pytest.raises(ConfigError, match="is an input"):
            names(source, tmp_path / "link")
        out = tmp_path / "out"
        out.mkdir()
        (out / "deep").symlink_to(source / "deep")
        with pytest.raises(ConfigError, match="is an input"):
            names(source, out)

    def test_from_above(self, tmp_path: Path) -> None:
        source = touch(tmp_path / "in", "in/a.jpg", "a.jpg")
        with pytest.raises(ConfigError, match="is an input"):
            names(source, tmp_path)

    def test_by_a_hard_link(self, tmp_path: Path) -> None:
        source = touch(tmp_path / "in", "a.jpg")
        (tmp_path / "out").mkdir()
        os.link(source / "a.jpg", tmp_path / "out" / "a.jpg")
        with pytest.raises(ConfigError, match="is an input"):
            names(source, tmp_path / "out")

    def test_one_of_several_files(self, tmp_path: Path) -> None:
        touch(tmp_path, "in/a.png", "out/a.jpg")
        with pytest.raises(ConfigError, match="is an input"):
            names([str(tmp_path / "in/a.png"), str(tmp_path / "out/a.jpg")], tmp_path / "out", "JPEG")

    def test_the_photograph_itself(self, tmp_path: Path) -> None:
        source = touch(tmp_path, "a.jpg") / "a.jpg"
        with pytest.raises(ConfigError, match="is an input"):
            names([str(source)], source)


class TestTwoInputsNeverBecomeOne:
    def test_by_their_format(self, tmp_path: Path) -> None:
        source = touch(tmp_path / "in", "a.jpg", "a.png", "b.jpg", "b.webp", "c.tif")
        with pytest.raises(ConfigError) as caught:
            names(source, tmp_path / "out", "PNG")
        assert f"{source}/a.jpg and {source}/a.png would both become {tmp_path}/out/a.png" in str(caught.value)
        assert f"{source}/b.jpg and {source}/b.webp" in str(caught.value)

    def test_many_are_counted(self, tmp_path: Path) -> None:
        source = touch(tmp_path / "in", *(f"{index}.{suffix}" for index in range(9) for suffix in ("jpg", "png")))
        with pytest.raises(ConfigError, match="and 6 more such pairs"):
            names(source, tmp_path / "out", "BMP")

    def test_from_several_sources(self, tmp_path: Path) -> None:
        first, second = touch(tmp_path / "x", "a.jpg", "b.jpg"), touch(tmp_path / "y", "a.jpg")
        with pytest.raises(ConfigError, match="would both become"):
            names([str(first), str(second)], tmp_path / "out")
        assert names([str(first), str(first)], tmp_path / "out") == ["a.jpg", "b.jpg"]

    def test_where_case_does_not_count(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        source = touch(tmp_path / "in", "a.jpg", "A.jpg")
        assert names(source, tmp_path / "out") == ["A.jpg", "a.jpg"]
        monkeypatch.setattr(folder_plan, "ignores_case", lambda place: True)
        with pytest.raises(ConfigError, match="would both become"):
            names(source, tmp_path / "out")


def test_folders_are_one_where_case_does_not_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = touch(tmp_path / "in", "Day/1.jpg", "day/1.jpg")
    assert names(source, tmp_path / "out") == ["Day/1.jpg", "day/1.jpg"]
    monkeypatch.setattr(folder_plan, "ignores_case", lambda place: True)
    with pytest.raises(ConfigError, match="would both become"):
        names(source, tmp_path / "out")


def test_case_is_told_by_looking_up_the_folder_in_the_other_case(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    assert not ignores_case(str(tmp_path / "out" / "not there yet"))
    (tmp_path / "OUT").symlink_to(tmp_path / "out")
    assert ignores_case(str(tmp_path / "out" / "not there yet"))


def test_links_in_a_circle_end(tmp_path: Path) -> None:
    source = touch(tmp_path / "in", "deep/a.jpg")
    (source / "deep" / "again").symlink_to(source)
    assert names(source, tmp_path / "out") == ["deep/a.jpg"]


def test_nothing_to_do_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no photographs in"):
        names(touch(tmp_path / "in", "notes.txt"), tmp_path / "out")


def test_uris(tmp_path: Path) -> None:
    source = touch(tmp_path / "in", "a b.jpg", "deep/c.jpg")
    plan = make_plan([source.as_uri()], (tmp_path / "out").as_uri(), "PNG")
    assert [os.path.relpath(task.target, tmp_path / "out") for task in tasks(plan)] == ["a b.png", "deep/c.png"]
