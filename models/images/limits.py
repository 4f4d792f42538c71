"""What the image contract accepts, the checks that need nothing but a header, and what files are that are none of
these. :mod:`models.images` offers the names too.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from pydantic import Field

from models.config import DehazeError, Settings


class ImageError(DehazeError, ValueError):
    """An image that cannot be taken; ``code`` is stable and fit for APIs and reject lists."""

    code = "image"


class ImageTooLarge(ImageError):  # noqa: N818 - the contract's name
    """More bytes or pixels, or a longer shape, than the limits allow."""

    code = "too_large"


class UnsupportedFormat(ImageError):  # noqa: N818 - the contract's name
    """Not an image, or one of a format, color model or kind that is not on the list."""

    code = "unsupported_format"


class CorruptImage(ImageError):  # noqa: N818 - the contract's name
    """The header or the data contradict the format."""

    code = "corrupt"


class TruncatedImage(ImageError):  # noqa: N818 - the contract's name
    """The file ends before the picture does."""

    code = "truncated"


RAW = "RAW"  # a camera's raw file
# Of what is read. HEIC is not written: its encoders are GPL.
SUFFIXES = {
    ".jpg": "JPEG", ".jpeg": "JPEG", ".jpe": "JPEG", ".jfif": "JPEG",
    ".png": "PNG", ".webp": "WEBP", ".avif": "AVIF", ".heic": "HEIC", ".heif": "HEIC", ".hif": "HEIC",
    ".tif": "TIFF", ".tiff": "TIFF", ".bmp": "BMP",
    **dict.fromkeys((".dng", ".cr2", ".cr3", ".nef", ".arw", ".raf", ".orf", ".rw2", ".pef"), RAW),
}  # fmt: skip
# Of what is written: the suffix of each format.
WRITTEN = {"JPEG": ".jpg", "PNG": ".png", "WEBP": ".webp", "AVIF": ".avif", "TIFF": ".tif", "BMP": ".bmp"}
MAGIC: dict[str, tuple[bytes, ...]] = {
    "JPEG": (b"\xff\xd8\xff",), "PNG": (b"\x89PNG",), "WEBP": (b"RIFF",),
    "TIFF": (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"), "BMP": (b"BM",),
}  # fmt: skip


class ImageLimits(Settings):
    """What :func:`models.images.decode` accepts. Everything is checked from the header, before pixels are decoded.

    Attributes:
        max_bytes: bytes of a file.
        max_pixels: pixels of a picture.
        max_aspect: long side over short side.
        formats: formats that are accepted. ``RAW``, a camera's raw file, has to be named: to develop one takes seconds,
            and a decoder that is not meant for hostile files.
        first_frame: take the first frame of animated and multi-page files, which are refused otherwise.
        strict: refuse files that are damaged although the picture is there, or nearly, such as a JPEG without its end
            marker. Otherwise they are taken with a note (:mod:`models.images.mending`).
    """

    max_bytes: int = Field(64 << 20, gt=0)
    max_pixels: int = Field(100_000_000, gt=0, le=178_956_970)  # above that Pillow itself refuses
    max_aspect: float = Field(50.0, ge=1.0)
    formats: tuple[str, ...] = ("JPEG", "PNG", "WEBP", "AVIF", "HEIC", "TIFF", "BMP")
    first_frame: bool = False
    strict: bool = False


# Of people's own files: a gigabyte holds a TIFF of 16 bits, with alpha, of as many pixels as are accepted.
DEFAULT_LIMITS = ImageLimits(max_bytes=1 << 30, formats=(*ImageLimits().formats, RAW))


def format_written(source: str, wanted: str | None = None) -> str:
    """Return the format of a result: the one that is wanted, or that of its source; JPEG where that one is only
    read.
    """
    name = (wanted or source).upper()
    return name if wanted or name in WRITTEN else "JPEG"


class Header(NamedTuple):
    """What a file says it is: its format, and the size of the upright picture in pixels."""

    format: str
    width: int
    height: int


def check_bytes(size: int, limits: ImageLimits) -> None:
    """Check the length of a file.

    Raises:
        ImageTooLarge: the file is longer than the limits allow.
    """
    if size > limits.max_bytes:
        raise ImageTooLarge(f"the file has {size:,} bytes; at most {limits.max_bytes:,} are accepted")


def check_size(width: int, height: int, limits: ImageLimits) -> None:
    """Check the size and the shape of a picture.

    Raises:
        ImageTooLarge: more pixels, or a longer shape, than the limits allow.
    """
    if width * height > limits.max_pixels:
        raise ImageTooLarge(f"{width}x{height} are {width * height:,} pixels; at most {limits.max_pixels:,} accepted")
    if max(width, height) > limits.max_aspect * min(width, height):
        raise ImageTooLarge(f"{width}x{height} is more than {limits.max_aspect:g} times as long as wide")


def check_frames(several: bool, name: str, limits: ImageLimits) -> None:
    """Check that a file holds one picture, unless the first frame will do.

    Raises:
        UnsupportedFormat: an animation or several pages, unless the first frame will do.
    """
    if several and not limits.first_frame:
        raise UnsupportedFormat(f"the {name} file has several frames; only still pictures are accepted")


_LOOK = 4096  # bytes, at the beginning
_SPACE = r"(?:\xef\xbb\xbf)?\s*"

PICTURES = ("JPEG", "PNG", "WebP", "AVIF", "HEIC", "TIFF", "BMP")
# The first that matches counts.
_KINDS: tuple[tuple[str, str], ...] = (
    ("AVIF", r"....ftyp(?:avi[fs]|(?:mif1|msf1|miaf)....(?:....){0,16}?avi[fs])"),
    ("HEIC", r"....ftyp(?:hei[cmsx]|hev[cmsx]|mif1|msf1)"),
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
    ("an image in base64", r"\s*(?:data:image/|/9j/|iVBORw0KGgo|UklGR|SUkqA|TU0AK|AAAA.[GWm2]Z0eXB(?:oZW|hdm|taW))"),
    ("JPEG", r"\xff\xd8\xff"),
    ("PNG", r"\x89PNG"),
    ("WebP", r"RIFF....WEBP"),
    ("TIFF", r"II[*+]\0|MM\0[*+]"),
    ("BMP", r"BM"),
)
_TABLE = [(name, re.compile(begin.encode("latin-1"), re.DOTALL)) for name, begin in _KINDS]


def kind_of(data: bytes) -> str | None:
    """Return what a file is by how it begins, such as ``HEIC`` or ``an HTML page``; None where that tells nothing."""
    if data and data.count(0) == len(data):
        return f"{len(data):,} bytes of nothing but zeros"
    head = data[:_LOOK]
    return next((name for name, begin in _TABLE if begin.match(head)), None)
