"""`dehaze apply`: flags, exit codes and what they leave behind."""

from __future__ import annotations

import csv
import errno
import os
import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from models import images, zoo
from models.checkpoints import CONFIG, save
from models.paths import local_files, upload
from models.predictor import DehazeInfo, Predictor
from pipelines.dehaze import apply
from pipelines.dehaze import work as folder_work
from pipelines.dehaze.apply import main
from pipelines.dehaze.names import FAILURES, RECORD, SHEETS
from tests.models.images.raws import dng

Folder = Callable[..., Path]
HEIC = Path(__file__).parents[2] / "models" / "images" / "heic" / "turned.heic"  # 48x64 when it is upright


def names(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_a_model_may_be_on_object_storage(
    photo_folder: Folder, bucket: Callable[[str], str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    network = {"name": "corun", "stages": 1, "dim": 2}
    upload(save(tmp_path / "tiny", zoo.build(network), {"network": network}), bucket("runs/one/model"), CONFIG)
    folder = photo_folder(count=1, hazy=True)
    for model, out in ((bucket("runs/one/model"), "stored"), (str(tmp_path / "tiny"), "local")):
        assert main([str(folder), str(tmp_path / out), "--model", model]) == 0, capsys.readouterr().err
    stored, local = (tmp_path / out / "photo_000.jpg" for out in ("stored", "local"))
    assert stored.read_bytes() == local.read_bytes()
    assert Predictor(bucket("runs/one/model")).name == "model"


def test_one_photograph_gets_a_neighbor(photo_folder: Folder, capsys: pytest.CaptureFixture[str]) -> None:
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


def test_two_photographs_and_no_folder(photo_folder: Folder, capsys: pytest.CaptureFixture[str]) -> None:
    """As from ``dehaze *.jpg``: the last one, here an original, would be replaced."""
    first, second = sorted(photo_folder(count=2).iterdir())
    assert main([str(first), str(second), "--model", "dcp"]) == 2
    advice = "--overwrite replaces it; to dehaze it too, give a folder for the results: --out DST"
    assert f"{second} is there already; {advice}\n" in capsys.readouterr().err


def test_heic_in_a_folder_becomes_jpeg(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, out = tmp_path / "in", tmp_path / "out"
    (folder / "deep").mkdir(parents=True)
    shutil.copy(HEIC, folder / "deep" / "IMG_1.HEIC")
    Image.new("RGB", (64, 48), (90, 120, 150)).save(folder / "b.avif")
    assert main([str(folder), str(out), "--model", "dcp"]) == 0
    assert names(out) == sorted([RECORD, "b.avif", "deep/IMG_1.jpg"])
    with Image.open(out / "deep" / "IMG_1.jpg") as turned, Image.open(out / "b.avif") as other:
        assert (turned.format, turned.size, other.format) == ("JPEG", (48, 64), "AVIF")
    assert "left out" not in capsys.readouterr().out
    assert main([str(folder), str(out), "--model", "dcp"]) == 0
    assert "0 dehazed, 2 there already" in capsys.readouterr().out
    assert main([str(folder / "deep" / "IMG_1.HEIC"), "--model", "dcp", "--format", "png"]) == 0
    assert (folder / "deep" / "IMG_1_dehazed.png").exists()


def test_a_result_is_what_its_suffix_says_where_that_is_another_one(tmp_path: Path) -> None:
    source = tmp_path / "in" / "a.heic"  # whatever it is called
    source.parent.mkdir()
    Image.new("RGB", (16, 16), (9, 90, 200)).save(source, "PNG")
    assert main([str(source), "--model", "dcp"]) == 0
    assert main([str(source.parent), str(tmp_path / "out"), "--model", "dcp"]) == 0
    for result in (source.with_name("a_dehazed.jpg"), tmp_path / "out" / "a.jpg"):
        with Image.open(result) as found:
            assert found.format == "JPEG"


@pytest.mark.parametrize("installed", [True, False])
def test_raw_files_are_taken_where_rawpy_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, installed: bool
) -> None:
    if installed:
        pytest.importorskip("rawpy", reason="rawpy is not installed")
    else:
        monkeypatch.setitem(sys.modules, "rawpy", None)
    folder, out = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    Image.new("RGB", (64, 48), (90, 120, 150)).save(folder / "b.jpg")
    (folder / "a.DNG").write_bytes(dng(None, 6, sub=True))
    assert main([str(folder), str(out), "--model", "dcp"]) == 0
    told = capsys.readouterr().out
    assert names(out) == [RECORD, *(["a.jpg"] if installed else []), "b.jpg"]
    assert ("left out: 1 DNG; raw files need rawpy: pip install 'ray-dehaze[raw]'" in told) != installed
    done = main([str(folder / "a.DNG"), str(tmp_path / "clear.png"), "--model", "dcp"])
    if installed:
        assert images.read_image(tmp_path / "clear.png").pixels.shape == (64, 48, 3)
    else:
        assert done == 1
        assert "raw file, which needs rawpy: pip install 'ray-dehaze[raw]'" in capsys.readouterr().err


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
    assert names(out) == [RECORD, *sorted([*results, "dehaze-previews/sheet-000000.jpg"]), "failures.csv"]
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
        ([folder, "--strength", "80%"], "'80%': expected a number from -1 to 2, or auto"),
        ([folder, "--smoothing", "0"], "--smoothing is for videos"),
        (["-", "--crf", "20"], "--crf is for videos"),
        ([f"{folder}/photo_000.jpg", str(tmp_path / "out.mp4")], "; only a video becomes a video"),
        ([folder, "--tile", "100"], "tile"),
        ([folder, "--model", "corun-compakt"], "did you mean 'corun-compact'"),
        ([folder, "--device", "quantum"], "--device is 'quantum'"),
        ([folder, "--preview"], "--preview needs a folder"),
        ([folder, folder], "is an input"),
        ([folder, "clip.mp4", str(tmp_path / "out")], "clip.mp4 is a video; give one video at a time"),
        ([f"{folder}/photo_000.jpg", str(tmp_path / "out.heic")], "out.heic; expected one of"),
        ([folder, str(tmp_path / ("x" * 300))], "File name too long"),
        ([str(tmp_path / ("x" * 300)), str(tmp_path / "out")], "File name too long"),
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


ODD = [
    os.fsdecode(b"caf\xe9.jpg"),
    "-x.jpg",
    "a\nb\x1b[2J.jpg",
    "#%:?*.jpg",
    "'\".jpg",
    "\U0001f600 .jpg",
    f"{'n' * 246}.jpg",
]


def test_any_name_is_dehazed(photo_folder: Folder, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = photo_folder(count=1)
    whole = (folder / "photo_000.jpg").read_bytes()
    (folder / "photo_000.jpg").unlink()
    deep = folder / os.fsdecode(b"d\xff")
    deep.mkdir()
    for name in ODD:
        (folder / name).write_bytes(whole)
    for name in (os.fsdecode(b"cut\xff.jpg"), "cut\r\n.jpg"):
        (deep / name).write_bytes(whole[:700])
    out = tmp_path / os.fsdecode(b"out\xff")
    assert main([str(folder), str(out), "--model", "dcp", "--preview"]) == 1
    captured = capsys.readouterr()
    assert names(out) == sorted([*ODD, RECORD, FAILURES, f"{SHEETS}/sheet-000000.jpg"])
    assert f"{len(ODD)} dehazed, 0 there already, 2 failed" in captured.out
    assert "\\xff/cut\\xff.jpg: " in captured.err
    assert "\\xff/cut\\r\\n.jpg: " in captured.err
    with (out / FAILURES).open(newline="", encoding="utf-8", errors="surrogateescape") as file:
        failed = sorted(row["path"] for row in csv.DictReader(file))
    assert failed == sorted(str(path) for path in deep.iterdir())
    assert main([str(folder), str(out), "--model", "dcp", "--dry-run"]) == 0
    captured = capsys.readouterr()
    assert "2 to dehaze, 7 there already" in captured.out
    assert "\x1b" not in captured.out
    assert main([str(deep), "--model", "dcp"]) == 1, "beside"


def test_a_name_that_cannot_be_made_longer_fails_alone(
    photo_folder: Folder, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = photo_folder(count=2)
    long = folder / f"{'n' * 251}.jpg"
    (folder / "photo_000.jpg").rename(long)
    assert main([str(folder), "--model", "dcp"]) == 1
    captured = capsys.readouterr()
    assert names(folder) == [long.name, "photo_001.jpg", "photo_001_dehazed.jpg"]
    assert f"failed: {long}: cannot write {folder}/{'n' * 251}_dehazed.jpg: File name too long" in captured.err
    assert main([str(long), "--model", "dcp"]) in (1, 2)
    assert "File name too long" in capsys.readouterr().err


def test_a_folder_called_like_our_own_is_dehazed_or_refused(photo_folder: Folder, tmp_path: Path) -> None:
    folder = photo_folder("in/previews", count=1).parent
    (folder / "previews" / "photo_000.jpg").rename(folder / "previews" / "sheet-000000.jpg")
    whole = (folder / "previews" / "sheet-000000.jpg").read_bytes()
    out = tmp_path / "out"
    assert main([str(folder), str(out), "--model", "dcp", "--preview"]) == 0
    assert (out / "previews" / "sheet-000000.jpg").read_bytes() == Predictor("dcp").dehaze_bytes(whole)[0]
    assert names(out) == [RECORD, f"{SHEETS}/sheet-000000.jpg", "previews/sheet-000000.jpg"]


def test_what_was_left_out_is_told(photo_folder: Folder, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = photo_folder(count=1)
    for name in ("a.gif", "b.GIF", "clip.MOV"):
        (folder / name).touch()
    line = "left out: 2 GIF, 1 MOV; videos are dehazed one at a time: dehaze apply CLIP RESULT\n"
    for more in (["--dry-run"], []):
        assert main([str(folder), str(tmp_path / "out"), "--model", "dcp", *more]) == 0
        assert capsys.readouterr().out.endswith(line)


def test_dates_are_kept_on_request(photo_folder: Folder, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, out = photo_folder(count=2), tmp_path / "out"
    for path in folder.iterdir():
        os.utime(path, ns=(10**18, 10**18))
    words = [str(folder), str(out), "--model", "dcp"]
    assert main([*words, "--keep-dates"]) == 0
    assert [path.stat().st_mtime_ns for path in sorted(out.glob("*.jpg"))] == [10**18] * 2
    for more in (["--keep-dates"], []):
        assert main([*words, *more]) == 0
        assert "0 dehazed, 2 there already, 0 failed" in capsys.readouterr().out.splitlines()[-1]
    changed = 15 * 10**17  # before the call of above, and after what it was
    os.utime(folder / "photo_000.jpg", ns=(changed, changed))
    assert main(words) == 1
    assert "photo_000.jpg is there and was not made by a call like this one" in capsys.readouterr().err
    assert main([*words, "--keep-dates"]) == 0
    assert "1 dehazed, 1 there already, 0 failed" in capsys.readouterr().out.splitlines()[-2]
    assert (out / "photo_000.jpg").stat().st_mtime_ns == changed
    assert main([*words, "--keep-dates", "--out", "s3://bucket/out"]) == 2


def test_an_old_copy_of_the_photograph_does_not_pass_for_a_kept_date(
    photo_folder: Folder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, out = photo_folder(count=1), tmp_path / "out"
    shutil.copytree(folder, out)
    assert main([str(folder), str(out), "--model", "dcp", "--keep-dates"]) == 1
    assert "was not made by a call like this one" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("code", "advice"),
    [
        (errno.EROFS, "Read-only file system: {place}; choose another folder, or have it mounted for writing"),
        (errno.ENOSPC, "No space left on device: {place}; free some space and repeat the command"),
        (errno.EDQUOT, "Disk quota exceeded: {place}; free some of your quota"),
    ],
)
@pytest.mark.parametrize("at", [0, 2])
def test_the_reason_is_the_real_one(
    photo_folder: Folder,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    code: int,
    advice: str,
    at: int,
) -> None:
    folder, out = photo_folder(count=1), tmp_path / "out"
    LocalFiles = local_files()
    opened = LocalFiles.open_output_stream
    calls: list[str] = []

    def failing(self: object, path: str, *args: object, **options: object) -> object:
        calls.append(path)
        if len(calls) > at:
            raise OSError(code, os.strerror(code))
        return opened(self, path, *args, **options)

    monkeypatch.setattr(LocalFiles, "open_output_stream", failing)
    assert main([str(folder), str(out), "--model", "dcp"]) == 3
    place = out / (RECORD if at == 0 else "photo_000.jpg")
    assert f"error: {advice.format(place=place)}" in capsys.readouterr().err


def test_what_may_not_be_written_fails_alone(
    photo_folder: Folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, out = photo_folder(count=2), tmp_path / "out"
    LocalFiles = local_files()
    moved = LocalFiles.move

    def denied(self: object, source: str, target: str) -> None:
        if target.endswith(("photo_000.jpg", "sheet-000000.jpg", FAILURES)):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        moved(self, source, target)

    monkeypatch.setattr(LocalFiles, "move", denied)
    assert main([str(folder), str(out), "--model", "dcp", "--preview"]) == 1
    error = capsys.readouterr().err
    assert f"failed: {folder / 'photo_000.jpg'}: cannot write {out / 'photo_000.jpg'}: Permission denied" in error
    assert f"failed: {out / SHEETS / 'sheet-000000.jpg'}: cannot write it: Permission denied" in error
    assert not list(out.rglob("*.tmp"))


def test_a_photograph_that_changes_meanwhile_fails(
    photo_folder: Folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, out = photo_folder(count=1), tmp_path / "out"
    dehaze = Predictor.dehaze_bytes

    def meanwhile(self: Predictor, *args: object) -> object:
        with (folder / "photo_000.jpg").open("ab") as file:
            file.write(b"more")
        return dehaze(self, *args)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(Predictor, "dehaze_bytes", meanwhile)
        assert main([str(folder), str(out), "--model", "dcp"]) == 1
    assert "it was changed while it was dehazed; repeat the command" in capsys.readouterr().err
    assert names(out) == [RECORD, FAILURES]
    assert main([str(folder), str(out), "--model", "dcp"]) == 0


def test_notes_are_shown_and_counted_in_folders(
    photo_folder: Folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = photo_folder(count=25, height=16, width=16)
    dehaze = Predictor.dehaze_bytes

    def noting(self: Predictor, *args: object) -> tuple[bytes, DehazeInfo]:
        made, info = dehaze(self, *args)  # type: ignore[arg-type]
        return made, replace(info, notes=("its gain map is left out",))

    monkeypatch.setattr(Predictor, "dehaze_bytes", noting)
    assert main([str(folder), str(tmp_path / "out"), "--model", "dcp"]) == 0
    captured = capsys.readouterr()
    assert captured.err.count("its gain map is left out") == 20
    assert "25 dehazed, 0 there already, 0 failed\nnote on 25: its gain map is left out\n" in captured.out
    one = folder / "photo_000.jpg"
    assert main([str(one), "--model", "dcp"]) == 0
    assert f"note: {one}: its gain map is left out\n" in capsys.readouterr().err
