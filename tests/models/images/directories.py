"""TIFF files and EXIF blocks with any tags, also such as no library would write."""

from __future__ import annotations

import struct
from dataclasses import dataclass

EXIF_IFD = 0x8769
_BYTES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 7: 1, 12: 8, 16: 8}


@dataclass(frozen=True)
class Entry:
    """A tag of a little-endian file: ``data`` holds ``count`` values of ``type``, or is a directory itself."""

    tag: int
    type: int
    count: int
    data: bytes | tuple[Entry, ...]


def entries_of(file: bytes) -> dict[int, Entry]:
    """The tags of the first directory of a little-endian TIFF that is no BigTIFF."""
    at = struct.unpack_from("<I", file, 4)[0]
    found = {}
    for index in range(struct.unpack_from("<H", file, at)[0]):
        tag, kind, count, place = struct.unpack_from("<HHII", file, at + 2 + 12 * index)
        size = count * _BYTES[kind]
        start = at + 10 + 12 * index if size <= 4 else place
        found[tag] = Entry(tag, kind, count, file[start : start + size])
    return found


def packed(entries: tuple[Entry, ...], at: int) -> bytes:
    """A directory, to stand at byte ``at`` of a file."""
    head, behind = bytearray(struct.pack("<H", len(entries))), bytearray()
    start = at + 2 + 12 * len(entries) + 4
    for entry in sorted(entries, key=lambda entry: entry.tag):
        place = start + len(behind)
        nested = isinstance(entry.data, tuple)
        data = packed(entry.data, place) if isinstance(entry.data, tuple) else entry.data
        head += struct.pack("<HHI", entry.tag, 4 if nested else entry.type, 1 if nested else entry.count)
        if nested or len(data) > 4:
            head += struct.pack("<I", place)
            behind += data + bytes(len(data) % 2)
        else:
            head += data.ljust(4, b"\0")
    return bytes(head + bytes(4) + behind)


def with_directory(file: bytes, entries: tuple[Entry, ...]) -> bytes:
    """A TIFF with another first directory; the old one stays in the file, unused."""
    at = len(file) + len(file) % 2
    return b"II*\0" + struct.pack("<I", at) + file[8:] + bytes(at - len(file)) + packed(entries, at)


def with_entries(file: bytes, entries: tuple[Entry, ...]) -> bytes:
    """A TIFF with further tags."""
    return with_directory(file, tuple((entries_of(file) | {entry.tag: entry for entry in entries}).values()))
