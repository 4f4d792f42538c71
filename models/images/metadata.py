"""EXIF, XMP, IPTC, texts and resolution of a photograph, made fit for a new picture: nothing in them turns it again or
shows the old one. What cannot be kept is named.
"""

from __future__ import annotations

import math
import re
from typing import Any
from xml.dom import expatbuilder, minidom

from models.images import exif as image_exif
from models.images.contents import COMMENT, NOTHING, Contents, iptc_segment
from models.images.exif import EXIF, GPS, ORIENTATION, RESOLUTION_UNIT, X_RESOLUTION, Y_RESOLUTION
from models.images.limits import CorruptImage
from models.images.photo import Metadata

_MAKERS_NOTE = 0x927C
# Of the first directory: description, make, model, software, date, artist, host, copyright, rating, and what Windows
# calls title, comment, author, keywords, subject.
_KEPT = frozenset(
    (0x010E, 0x010F, 0x0110, 0x0131, 0x0132, 0x013B, 0x013C, 0x8298, 0x4746, 0x4749, *range(0x9C9B, 0x9CA0))
)
# These tell how TIFF stores the pixels, or are told of elsewhere.
_STRUCTURE = frozenset(
    (*range(254, 267), 273, 274, *range(277, 285), *range(288, 294), 296, 297, 301, *range(317, 348), *range(512, 533),
     700, 33723, 34377, EXIF, 34675, GPS, 37724, 52545, 33550, 33922, 34264, 34735, 34736, 34737, 42112, 42113)
)  # fmt: skip
# Of the EXIF directory: the maker's note (full of offsets and previews), sizes, color space and gamma of the old
# picture, and the pointer to how old programs should read it.
_LOST = {_MAKERS_NOTE, 0xA001, 0xA002, 0xA003, image_exif.INTEROPERABILITY, 0xA500}
_MOST_DPI = 65_535  # of JFIF

LONGEST = 60_000  # a JPEG segment holds 65,533
DAMAGED = "XMP that is damaged or too long"
_LONGEST_SOURCE = 1 << 20  # before its thumbnail is taken out
_MOST_PARTS = 20_000  # tags and attributes, each of which takes a kilobyte while it is looked at
# Properties by the usual prefixes of their namespaces, and what is lost with them; "" where nothing is: colors are
# converted.
_KINDS = tuple(
    (re.compile(name), kind)
    for name, kind in (
        (r"xmp:Thumbnails", "thumbnail"),
        (r"(hdrgm|HDRGainMap):\w+", "HDR gain map"),
        (r"(GDepth|GImage|GFocus):\w+", "depth map"),
        (r"GAudio:\w+", "sound"),
        (r"GCamera:(MotionPhoto|MicroVideo)\w*", "motion photo"),
        (r"G?Container:Directory", ""),  # a list of the pictures and videos behind this one
        (r"xmpNote:HasExtendedXMP", "extended XMP"),
        (r"exif:(ColorSpace|Gamma)|exifEX:(Gamma|InteroperabilityIndex)", ""),
        (r"photoshop:ICCProfile|tiff:(WhitePoint|PrimaryChromaticities|TransferFunction)", ""),
    )
)


def collect(
    exif: bytes | None, xmp: Any, dpi: Any, orientation: int, beside: Contents = NOTHING, *, pages: bool = False
) -> tuple[Metadata | None, tuple[str, ...]]:
    """Clean a file's metadata. Parts that are damaged, or longer than a JPEG can hold, are left out.

    Args:
        exif: an EXIF block, or a TIFF file, which is one.
        xmp: a packet, as bytes or text.
        dpi: dots per inch across and down the stored picture.
        orientation: of the stored picture, 1..8; the resolutions change places with the sides.
        beside: what else the file holds.
        pages: a second directory is a page, not a thumbnail.

    Returns:
        what can be kept, None when that is nothing; the kinds of what cannot, sorted.
    """
    resolution = _resolution(dpi)
    if resolution is not None and orientation >= 5:
        resolution = resolution[1], resolution[0]
    lost = set(beside.dropped)
    try:
        block = _clean_exif(exif.removeprefix(b"Exif\0\0"), lost, pages) if exif else None
    except Exception:  # noqa: BLE001 - damaged EXIF raises almost anything
        block = None
        lost.add("EXIF that is damaged or too long")
    packet, lost_xmp = clean(xmp)
    found = Metadata(block, packet, resolution, beside.iptc, beside.texts)
    return None if found == Metadata() else found, tuple(sorted(lost | lost_xmp))


def lost_in(data: Metadata, name: str) -> set[str]:
    """List the kinds of metadata that a format has no place for."""
    texts = {"PNG": False, "JPEG": any(keyword != COMMENT for keyword, _ in data.texts) or len(data.texts) > 1}
    kinds = {
        "EXIF": data.exif is not None and name == "BMP",
        "XMP": data.xmp is not None and name == "BMP",
        "IPTC": data.iptc is not None and name not in ("JPEG", "TIFF"),
        "text": bool(data.texts) and texts.get(name, True),
    }
    return {kind for kind, is_lost in kinds.items() if is_lost}


