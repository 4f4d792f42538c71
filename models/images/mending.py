"""Files that are nearly whole: every viewer shows them, and strict decoders do not. A copy is made that decodes, and a
sentence that says what was wrong. A picture that lacks more than a few rows stays truncated.
"""

from __future__ import annotations

import math
import random
import struct
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.images import headers, png, tiff
from models.images.limits import MAGIC, ImageLimits, check_size

Array = NDArray[Any]

_MOST_ROWS = 24  # a row of JPEG's blocks is 16, and colors bleed out of it
_MOST_SHARE = 0.04
_PIECE = 1 << 16
_NAMED = 8  # parts in a note
_PADDING = 128  # bytes for each column: more than the blocks of that many rows take


@dataclass(frozen=True)
class Mended:
    """A file that decodes.

    Attributes:
        data: the file.
        note: what was wrong with it.
        other: the same with something else in the places of what is missing; empty where nothing is, or where it was
            filled already.
    """

    data: bytes
    note: str
    other: bytes = b""


def candidates(data: bytes, limits: ImageLimits) -> Iterator[Mended]:
    """Copies that may decode, those with the least changes first. What this raises says that there are no more."""
    note = ""
    if data.startswith(b"\x89PNG"):
        extra = [part for part in png.chunks(data) if png.is_extra(part[0])]
        damaged = [part for part in extra if not png.is_sound(data, *part)]
        if damaged:
            data, note = _without(data, damaged)
            yield Mended(data, note)
        else:  # decoders may stumble over what is in them
            for parts in ([part for part in extra if part[0] not in png.COLORS], extra):
                if parts:
                    yield Mended(*_without(data, parts))
    if (found := _ended(data, limits)) is not None:
        yield replace(found, note=f"{note}; {found.note}" if note else found.note)


def _without(data: bytes, parts: Sequence[tuple[bytes, int, int]]) -> tuple[bytes, str]:
    """A PNG without these chunks, and the note on it."""
    kept, at = [], 0
    for _, start, length in parts:
        kept.append(data[at : start - 8])
        at = start + length + 4
    names = sorted({name.decode() if name.isalpha() else "?" for name, _, _ in parts})
    told = ", ".join(names[:_NAMED] + ["..."] * (len(names) > _NAMED))
    return b"".join([*kept, data[at:]]), f"damaged parts of the PNG file were left out: {told}"


def _ended(data: bytes, limits: ImageLimits) -> Mended | None:
    """A file whose end was missing."""
    if data.startswith(b"\xff\xd8"):
        return _jpeg(data)
    if data.startswith(b"\x89PNG"):
        return _png(data, limits)
    if data.startswith(b"BM"):
        return _bmp(data)
    if data.startswith(b"RIFF"):
        return _webp(data)
    return _tiff(data) if data.startswith(MAGIC["TIFF"]) else None


def filled(pixels: Array, other: Array) -> tuple[Array, int, int] | None:
    """Where two readings differ, nothing of the picture is there: the pixels beside are repeated.

    Returns:
        the picture, how many rows miss something (columns, of a picture that was turned), and how many there are in
        all; None when they are too many.
    """
    differs = (pixels != other).any(axis=2)
    if not differs.any():
        return pixels, 0, len(pixels)
    rows, columns = (np.flatnonzero(differs.any(axis=axis)) for axis in (1, 0))
    (top, bottom), (left, right) = ((found[0], found[-1] + 1) for found in (rows, columns))
    height, width = differs.shape
    result = pixels.copy()
    if bottom - top <= _few(height):
        row = top - 1 if top else bottom
        result[top:bottom, left:right] = pixels[row : row + 1, left:right]
        return result, int(bottom - top), height
    if right - left <= _few(width):
        column = left - 1 if left else right
        result[top:bottom, left:right] = pixels[top:bottom, column : column + 1]
        return result, int(right - left), width
    return None


def ends_early(rows: int, height: int) -> str:
    """The note on rows that are missing."""
    return f"the file ends early: {rows} of {height} rows miss something, which repeats what is beside it"


def _few(height: int) -> int:
    """Rows that may be missing."""
    return min(_MOST_ROWS, math.floor(_MOST_SHARE * height))


def _jpeg(data: bytes) -> Mended | None:
    """Decoders go on into what stands behind the end. So two kinds of it tell what they made of the file itself."""
    found = list(headers.segments(data))
    frame = next((at for marker, at, _ in found if marker in headers.FRAMES), None)
    if frame is None or found[-1][0] == headers.END:
        return None
    progressive = data[frame - 3] == 0xC2
    restarts = any(marker == headers.RESTART_INTERVAL for marker, _, _ in found)
    if progressive and (restarts or not _all_scans(data, frame, found)):
        return None
    width = struct.unpack_from(">H", data, frame + 3)[0]
    sound = data.rstrip(b"\0")  # what was never written
    sound = sound[:-1] if sound.endswith(b"\xff") else sound
    # Without an end marker a sequential decoder fails when it needs more than there is, instead of painting gray.
    end = b"\xff\xd9" if progressive else b""
    padded = [sound + _noise(64 + _PADDING * width, seed) + end for seed in (1, 2)]
    return Mended(padded[0], "the JPEG file has no end marker", padded[1])


