"""EXIF, XMP, IPTC, texts and resolution of a photograph, made fit for a new picture: nothing in them turns it again or
shows the old one. What cannot be kept is named.
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass
from typing import Any

from PIL.PngImagePlugin import PngInfo

from models.images.contents import COMMENT, NOTHING, Contents, iptc_segment
from models.images.directory import (
    EXIF_IFD,
    GPS_IFD,
    Directory,
    Entry,
    directory,
    first_directory,
    with_directory,
)
from models.images.limits import CorruptImage, ImageError

LONGEST = 60_000  # a JPEG segment holds 65,533
_LONGEST_SOURCE = 1 << 20  # before its thumbnail is taken out

_TURN = re.compile(rb"(\b\w+:Orientation)(\s*=\s*[\"']|\s*>\s*)[0-9]+")
# Properties by the usual prefixes of their namespaces, and what is lost with them; "" where nothing is: colors are
# converted.
_KINDS: tuple[tuple[bytes, str], ...] = (
    (rb"xmp:Thumbnails", "thumbnail"),
    (rb"(?:hdrgm|HDRGainMap):\w+", "HDR gain map"),
    (rb"(?:GDepth|GImage|GFocus):\w+", "depth map"),
    (rb"GAudio:\w+", "sound"),
    (rb"GCamera:(?:MotionPhoto|MicroVideo)\w*", "motion photo"),
    (rb"G?Container:Directory", ""),  # a list of the pictures and videos behind this one
    (rb"xmpNote:HasExtendedXMP", "extended XMP"),
    (rb"exif:(?:ColorSpace|Gamma)|exifEX:(?:Gamma|InteroperabilityIndex)", ""),
    (rb"photoshop:ICCProfile|tiff:(?:WhitePoint|PrimaryChromaticities|TransferFunction)", ""),
)
_NAMES = b"|".join(b"(%b)" % name for name, _ in _KINDS)
_ATTRIBUTE = re.compile(rb"\s(?:" + _NAMES + rb")\s*=\s*(?:\"[^\"]*\"|'[^']*')")
_ELEMENT = re.compile(rb"<(?:" + _NAMES + rb")(?=[\s/>])")
DAMAGED = "XMP that is damaged or too long"


def clean(packet: Any) -> tuple[bytes | None, set[str]]:
    """A packet whose orientation is 1 and that holds nothing of the old picture; and what was lost.

    Args:
        packet: bytes or text; anything else counts as none.

    Returns:
        the packet, or None when there is none, it is damaged, or longer than a JPEG can hold; kinds of metadata.
    """
    packet = packet.encode() if isinstance(packet, str) else packet
    if not isinstance(packet, bytes) or not packet.rstrip(b"\0"):
        return None, set()
    lost: set[str] = set()
    found = _without_elements(packet.rstrip(b"\0"), lost) if len(packet) <= _LONGEST_SOURCE else None
    if found is None:
        return None, {DAMAGED}
    for match in _ATTRIBUTE.finditer(found):
        lost.add(_kind(match))
    cleaned = _TURN.sub(rb"\g<1>\g<2>1", _ATTRIBUTE.sub(b"", found))
    try:
        text = cleaned.decode()
    except UnicodeDecodeError:
        text = ""
    sound = "<" in text and "\0" not in text and len(cleaned) <= LONGEST
    return (cleaned, lost - {""}) if sound else (None, lost - {""} | {DAMAGED})


def _without_elements(packet: bytes, lost: set[str]) -> bytes | None:
    """None when one of them does not end."""
    kept, at = [], 0
    while match := _ELEMENT.search(packet, at):
        kept.append(packet[at : match.start()])
        lost.add(_kind(match))
        name, opened = match[0][1:], packet.find(b">", match.end())
        if opened < 0:
            return None
        if packet[opened - 1 : opened] == b"/":
            at = opened + 1
            continue
        closing = b"</" + name + b">"
        # As far as it may go for a thumbnail: its text is not to be seen, whatever is in it.
        closed = packet.rfind(closing) if name == b"xmp:Thumbnails" else packet.find(closing, opened)
        if closed < opened:
            return None
        at = closed + len(closing)
    return b"".join([*kept, packet[at:]])


def _kind(match: re.Match[bytes]) -> str:
    return _KINDS[(match.lastindex or 1) - 1][1]


_ORIENTATION, _X_RESOLUTION, _Y_RESOLUTION, _RESOLUTION_UNIT, _XMP = 0x0112, 0x011A, 0x011B, 0x0128, 0x02BC
_IPTC, _MAKERS_NOTE = 0x83BB, 0x927C
# Of the first directory: description, make, model, software, date, artist, host, copyright, rating, and what Windows
# calls title, comment, author, keywords, subject.
_KEPT = (
    0x010E, 0x010F, 0x0110, 0x0131, 0x0132, 0x013B, 0x013C, 0x8298, 0x4746, 0x4749,
    0x9C9B, 0x9C9C, 0x9C9D, 0x9C9E, 0x9C9F,
)  # fmt: skip
# These tell how TIFF stores the pixels, or are told of elsewhere.
_STRUCTURE = frozenset(
    (*range(254, 267), 273, 274, *range(277, 285), *range(288, 294), 296, 297, 301, *range(317, 348), *range(512, 533),
     700, 33723, 34377, 34665, 34675, 34853, 37724, 52545, 33550, 33922, 34264, 34735, 34736, 34737, 42112, 42113)
)  # fmt: skip
# Of the EXIF directory: the maker's note (full of offsets and previews), sizes, colour space and gamma of the old
# picture, and the pointer to how old programs should read it.
_LOST = (_MAKERS_NOTE, 0xA001, 0xA002, 0xA003, 0xA005, 0xA500)
_LONGEST = 60_000  # a JPEG segment holds 65,533
_DOTS = 10_000  # denominator of a resolution
_MOST_DPI = 65_535  # of JFIF


@dataclass(frozen=True)
class Metadata:
    """What tells about a photograph, without its pixels.

    Attributes:
        exif: a little-endian EXIF block without ``Exif\\0\\0``: orientation 1, no thumbnail, no maker's note.
        xmp: an XMP packet whose orientation is 1 and that holds no thumbnail.
        dpi: dots per inch across and down the upright picture.
        iptc: a block of IPTC records without a preview.
        texts: (keyword, text) of a PNG; a JPEG's comment has the keyword "Comment".
    """

    exif: bytes | None = None
    xmp: bytes | None = None
    dpi: tuple[float, float] | None = None
    iptc: bytes | None = None
    texts: tuple[tuple[str, str], ...] = ()


def collect(
    exif: bytes | Directory | None, xmp: Any, dpi: Any, orientation: int, beside: Contents = NOTHING
) -> tuple[Metadata | None, tuple[str, ...]]:
    """Clean what a file tells. Whatever is damaged, or longer than a JPEG can hold, is left out.

    Args:
        exif: an EXIF block, or the directory of a TIFF file.
        xmp: a packet, as bytes or text.
        dpi: dots per inch across and down the stored picture.
        orientation: of the stored picture, 1..8; the resolutions change places with the sides.
        beside: what else the file holds.

    Returns:
        what can be kept, None when that is nothing; the kinds of what cannot, sorted.
    """
    resolution = _resolution(dpi)
    if resolution is not None and orientation >= 5:
        resolution = resolution[1], resolution[0]
    lost = set(beside.dropped)
    try:
        block = _clean_exif(_directory_of(exif, lost), lost) if exif else None
    except (ImageError, struct.error):
        block = None
        lost.add("EXIF that is damaged or too long")
    packet, lost_xmp = clean(xmp)
    found = Metadata(block, packet, resolution, beside.iptc, beside.texts)
    return None if found == Metadata() else found, tuple(sorted(lost | lost_xmp))


def lost_in(data: Metadata, name: str) -> set[str]:
    """Kinds of metadata that a format has no place for."""
    texts = {"PNG": False, "JPEG": any(keyword != COMMENT for keyword, _ in data.texts) or len(data.texts) > 1}
    kinds = {
        "EXIF": data.exif is not None and name == "BMP",
        "XMP": data.xmp is not None and name == "BMP",
        "IPTC": data.iptc is not None and name not in ("JPEG", "TIFF"),
        "text": bool(data.texts) and texts.get(name, True),
    }
    return {kind for kind, is_lost in kinds.items() if is_lost}


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
    if name == "PNG":
        options["pnginfo"] = info = PngInfo()
        for keyword, text in _png_texts(data):
            info.add_itxt(keyword, text)
    elif data.xmp is not None:
        options["xmp"] = data.xmp
    if name == "JPEG":
        options |= _jpeg_options(data)
    return options


def _jpeg_options(data: Metadata) -> dict[str, Any]:
    comment = next((text.encode() for keyword, text in data.texts if keyword == COMMENT), b"")
    options: dict[str, Any] = {"comment": comment} if 0 < len(comment) <= _LONGEST else {}
    return options if data.iptc is None else options | {"extra": iptc_segment(data.iptc)}


def _png_texts(data: Metadata) -> tuple[tuple[str, str], ...]:
    return data.texts if data.xmp is None else (("XML:com.adobe.xmp", data.xmp.decode()), *data.texts)


def png_chunks(data: Metadata) -> tuple[tuple[bytes, bytes], ...]:
    """(name, chunk) to stand before the pixels of a PNG."""
    found = []
    if data.dpi is not None:
        per_metre = (round(value / 0.0254) for value in data.dpi)
        found.append((b"pHYs", struct.pack(">IIB", *per_metre, 1)))
    if (block := exif_block(data)) is not None:
        found.append((b"eXIf", block))
    found += [(b"iTXt", keyword.encode("latin-1") + bytes(5) + text.encode()) for keyword, text in _png_texts(data)]
    return tuple(found)


def tiff_entries(data: Metadata) -> tuple[Entry, ...]:
    """EXIF, XMP and IPTC as tags of a TIFF's first directory."""
    entries = () if data.exif is None else _entries(first_directory(data.exif))
    if data.xmp is not None:
        entries += (Entry(_XMP, 1, len(data.xmp), data.xmp),)
    if data.iptc is not None:
        entries += (Entry(_IPTC, 7, len(data.iptc), data.iptc),)
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


