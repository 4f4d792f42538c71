"""What files are that are no image of this contract, by how they begin: one table, for errors here and in HTTP."""

from __future__ import annotations

import re

_LOOK = 4096  # bytes, at the beginning
_SPACE = r"(?:\xef\xbb\xbf)?\s*"

PICTURES = ("JPEG", "PNG", "WebP", "TIFF", "BMP")
# The first that matches counts.
_KINDS: tuple[tuple[str, str], ...] = (
    ("HEIC", r"....ftyp(?:hei[cmsx]|hev[cmsx]|mif1|msf1)"),
    ("AVIF", r"....ftypavi[fs]"),
    ("a camera's raw file", r"....ftypcrx |II\x2a\0....CR|FUJIFILMCCD-RAW|IIU\0|IIR[OS]|MMOR|\0MRM|FOVb"),
    ("a video (QuickTime)", r"....ftypqt  |....(?:moov|mdat|wide)"),
    ("a video (MP4)", r"....ftyp"),
    ("a video (AVI)", r"RIFF....AVI "),
    ("a video (Matroska or WebM)", r"\x1a\x45\xdf\xa3"),
    ("a video", r"\0\0\x01[\xb3\xba]|FLV\x01|\x30\x26\xb2\x75|OggS"),
    ("sound (WAV)", r"RIFF....WAVE"),
    ("JPEG XL", r"\xff\x0a|\0\0\0\x0cJXL "),
    ("JPEG 2000", r"\0\0\0\x0cjP  |\xff\x4f\xff\x51"),
    ("JPEG XR", r"II\xbc"),
    ("GIF", r"GIF8[79]a"),
    ("a Photoshop file (PSD)", r"8BPS"),
    ("a GIMP file (XCF)", r"gimp xcf"),
    ("OpenEXR", r"v/1\x01"),
    ("Radiance HDR", r"#\?(?:RADIANCE|RGBE)"),
    ("an icon", r"\0\0[\x01\x02]\0[^\0]\0"),
    ("PDF", r"%PDF-"),
    ("PostScript", r"%!PS|\xc5\xd0\xd3\xc6"),
    ("a zip archive", r"PK(?:\x03\x04|\x05\x06)"),
    ("a tar archive", r"[^\0]{1,100}\0.{156,256}ustar"),
    ("a 7z archive", r"7z\xbc\xaf\x27\x1c"),
    ("a RAR archive", r"Rar!"),
    ("compressed by gzip", r"\x1f\x8b"),
    ("compressed by zstd", r"\x28\xb5\x2f\xfd"),
    ("compressed by xz", r"\xfd7zXZ\0"),
    ("compressed by bzip2", r"BZh[1-9]1AY"),
    ("macOS's companion of another file (AppleDouble)", r"\0\x05\x16\x07"),
    ("a pointer of Git LFS instead of the file", r"version https://git-lfs"),
    ("an HTML page", _SPACE + r"(?i:<!doctype html|<html|<head|<body)"),
    ("SVG", _SPACE + r"(?:<\?xml.{0,999}?)?(?:<!doctype svg.{0,999}?)?<svg"),
    ("XML", _SPACE + r"<\?xml"),
    ("an image in base64", r"\s*(?:data:image/|/9j/|iVBORw0KGgo|UklGR|SUkqA|TU0AK)"),
    *zip(PICTURES, (r"\xff\xd8\xff", r"\x89PNG", r"RIFF....WEBP", r"II[*+]\0|MM\0[*+]", r"BM"), strict=True),
)
_TABLE = [(name, re.compile(begin.encode("latin-1"), re.DOTALL)) for name, begin in _KINDS]


def kind_of(data: bytes) -> str | None:
    """What a file is by how it begins, such as ``HEIC`` or ``an HTML page``; None where that tells nothing."""
    if data and data.count(0) == len(data):
        return f"{len(data):,} bytes of nothing but zeros"
    head = data[:_LOOK]
    return next((name for name, begin in _TABLE if begin.match(head)), None)
