"""The segments of a JPEG file, read from bytes nobody vouches for."""

from __future__ import annotations

import re
from collections.abc import Iterator

from models.image_errors import CorruptImage

SCAN, END, COMMENT, RESTART_INTERVAL = 0xDA, 0xD9, 0xFE, 0xDD
FRAMES = frozenset({*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC})
_MOST_SEGMENTS = 4096  # before the first scan: a profile and extended XMP take hundreds
_MOST_FILL = 4096  # bytes between segments
_MOST_SCANS = 200  # a progressive JPEG needs a dozen; each costs a pass over the whole picture
_MARKER = re.compile(rb"\xff([\x01-\xcf\xd8-\xfe])")  # neither stuffing nor a restart
_NO_SEGMENT = (0x01, 0xD8)


def segments(data: bytes) -> Iterator[tuple[int, int, int]]:
    """(marker, first byte, length) of the segments up to the end marker, which comes last, with length 0. What lies
    between them, scans' data among it, is passed over, as decoders do.

    Raises:
        CorruptImage: so many segments, scans or bytes between segments that reading them would take minutes.
    """
    at, count, scans = 2, 0, 0
    while found := _MARKER.search(data, at):
        if not scans and found.start() - at > _MOST_FILL:
            break
        marker, at = found[1][0], found.end()
        if marker == END:
            yield marker, at, 0
            return
        if marker in _NO_SEGMENT:
            continue
        count, scans = count + 1, scans + (marker == SCAN)
        if count > _MOST_SEGMENTS or scans > _MOST_SCANS:
            raise CorruptImage(f"the JPEG file has more than {count - 1:,} segments or {scans - 1} scans")
        length = int.from_bytes(data[at : at + 2], "big")
        yield marker, at + 2, max(0, length - 2)
        at += length
    if not scans and len(data) - at > _MOST_FILL:
        raise CorruptImage(f"the JPEG file has no segment after byte {at:,}")


def is_whole(data: bytes) -> bool:
    """Whether a JPEG file has its end marker."""
    return any(marker == END for marker, _, _ in segments(data))
