"""PNG: its chunks; pixels of 16 bits, which Pillow cuts to 8 and imagecodecs (libpng) keeps; and writing."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Collection, Iterator

import numpy as np

from models.images.limits import CorruptImage
from models.images.photo import Samples

Chunk = tuple[bytes, int, int]  # name, first byte, length

SIGNATURE = b"\x89PNG\r\n\x1a\n"
NEEDED = (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND")  # by pixels
COLORS = (b"cICP", b"iCCP", b"sRGB", b"gAMA", b"cHRM")
HEADER_END = 33  # signature and IHDR
_MOST_CHUNKS = 200_000  # a gigabyte in pieces of 8 KiB, as libpng writes them, and more


def chunks(data: bytes, cut: bool = False) -> Iterator[Chunk]:
    """Yield the chunks up to the last whole one or ``IEND``; with ``cut`` also a last one of which a part is missing.

    Raises:
        CorruptImage: more chunks than any encoder writes.
    """
    at = len(SIGNATURE)
    for _ in range(_MOST_CHUNKS):
        if at + (8 if cut else 12) > len(data):
            return
        length, name = struct.unpack_from(">I4s", data, at)
        if at + 12 + length > len(data) and not cut:
            return
        yield name, at + 8, length
        if name == b"IEND":
            return
        at += 12 + length
    raise CorruptImage(f"the PNG file has more than {_MOST_CHUNKS:,} chunks")


def is_deep(data: bytes) -> bool:
    """Return whether it is a PNG of 16 bits a channel."""
    # IHDR: width, height, and then the depth.
    return data.startswith(SIGNATURE) and data[24:25] == b"\x10"


def is_sound(data: bytes, part: Chunk) -> bool:
    """Return whether the check sum of a chunk is right."""
    name, at, length = part
    # Over name and contents, without the length.
    return zlib.crc32(memoryview(data)[at - len(name) : at + length]) == int.from_bytes(data[at + length :][:4], "big")


def without(data: bytes, parts: Collection[Chunk]) -> bytes:
    """Return the file without the given chunks, and without bytes behind its end."""
    left = set(parts)
    kept = (
        data[at - 8 : at + length + 4] for name, at, length in chunks(data, cut=True) if (name, at, length) not in left
    )
    return b"".join([data[: len(SIGNATURE)], *kept])


def chunk(name: bytes, body: bytes) -> bytes:
    """Return a chunk as it stands in a file."""
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def exif(data: bytes) -> bytes | None:
    """Find the EXIF block, wherever in the file it stands; None where there is none."""
    found = (part for part in chunks(data) if part[0] == b"eXIf" and is_sound(data, part))
    return next((data[at : at + length] for _, at, length in found), None)


def decode(data: bytes, size: tuple[int, int]) -> Samples:
    """Decode the pixels of a 16-bit PNG of ``size`` (width, height), as they are stored.

    Raises:
        CorruptImage: as the name says.
    """
    import imagecodecs

    try:  # libpng would unpack texts, and there may be a thousand of 8 MB
        values = imagecodecs.png_decode(without(data, [part for part in chunks(data) if part[0] not in NEEDED]))
    except (imagecodecs.PngError, UnicodeDecodeError, ValueError) as problem:  # its messages may be garbage
        raise CorruptImage("cannot decode the image: the PNG pixel data are damaged") from problem
    values = values.reshape(*values.shape[:2], -1)
    if values.shape[1::-1] != size or values.dtype != np.uint16:
        raise CorruptImage(f"the PNG header says {size}, not {values.shape} {values.dtype}")
    colors = 3 if values.shape[2] >= 3 else 1
    alpha = values[:, :, -1] if values.shape[2] > colors else None
    return Samples(values[:, :, :colors], "RGB" if colors == 3 else "GRAY", alpha)
