"""EXIF blocks and the directories of TIFF files: Pillow reads and writes them, here with the types that values have."""

from __future__ import annotations

import io
import struct
from collections.abc import Iterable, Mapping
from typing import Any

from PIL.TiffImagePlugin import ImageFileDirectory_v2

from models.images.limits import MAGIC, CorruptImage, TruncatedImage

Tags = ImageFileDirectory_v2

EXIF, GPS, INTEROPERABILITY = 0x8769, 0x8825, 0xA005
ORIENTATION, X_RESOLUTION, Y_RESOLUTION, RESOLUTION_UNIT = 0x0112, 0x011A, 0x011B, 0x0128
HEAD = b"II*\0\x08\0\0\0"
EMPTY = HEAD + bytes(6)
_LONG = 4


def first(data: bytes) -> Tags:
    """The first directory of a TIFF file, or of an EXIF block without its ``Exif\\0\\0``. Values of unknown types, or
    that leave the file, count as missing.

    Raises:
        CorruptImage: no such header.
        TruncatedImage: the directory lies behind the end.
    """
    if not data.startswith(MAGIC["TIFF"]):
        raise CorruptImage("the TIFF header is damaged")
    tags = _empty(data)
    return _loaded(tags, data, tags.next)


def inner(data: bytes, tags: Tags, pointer: int) -> Tags | None:
    """The directory that a tag points to, if there is one."""
    return _loaded(_empty(data, pointer), data, at) if (at := number(tags, pointer)) else None


def _empty(data: bytes, group: int | None = None) -> Tags:
    """In the byte order of a file; Pillow wants the same mark of BigTIFF for both orders."""
    head = b"II+\0" + data[4:16].ljust(12, b"\xff") if b"+" in data[2:4] else b"II*\0" + data[4:8].ljust(4, b"\xff")
    return Tags(head, data[:2], group)


def _loaded(tags: Tags, data: bytes, at: int) -> Tags:
    if at + 2 > len(data):
        raise TruncatedImage(f"the file ends before its directory at byte {at:,}")
    file = io.BytesIO(data)
    file.seek(at)
    tags.load(file)
    return tags


def numbers(tags: Tags, tag: int) -> tuple[Any, ...]:
    """The numbers of a tag; none where it is missing or holds something else."""
    value = tags.get(tag, ())
    values = tuple(value) if isinstance(value, tuple | bytes) else (value,)
    return () if any(isinstance(item, str | bytes) for item in values) else values


def number(tags: Tags, tag: int, default: int = 0) -> int:
    """The first number of a tag, as far as it is a whole one and not negative."""
    value = next(iter(numbers(tags, tag)), default)
    return value if isinstance(value, int) and value >= 0 else default


def raw(tags: Tags, tag: int) -> bytes:
    """The bytes of a tag, also where they are written as numbers of 32 bits, as some programs do."""
    value = tags.get(tag, ())
    parts = value if isinstance(value, tuple) else (value,)
    if all(isinstance(part, bytes) for part in parts):
        return b"".join(parts)
    order = "<" if tags.prefix == b"II" else ">"
    return struct.pack(f"{order}{len(parts)}I", *parts) if tags.tagtype[tag] == _LONG else b""


def copied(source: Tags, wanted: Iterable[int]) -> Tags:
    """A little-endian directory of these tags."""
    result = Tags(HEAD, group=source.group)
    for tag in wanted:
        value = source[tag]
        result.tagtype[tag] = source.tagtype[tag]
        result[tag] = value.encode("latin-1") if isinstance(value, str) else value  # in whatever encoding it is
    return result


def directories(block: bytes) -> tuple[Tags, dict[int, Tags]]:
    """A block's first directory, and those of the exposure and of the place, by the tags that point to them."""
    source = first(block)
    found = {pointer: inner(block, source, pointer) for pointer in (EXIF, GPS)}
    children = {pointer: copied(tags, tags) for pointer, tags in found.items() if tags is not None}
    return copied(source, set(source) - set(found)), children


def packed(tags: Tags, children: Mapping[int, Tags], at: int = 8) -> bytes:
    """A directory, to stand at byte ``at`` of a file, with those that it points to."""
    for pointer in children:
        tags[pointer] = at
    place = at + len(tags.tobytes(at))
    behind = b""
    for pointer, child in children.items():
        tags[pointer] = place + len(behind)
        behind += child.tobytes(place + len(behind))
    return tags.tobytes(at) + behind
