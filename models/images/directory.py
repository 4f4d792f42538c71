"""Directories of TIFF and EXIF: tags with typed values. Read strictly from bytes nobody vouches for, and written."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from models.images.limits import CorruptImage, TruncatedImage

Order = Literal["<", ">"]

EXIF_IFD, GPS_IFD = 0x8769, 0x8825

# Bytes of one number of each type, and how many of them make a value (TIFF 6.0, section 2; BigTIFF).
_NUMBER = {1: 1, 2: 1, 3: 2, 4: 4, 5: 4, 6: 1, 7: 1, 8: 2, 9: 4, 10: 4, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}
_RATIONALS = (5, 10)
_MOST_TAGS = 4096
_UNSIGNED = {1: "u1", 3: "u2", 4: "u4", 13: "u4", 16: "u8", 18: "u8"}


@dataclass(frozen=True)
class Entry:
    """A tag's value: ``data`` holds ``count`` values of ``type`` in the file's byte order, or is a directory itself."""

    tag: int
    type: int
    count: int
    data: bytes | tuple[Entry, ...]


@dataclass(frozen=True)
class Directory:
    """Where the values of a directory lie in ``source``: tag to (type, count, first byte). All lie inside it."""

    source: bytes
    order: Order
    fields: dict[int, tuple[int, int, int]]
    next: int

    def numbers(self, tag: int) -> NDArray[Any]:
        """Unsigned integers; empty when the tag is missing or holds something else."""
        kind, count, at = self.fields.get(tag, (0, 0, 0))
        if kind not in _UNSIGNED:
            return np.zeros(0, np.uint8)
        return np.frombuffer(self.source, np.dtype(self.order + _UNSIGNED[kind]), count, at)

    def number(self, tag: int, default: int = 0) -> int:
        """The first of :meth:`numbers`."""
        values = self.numbers(tag)
        return int(values[0]) if values.size else default

    def size(self, tag: int) -> int:
        """Bytes of a value; 0 when the tag is missing."""
        kind, count, _ = self.fields.get(tag, (7, 0, 0))
        return _size(kind, count)

    def raw(self, tag: int) -> bytes:
        """The bytes of a value; empty when the tag is missing."""
        at = self.fields.get(tag, (7, 0, 0))[2]
        return self.source[at : at + self.size(tag)]

    def entry(self, tag: int) -> Entry:
        """A value as it has to stand in a little-endian file."""
        kind, count, _ = self.fields[tag]
        data = self.raw(tag)
        if self.order == ">" and _NUMBER[kind] > 1:
            data = np.frombuffer(data, f">u{_NUMBER[kind]}").byteswap().tobytes()
        return Entry(tag, kind, count, data)


def first_directory(source: bytes) -> Directory:
    """The first directory of a TIFF file, or of an EXIF block without its ``Exif\\0\\0``.

    Raises:
        CorruptImage: no such header.
        TruncatedImage: the directory lies behind the end.
    """
    orders: dict[bytes, Order] = {b"II": "<", b"MM": ">"}
    order = orders.get(source[:2])
    if order is None or len(source) < 8:
        raise CorruptImage("the TIFF header is damaged")
    big = struct.unpack_from(order + "H", source, 2)[0] == 43
    if big and len(source) < 16:
        raise TruncatedImage("the file ends inside the TIFF header")
    at = struct.unpack_from(order + ("Q" if big else "I"), source, 8 if big else 4)[0]
    return directory(source, order, at, big)


def directory(source: bytes, order: Order, at: int, big: bool = False) -> Directory:
    """The directory at byte ``at``. Values of unknown types, or that leave the file, count as missing.

    Raises:
        TruncatedImage: its list of tags leaves the file.
        CorruptImage: more tags than any file has.
    """
    head, entry, tail = ("Q", "HHQQ", "Q") if big else ("H", "HHII", "I")
    inline, width = (8, 20) if big else (4, 12)
    try:
        count = struct.unpack_from(order + head, source, at)[0]
        start = at + struct.calcsize(order + head)
        following = struct.unpack_from(order + tail, source, start + count * width)[0]
    except (struct.error, OverflowError) as problem:
        raise TruncatedImage(f"the file ends before its directory at byte {at:,}") from problem
    if count > _MOST_TAGS:
        raise CorruptImage(f"the directory at byte {at:,} claims {count:,} tags")
    fields: dict[int, tuple[int, int, int]] = {}
    for index in range(count):
        tag, kind, values, offset = struct.unpack_from(order + entry, source, start + index * width)
        size = _size(kind, values)
        if size <= inline:
            offset = start + index * width + width - inline
        if kind in _NUMBER and values and offset + size <= len(source):
            fields.setdefault(tag, (kind, values, offset))
    return Directory(source, order, fields, following)


def packed(entries: tuple[Entry, ...], at: int, order: Order = "<") -> bytes:
    """A directory, to stand at byte ``at`` of a file."""
    entries = tuple(sorted(entries, key=lambda entry: entry.tag))
    head = bytearray(struct.pack(order + "H", len(entries)))
    behind = bytearray()
    start = at + 2 + 12 * len(entries) + 4
    for entry in entries:
        place = start + len(behind)
        data = packed(entry.data, place, order) if isinstance(entry.data, tuple) else entry.data
        nested = isinstance(entry.data, tuple)
        head += struct.pack(order + "HHI", entry.tag, 4 if nested else entry.type, 1 if nested else entry.count)
        if nested or len(data) > 4:
            head += struct.pack(order + "I", place)
            behind += data + bytes(len(data) % 2)
        else:
            head += data.ljust(4, b"\0")
    return bytes(head + bytes(4) + behind)


def numbers_entry(tag: int, values: NDArray[Any], order: Order = "<") -> Entry:
    """Unsigned numbers below 2**32."""
    return Entry(tag, 4, values.size, values.astype(order + "u4").tobytes())


def with_directory(file: bytes, entries: tuple[Entry, ...], order: Order = "<") -> bytes:
    """A TIFF of that byte order with another first directory; the old one stays in the file, unused."""
    at = len(file) + len(file) % 2
    head = (b"II" if order == "<" else b"MM") + struct.pack(order + "HI", 42, at)
    return b"".join([head, file[8:], bytes(at - len(file)), packed(entries, at, order)])


def _size(kind: int, count: int) -> int:
    return count * _NUMBER.get(kind, 0) * (2 if kind in _RATIONALS else 1)