def tiff_resolution(tags: image_exif.Tags) -> tuple[float, float] | None:
    """Return the dots per inch that a TIFF directory tells, across and down; None where it tells none."""
    per_inch = {2: 1.0, 3: 2.54}.get(image_exif.number(tags, RESOLUTION_UNIT, 2), math.nan)
    values = [image_exif.numbers(tags, tag)[:1] for tag in (X_RESOLUTION, Y_RESOLUTION)]
    return _resolution([per_inch * float(number) for value in values for number in value])


def pillow_options(data: Metadata, name: str) -> dict[str, Any]:
    """Return the arguments of Pillow's ``save`` for JPEG, WebP, AVIF and BMP."""
    options: dict[str, Any] = {} if data.dpi is None or name in ("WEBP", "AVIF") else {"dpi": data.dpi}
    if name == "BMP":
        return options
    if (block := exif_block(data)) is not None:
        options["exif"] = b"Exif\0\0" + block
    if data.xmp is not None:
        options["xmp"] = data.xmp
    if name == "JPEG":
        comment = next((text.encode() for keyword, text in data.texts if keyword == COMMENT), b"")
        options |= {"comment": comment} if 0 < len(comment) <= LONGEST else {}
        options |= {} if data.iptc is None else {"extra": iptc_segment(data.iptc)}
    return options


def exif_block(data: Metadata) -> bytes | None:
    """Return the EXIF block with the resolution in it, where readers of JPEG, WebP and AVIF look; None without
    either.
    """
    if data.exif is None and data.dpi is None:
        return None
    tags, children = image_exif.directories(data.exif or image_exif.EMPTY)
    if data.dpi is not None:
        tags[X_RESOLUTION], tags[Y_RESOLUTION] = data.dpi
        tags[RESOLUTION_UNIT] = 2
    return image_exif.HEAD + image_exif.packed(tags, children)


def _clean_exif(block: bytes, lost: set[str], pages: bool) -> bytes | None:
    """The block to keep, if any; what is lost is added."""
    source = image_exif.first(block)
    if source.next and not pages:
        lost.add("thumbnail")
    if set(source) - _KEPT - _STRUCTURE:
        lost.add("other EXIF tags")
    tags, children = image_exif.copied(source, _KEPT & set(source)), {}
    for pointer, left in ((EXIF, _LOST), (GPS, set())):
        found = image_exif.inner(block, source, pointer) or image_exif.Tags()
        if _MAKERS_NOTE in left & set(found):
            lost.add("maker's note")
        if wanted := set(found) - left:
            children[pointer] = image_exif.copied(found, wanted)
    if not tags and not children:
        return None
    tags[ORIENTATION] = 1
    cleaned = image_exif.HEAD + image_exif.packed(tags, children)
    if len(cleaned) > LONGEST:
        raise CorruptImage("the EXIF block is longer than a JPEG can hold")
    return cleaned


def _resolution(dpi: Any) -> tuple[float, float] | None:
    try:
        across, down = (float(value) for value in dpi)
    except (TypeError, ValueError, ZeroDivisionError, OverflowError):
        return None
    return (across, down) if all(0 < value <= _MOST_DPI for value in (across, down)) else None


def clean(packet: Any) -> tuple[bytes | None, set[str]]:
    """Clean an XMP packet: set its orientation to 1, and remove all that describes the old picture.

    Args:
        packet: bytes or text; anything else counts as none.

    Returns:
        the packet, or None when there is none, it is damaged, or longer than a JPEG can hold; kinds of metadata.
    """
    packet = packet.encode() if isinstance(packet, str) else packet
    if not isinstance(packet, bytes) or not (packet := packet.rstrip(b"\0")):
        return None, set()
    if len(packet) > _LONGEST_SOURCE or packet.count(b"<") + packet.count(b"=") > _MOST_PARTS or b"<!DOC" in packet:
        return None, {DAMAGED}
    lost: set[str] = set()
    try:
        # Prefixes are taken as they are; and no entities: a packet with a document type is refused above.
        document = expatbuilder.parseString(packet, namespaces=False)  # noqa: S316
        _strip(document, document.documentElement, lost)
        cleaned = "".join(node.toxml() for node in document.childNodes).encode()
    except Exception:  # noqa: BLE001 - whatever the parser, or its depth of recursion, makes of damage
        return None, lost | {DAMAGED}
    return (cleaned, lost - {""}) if len(cleaned) <= LONGEST else (None, lost - {""} | {DAMAGED})


def _strip(document: minidom.Document, element: Any, lost: set[str]) -> None:
    for name in list(element.attributes.keys()):
        if (kind := _kind(name)) is not None:
            lost.add(kind)
            element.removeAttribute(name)
        elif name.endswith(":Orientation"):
            element.setAttribute(name, "1")
    for child in [node for node in element.childNodes if isinstance(node, minidom.Element)]:
        if (kind := _kind(child.tagName)) is not None:
            lost.add(kind)
            element.removeChild(child)
        elif child.tagName.endswith(":Orientation"):
            child.childNodes[:] = [document.createTextNode("1")]
        else:
            _strip(document, child, lost)


def _kind(name: str) -> str | None:
    return next((kind for pattern, kind in _KINDS if pattern.fullmatch(name)), None)
