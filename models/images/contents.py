"""What an image file holds beside its picture, EXIF and XMP: texts and IPTC, which can be kept, and the names of what
cannot.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, replace

from models.images import headers, png, tiff
from models.images.exif import raw
from models.images.heif import HeifLayout

GAIN_MAP = "HDR gain map"
COMMENT = "Comment"  # what a JPEG's comment is called among texts
_LONGEST_TEXTS = 1 << 20
_COST = 1 << 16  # what a damaged text takes of that: unpacking it may have taken long
_LONGEST_IPTC = 60_000  # what a JPEG segment holds
_XMP_KEYWORD = "XML:com.adobe.xmp"
_NO_TEXT = "text that is damaged or too long"
_NO_IPTC = "IPTC that is damaged or too long"
_CREDENTIALS = "content credentials (C2PA)"
_FURTHER = "further pictures"
_RESOURCES = "Photoshop resources"
_BEHIND = "data behind the end of the picture"
_UNKNOWN = "unknown application data"
_IPTC_RESOURCE = 0x0404

# Of a JPEG: marker, start of the segment, what it is; "" where nothing is lost.
_SEGMENTS: tuple[tuple[int, bytes, str], ...] = (
    (0xE0, b"JFIF\0", ""),
    (0xE0, b"JFXX\0", "thumbnail"),
    (0xE1, b"Exif\0", ""),
    (0xE1, b"http://ns.adobe.com/xap/1.0/\0", ""),
    (0xE1, b"http://ns.adobe.com/xmp/extension/\0", "extended XMP"),
    (0xE2, b"ICC_PROFILE\0", ""),
    (0xE2, b"MPF\0", ""),  # a list of the pictures behind this one
    (0xE2, b"urn:iso:std:iso:ts:21496:-1", GAIN_MAP),
    (0xEB, b"JP", _CREDENTIALS),
    (0xEC, b"Ducky", ""),
    (0xED, b"Photoshop 3.0\0", ""),
    (0xEE, b"Adobe", ""),
)
_SILENT_CHUNKS = frozenset(
    (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND", b"pHYs", b"eXIf", b"sBIT", b"hIST", b"cLLI", b"mDCV", b"mDCv",
     b"acTL", b"fcTL", b"fdAT", b"tEXt", b"zTXt", b"iTXt", *png.COLORS)
)  # fmt: skip
_CHUNKS = {b"tIME": "time of the last change", b"caBX": _CREDENTIALS, b"gMAP": GAIN_MAP, b"gDAT": GAIN_MAP}
_WEBP = dict.fromkeys((b"VP8X", b"VP8 ", b"VP8L", b"ALPH", b"ICCP", b"EXIF", b"XMP ", b"ANIM", b"ANMF"), "")
_WEBP[b"C2PA"] = _CREDENTIALS
# Of a HEIC or AVIF: part of the name of an auxiliary picture (Apple's, or that of ISO/IEC 23008-12), and what it is.
_AUXILIARY = (
    ("hdrgainmap", GAIN_MAP), (":alpha", ""), ("auxid:1", ""), ("depth", "depth map"), ("disparity", "depth map"),
    ("auxid:2", "depth map"),
)  # fmt: skip
_BOXES = {b"thmb": "thumbnail", b"tmap": GAIN_MAP, b"mpvd": "motion photo", b"jumb": _CREDENTIALS}
_TIFF_IPTC, _TIFF_RESOURCES = 33723, 34377
_TIFF = {
    330: _FURTHER, _TIFF_RESOURCES: _RESOURCES, 37724: "Photoshop layers", 52545: _CREDENTIALS,
    **dict.fromkeys((33550, 33922, 34264, 34735, 34736, 34737, 42112, 42113), "georeferencing"),
}  # fmt: skip


@dataclass(frozen=True)
class Contents:
    """``dropped`` names kinds of metadata that no result keeps; ``texts`` are (keyword, text); ``iptc`` is a block
    without previews; ``xmp`` is that of a PNG, which may stand behind the pixels.
    """

    dropped: frozenset[str] = frozenset()
    texts: tuple[tuple[str, str], ...] = ()
    iptc: bytes | None = None
    xmp: str | None = None


NOTHING = Contents()


def webp_chunks(data: bytes) -> Iterator[bytes]:
    """Yield the chunks of a WebP that are all there, with their names and lengths."""
    at = 12
    while at + 8 <= len(data):
        length = struct.unpack_from("<I", data, at + 4)[0]
        if at + 8 + length > len(data):
            return
        yield data[at : at + 8 + length]
        at += 8 + length + length % 2


def contents(data: bytes, layout: tiff.Layout | None, boxed: HeifLayout | None = None) -> Contents:
    """Look through a file that was found sound; ``layout`` is that of a TIFF, ``boxed`` that of an AVIF or HEIC."""
    if boxed is not None:
        return _made(_of_boxes(boxed), [], None)
    if layout is not None:
        return _of_tiff(layout)
    if data.startswith(b"\xff\xd8"):
        return _of_jpeg(data)
    if data.startswith(b"\x89PNG"):
        return _of_png(data)
    if data.startswith(b"RIFF"):
        return _made({_WEBP.get(chunk[:4], "unknown WebP chunks") for chunk in webp_chunks(data)}, [], None)
    return NOTHING


def _of_jpeg(data: bytes) -> Contents:
    dropped, texts, resources, end, left = set(), [], [], len(data), _LONGEST_TEXTS
    for marker, at, length in headers.segments(data):
        if marker == headers.END:
            end = at
        elif marker == headers.COMMENT:
            left -= length
            if left < 0:
                dropped.add(_NO_TEXT)
            else:
                texts.append((COMMENT, _text(data[at : at + length])))
        elif marker in range(0xE0, 0xF0):
            head = data[at : at + min(length, 40)]
            kinds = (kind for where, start, kind in _SEGMENTS if where == marker and head.startswith(start))
            dropped.add(next(kinds, _UNKNOWN))
            # JFIF says the width and the height of its thumbnail.
            if marker == 0xE0 and head.startswith(b"JFIF\0") and all(head[12:14]):
                dropped.add("thumbnail")
            if marker == 0xED and head.startswith(b"Photoshop 3.0\0"):
                resources.append(data[at + 14 : at + length])
    dropped |= _behind(data[end:])
    iptc, lost = _iptc_of(b"".join(resources))
    return _made(dropped | lost, texts, iptc)


def _behind(rest: bytes) -> set[str]:
    """Name the kinds of data behind a JPEG's end: the pictures of a multi-picture file, the video of a motion photo."""
    found = set()
    if b"ftyp" in rest:
        found.add("motion photo")
    if b"\xff\xd8\xff" in rest:
        gain_map = any(name in rest for name in (b"hdrgm:", b"HDRGainMap", b"urn:iso:std:iso:ts:21496"))
        found.add(GAIN_MAP if gain_map else _FURTHER)
    return found if found or not rest.strip(b"\0\xff\r\n") else {_BEHIND}


