"""EXIF blocks and the directories of TIFF files: Pillow reads and writes them, here with the types that values have."""

from __future__ import annotations

import io
import struct
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Literal

import numpy as np
from PIL.TiffImagePlugin import ImageFileDirectory_v2

from models.images.limits import MAGIC, CorruptImage, TruncatedImage

Tags = ImageFileDirectory_v2

EXIF, GPS, INTEROPERABILITY = 0x8769, 0x8825, 0xA005
ORIENTATION, X_RESOLUTION, Y_RESOLUTION, RESOLUTION_UNIT = 0x0112, 0x011A, 0x011B, 0x0128
HEAD = b"II*\0\x08\0\0\0"
EMPTY = HEAD + bytes(6)
_LONG, _BYTES, _FRACTIONS = 4, (1, 2, 6, 7), (5, 10)  # types
_MOST_NUMBERS = 1 << 20  # more than the tiles of the largest picture take
_FRACTION = 16  # what one of them costs, in numbers
_MOST_INNER = 16  # directories; raw files have up to five


def first(data: bytes) -> Tags:
    """Read the first directory of a TIFF file, or of an EXIF block without its ``Exif\\0\\0``. Values of unknown types,
    or that leave the file, count as missing.

    Raises:
        CorruptImage: no such header.
        TruncatedImage: the directory lies behind the end.
    """
    if not data.startswith(MAGIC["TIFF"]):
        raise CorruptImage("the TIFF header is damaged")
    tags = _empty(data)
    return _loaded(tags, data, tags.next)


def inner(data: bytes, tags: Tags, pointer: int) -> Tags | None:
    """Read the directory that a tag points to; None where there is none."""
    return next(all_inner(data, tags, pointer), None)


def all_inner(data: bytes, tags: Tags, pointer: int) -> Iterator[Tags]:
    """Read the directories that a tag points to, the first few of them."""
    for at in numbers(tags, pointer)[:_MOST_INNER]:
        if isinstance(at, int) and at > 0:
            yield _loaded(_empty(data, pointer), data, at)


def _empty(data: bytes, group: int | None = None) -> Tags:
    """Make an empty directory in the byte order of a file; Pillow wants the same mark of BigTIFF for both orders."""
    head = b"II+\0" + data[4:16].ljust(12, b"\xff") if b"+" in data[2:4] else b"II*\0" + data[4:8].ljust(4, b"\xff")
    return Tags(head, data[:2], group)


def _loaded(tags: Tags, data: bytes, at: int) -> Tags:
    if at + 2 > len(data):
        raise TruncatedImage(f"the file ends before its directory at byte {at:,}")
    _check(data, at, b"+" in data[2:4], "<" if tags.prefix == b"II" else ">")
    file = io.BytesIO(data)
    file.seek(at)
    tags.load(file)
    return tags


def _check(data: bytes, at: int, big: bool, order: Literal["<", ">"]) -> None:
    """Refuse a directory of too many numbers: each becomes an object of Python, and a file of 64 MB would take
    gigabytes.
    """
    long, start = ("u8", at + 8) if big else ("u4", at + 2)
    # All entries at once, before any of them is an object.
    entry = np.dtype([("tag", "u2"), ("type", "u2"), ("count", long), ("value", long)]).newbyteorder(order)
    count = int.from_bytes(data[at:start], "little" if order == "<" else "big")
    fields = np.frombuffer(data, entry, max(0, min(count, (len(data) - start) // entry.itemsize)), start)
    costs = np.select([np.isin(fields["type"], _BYTES), np.isin(fields["type"], _FRACTIONS)], [0, _FRACTION], 1)
    if (costs * fields["count"].astype(float)).sum() > _MOST_NUMBERS:
        raise CorruptImage(f"the directory at byte {at:,} claims more than {_MOST_NUMBERS:,} numbers")


def numbers(tags: Tags, tag: int) -> tuple[Any, ...]:
    """Return the numbers of a tag; none where it is missing or holds something else."""
    value = tags.get(tag, ())
    values = value if isinstance(value, tuple) else (value,)
    return () if any(isinstance(item, str | bytes) for item in values) else values


def number(tags: Tags, tag: int, default: int = 0) -> int:
    """Return the first number of a tag if it is whole and not negative, else ``default``."""
    value = next(iter(numbers(tags, tag)), default)
    return value if isinstance(value, int) and value >= 0 else default


def raw(tags: Tags, tag: int) -> bytes:
    """Return the bytes of a tag, also where they are written as numbers of 32 bits, as some programs do."""
    value = tags.get(tag, ())
    parts = value if isinstance(value, tuple) else (value,)
    if all(isinstance(part, bytes) for part in parts):
        return b"".join(parts)
    order = "<" if tags.prefix == b"II" else ">"
    return struct.pack(f"{order}{len(parts)}I", *parts) if tags.tagtype[tag] == _LONG else b""


def copied(source: Tags, wanted: Iterable[int]) -> Tags:
    """Copy the wanted tags to a new little-endian directory."""
    result = Tags(HEAD, group=source.group)
    for tag in wanted:
        parts = source[tag] if isinstance(source[tag], tuple) else (source[tag],)
        result.tagtype[tag] = source.tagtype[tag]
        # Texts stay the bytes that they are, in whatever encoding.
        result[tag] = tuple(part.encode("latin-1") if isinstance(part, str) else part for part in parts)
    return result


def directories(block: bytes) -> tuple[Tags, dict[int, Tags]]:
    """Read a block's first directory, and those of the exposure and of the place, by the tags that point to them."""
    source = first(block)
    found = {pointer: inner(block, source, pointer) for pointer in (EXIF, GPS)}
    children = {pointer: copied(tags, tags) for pointer, tags in found.items() if tags is not None}
    return copied(source, set(source) - set(found)), children


def packed(tags: Tags, children: Mapping[int, Tags]) -> bytes:
    """Serialize a directory, to stand behind the head of a file, with those that it points to."""
    at = len(HEAD)
    for pointer in children:
        tags[pointer] = at
    # The pointers have to be there, whatever they say, for its length to be right.
    place = at + len(tags.tobytes(at))
    behind = b""
    for pointer, child in children.items():
        tags[pointer] = place + len(behind)
        behind += child.tobytes(place + len(behind))
    return tags.tobytes(at) + behind
