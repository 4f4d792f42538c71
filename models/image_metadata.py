"""EXIF, XMP and resolution of a photograph, made fit for a new picture: nothing in them turns it again or shows the
old one.
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass
from typing import Any

from PIL.PngImagePlugin import PngInfo

from models.image_directory import EXIF_IFD, GPS_IFD, Directory, Entry, directory, first_directory, with_directory
from models.image_errors import CorruptImage, ImageError

_ORIENTATION, _X_RESOLUTION, _Y_RESOLUTION, _RESOLUTION_UNIT, _XMP = 0x0112, 0x011A, 0x011B, 0x0128, 0x02BC
# Of the first directory: description, make, model, software, date, artist, copyright, rating. The others tell how
# TIFF stores the pixels, or hold previews, edits and profiles.
_KEPT = (0x010E, 0x010F, 0x0110, 0x0131, 0x0132, 0x013B, 0x8298, 0x4746, 0x4749)
# Of the EXIF directory: the maker's note (full of offsets and previews), sizes and colour space of the old picture,
# and the pointer to how old programs should read it.
_LOST = (0x927C, 0xA001, 0xA002, 0xA003, 0xA005)
_LONGEST = 60_000  # a JPEG segment holds 65,533
_LONGEST_PACKET = 1 << 20  # of XMP before its thumbnail is taken out
_DOTS = 10_000  # denominator of a resolution
_MOST_DPI = 65_535  # of JFIF

_XMP_TURN = re.compile(rb"(\b\w+:Orientation)(\s*=\s*[\"']|\s*>\s*)[0-9]+")
_END_OF_PREVIEW = b"</xmp:Thumbnails>"


@dataclass(frozen=True)
class Metadata:
    """What tells about a photograph, without its pixels.

    Attributes:
        exif: a little-endian EXIF block without ``Exif\\0\\0``: orientation 1, no thumbnail, no maker's note.
        xmp: an XMP packet whose orientation is 1 and that holds no thumbnail.
        dpi: dots per inch across and down the upright picture.
    """

    exif: bytes | None = None
    xmp: bytes | None = None
    dpi: tuple[float, float] | None = None


def collect(exif: bytes | None, xmp: Any, dpi: Any, orientation: int) -> Metadata | None:
    """Clean what a file tells. Whatever is damaged, or longer than a JPEG can hold, is left out; None when nothing is
    left.

    Args:
        exif: an EXIF block, or a whole TIFF file.
        xmp: a packet, as bytes or text.
        dpi: dots per inch across and down the stored picture.
        orientation: of the stored picture, 1..8; the resolutions change places with the sides.
    """
    resolution = _resolution(dpi)
    if resolution is not None and orientation >= 5:
        resolution = resolution[1], resolution[0]
    try:
        block = _clean_exif(exif) if exif else None
    except (ImageError, struct.error):
        block = None
    packet = _clean_xmp(xmp.encode() if isinstance(xmp, str) else xmp)
    found = Metadata(block, packet, resolution)
    return None if found == Metadata() else found


def tiff_resolution(tags: Directory) -> tuple[float, float] | None:
    """Dots per inch that a TIFF directory tells, or None."""
    per_inch = {2: 1.0, 3: 2.54}.get(tags.number(_RESOLUTION_UNIT, 2))
    values = [tags.raw(tag) for tag in (_X_RESOLUTION, _Y_RESOLUTION)]
    if per_inch is None or any(len(value) != 8 for value in values):
        return None
    (a, b), (c, d) = (struct.unpack(tags.order + "II", value) for value in values)
    return (per_inch * a / b, per_inch * c / d) if b and d else None


def pillow_options(data: Metadata, name: str) -> dict[str, Any]:
    """Arguments of Pillow's ``save`` for a format; TIFF takes :func:`tiff_entries` instead, for EXIF and XMP."""
    options: dict[str, Any] = {}
    if data.dpi is not None and name != "WEBP":
        options["dpi"] = data.dpi
    if name in ("BMP", "TIFF"):
        return options
    if (block := exif_block(data)) is not None:
        options["exif"] = b"Exif\0\0" + block
    if data.xmp is not None and name == "PNG":
        info = PngInfo()
        info.add_itxt("XML:com.adobe.xmp", data.xmp.decode())
        options["pnginfo"] = info
    elif data.xmp is not None:
        options["xmp"] = data.xmp
    return options


