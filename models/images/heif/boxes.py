"""The boxes of AVIF and HEIC files (ISO/IEC 14496-12, 23008-12), which the decoders keep to themselves: the numbers of
the colors, the depth, and the names of what lies beside the picture.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass

from models.images.limits import CorruptImage, TruncatedImage

_MOST_BOXES = 4096  # in a box; the tiles of the largest picture share their properties
_TOP = (b"ftyp", b"meta", b"mdat", b"moov")
_AUXILIARY = re.compile(rb"auxC\0\0\0\0([\x20-\x7e]{1,200})\0")
_Box = tuple[bytes, int, int]


@dataclass(frozen=True)
class HeifLayout:
    """What a file tells of its primary picture.

    Attributes:
        nclx: primaries, transfer, matrix (ITU-T H.273) and whether all levels are used; None where it tells none.
        bits: of a channel.
        sequence: it says that it is one, of which a decoder takes a frame.
        auxiliary: the names of what auxiliary pictures are.
        names: types of the boxes, items and references in it.
    """

    nclx: tuple[int, int, int, int] | None
    bits: int
    sequence: bool
    auxiliary: frozenset[str]
    names: frozenset[bytes]


def layout(data: bytes) -> HeifLayout:
    """Look through the boxes of a file that begins with ``ftyp``.

    Raises:
        TruncatedImage: the file ends before one of its boxes does.
        CorruptImage: there are none that describe a picture, or they contradict each other.
    """
    top = list(_boxes(data, 0, len(data)))
    for name, _, end in top:
        if end > len(data) and name in _TOP:
            raise TruncatedImage(f"the file ends before the picture does: {end - len(data):,} bytes are missing")
    try:
        (meta,) = ((at + 4, end) for name, at, end in top if name == b"meta")
        inner = list(_boxes(data, *meta))
        types = set(_item_types(data, inner))
        properties = _properties(data, {name: (at, end) for name, at, end in inner})
    except (KeyError, IndexError, ValueError, struct.error) as problem:
        raise CorruptImage("the boxes that describe the picture are missing or damaged") from problem
    named = {name for name, _, _ in (*top, *inner)}
    references = next(
        ({kind for kind, _, _ in _boxes(data, at + 4, end)} for name, at, end in inner if name == b"iref"), set()
    )
    nclx = (part for name, part in properties if name == b"colr" and part[:4] == b"nclx")
    return HeifLayout(
        nclx=next((struct.unpack(">HHHB", part[4:11]) for part in nclx if len(part) >= 11), None),
        bits=max((max(part[5:], default=8) for name, part in properties if name == b"pixi"), default=8),
        sequence=data[8:12] in (b"avis", b"msf1") or data[8:11] == b"hev",
        auxiliary=frozenset(found.decode() for found in _AUXILIARY.findall(data, *meta)),
        names=frozenset(named | references | types),
    )


def _boxes(data: bytes, at: int, end: int) -> Iterator[_Box]:
    """Type, and where the contents begin and end, of boxes side by side; the last may end behind ``end``."""
    for _ in range(_MOST_BOXES):
        if at + 8 > end:
            return
        size, name = struct.unpack_from(">I4s", data, at)
        start = at + 8
        # A size of 64 bits follows; 0 is all the rest.
        if size == 1 and at + 16 <= end:
            size, start = struct.unpack_from(">Q", data, at + 8)[0], at + 16
        stop = end if size == 0 else at + size
        if stop < start:
            return
        yield name, start, stop
        at = stop
    raise CorruptImage(f"the file has more than {_MOST_BOXES:,} boxes side by side")


def _item_types(data: bytes, inner: list[_Box]) -> Iterator[bytes]:
    """Types of the items. All texts beside them have to be UTF-8: pi_heif reads the memory at address 0 where one is
    not.
    """
    for name, at, end in inner:
        if name == b"iinf":
            # Behind version, flags, and a count of 16 or 32 bits.
            start = at + (6 if data[at] == 0 else 8)
            for kind, place, stop in _boxes(data, start, end):
                if kind == b"infe":
                    here = place + (10 if data[place] >= 3 else 8)
                    data[here:stop].decode()
                    yield data[here : here + 4]


def _properties(data: bytes, inner: dict[bytes, tuple[int, int]]) -> list[tuple[bytes, bytes]]:
    """(type, contents) of what is told of the primary picture, in the file's order."""
    at = inner[b"pitm"][0]
    primary = struct.unpack_from(">H" if data[at] == 0 else ">I", data, at + 4)[0]
    parts = {name: (start, end) for name, start, end in _boxes(data, *inner[b"iprp"])}
    held = [(name, data[start:end]) for name, start, end in _boxes(data, *parts[b"ipco"])]
    return [held[number - 1] for number in _associated(data, parts[b"ipma"][0], primary) if 0 < number <= len(held)]


def _associated(data: bytes, at: int, wanted: int) -> list[int]:
    """Numbers of an item's properties, from 1 (23008-12, 9.3)."""
    # The lowest flag makes numbers 15 bits long instead of 7; the bit above says essential.
    wide, form = data[at + 3] & 1, ">H" if data[at] == 0 else ">I"
    count = struct.unpack_from(">I", data, at + 4)[0]
    at += 8
    for _ in range(min(count, _MOST_BOXES)):
        item, many = struct.unpack_from(form + "B", data, at)
        at += struct.calcsize(form + "B")
        if item == wanted:
            return [
                value & (0x7FFF if wide else 0x7F) for value in struct.unpack_from(f">{many}{'HB'[not wide]}", data, at)
            ]
        at += many * (1 + wide)
    return []
