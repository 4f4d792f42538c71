"""Before/after contact sheets: a bounded number of photographs on each, as many sheets as it takes."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from models import images
from models.paths import filesystem
from pipelines.shown import shown

COLUMNS = 4  # pairs side by side
_WIDE, _HIGH, _GAP, _LINE, _QUALITY = 232, 174, 8, 18, 85
_PAPER, _INK, _FAINT = (255, 255, 255), (20, 20, 20), (130, 130, 130)

Pixels = NDArray[np.uint8]


def sheet_of(pairs: Sequence[tuple[str, str]]) -> bytes | None:
    """A JPEG of photographs and results side by side, in the order given.

    Args:
        pairs: paths or URIs of photograph and result; pairs that cannot be read, such as those that failed, are left
            out.

    Returns:
        None when there is nothing to show.
    """
    pictures = [
        (shown(PurePosixPath(source).name), found) for source, target in pairs if (found := _thumbnails(source, target))
    ]
    if not pictures:
        return None
    columns = min(COLUMNS, len(pictures))
    rows = -(-len(pictures) // columns)
    across, down = 2 * _WIDE + 3 * _GAP, _HIGH + _LINE + 2 * _GAP
    sheet = Image.new("RGB", (columns * across + _GAP, rows * down + _LINE + _GAP), _PAPER)
    draw = ImageDraw.Draw(sheet)
    font: Any = ImageFont.load_default(size=13)
    for column in range(columns):
        for half, text in enumerate(("before", "after")):
            draw.text((column * across + 2 * _GAP + half * (_WIDE + _GAP), _GAP // 2), text, _FAINT, font)
    for index, (name, halves) in enumerate(pictures):
        left, top = index % columns * across + 2 * _GAP, index // columns * down + _LINE + _GAP
        for half, picture in enumerate(halves):
            sheet.paste(Image.fromarray(picture), (left + half * (_WIDE + _GAP), top))
        draw.text((left, top + halves[0].shape[0] + 2), _shortened(name, font, draw), _INK, font)
    buffer = io.BytesIO()
    sheet.save(buffer, "JPEG", quality=_QUALITY)
    return buffer.getvalue()


def _thumbnails(source: str, target: str) -> tuple[Pixels, Pixels] | None:
    try:
        return _thumbnail(source), _thumbnail(target)
    except (images.ImageError, OSError):
        return None


def _thumbnail(place: str) -> Pixels:
    files, path = filesystem(place)
    with files.open_input_stream(path, compression=None) as stream:
        photo = images.decode(stream.read(), shrink_to=max(_WIDE, _HIGH))
    height, width = photo.pixels.shape[:2]
    scale = min(_WIDE / width, _HIGH / height)
    small = images.resize(photo.pixels, max(1, round(width * scale)), max(1, round(height * scale)))
    return (small >> 8).astype(np.uint8) if small.dtype == np.uint16 else small


def _shortened(name: str, font: Any, draw: ImageDraw.ImageDraw) -> str:
    """A name that fits below its pictures: its middle is left out."""
    width, kept = 2 * _WIDE + _GAP, len(name)
    text = name
    while draw.textlength(text, font) > width and kept > 2:
        kept -= 2
        text = f"{name[: kept // 2]}…{name[-(kept // 2) :]}"
    return text
