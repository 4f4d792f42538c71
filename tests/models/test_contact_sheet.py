"""Sheets of pictures with words."""

from __future__ import annotations

import numpy as np
from PIL import Image

from models.contact_sheet import Line, contact_sheet


def test_lines_stand_side_by_side_and_below_and_no_word_is_too_long() -> None:
    colors = [(200, 0, 0), (0, 200, 0), (0, 0, 200)]
    pictures = [Image.new("RGB", (60, 20 + 10 * i), color) for i, color in enumerate(colors)]
    lines = [Line([picture, None], "\x1b\n\udcff" + "x" * 300, ["y" * 300, ""]) for picture in pictures]
    sheet = contact_sheet(lines, ["head", "z" * 300] * 2, "title" * 300, across=2)
    assert sheet.width < 6 * 60
    pixels = np.asarray(sheet).astype(int)
    first, second, third = (np.argwhere((pixels == color).all(axis=2)) for color in colors)
    assert [len(found) for found in (first, second, third)] == [60 * 20, 60 * 30, 60 * 40]
    assert first[:, 0].min() == second[:, 0].min()
    assert first[:, 1].max() + 60 < second[:, 1].min()  # the picture that is missing keeps its place
    assert second[:, 0].max() < third[:, 0].min()
    assert first[:, 1].min() == third[:, 1].min()
