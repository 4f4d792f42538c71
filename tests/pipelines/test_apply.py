"""`dehaze apply`: which file becomes which, and what is in it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from models.settings import ConfigError
from pipelines.apply import main, plan
from serving.predictor import Predictor


def names(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_one_photograph_gets_a_neighbour(photo_folder: Callable[..., Path]) -> None:
    folder = photo_folder(count=1, hazy=True)
    source = folder / "photo_000.jpg"
    before = source.read_bytes()
    assert main([str(source), "--model", "dcp"]) == 0
    assert source.read_bytes() == before
    assert names(folder) == ["photo_000.jpg", "photo_000_dehazed.jpg"]
    assert (folder / "photo_000_dehazed.jpg").read_bytes() == Predictor("dcp").dehaze_bytes(before)[0]


def test_metadata_is_kept_on_request_only(tmp_path: Path) -> None:
    source, exif = tmp_path / "a.jpg", Image.Exif()
    exif[0x010F], exif[0x0112] = "maker", 6
    exif[0x8825] = {1: "N"}
    Image.new("RGB", (32, 24), (90, 90, 90)).save(source, exif=exif.tobytes())
    assert main([str(source), "--model", "dcp", "--out", str(tmp_path / "without")]) == 0
    assert main([str(source), "--model", "dcp", "--out", str(tmp_path / "with"), "--keep-metadata"]) == 0
    with Image.open(tmp_path / "without" / "a.jpg") as without, Image.open(tmp_path / "with" / "a.jpg") as kept:
        assert without.size == kept.size == (24, 32)
        assert not without.getexif()
        assert (kept.getexif()[0x010F], kept.getexif()[0x0112]) == ("maker", 1)
        assert kept.getexif().get_ifd(0x8825)[1] == "N"


def test_a_folder_keeps_its_tree_and_failures_do_not_stop_it(
    photo_folder: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = photo_folder("in/deep", count=2).parent
    (folder / "cut.jpg").write_bytes((folder / "deep" / "photo_000.jpg").read_bytes()[:900])
    (folder / "notes.txt").write_text("no photograph")
    out = tmp_path / "out"
    assert main([str(folder), "--out", str(out), "--model", "dcp", "--format", "png", "--strength", "0"]) == 1
    assert names(out) == ["deep/photo_000.png", "deep/photo_001.png"]
    captured = capsys.readouterr()
    assert "cut.jpg" in captured.err
    assert "2 of 3" in captured.out
    with Image.open(out / "deep" / "photo_000.png") as got, Image.open(folder / "deep" / "photo_000.jpg") as had:
        assert got.format == "PNG"
        assert np.array_equal(np.asarray(got), np.asarray(had))


def test_results_are_no_input_of_the_next_call(photo_folder: Callable[..., Path]) -> None:
    folder = photo_folder(count=2)
    assert main([str(folder), "--model", "dcp"]) == 0
    assert [job.source.name for job in plan([folder], None)] == ["photo_000.jpg", "photo_001.jpg"]
    inside = folder / "results"
    assert main([str(folder), "--model", "dcp", "--out", str(inside)]) == 0
    assert not [job for job in plan([folder], inside) if inside in job.source.parents]


def test_inputs_are_never_replaced(photo_folder: Callable[..., Path], tmp_path: Path) -> None:
    folder = photo_folder(count=1)
    with pytest.raises(ConfigError, match="is an input"):
        plan([folder], folder)
    link = tmp_path / "link"
    link.symlink_to(folder)
    with pytest.raises(ConfigError, match="is an input"):
        plan([folder / "photo_000.jpg"], link)


def test_two_inputs_never_become_one(photo_folder: Callable[..., Path], tmp_path: Path) -> None:
    first, second = photo_folder("a", count=1), photo_folder("b", count=1)
    with pytest.raises(ConfigError, match="would both become"):
        plan([first, second], tmp_path / "out")
    assert len(plan([first, first], tmp_path / "out")) == 1


def test_bad_arguments_are_one_line(
    photo_folder: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = str(photo_folder(count=1))
    (tmp_path / "empty").mkdir()
    for words, message in (
        ([str(tmp_path / "nothing")], "there is no file or folder"),
        ([str(tmp_path / "empty")], "no photographs"),
        ([folder, "--strength", "7"], "strength"),
        ([folder, "--model", "corun-compakt"], "did you mean 'corun-compact'"),
    ):
        assert main(words) == 2
        error = capsys.readouterr().err
        assert message in error
        assert error.count("\n") == 1
