"""Files that are nearly whole: every viewer shows them, and strict decoders do not. A copy is made that decodes, and a
sentence that says what was wrong. A picture that lacks more than a few rows stays truncated.
"""

from __future__ import annotations

import math
import random
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from models.images import headers, png
from models.images.contents import webp_chunks
from models.images.limits import MAGIC, ImageLimits, check_size
from models.images.photo import Array

_MOST_ROWS = 24  # a row of JPEG's blocks is 16, and colors bleed out of it
_MOST_SHARE = 0.04
_NAMED = 8  # parts in a note
_PADDING = 192  # bytes for each column: more than the blocks of that many rows take


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
    """Yield copies that may decode, those with the least changes first. An exception means that there are no more."""
    note = ""
    if data.startswith(b"\x89PNG"):
        extra = [part for part in png.chunks(data) if part[0] not in png.NEEDED and part[0][0] & 0x20]
        if damaged := [part for part in extra if not png.is_sound(data, part)]:
            note = _left_out(damaged)
            data = png.without(data, damaged)
            yield Mended(data, note)
        else:  # decoders may stumble over what is in them
            for left in ([part for part in extra if part[0] not in png.COLORS], extra):
                if left:
                    yield Mended(png.without(data, left), _left_out(left))
    if (found := _ended(data, limits)) is not None:
        yield replace(found, note=f"{note}; {found.note}" if note else found.note)


def _left_out(parts: list[png.Chunk]) -> str:
    names = sorted({name.decode() if name.isalpha() else "?" for name, _, _ in parts})
    told = ", ".join(names[:_NAMED] + ["..."] * (len(names) > _NAMED))
    return f"damaged parts of the PNG file were left out: {told}"


def filled(pixels: Array, other: Array) -> tuple[Array, int, int] | None:
    """Repeat the pixels beside where two readings differ: nothing of the picture is there.

    Returns:
        the picture, how many rows miss something (columns, of a picture that was turned), and how many there are in
        all; None when they are too many.
    """
    differs = (pixels != other).any(axis=2)
    if not differs.any():
        return pixels, 0, len(pixels)
    result = pixels.copy()
    # Columns and rows that differ anywhere.
    across, down = (np.flatnonzero(differs.any(axis=axis)) for axis in (0, 1))
    for turned, lines, others in ((False, down, across), (True, across, down)):
        view, side = (result.swapaxes(0, 1), differs.shape[1]) if turned else (result, differs.shape[0])
        start, stop = lines[0], lines[-1] + 1
        if stop - start <= _few(side):
            beside = start - 1 if start else stop
            view[start:stop, others[0] : others[-1] + 1] = view[beside : beside + 1, others[0] : others[-1] + 1]
            return result, int(stop - start), side
    return None


def _few(side: int) -> int:
    """Return the number of rows that may be missing."""
    return min(_MOST_ROWS, math.floor(_MOST_SHARE * side))


def ends_early(rows: int, height: int) -> str:
    """Return the note on rows that are missing."""
    return f"the file ends early: {rows} of {height} rows miss something, which repeats what is beside it"


def _ended(data: bytes, limits: ImageLimits) -> Mended | None:
    """Complete a file whose end is missing, twice and differently: rows that decode differently are the missing
    ones.
    """
    if data.startswith(b"RIFF"):
        return _webp(data)
    if data.startswith(b"\x89PNG"):
        return _png(data, limits)
    sound, end, note = data, b"", "the file has no end"
    if data.startswith(b"\xff\xd8"):
        found = list(headers.segments(data))
        frame = next(at for marker, at, _ in found if marker in headers.FRAMES)
        progressive = data[frame - 3] == 0xC2
        restarts = any(marker == headers.RESTART_INTERVAL for marker, _, _ in found)
        if found[-1][0] == headers.END or (progressive and (restarts or not _all_scans(data, frame, found))):
            return None
        note = "the JPEG file has no end marker"
        sound = data.rstrip(b"\0").removesuffix(b"\xff")  # what was never written
        # Without an end marker a sequential decoder fails when it needs more than there is, instead of painting gray.
        end = b"\xff\xd9" if progressive else b""
    elif not data.startswith((*MAGIC["BMP"], *MAGIC["TIFF"])):
        return None
    width = headers.probe(data, limits).width
    padded = [sound + _noise(64 + _PADDING * width, seed) + end for seed in (1, 2)]
    return Mended(padded[0], note, padded[1])


