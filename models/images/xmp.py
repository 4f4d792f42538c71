"""XMP packets, made fit for a new picture: nothing in them turns it again, or shows or describes the old one."""

from __future__ import annotations

import re
from typing import Any
from xml.dom import expatbuilder, minidom

LONGEST = 60_000  # a JPEG segment holds 65,533
DAMAGED = "XMP that is damaged or too long"
_LONGEST_SOURCE = 1 << 20  # before its thumbnail is taken out
_MOST_PARTS = 20_000  # tags and attributes, each of which takes a kilobyte while it is looked at
_ORIENTATION = re.compile(rb"\btiff:Orientation(?:\s*=\s*[\"']|>)\s*([1-8])")
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


def orientation(packet: bytes) -> int:
    """The orientation that XMP tells, 1..8: what counts where EXIF tells none."""
    found = _ORIENTATION.search(packet)
    return int(found[1]) if found else 1


def clean(packet: Any) -> tuple[bytes | None, set[str]]:
    """A packet whose orientation is 1 and that holds nothing of the old picture; and what was lost.

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
