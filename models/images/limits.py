"""What the image contract accepts, and the checks that need nothing but a header. :mod:`models.images` offers
the names too.
"""

from __future__ import annotations

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
    """Not an image, or one of a format, colour model or kind that is not on the list."""

    code = "unsupported_format"


class CorruptImage(ImageError):  # noqa: N818 - the contract's name
    """The header or the data contradict the format."""

    code = "corrupt"


class TruncatedImage(ImageError):  # noqa: N818 - the contract's name
    """The file ends before the picture does."""

    code = "truncated"


SUFFIXES = {
    ".jpg": "JPEG", ".jpeg": "JPEG", ".jpe": "JPEG", ".jfif": "JPEG",
    ".png": "PNG", ".webp": "WEBP", ".tif": "TIFF", ".tiff": "TIFF", ".bmp": "BMP",
}  # fmt: skip
MAGIC: dict[str, tuple[bytes, ...]] = {
    "JPEG": (b"\xff\xd8\xff",), "PNG": (b"\x89PNG",), "WEBP": (b"RIFF",),
    "TIFF": (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"), "BMP": (b"BM",),
}  # fmt: skip


class ImageLimits(Settings):
    """What :func:`models.images.decode` accepts. Everything is checked from the header, before pixels are decoded.

    ``max_aspect`` bounds long side over short side; ``first_frame`` takes the first frame of animated and
    multi-page files, which are refused otherwise; ``strict`` refuses files that are damaged although the picture is
    there, such as a JPEG without its end marker, which are otherwise taken with a note (:mod:`models.images.mending`).
    """

    max_bytes: int = Field(64 << 20, gt=0)
    max_pixels: int = Field(100_000_000, gt=0, le=178_956_970)  # above that Pillow itself refuses
    max_aspect: float = Field(50.0, ge=1.0)
    formats: tuple[str, ...] = ("JPEG", "PNG", "WEBP", "TIFF", "BMP")
    first_frame: bool = False
    strict: bool = False


DEFAULT_LIMITS = ImageLimits()


class Header(NamedTuple):
    """What a file says it is: its format, and the size of the upright picture in pixels."""

    format: str
    width: int
    height: int


def check_bytes(size: int, limits: ImageLimits) -> None:
    """
    Raises:
        ImageTooLarge: the file is longer than the limits allow.
    """
    if size > limits.max_bytes:
        raise ImageTooLarge(f"the file has {size:,} bytes; at most {limits.max_bytes:,} are accepted")


def check_size(width: int, height: int, limits: ImageLimits) -> None:
    """
    Raises:
        ImageTooLarge: more pixels, or a longer shape, than the limits allow.
    """
    if width * height > limits.max_pixels:
        raise ImageTooLarge(f"{width}x{height} are {width * height:,} pixels; at most {limits.max_pixels:,} accepted")
    if max(width, height) > limits.max_aspect * min(width, height):
        raise ImageTooLarge(f"{width}x{height} is more than {limits.max_aspect:g} times as long as wide")


def check_frames(several: bool, name: str, limits: ImageLimits) -> None:
    """
    Raises:
        UnsupportedFormat: an animation or several pages, unless the first frame will do.
    """
    if several and not limits.first_frame:
        raise UnsupportedFormat(f"the {name} file has several frames; only still pictures are accepted")
