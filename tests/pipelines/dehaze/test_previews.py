"""Before/after sheets."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from PIL import Image

from pipelines.dehaze.previews import sheet_of


def save(path: Path, color: tuple[int, int, int], size: tuple[int, int] = (300, 200)) -> str:
    Image.new("RGB", size, color).save(path)
    return str(path)


def opened(data: bytes | None) -> Image.Image:
    assert data is not None
    return Image.open(io.BytesIO(data))


def test_the_size_is_bounded_and_long_names_fit(tmp_path: Path) -> None:
    name = "x" * 200
    one = save(tmp_path / f"{name}.png", (9, 9, 9), (40, 1900))
    sheet = opened(sheet_of([(one, one)] * 16))
    assert sheet.width < 2000
    assert sheet.height < 1000


def test_what_cannot_be_read_is_left_out(tmp_path: Path) -> None:
    whole = save(tmp_path / "a.png", (200, 0, 0))
    assert sheet_of([(whole, str(tmp_path / "nothing.png"))]) is None
    (tmp_path / "broken.png").write_bytes(b"no picture")
    one = opened(sheet_of([(whole, whole), (whole, str(tmp_path / "broken.png"))]))
    assert one.size == opened(sheet_of([(whole, whole)])).size


def test_photographs_stand_left_of_their_results_whatever_their_depth(tmp_path: Path) -> None:
    path = tmp_path / "deep.png"
    Image.fromarray(np.full((40, 60), 40_000, np.uint16)).save(path)
    pairs = [(str(path), save(tmp_path / "red.png", (200, 0, 0), (60, 40)))] * 2
    pixels = np.asarray(opened(sheet_of(pairs))).astype(int)
    red, gray = ([*(abs(pixels[50] - color) < 9).all(axis=1)] for color in ((200, 0, 0), (40_000 >> 8,) * 3))
    assert gray.index(True) < red.index(True) < gray.index(True, red.index(True)) < red.index(True, 150)
