"""Open an image file for its header alone: limits first, then checks that keep hostile files from Pillow's decoders."""

from __future__ import annotations

import functools
import io
import re
import struct
from collections.abc import Iterator

from PIL import Image, UnidentifiedImageError

from models.images import exif, heif, png, raw, tiff
from models.images.limits import (
    MAGIC,
    RAW,
    CorruptImage,
    Header,
    ImageError,
    ImageLimits,
    ImageTooLarge,
    TruncatedImage,
    UnsupportedFormat,
    check_bytes,
    check_frames,
    check_size,
    kind_of,
)

SCAN, END, COMMENT, RESTART_INTERVAL = 0xDA, 0xD9, 0xFE, 0xDD
FRAMES = frozenset({*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC})
_MOST_SEGMENTS = 4096  # before the first scan: a profile and extended XMP take hundreds
_MOST_FILL = 4096  # bytes between segments
_MOST_SCANS = 200  # a progressive JPEG needs a dozen; each costs a pass over the whole picture
_MARKER = re.compile(rb"\xff([\x01-\xcf\xd8-\xfe])")  # neither stuffing nor a restart
_NO_SEGMENT = (0x01, 0xD8)
_BOXED = {"AVIF": "AVIF", "HEIC": "HEIF"}  # and what Pillow calls them
_TURN = re.compile(rb"\btiff:Orientation(?:\s*=\s*[\"']|>)\s*([1-8])")


def segments(data: bytes) -> Iterator[tuple[int, int, int]]:
    """Yield (marker, first byte, length) of the segments up to the end marker, which comes last, with length 0. What
    lies between them, scans' data among it, is passed over, as decoders do.

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
    """Return whether a JPEG or PNG file has its end; True for others.

    Raises:
        CorruptImage: more parts than any encoder writes.
    """
    if data.startswith(b"\xff\xd8"):
        return any(marker == END for marker, _, _ in segments(data))
    return not data.startswith(png.SIGNATURE[:4]) or any(name == b"IEND" for name, _, _ in png.chunks(data))


def takes_raw(data: bytes, limits: ImageLimits) -> bool:
    """Return whether a file is a camera's raw file, where these are accepted."""
    return RAW in limits.formats and raw.is_raw(data)


def tiff_layout(data: bytes, limits: ImageLimits) -> tiff.Layout | None:
    """Read and check the header of a TIFF file; None for other files, and where TIFF is not accepted.

    Raises:
        ImageError: as :func:`models.images.decode`.
    """
    if "TIFF" not in limits.formats or not data.startswith(MAGIC["TIFF"]):
        return None
    layout = tiff.layout(data)
    check_size(layout.width, layout.height, limits)
    check_frames(layout.tags.next != 0, "TIFF", limits)
    return layout


def open_image(data: bytes, limits: ImageLimits) -> Image.Image:
    """Open a Pillow image: its header is read and checked, its pixels are not.

    Raises:
        ImageError: as :func:`models.images.decode`; Pillow's plugins raise more.
    """
    if not data:
        raise TruncatedImage("the file is empty")
    if data.startswith(b"RIFF") and (size := _webp_size(data)):
        check_size(*size, limits)  # Pillow makes room for the picture when it opens the file
    is_whole(data)  # its parts are counted
    plugins = _plugins(data, limits)
    if plugins and (boxed := boxes(data)) is not None:
        check_frames(boxed.sequence, str(kind_of(data)), limits)
    try:
        image = Image.open(io.BytesIO(data), formats=plugins)
    except UnidentifiedImageError as problem:
        if data.startswith(MAGIC["TIFF"]) and "TIFF" in limits.formats:  # its directory was found sound
            message = "TIFF of this color model and depth is not supported; save it as RGB of 8 or 16 bits a channel"
            raise UnsupportedFormat(message) from problem
        kind = kind_of(data)
        if (kind or "").upper() in limits.formats or (kind is None and data.startswith(b"RIFF")):
            raise  # of an accepted format, but damaged
        told = f"this is {kind}, " if kind else ""
        raise UnsupportedFormat(f"{told}not an image of an accepted format ({', '.join(limits.formats)})") from problem
    check_size(*image.size, limits)
    # MPO is a JPEG with further pictures behind it (stereo, HDR gain map): every viewer shows the first.
    check_frames(getattr(image, "is_animated", False) and image.format != "MPO", name_of(image), limits)
    return image


def boxes(data: bytes) -> heif.HeifLayout | None:
    """Return what the boxes of an AVIF or HEIC file tell; None for other files.

    Raises:
        ImageError: as :func:`models.images.decode`.
    """
    if data[4:8] != b"ftyp" or (kind := kind_of(data)) not in _BOXED:
        return None
    found = heif.layout(data)
    if kind == "HEIC" and not found.sequence and b"hvc1" not in found.names:
        raise UnsupportedFormat("the HEIC file is not compressed by HEVC; convert it to JPEG")
    return found


