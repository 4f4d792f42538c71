"""XMP packets made fit for a new picture: what speaks of the old one is taken out, by name."""

from __future__ import annotations

import re
from typing import Any

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
