"""`dehaze apply` through standard input and output: in a process of its own, as pipes are."""

from __future__ import annotations

import io
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image

from models import checkpoints
from models.predictor import Predictor
from pipelines.dehaze.apply import main

Folder = Callable[..., Path]


def piped(
    *words: object, data: bytes | None = None, model: object = "dcp", **options: object
) -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-m", "pipelines.dehaze.apply", *map(str, words), "--model", str(model)]
    return subprocess.run(command, input=data, check=False, capture_output="stdout" not in options, **options)  # type: ignore[call-overload, no-any-return]


def test_in_and_out(photo_folder: Folder, tmp_path: Path) -> None:
    source = photo_folder(count=1, hazy=True) / "photo_000.jpg"
    data = source.read_bytes()
    expected = Predictor("dcp").dehaze_bytes(data)[0]
    done = piped("-", "-", data=data)
    assert (done.returncode, done.stdout, done.stderr) == (0, expected, b"")
    done = piped("-", tmp_path / "clear.png", data=data)
    assert (done.returncode, done.stdout) == (0, b"")
    assert re.fullmatch(rb"standard input: .*haze \(0\.\d\d\)\n", done.stderr)
    with Image.open(tmp_path / "clear.png") as clear:
        assert clear.format == "PNG"
    done = piped(source, "-", "--format", "webp")
    assert Image.open(io.BytesIO(done.stdout)).format == "WEBP"
    done = piped("-", data=data[:700])
    assert (done.returncode, done.stdout) == (1, b"")
    assert done.stderr.startswith(b"failed: standard input: ")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["clear.png", "photos"]


def test_a_full_disk_and_a_reader_that_has_gone(photo_folder: Folder) -> None:
    source = photo_folder(count=1, height=400, width=600) / "photo_000.jpg"
    with Path("/dev/full").open("wb") as full:
        done = piped(source, "-", stdout=full, stderr=subprocess.PIPE)
    assert done.returncode == 3
    assert done.stderr.count(b"\n") == 1
    assert b"No space left on device: standard output; free some space" in done.stderr
    reading, writing = os.pipe()
    os.close(reading)
    done = piped(source, "-", stdout=writing, stderr=subprocess.PIPE)
    os.close(writing)
    assert (done.returncode, done.stderr) == (141, b"")


def test_a_network_of_one_s_own(photo_folder: Folder, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("from torch import nn\n\nclass Net(nn.Identity):\n    pass\n")
    model = checkpoints.save(tmp_path / "model", torch.nn.Identity(), {"network": {"name": "mine:Net"}})
    data = (photo_folder(count=1) / "photo_000.jpg").read_bytes()
    paths = os.pathsep.join([str(tmp_path), *filter(None, sys.path)])
    done = piped("-", "-", "--allow-networks", "mine", model=model, data=data, env=os.environ | {"PYTHONPATH": paths})
    assert (done.returncode, done.stderr) == (0, b"")
    assert Image.open(io.BytesIO(done.stdout)).format == "JPEG"


CLOSING = "import os, sys; os.close(int(sys.argv[1])); os.execv(sys.executable, [sys.executable, *sys.argv[2:]])"


@pytest.mark.parametrize("closed", [1, 2])
def test_a_caller_that_has_closed_one(closed: int, photo_folder: Folder, tmp_path: Path) -> None:
    """What would be told goes nowhere, least of all into the picture."""
    source = photo_folder(count=1) / "photo_000.jpg"
    command = [sys.executable, "-c", CLOSING, str(closed), "-m", "pipelines.dehaze.apply", "--model", "dcp"]

    def closing(*words: object, data: bytes) -> subprocess.CompletedProcess[bytes]:
        return subprocess.run([*command, *map(str, words)], input=data, check=False, capture_output=True)

    done = closing(source, tmp_path / "clear.jpg", data=b"")
    assert (done.returncode, b"Traceback" in done.stderr) == (0, False)
    assert (tmp_path / "clear.jpg").exists()
    exif, buffer = Image.Exif(), io.BytesIO()
    exif[0x013B] = "who took it"
    Image.open(source).save(buffer, "JPEG", exif=exif)
    done = closing("-", "-", "--keep-metadata", "--format", "bmp", data=buffer.getvalue())  # which cannot: a note
    if closed == 1:
        assert done.returncode == 2
        assert done.stderr == b"error: standard output is closed; send it to a file or a program: ... > clear.jpg\n"
    else:
        assert done.stdout.startswith(b"BM")


def test_what_is_refused_is_one_line(
    photo_folder: Folder, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = photo_folder(count=1)
    source = folder / "photo_000.jpg"
    for words, message in (
        ((folder, "-"), "is no file; for standard output, give one photograph"),
        ((source, source, "-"), "- is standard input or output; give one photograph at a time"),
        (("-", folder), "is a folder; with standard input, give the name of a file"),
        (("-", source), "is there already; --overwrite replaces it"),
        (("-", tmp_path / "out.heic"), "cannot write"),
        (("-", tmp_path / "out.png", "--format", "jpeg"), "but the format asked for is JPEG"),
        ((source, "-", "--preview"), "--preview does not go with standard input or output"),
        ((source, "-", "--keep-dates"), "--keep-dates does not go with"),
        (("clip.mp4", "-"), "clip.mp4 is a video; give the name of a file"),
    ):
        assert main([*map(str, words), "--model", "dcp"]) == 2, words
        error = capsys.readouterr().err
        assert message in error
        assert error.count("\n") == 1
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    assert main([str(source), "-", "--model", "dcp"]) == 2
    assert "standard output is a terminal" in capsys.readouterr().err
    monkeypatch.setattr(sys, "stdin", None)
    assert main(["-", str(tmp_path / "out.jpg"), "--model", "dcp"]) == 2
    assert "standard input is closed" in capsys.readouterr().err
    assert (
        piped("-", tmp_path / "out.jpg", data=b"").stderr == b"error: standard input is empty; expected a photograph\n"
    )
    before = source.read_bytes()
    with source.open("rb") as stream:
        done = piped("-", source, "--overwrite", stdin=stream)
    assert done.returncode == 2
    assert b"is the input; choose another name" in done.stderr
    assert source.read_bytes() == before
    assert not list(tmp_path.glob("out*"))