def png_chunks(data: Metadata) -> tuple[tuple[bytes, bytes], ...]:
    """(name, chunk) to stand before the pixels of a PNG."""
    found = []
    if data.dpi is not None:
        per_metre = (round(value / 0.0254) for value in data.dpi)
        found.append((b"pHYs", struct.pack(">IIB", *per_metre, 1)))
    if (block := exif_block(data)) is not None:
        found.append((b"eXIf", block))
    if data.xmp is not None:
        found.append((b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + data.xmp))
    return tuple(found)


def tiff_entries(data: Metadata) -> tuple[Entry, ...]:
    """EXIF and XMP as tags of a TIFF's first directory."""
    entries = () if data.exif is None else _entries(first_directory(data.exif))
    if data.xmp is not None:
        entries += (Entry(_XMP, 1, len(data.xmp), data.xmp),)
    return entries


def exif_block(data: Metadata) -> bytes | None:
    """The EXIF block with the resolution in it, which is where JPEG readers and WebP look; None without either."""
    if data.exif is None and data.dpi is None:
        return None
    entries = () if data.exif is None else _entries(first_directory(data.exif))
    if data.dpi is not None:
        for tag, value in zip((_X_RESOLUTION, _Y_RESOLUTION), data.dpi, strict=True):
            entries += (Entry(tag, 5, 1, struct.pack("<II", round(value * _DOTS), _DOTS)),)
        entries += (Entry(_RESOLUTION_UNIT, 3, 1, struct.pack("<H", 2)),)
    return _block(entries)


def _clean_exif(block: bytes) -> bytes | None:
    tags = first_directory(block.removeprefix(b"Exif\0\0"))
    entries = list(_copies(tags, [tag for tag in _KEPT if tag in tags.fields]))
    for pointer, lost in ((EXIF_IFD, _LOST), (GPS_IFD, ())):
        if at := tags.number(pointer):
            inner = directory(tags.source, tags.order, at)
            if children := _copies(inner, [tag for tag in inner.fields if tag not in lost]):
                entries.append(Entry(pointer, 4, 1, children))
    if not entries:
        return None
    cleaned = _block((*entries, Entry(_ORIENTATION, 3, 1, struct.pack("<H", 1))))
    return cleaned if len(cleaned) <= _LONGEST else None


def _copies(tags: Directory, wanted: list[int]) -> tuple[Entry, ...]:
    if sum(tags.size(tag) for tag in wanted) > _LONGEST:  # a hostile directory names the same bytes many times
        raise CorruptImage("the EXIF block is longer than it can be")
    return tuple(tags.entry(tag) for tag in wanted)


def _entries(tags: Directory) -> tuple[Entry, ...]:
    """All of a block that :func:`_clean_exif` made, to be packed at another place."""
    found = []
    for tag in tags.fields:
        if tag in (EXIF_IFD, GPS_IFD):
            inner = directory(tags.source, tags.order, tags.number(tag))
            found.append(Entry(tag, 4, 1, tuple(inner.entry(child) for child in inner.fields)))
        else:
            found.append(tags.entry(tag))
    return tuple(found)


def _block(entries: tuple[Entry, ...]) -> bytes:
    return with_directory(bytes(8), entries)


def _clean_xmp(packet: Any) -> bytes | None:
    if not isinstance(packet, bytes) or len(packet) > _LONGEST_PACKET:
        return None
    packet = packet.rstrip(b"\0")
    if (start := packet.find(b"<xmp:Thumbnails")) >= 0:
        end = packet.rfind(_END_OF_PREVIEW)
        if end < start:
            return None
        packet = packet[:start] + packet[end + len(_END_OF_PREVIEW) :]
    try:
        text = packet.decode()
    except UnicodeDecodeError:
        return None
    cleaned = _XMP_TURN.sub(rb"\g<1>\g<2>1", packet)
    return cleaned if "<" in text and "\0" not in text and len(cleaned) <= _LONGEST else None


def _resolution(dpi: Any) -> tuple[float, float] | None:
    try:
        across, down = (float(value) for value in dpi)
    except (TypeError, ValueError, ZeroDivisionError, OverflowError):
        return None
    return (across, down) if all(0 < value <= _MOST_DPI for value in (across, down)) else None