def _of_png(data: bytes) -> Contents:
    dropped, texts, left, xmp = set(), [], _LONGEST_TEXTS, None
    for name, at, length in png.chunks(data):
        if name in (b"tEXt", b"zTXt", b"iTXt"):
            found = _png_text(name, data[at : at + length], left)
            if found is None:
                dropped.add(_NO_TEXT)
                left = max(0, left - _COST)
            elif found[0].startswith("Raw profile type "):
                dropped.add("raw profiles")
            elif found[0] == _XMP_KEYWORD:
                xmp = xmp or found[1]
            else:
                texts.append(found)
                left -= len(found[1])
        elif name not in _SILENT_CHUNKS:
            dropped.add(_CHUNKS.get(name, "other PNG chunks"))
    return replace(_made(dropped, texts, None), xmp=xmp)


def _png_text(name: bytes, body: bytes, longest: int) -> tuple[str, str] | None:
    """Return (keyword, text), or None for a text that is damaged or longer than ``longest``."""
    keyword, _, rest = body.partition(b"\0")
    packed = name == b"zTXt" or (name == b"iTXt" and rest[:1] == b"\1")
    if name == b"iTXt":
        # Behind its two flags: a language and a translated keyword, each with a 0.
        rest = rest[2:].partition(b"\0")[2].partition(b"\0")[2]
    elif packed:
        rest = rest[1:]
    try:
        rest = zlib.decompressobj().decompress(rest, longest + 1) if packed else rest
    except zlib.error:
        return None
    if not 1 <= len(keyword) <= 79 or len(rest) > longest:
        return None
    return keyword.decode("latin-1"), _text(rest) if name == b"iTXt" else rest.decode("latin-1").replace("\0", "")