def _plugins(data: bytes, limits: ImageLimits) -> list[str]:
    """Return Pillow's names of the formats that a file may have: AVIF and HEIC share their boxes, so that one of the
    two is told to look at it.
    """
    kind = kind_of(data) if data[4:8] == b"ftyp" else None
    if kind == "HEIC":
        _register_heic()
    return [_BOXED.get(name, name) for name in limits.formats if name != RAW and (name in _BOXED) == (name == kind)]


@functools.cache
def _register_heic() -> None:
    import pi_heif  # late: it loads a decoder that most processes never need

    pi_heif.register_heif_opener(thumbnails=False, depth_images=False, aux_images=False)


def probe(data: bytes, limits: ImageLimits) -> Header:
    """Do as :func:`models.images.probe`, with Pillow's own exceptions besides the typed ones."""
    check_bytes(len(data), limits)
    if takes_raw(data, limits):
        return raw.probe(data, limits)
    if (layout := tiff_layout(data, limits)) is not None:
        return _header("TIFF", (layout.width, layout.height), tiff_orientation(layout))
    with open_image(data, limits) as image:
        return _header(name_of(image), image.size, orientation(image, data))


def orientation(image: Image.Image, data: bytes) -> int:
    """Return the EXIF orientation 1..8 of a file whose pixels are not read yet. Not for TIFF: see
    :func:`tiff_orientation`.
    """
    if image.format == "PNG" and "exif" not in image.info and (block := png.exif(data)) is not None:
        image.info["exif"] = block  # it stands behind the pixels
    try:
        if block := image.info.get("exif"):
            exif.first(block.removeprefix(b"Exif\0\0"))  # before Pillow reads it: it may be a bomb
        # Not the method of PNG files, which would decode the pixels to look behind them.
        value = Image.Image.getexif(image).get(exif.ORIENTATION, 1)
    except Exception:  # noqa: BLE001 - damaged EXIF raises almost anything, and the picture itself is sound
        return 1
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def tiff_orientation(layout: tiff.Layout) -> int:
    """Return the orientation of a TIFF, 1..8; that of its XMP counts where the directory tells none."""
    value = exif.number(layout.tags, exif.ORIENTATION)
    if value == 0 and (told := _TURN.search(layout.xmp)):
        return int(told[1])
    return value if 1 <= value <= 8 else 1


def name_of(image: Image.Image) -> str:
    """Return the format's name as this package spells it."""
    return {"MPO": "JPEG", "HEIF": "HEIC"}.get(str(image.format), str(image.format))


def typed(problem: Exception, data: bytes) -> ImageError:
    """Return the typed error for an exception that a plugin raised."""
    if isinstance(problem, ImageError):
        return problem
    if isinstance(problem, MemoryError):
        return ImageTooLarge("not enough memory to decode the image; reduce its size")
    if isinstance(problem, Image.DecompressionBombError):
        return ImageTooLarge(str(problem))
    text = str(problem).strip()
    if isinstance(problem, UnidentifiedImageError):
        text = "the header is damaged"  # Pillow's message holds the address of a buffer
    if isinstance(problem, EOFError) or "truncated" in text.lower() or _ends_early(data):
        return TruncatedImage(f"the file ends before the picture does: {text}")
    return CorruptImage(f"cannot decode the image: {text or type(problem).__name__}")


def _header(name: str, size: tuple[int, int], turn: int) -> Header:
    width, height = size if turn < 5 else size[::-1]
    return Header(name, width, height)


def _ends_early(data: bytes) -> bool:
    """Say whether a length in the header of a WebP or BMP, or the missing end of a PNG or JPEG, shows a cut file."""
    if data.startswith(b"RIFF"):
        return len(data) < 12 or struct.unpack("<I", data[4:8])[0] + 8 > len(data)
    if data.startswith(b"BM"):
        return len(data) < 26 or struct.unpack("<I", data[2:6])[0] > len(data)
    if data.startswith(b"\x89PNG"):
        return b"IEND" not in data[-64:]
    return data.startswith(b"\xff\xd8") and b"\xff\xd9" not in data[-64:]


def _webp_size(data: bytes) -> tuple[int, int] | None:
    """(width, height) of a WebP file's canvas, or None."""
    chunk = data[12:16]
    if chunk == b"VP8X" and len(data) >= 30:
        # 24 bits each, less one; below 14 bits.
        width, height = (int.from_bytes(data[at : at + 3], "little") + 1 for at in (24, 27))
        return width, height
    if chunk == b"VP8 " and len(data) >= 30:
        width, height = (value & 0x3FFF for value in struct.unpack_from("<HH", data, 26))
        return (width, height) if width and height else None
    if chunk == b"VP8L" and len(data) >= 25:
        bits = struct.unpack_from("<I", data, 21)[0]
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    return None