def _all_scans(data: bytes, frame: int, found: list[tuple[int, int, int]]) -> bool:
    """Whether the scans of a progressive JPEG have all coefficients to the last bit (ITU T.81, B.2.3)."""
    count = data[frame + 5]
    complete: set[tuple[int, int]] = set()
    for marker, at, _ in found:
        if marker == headers.SCAN:
            names = data[at + 1 : at + 1 + 2 * data[at] : 2]
            first, last, bits = data[at + 1 + 2 * data[at] :][:3]
            if not bits & 15:
                complete |= {(name, index) for name in names for index in range(first, min(last, 63) + 1)}
    return len(complete) == 64 * count


def _noise(size: int, seed: int) -> bytes:
    return random.Random(seed).randbytes(size).replace(b"\xff", b"\x7f")


def _png(data: bytes, limits: ImageLimits) -> Mended | None:
    """Its pixel data packed anew, with the row above for a few rows that are missing at the end."""
    width, height, depth, kind, _, _, interlaced = struct.unpack_from(">IIBBBBB", data, 16)
    check_size(width, height, limits)
    row = 1 + math.ceil(width * depth * png.CHANNELS[kind] / 8)
    source, ended = png.pixel_data(data)
    inflate, deflate = zlib.decompressobj(-15), zlib.compressobj(1)
    packed, size, check = [], 0, 1
    most = 2 * height * row  # of interlaced ones too
    for start in range(2, len(source), _PIECE):
        raw = inflate.decompress(source[start : start + _PIECE], most - size)
        size, check = size + len(raw), zlib.adler32(raw, check)
        packed.append(deflate.compress(raw))
        if inflate.eof or size >= most:
            break
    missing = 0 if inflate.eof else max(0, height - size // row)
    if missing and (ended or interlaced or missing > _few(height)):
        return None
    if inflate.eof and not struct.pack(">I", check).startswith(inflate.unused_data[:4]):
        return None  # the data are whole and not what they were
    if missing:
        packed.append(deflate.compress(bytes(-size % row)))
        packed.append(deflate.compress((b"\2" + bytes(row - 1)) * (height - math.ceil(size / row))))
    note = "the check sums of the PNG file's pixels are wrong" if ended else "the PNG file has no end"
    note = ends_early(missing, height) if missing else note
    return Mended(png.with_pixel_data(data, b"".join([*packed, deflate.flush()])), note)


def _bmp(data: bytes) -> Mended | None:
    start, head, width, height = struct.unpack_from("<IIii", data, 10)
    bits, compression = struct.unpack_from("<HI", data, 28)
    if head < 40 or compression not in (0, 3):
        return None
    row = (width * bits + 31) // 32 * 4
    return _repeated(data, start, row, abs(height), abs(height))


def _tiff(data: bytes) -> Mended | None:
    page = tiff.layout(data)
    found = tiff.last_strip(page)
    return None if found is None else _repeated(data, *found, page.height)


def _repeated(data: bytes, start: int, row: int, rows: int, height: int) -> Mended | None:
    """With the last whole row of bytes for those that are missing at the end."""
    there = (len(data) - start) // row
    missing = rows - there
    if there < 1 or not 0 < missing <= _few(height):
        return None
    behind = start + there * row
    last = data[behind - row : behind]
    return Mended(data[:behind] + last * missing, ends_early(missing, height))


def _webp(data: bytes) -> Mended | None:
    """Without what stands behind the picture and is not all there."""
    chunks, at, picture = [], 12, False
    while at + 8 <= len(data):
        length = struct.unpack_from("<I", data, at + 4)[0]
        whole = data[at : at + 8 + length]
        if len(whole) < 8 + length:
            break
        picture = picture or whole[:4] in (b"VP8 ", b"VP8L")
        chunks.append(whole + bytes(length % 2))
        at += 8 + length + length % 2
    if not picture:
        return None
    if chunks[0][:4] == b"VP8X":
        names = {chunk[:4] for chunk in chunks}
        lost = sum(flag for name, flag in ((b"EXIF", 8), (b"XMP ", 4)) if name not in names)
        chunks[0] = chunks[0][:8] + bytes([chunks[0][8] & ~lost]) + chunks[0][9:]
    body = b"WEBP" + b"".join(chunks)
    return Mended(b"RIFF" + struct.pack("<I", len(body)) + body, "the WebP file ends early, behind the picture")