def _directory_of(exif: bytes | Directory, lost: set[str]) -> Directory:
    if isinstance(exif, Directory):
        return exif
    tags = first_directory(exif.removeprefix(b"Exif\0\0"))
    if tags.next:
        lost.add("thumbnail")
    return tags


def _clean_exif(tags: Directory, lost: set[str]) -> bytes | None:
    """The block to keep, if any; what is lost is added."""
    if any(tag not in _KEPT and tag not in _STRUCTURE for tag in tags.fields):
        lost.add("other EXIF tags")
    entries = list(_copies(tags, [tag for tag in _KEPT if tag in tags.fields]))
    for pointer, left in ((EXIF_IFD, _LOST), (GPS_IFD, ())):
        if at := tags.number(pointer):
            inner = directory(tags.source, tags.order, at)
            if _MAKERS_NOTE in left and _MAKERS_NOTE in inner.fields:
                lost.add("maker's note")
            if children := _copies(inner, [tag for tag in inner.fields if tag not in left]):
                entries.append(Entry(pointer, 4, 1, children))
    if not entries:
        return None
    cleaned = _block((*entries, Entry(_ORIENTATION, 3, 1, struct.pack("<H", 1))))
    if len(cleaned) > _LONGEST:
        raise CorruptImage("the EXIF block is longer than a JPEG can hold")
    return cleaned


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


def _resolution(dpi: Any) -> tuple[float, float] | None:
    try:
        across, down = (float(value) for value in dpi)
    except (TypeError, ValueError, ZeroDivisionError, OverflowError):
        return None
    return (across, down) if all(0 < value <= _MOST_DPI for value in (across, down)) else None
