"""`dehaze apply`: flags, exit codes and what they leave behind."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipelines import apply, folder_work
from pipelines.apply import main
from pipelines.folder_record import RECORD
from serving.predictor import Predictor

Folder = Callable[..., Path]


def names(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_one_photograph_gets_a_neighbour(photo_folder: Folder, capsys: pytest.CaptureFixture[str]) -> None:
    folder = photo_folder(count=1, hazy=True)
    source = folder / "photo_000.jpg"
    before = source.read_bytes()
    assert main([str(source), "--model", "dcp"]) == 0
    assert source.read_bytes() == before
    assert names(folder) == ["photo_000.jpg", "photo_000_dehazed.jpg"]
    assert (folder / "photo_000_dehazed.jpg").read_bytes() == Predictor("dcp").dehaze_bytes(before)[0]
    assert capsys.readouterr().out == f"{folder / 'photo_000_dehazed.jpg'}\n"
    assert main([str(source), "--model", "dcp"]) == 2
    assert "is there already; --overwrite replaces it" in capsys.readouterr().err
    assert main([str(source), "--model", "dcp", "--overwrite", "--strength", "0.5"]) == 0


def test_one_photograph_gets_a_name(photo_folder: Folder, tmp_path: Path) -> None:
    source = photo_folder(count=1) / "photo_000.jpg"
    assert main([str(source), str(tmp_path / "deep" / "clear.png"), "--model", "dcp"]) == 0
    with Image.open(tmp_path / "deep" / "clear.png") as clear:
        assert clear.format == "PNG"


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
    photo_folder: Folder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = photo_folder("in/deep", count=2).parent
    (folder / "cut.jpg").write_bytes((folder / "deep" / "photo_000.jpg").read_bytes()[:900])
    (folder / "notes.txt").write_text("no photograph")
    out = tmp_path / "out"
    words = [str(folder), str(out), "--model", "dcp", "--format", "png", "--strength", "0", "--preview"]
    assert main(words) == 1
    results = ["deep/photo_000.png", "deep/photo_001.png"]
    assert names(out) == [RECORD, *results, "failures.csv", "previews/sheet-000000.jpg"]
    captured = capsys.readouterr()
    assert "2 dehazed, 0 there already, 1 failed; see" in captured.out
    assert "cut.jpg" in captured.err
    with (out / "failures.csv").open(newline="") as file:
        (failure,) = csv.DictReader(file)
    assert failure["path"] == str(folder / "cut.jpg")
    assert failure["reason"]
    with Image.open(out / "deep" / "photo_000.png") as got, Image.open(folder / "deep" / "photo_000.jpg") as had:
        assert got.format == "PNG"
        assert np.array_equal(np.asarray(got), np.asarray(had))

    (folder / "cut.jpg").unlink()
    assert main(words) == 0
    assert "0 dehazed, 2 there already, 0 failed\n" in capsys.readouterr().out
    assert "failures.csv" not in names(out)


def test_other_settings_do_not_mix(photo_folder: Folder, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, out = photo_folder(count=2, hazy=True), tmp_path / "out"
    words = [str(folder), str(out), "--model", "dcp"]
    assert main(words) == 0
    before = (out / "photo_000.jpg").read_bytes()
    assert main([*words, "--strength", "0.3"]) == 2
    assert "strength 1.0, not 0.3" in capsys.readouterr().err
    assert (out / "photo_000.jpg").read_bytes() == before
    assert main([*words, "--strength", "0.3", "--overwrite"]) == 0
    assert "2 dehazed" in capsys.readouterr().out
    assert (out / "photo_000.jpg").read_bytes() != before


def test_files_that_this_command_did_not_make_stay(
    photo_folder: Folder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, out = photo_folder(count=2), tmp_path / "out"
    out.mkdir()
    (out / "photo_000.jpg").write_bytes(b"something else")
    assert main([str(folder), str(out), "--model", "dcp"]) == 1
    assert (out / "photo_000.jpg").read_bytes() == b"something else"
    assert "--overwrite replaces it" in capsys.readouterr().err
    assert main([str(folder), str(out), "--model", "dcp", "--overwrite"]) == 0
    assert (out / "photo_000.jpg").read_bytes() != b"something else"


def test_a_dry_run_does_nothing(photo_folder: Folder, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, out = photo_folder(count=3), tmp_path / "out"
    words = [str(folder), str(out), "--model", "dcp"]
    assert main([*words, "--dry-run"]) == 0
    printed = capsys.readouterr().out
    assert f"{folder / 'photo_001.jpg'} -> {out / 'photo_001.jpg'}\n" in printed
    assert "3 to dehaze, 0 there already, 0 cannot be done" in printed
    assert not out.exists()
    assert main(words) == 0
    (out / "photo_001.jpg").unlink()
    capsys.readouterr()
    assert main([*words, "--dry-run"]) == 0
    assert "1 to dehaze, 2 there already" in capsys.readouterr().out
    (folder / "photo_000.png").write_bytes((folder / "photo_000.jpg").read_bytes())
    assert main([str(folder), str(tmp_path / "other"), "--model", "dcp", "--format", "png", "--dry-run"]) == 2
    assert "would both become" in capsys.readouterr().err


def test_no_room_is_exit_code_3(
    photo_folder: Folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, out = photo_folder(count=3), tmp_path / "out"
    written: list[str] = []

    def full(place: str, data: bytes) -> None:
        if written:
            raise folder_work.NoSpaceError(28, f"No space left on device: {place}")
        written.append(place)

    monkeypatch.setattr(folder_work, "write", full)
    assert main([str(folder), str(out), "--model", "dcp"]) == 3
    error = capsys.readouterr().err
    assert "No space left on device" in error
    assert "free some space and repeat the command" in error
    assert "1 dehazed" in error


def test_ctrl_c_keeps_what_is_done(photo_folder: Folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, out = photo_folder(count=3), tmp_path / "out"
    words = [str(folder), str(out), "--model", "dcp"]
    dehaze = Predictor.dehaze_bytes
    calls: list[int] = []

    def interrupted(self: Predictor, *args: object) -> object:
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return dehaze(self, *args)  # type: ignore[arg-type]

    monkeypatch.setattr(Predictor, "dehaze_bytes", interrupted)
    assert main(words) == 130
    assert names(out) == [RECORD, "photo_000.jpg", "photo_001.jpg"]
    assert main(words) == 0
    assert len(calls) == 4


def test_bad_arguments_are_one_line(photo_folder: Folder, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = str(photo_folder(count=1))
    (tmp_path / "empty").mkdir()
    for words, message in (
        ([str(tmp_path / "nothing")], "there is no file or folder"),
        ([str(tmp_path / "empty"), str(tmp_path / "out")], "no photographs"),
        ([folder, "--strength", "7"], "strength"),
        ([folder, "--tile", "100"], "tile"),
        ([folder, "--model", "corun-compakt"], "did you mean 'corun-compact'"),
        ([folder, "--device", "quantum"], "--device is 'quantum'"),
        ([folder, "--preview"], "--preview needs a folder"),
        ([folder, folder], "is an input"),
        ([folder, "clip.mp4", str(tmp_path / "out")], "clip.mp4 is a video; give one video at a time"),
    ):
        assert main(words) == 2, words
        error = capsys.readouterr().err
        assert message in error
        assert error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_help_shows_how(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])
    printed = capsys.readouterr().out
    assert str(apply.__doc__).strip().splitlines()[0] in printed
    assert "Exit codes" in printed
