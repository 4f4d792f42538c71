"""PNG of 16 bits a channel, which Pillow cuts to 8. imagecodecs (libpng) does the work, on the chunks that hold pixels
and no others, after their lengths and check sums were looked at.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.images.limits import CorruptImage, TruncatedImage
from models.images.modes import Samples

Array = NDArray[Any]

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_HEADER_END = 33  # signature and IHDR
_MOST_CHUNKS = 100_000  # 64 MiB in the smallest pieces that encoders write
CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # colour type to channels; 3 is a palette, never of 16 bits
_NEEDED = (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND")  # by pixels
COLORS = (b"cICP", b"iCCP", b"sRGB", b"gAMA", b"cHRM")
_TRANSPARENT_BYTES = {0: 2, 2: 6}  # colour type to length of tRNS
_MOST_DEFLATED = 1100  # bytes that one byte of deflate can stand for


def chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """(name, first byte, length) of the chunks up to the end of the file, whatever it is.

    Raises:
        CorruptImage: more chunks than any encoder writes.
    """
    at = len(_SIGNATURE)
    for _ in range(_MOST_CHUNKS):
        if at + 12 > len(data):
            return
        length, name = struct.unpack_from(">I4s", data, at)
        if at + 12 + length > len(data):
            return
        yield name, at + 8, length
        if name == b"IEND":
            return
        at += 12 + length
    raise CorruptImage(f"the PNG file has more than {_MOST_CHUNKS:,} chunks")


def is_deep(data: bytes) -> bool:
    """Whether a PNG file says that it has 16 bits a channel."""
    return data[:8] == _SIGNATURE and data[12:16] == b"IHDR" and data[24:25] == b"\x10"


def is_whole(data: bytes) -> bool:
    """Whether a PNG file has its end."""
    return any(name == b"IEND" for name, _, _ in chunks(data))


def is_extra(name: bytes) -> bool:
    """Whether no pixel needs chunks of that name."""
    return name not in _NEEDED and name[0] & 0x20 != 0


def is_sound(data: bytes, name: bytes, at: int, length: int) -> bool:
    """Whether the check sum of a chunk is right."""
    stated: int = struct.unpack_from(">I", data, at + length)[0]
    return zlib.crc32(memoryview(data)[at - len(name) : at + length]) == stated


def pixel_data(data: bytes) -> tuple[bytes, bool]:
    """The deflated pixels, also of a last chunk that the file cuts off; and whether the file has its end."""
    parts, behind, last = [], len(_SIGNATURE), b""
    for name, at, length in chunks(data):
        last, behind = name, at + length + 4
        if name == b"IDAT":
            parts.append(data[at : at + length])
    if last != b"IEND" and data[behind + 4 : behind + 8] == b"IDAT":
        length = struct.unpack_from(">I", data, behind)[0]
        parts.append(data[behind + 8 : behind + 8 + length])
    return b"".join(parts), last == b"IEND"


def with_pixel_data(data: bytes, deflated: bytes) -> bytes:
    """The file with other pixels and an end."""
    before, met = [data[: len(_SIGNATURE)]], False
    behind: list[bytes] = []
    for name, at, length in chunks(data):
        met = met or name == b"IDAT"
        if name not in (b"IDAT", b"IEND"):
            (behind if met else before).append(data[at - 8 : at + length + 4])
    return b"".join([*before, _chunk(b"IDAT", deflated), *behind, _chunk(b"IEND", b"")])


def exif(data: bytes) -> bytes | None:
    """The EXIF block, wherever in the file it stands."""
    found = (part for part in chunks(data) if part[0] == b"eXIf" and is_sound(data, *part))
    return next((data[at : at + length] for _, at, length in found), None)


def decode(data: bytes, size: tuple[int, int]) -> Samples:
    """The pixels of a 16-bit PNG of ``size`` (width, height), as they are stored.

    Raises:
        CorruptImage, TruncatedImage: as the names say.
    """
    import imagecodecs

    stripped, kind, transparent = _pixel_chunks(data, size)
    try:
        values = imagecodecs.png_decode(stripped)
    except (imagecodecs.PngError, UnicodeDecodeError, ValueError) as problem:  # its messages may be garbage
        raise CorruptImage("cannot decode the image: the PNG pixel data are damaged") from problem
    channels = CHANNELS[kind] + transparent
    values = values[:, :, None] if values.ndim == 2 else values
    if values.shape != (size[1], size[0], channels) or values.dtype != np.uint16:
        raise CorruptImage(f"the PNG header says {size} and {channels} channels, not {values.shape} {values.dtype}")
    colours = 3 if channels >= 3 else 1
    return Samples(values[:, :, :colours], "RGB" if colours == 3 else "GRAY", _alpha(values))


def encode(pixels: Array, icc: bytes | None, extra: tuple[tuple[bytes, bytes], ...] = ()) -> bytes:
    """A PNG of (H, W) grey or (H, W, 2..4) uint16; 2 and 4 have alpha last. ``extra`` are further (name, chunk)."""
    import imagecodecs

    plain = np.ascontiguousarray(pixels).reshape(-1).reshape(pixels.shape)  # strides of sides of 1 may be anything
    data = bytes(imagecodecs.png_encode(plain))
    profile = () if icc is None else ((b"iCCP", b"ICC Profile\0\0" + zlib.compress(icc)),)
    inserted = b"".join(_chunk(name, body) for name, body in (*profile, *extra))
    return data[:_HEADER_END] + inserted + data[_HEADER_END:]


def _alpha(values: Array) -> Array | None:
    return values[:, :, -1] if values.shape[2] in (2, 4) else None


def _pixel_chunks(data: bytes, size: tuple[int, int]) -> tuple[bytes, int, int]:
    """A PNG of IHDR, tRNS and IDAT alone, the colour type, and 1 when there is tRNS."""
    width, height, _, kind, method, filters, interlaced = struct.unpack_from(">IIBBBBB", data, 16)
    if (width, height) != size or kind not in CHANNELS or kind == 3 or method or filters or interlaced > 1:
        raise CorruptImage(f"the PNG header is damaged: {width}x{height}, colour type {kind}")
    parts, deflated, transparent, last = [data[: len(_SIGNATURE)]], 0, 0, b""
    for name, at, length in chunks(data):
        last = name
        wanted = name in (b"IHDR", b"IDAT") or (name == b"tRNS" and _TRANSPARENT_BYTES.get(kind) == length)
        if not wanted or (name == b"IHDR" and at != 16) or (name == b"tRNS" and (transparent or deflated)):
            continue
        if not is_sound(data, name, at, length):
            raise CorruptImage(f"the PNG chunk {name.decode()} is damaged: its check sum is wrong")
        deflated += length if name == b"IDAT" else 0
        transparent += name == b"tRNS"
        parts.append(data[at - 8 : at + length + 4])
    if last != b"IEND":
        raise TruncatedImage("the file ends before the picture does: the PNG file has no end")
    if deflated * _MOST_DEFLATED < width * height * CHANNELS[kind] * 2:
        raise TruncatedImage(f"{deflated:,} bytes of pixel data cannot hold {width}x{height} pixels")
    return b"".join([*parts, _chunk(b"IEND", b"")]), kind, transparent


def _chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
