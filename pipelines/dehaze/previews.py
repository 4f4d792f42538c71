"""Before/after sheets of the photographs of a folder."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Sequence

from PIL import Image

from models import images
from models.contact_sheet import Line, contact_sheet
from models.paths import filesystem, name_of, read_file

COLUMNS = 4  # pairs side by side
_WIDE, _HIGH, _QUALITY = 232, 174, 85


def sheet_of(pairs: Sequence[tuple[str, str]]) -> bytes | None:
    """Draw a JPEG of photographs and results side by side, in the order given.

    Args:
        pairs: paths or URIs of photograph and result; pairs that cannot be read, such as those that failed, are left
            out.

    Returns:
        None when there is nothing to show.
    """
    lines = [line for source, target in pairs if (line := _line(source, target)) is not None]
    if not lines:
        return None
    columns = min(COLUMNS, len(lines))
    buffer = io.BytesIO()
    sheet = contact_sheet(lines, ["before", "after"] * columns, across=columns)
    sheet.save(buffer, "JPEG", quality=_QUALITY, comment=_mark(pairs))
    return buffer.getvalue()


def is_sheet_of(pairs: Sequence[tuple[str, str]], place: str) -> bool:
    """Return whether a file is the sheet of these photographs and results, not of others that were there before."""
    data = read_file(place)
    if data is None:
        return False
    try:
        with Image.open(io.BytesIO(data)) as sheet:
            return bool(sheet.info.get("comment") == _mark(pairs))
    except OSError:  # it is no picture
        return False


def _mark(pairs: Sequence[tuple[str, str]]) -> bytes:
    """What a sheet's comment says of the photographs in it."""
    return hashlib.sha256(repr(list(pairs)).encode()).hexdigest().encode()


def _line(source: str, target: str) -> Line | None:
    try:
        return Line([_thumbnail(source), _thumbnail(target)], name_of(source))
    except (images.ImageError, OSError):
        return None


def _thumbnail(place: str) -> Image.Image:
    files, path = filesystem(place)
    with files.open_input_stream(path, compression=None) as stream:
        photo = images.decode(stream.read(), shrink_to=max(_WIDE, _HIGH))
    small = Image.fromarray(images.eight_bits(photo.pixels))
    small.thumbnail((_WIDE, _HIGH), Image.Resampling.LANCZOS)
    return small
