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


def sheet_of(pairs: Sequence[tuple[str, str]], mark: bytes = b"") -> bytes | None:
    """Draw a JPEG of photographs and results side by side, in the order given.

    Args:
        pairs: paths or URIs of photograph and result; pairs that cannot be read, such as those that failed, are left
            out.
        mark: written into the file, for :func:`is_sheet_of`.

    Returns:
        None when there is nothing to show.
    """
    lines = [line for source, target in pairs if (line := _line(source, target)) is not None]
    if not lines:
        return None
    columns = min(COLUMNS, len(lines))
    buffer = io.BytesIO()
    sheet = contact_sheet(lines, ["before", "after"] * columns, across=columns)
    sheet.save(buffer, "JPEG", quality=_QUALITY, comment=mark)
    return buffer.getvalue()


def mark_of(pairs: Sequence[tuple[str, str]]) -> bytes:
    """Return what tells the sheet of these photographs and results from those of others, and of earlier results."""
    found = [(source, target, _version(target)) for source, target in pairs]
    return hashlib.sha256(repr(found).encode()).hexdigest().encode()


def _version(place: str) -> tuple[int | None, int | None] | None:
    files, path = filesystem(place)
    try:
        info = files.get_file_info(path)
    except OSError:  # as where a file is in the place of its folder
        return None
    return info.mtime_ns, info.size


def is_sheet_of(mark: bytes, place: str) -> bool:
    """Return whether a file is the sheet with this mark."""
    data = read_file(place)
    if data is None:
        return False
    try:
        with Image.open(io.BytesIO(data)) as sheet:
            return bool(sheet.info.get("comment") == mark)
    except OSError:  # it is no picture
        return False


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
