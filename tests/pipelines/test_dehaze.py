"""A folder on Ray Data."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from pipelines.dehaze import FAILURES, main
from serving.predictor import Predictor


@pytest.mark.usefixtures("ray_cluster")
def test_a_folder_in_a_folder_out_and_a_second_run_only_does_what_is_left(
    photo_folder: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = photo_folder("in/deep", count=3).parent
    whole = (folder / "deep" / "photo_000.jpg").read_bytes()
    (folder / "cut.jpg").write_bytes(whole[:900])
    out = tmp_path / "out"
    words = [str(folder), str(out), "--model", "dcp", "--concurrency", "1"]
    assert main(words) == 1
    assert "3 photographs dehazed, 0 were there already, 1 failed" in capsys.readouterr().out
    assert (out / "deep" / "photo_000.jpg").read_bytes() == Predictor("dcp").dehaze_bytes(whole)[0]
    (failure,) = [json.loads(line) for line in (out / FAILURES).read_text().splitlines()]
    assert failure["path"] == str(folder / "cut.jpg")
    assert failure["reason"]

    (folder / "cut.jpg").unlink()
    assert main(words) == 0
    assert "0 photographs dehazed, 3 were there already, 0 failed" in capsys.readouterr().out
    assert not (out / FAILURES).exists()


def test_bad_arguments_are_one_line(
    photo_folder: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = str(photo_folder(count=1))
    for words, message in (
        ([str(tmp_path / "nothing"), str(tmp_path / "out")], "there is no folder"),
        ([folder, folder], "is an input"),
        ([folder, str(tmp_path / "out"), "--model", "dpc"], "did you mean 'dcp'"),
        ([folder, str(tmp_path / "out"), "--concurrency", "0"], "must be positive"),
    ):
        assert main(words) == 2
        assert message in capsys.readouterr().err