def _text(body: bytes) -> str:
    try:
        text = body.decode()
    except UnicodeDecodeError:
        text = body.decode("latin-1")
    return text.replace("\0", "")


def _of_boxes(boxed: HeifLayout) -> set[str]:
    kinds = (next((kind for part, kind in _AUXILIARY if part in name), _FURTHER) for name in boxed.auxiliary)
    return {*kinds, *(kind for name, kind in _BOXES.items() if name in boxed.names)}


def _of_tiff(layout: tiff.Layout) -> Contents:
    tags = layout.tags
    dropped = {kind for tag, kind in _TIFF.items() if tag in tags}
    if layout.further_samples:
        dropped.add("further channels")
    resources, lost = _iptc_of(raw(tags, _TIFF_RESOURCES))
    own = raw(tags, _TIFF_IPTC)
    iptc = clean_iptc(own) if own else resources
    if own and iptc is None:
        lost.add(_NO_IPTC)
    return _made(dropped | lost, [], iptc)


def _made(dropped: set[str], texts: list[tuple[str, str]], iptc: bytes | None) -> Contents:
    return Contents(frozenset(dropped - {""}), tuple(texts), iptc)


def _iptc_of(resources: bytes) -> tuple[bytes | None, set[str]]:
    """Return the IPTC block among Photoshop's image resources, and the kinds of metadata that are lost of them."""
    at, iptc, lost = 0, None, set()
    while resources[at : at + 4] == b"8BIM" and at + 12 <= len(resources):
        number, name = struct.unpack_from(">HB", resources, at + 4)
        # A name with its length before it; both this and the body are padded to even lengths.
        at += 6 + 1 + name + (1 + name) % 2
        if at + 4 > len(resources):
            break
        size = struct.unpack_from(">I", resources, at)[0]
        body = resources[at + 4 : at + 4 + size]
        at += 4 + size + size % 2
        if number != _IPTC_RESOURCE:
            lost.add(_RESOURCES)
        elif len(body) < size or (iptc := clean_iptc(body)) is None:
            lost.add(_NO_IPTC)
    return iptc, lost


def clean_iptc(block: bytes) -> bytes | None:
    """Return a block of IPTC without the records that hold a picture (IIM 4.2: 2:200 to 2:202, and the records 7 to 9);
    None when it is damaged, empty or too long.
    """
    kept, at = [], 0
    while at + 5 <= len(block) and block[at] == 0x1C:
        # A size with its highest bit set is the length of a longer size.
        record, number, size = struct.unpack_from(">BBH", block, at + 1)
        if size & 0x8000 or at + 5 + size > len(block):  # longer than any text
            return None
        if not (record == 2 and 200 <= number <= 202) and record not in (7, 8, 9):
            kept.append(block[at : at + 5 + size])
        at += 5 + size
    cleaned = b"".join(kept)
    return cleaned if not block[at:].strip(b"\0") and 0 < len(cleaned) <= _LONGEST_IPTC else None


def iptc_segment(block: bytes) -> bytes:
    """Return a whole JPEG segment that holds the block."""
    body = b"Photoshop 3.0\0" + b"8BIM" + struct.pack(">HHI", _IPTC_RESOURCE, 0, len(block)) + block
    return b"\xff\xed" + struct.pack(">H", 2 + len(body) + len(block) % 2) + body + bytes(len(block) % 2)
