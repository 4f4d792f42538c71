"""Which photograph becomes which file."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from models.config import ConfigError
from models.paths import child, upload
from pipelines.dehaze import plan as folder_plan
from pipelines.dehaze.names import FAILURES, RECORD, SHEETS, ignores_case
from pipelines.dehaze.plan import batches, make_plan, survey, tasks
from pipelines.dehaze.work import ExistingResults, states

Folder = Callable[..., Path]


def touch(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(os.fsencode(name))
    return root


def names(
    sources: Path | list[str], target: Path | str | None, file_format: str | None = None, **kwargs: bool
) -> list[str]:
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


def test_raw_files_become_jpeg_whether_or_not_they_can_be_read(tmp_path: Path) -> None:
    source = touch(tmp_path / "in", "a.CR3")
    assert names([str(source / "a.CR3")], None)[0].endswith("a_dehazed.jpg")
    assert names([str(source / "a.CR3")], tmp_path / "out", "PNG") == ["a.png"]


def test_heic_becomes_jpeg_as_it_is_only_read(tmp_path: Path) -> None:
    source = touch(tmp_path / "in", "IMG_1.HEIC", "deep/b.heif", "c.avif", "d.hif", "e.jpeg")
    out = tmp_path / "out"
    assert names(source, out) == ["IMG_1.jpg", "c.avif", "d.jpg", "e.jpeg", "deep/b.jpg"]
    assert names(source, out, "AVIF") == ["IMG_1.avif", "c.avif", "d.avif", "e.avif", "deep/b.avif"]
    assert names([str(source / "IMG_1.HEIC")], None)[0].endswith("IMG_1_dehazed.jpg")
    touch(source, "IMG_1.jpg")
    with pytest.raises(ConfigError, match=r"IMG_1\.HEIC and .*IMG_1\.jpg would both become .*out/IMG_1\.jpg"):
        names(source, out)
    with pytest.raises(ConfigError, match=r"IMG_1\.HEIC and .*IMG_1\.jpg would both become .*IMG_1_dehazed\.jpg"):
        names(source, None)


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


def test_sheets_are_no_photographs_and_a_folder_called_previews_is_one_like_any_other(tmp_path: Path) -> None:
    made = touch(tmp_path / "in", "a.jpg", f"{SHEETS}/sheet-000000.jpg", "previews/sheet-000000.jpg", ".dehaze.json")
    assert names(made, tmp_path / "out") == ["a.jpg", "previews/sheet-000000.jpg"]


@pytest.mark.parametrize("name", [FAILURES, FAILURES.upper(), RECORD])
def test_a_name_of_our_own_files_is_refused(tmp_path: Path, name: str) -> None:
    touch(tmp_path, f"one/{name}", "in/b.jpg", f"deep/{name}/a.jpg")
    with pytest.raises(ConfigError, match="a name that is kept for lists and sheets; rename it"):
        names([str(tmp_path / "one" / name), str(tmp_path / "in" / "b.jpg")], tmp_path / "out")
    if not name.startswith("."):  # a hidden folder is passed over
        with pytest.raises(ConfigError, match="a name that is kept for lists and sheets; rename it"):
            names(tmp_path / "deep", tmp_path / "out")


@pytest.mark.parametrize("name", [SHEETS, SHEETS.upper()])
def test_no_result_lies_among_sheets(tmp_path: Path, name: str) -> None:
    source = touch(tmp_path / "in", f"{name}/sheet-000000.jpg", "b.jpg", f"deep/{name}/c.jpg")
    assert names(source, tmp_path / "out") == ["b.jpg"]
    found = survey(make_plan([str(source)], str(tmp_path / "out"), None))
    assert found.passed_over == f"left out: 2 {name} folder"


def test_any_name_is_a_name(tmp_path: Path) -> None:
    latin, folder = os.fsdecode(b"caf\xe9.jpg"), os.fsdecode(b"d\xff")
    odd = [latin, "-x.jpg", "a\nb.jpg", "#%:?.jpg", "'\".jpg", "\U0001f600.jpg", "x .jpg", "x..jpg"]
    source = touch(tmp_path / "in", *odd, f"{folder}/a.jpg")
    assert names(source, tmp_path / "out") == [*sorted(odd), f"{folder}/a.jpg"]


def test_a_name_that_is_no_text_fails_alone_behind_a_uri(tmp_path: Path) -> None:
    source = touch(tmp_path / "in", os.fsdecode(b"caf\xe9.jpg"), "b.jpg")
    plan = replace(make_plan([str(source)], str(tmp_path / "out"), None), folder="s3://bucket/out")
    assert [bool(task.problem) for task in tasks(plan)] == [False, True]


def test_a_home_is_looked_for_as_shells_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(touch(tmp_path, "~home.jpg", "a.jpg"))
    monkeypatch.setenv("HOME", str(tmp_path))
    assert names(["~home.jpg"], tmp_path / "out") == ["~home.jpg"]
    assert names(["~/a.jpg"], tmp_path / "out") == ["a.jpg"]


def test_what_is_left_out_is_counted_by_kind(tmp_path: Path) -> None:
    source = touch(
        tmp_path / "in", "a.jpg", "b.GIF", "deep/c.gif", "d.mov", "e.pdf", "README", ".hidden.jpg", ".DS_Store",
        ".git/x.jpg",
    )  # fmt: skip
    (source / "gone.jpg").symlink_to("nowhere")
    (source / "circle.jpg").symlink_to("circle.jpg")
    os.mkfifo(source / "pipe.jpg")
    assert survey(make_plan([str(source)], str(tmp_path / "out"), None)).passed_over == (
        "left out: 2 GIF, 2 broken links, 1 .git folder, 1 MOV, 1 PDF, 1 hidden, 1 pipes or devices, "
        "1 without a suffix; videos are dehazed one at a time: dehaze apply CLIP RESULT"
    )
    touch(tmp_path / "phone", "a.gif", "b.gif")
    with pytest.raises(ConfigError, match=r"no photographs in .*phone; left out: 2 GIF$"):
        names(tmp_path / "phone", tmp_path / "out")
    beside = touch(tmp_path / "beside", "a.jpg", "a_dehazed.jpg")
    assert survey(make_plan([str(beside)], None, None)).passed_over == "left out: 1 earlier results"


def test_a_folder_that_cannot_be_read_fails_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = touch(tmp_path / "in", "a.jpg", "locked/b.jpg", "open/c.jpg")
    scandir = os.scandir

    def locked(folder: str) -> Any:
        if folder.endswith("locked"):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        return scandir(folder)

    monkeypatch.setattr(os, "scandir", locked)
    found = list(tasks(make_plan([str(source)], str(tmp_path / "out"), None)))
    assert [(Path(task.source).name, task.problem) for task in found] == [
        ("a.jpg", ""), ("locked", "cannot be read: Permission denied"), ("c.jpg", ""),
    ]  # fmt: skip
    assert [state[:14] for state in states(found, ExistingResults())] == ["todo", "cannot be read", "todo"]
    with pytest.raises(ConfigError, match="locked cannot be read: Permission denied"):
        names(source / "locked", tmp_path / "out")


def test_one_photograph_and_a_name_with_a_suffix_is_a_file(tmp_path: Path) -> None:
    source = str(touch(tmp_path, "a.jpg") / "a.jpg")
    for name in ("out.heic", "out.mp4", "deep/out.x3f"):
        with pytest.raises(ConfigError, match=rf"cannot write .*{name}; expected one of .*\.jpg .*, or, for a folder"):
            make_plan([source], str(tmp_path / name), None)
    (tmp_path / "there.d").mkdir()
    for name in ("out.heic/", "out.jpg/", "results-2024.05", "out", "there.d"):
        assert names([source], f"{tmp_path}/{name}") == ["a.jpg"], name


def test_the_same_photograph_twice_is_one(tmp_path: Path) -> None:
    source = touch(tmp_path / "in", "a.jpg", "deep/b.jpg")
    assert names([f"{source}/a.jpg", f"{source}/a.jpg"], tmp_path / "out") == ["a.jpg"]
    assert set(names([f"{source}/a.jpg", f"{source}/deep/../a.jpg"], tmp_path / "out")) == {"a.jpg"}


def test_pipes_and_devices_are_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for name in (str(tmp_path / "pipe"), "/dev/zero"):
        with pytest.raises(ConfigError, match="is a pipe or a device; standard input is given as -"):
            names([name], tmp_path / "out")


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

    @pytest.mark.parametrize("files", [["A.jpg", "a.jpg"], ["Day/1.jpg", "day/1.jpg"]])
    def test_where_case_does_not_count(self, files: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        source = touch(tmp_path / "in", *files)
        assert names(source, tmp_path / "out") == files
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


def test_an_empty_name_is_not_the_current_folder(tmp_path: Path) -> None:
    for sources, target in (([""], None), ([str(tmp_path)], ""), ([str(tmp_path), ""], str(tmp_path / "out"))):
        with pytest.raises(ConfigError, match="one of the names is empty"):
            make_plan(sources, target, None)


def test_nothing_to_do_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no photographs in"):
        names(touch(tmp_path / "in", "notes.txt"), tmp_path / "out")


def test_uris(tmp_path: Path) -> None:
    source = touch(tmp_path / "in", "a b.jpg", "deep/c.jpg")
    plan = make_plan([source.as_uri()], (tmp_path / "out").as_uri(), "PNG")
    assert [os.path.relpath(task.target, tmp_path / "out") for task in tasks(plan)] == ["a b.png", "deep/c.png"]


def test_uris_with_options(bucket: Callable[[str], str], tmp_path: Path) -> None:
    upload(touch(tmp_path / "in", "a b.jpg", "c.jpg", "deep/d.png"), bucket("in"), "c.jpg")
    source, folder = bucket("in"), bucket("out")

    def found(sources: str, target: str, file_format: str | None = None) -> list[str]:
        plan = make_plan([sources], target, file_format)
        survey(plan)
        return [task.target for task in tasks(plan)]

    assert found(source, folder) == [child(folder, name) for name in ("a b.jpg", "c.jpg", "deep/d.png")]
    assert found(child(source, "c.jpg"), bucket("c.png")) == [bucket("c.png")]
    assert found(child(source, "c.jpg"), bucket("v1.x/")) == [bucket("v1.x/c.jpg")]
    assert found(bucket("in/a%20*.jpg"), folder) == [bucket("out/a%20b.jpg")]
    for target in (source, bucket("in/"), bucket("%69n")):
        with pytest.raises(ConfigError, match="is an input"):
            found(source, target, "WEBP")
    upload(tmp_path / "in", bucket("in/done"), "c.jpg")
    assert len(found(source, bucket("in/done/"))) == 3
    with pytest.raises(ConfigError, match="there is no file or folder"):
        found(bucket("nothing.jpg"), folder)