def _all_scans(data: bytes, frame: int, found: list[tuple[int, int, int]]) -> bool:
    """Whether the scans of a progressive JPEG have all coefficients to the last bit (ITU T.81, B.2.3)."""
    complete: set[tuple[int, int]] = set()
    for marker, at, _ in found:
        if marker == headers.SCAN:
            names = data[at + 1 : at + 1 + 2 * data[at] : 2]
            # Spectral selection, and two bit positions: 0 in the low half is the last refinement.
            first, last, bits = data[at + 1 + 2 * data[at] :][:3]
            if not bits & 15:
                complete |= {(name, index) for name in names for index in range(first, min(last, 63) + 1)}
    return len(complete) == 64 * data[frame + 5]


def _noise(size: int, seed: int) -> bytes:
    # Without FF, with which markers begin.
    return random.Random(seed).randbytes(size).replace(b"\xff", b"\x7f")


def _png(data: bytes, limits: ImageLimits) -> Mended | None:
    """Pack the pixel data anew, with the row above for a few rows that are missing at the end."""
    width, height, depth, kind, _, _, interlaced = struct.unpack_from(">IIBBBBB", data, 16)
    check_size(width, height, limits)
    row = 1 + math.ceil(width * depth * {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[kind] / 8)
    whole = headers.is_whole(data)
    source = b"".join(data[at : at + size] for name, at, size in png.chunks(data, cut=True) if name == b"IDAT")
    # Raw, without zlib's check sum, which may be all that is wrong.
    inflate = zlib.decompressobj(-15)
    pixels = inflate.decompress(source[2:], 2 * height * row)  # interlaced ones are longer
    if inflate.eof and not struct.pack(">I", zlib.adler32(pixels)).startswith(inflate.unused_data[:4]):
        return None  # the data are whole and not what they were
    missing = 0 if inflate.eof else height * row - len(pixels)
    if missing > 0 and (whole or interlaced or missing > _few(height) * row):
        return None
    note = "the check sums of the PNG file's pixels are wrong" if whole else "the PNG file has no end"
    if missing > 0:  # the row above, by PNG's filter of that name
        rows = math.ceil(missing / row)
        pixels = pixels[: (height - rows) * row] + (b"\2" + bytes(row - 1)) * rows
        note = ends_early(rows, height)
    others = png.without(data, [part for part in png.chunks(data, cut=True) if part[0] in (b"IDAT", b"IEND")])
    return Mended(others + png.chunk(b"IDAT", zlib.compress(pixels, 1)) + png.chunk(b"IEND", b""), note)


def _webp(data: bytes) -> Mended | None:
    """Remove incomplete chunks behind the picture."""
    chunks = [chunk + bytes(len(chunk) % 2) for chunk in webp_chunks(data)]
    names = {chunk[:4] for chunk in chunks}
    if names.isdisjoint((b"VP8 ", b"VP8L")):
        return None
    if chunks[0][:4] == b"VP8X":
        lost = sum(flag for name, flag in ((b"EXIF", 8), (b"XMP ", 4)) if name not in names)
        chunks[0] = chunks[0][:8] + bytes([chunks[0][8] & ~lost]) + chunks[0][9:]
    body = b"WEBP" + b"".join(chunks)
    return Mended(b"RIFF" + struct.pack("<I", len(body)) + body, "the WebP file ends early, behind the picture")
