"""Colour models, profiles, bit depths and orientations: what a decoded file needs to become upright sRGB pixels."""

from __future__ import annotations

import functools
import io
import struct
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms

from models.image_errors import UnsupportedFormat

Array = NDArray[Any]

_ORIENTATION_TAG = 0x0112


def deep_grey(image: Image.Image) -> Array:
    """Greyscale of more than 8 bits as (H, W) uint16.

    Raises:
        UnsupportedFormat: floats outside [0, 1] or integers outside 0..65535, whose white is anyone's guess.
    """
    values = np.asarray(image)
    if image.mode not in ("F", "I"):
        return values.astype(np.uint16)
    low, high = values.min(), values.max()
    white = 1.0 if image.mode == "F" else 65_535
    if not (low >= 0 and high <= white):  # also False for NaN
        kind = "float" if image.mode == "F" else "32-bit"
        raise UnsupportedFormat(f"{kind} values run from {low} to {high}; expected 0 to {white}")
    return np.rint(values * (65_535 / white)).astype(np.uint16)


def to_srgb(image: Image.Image) -> tuple[Image.Image, bytes | None]:
    """RGB in sRGB, and the profile to embed when there was one. ``image`` has no alpha."""
    source = image.info.get("icc_profile")
    if image.mode not in ("RGB", "L", "CMYK"):
        image = image.convert("RGB")
    if source:
        try:
            profile = ImageCms.ImageCmsProfile(io.BytesIO(source))
            if not ImageCms.getProfileDescription(profile).startswith("sRGB"):
                target = ImageCms.ImageCmsProfile(io.BytesIO(srgb_profile()))
                converted = ImageCms.profileToProfile(image, profile, target, outputMode="RGB")
                image = converted if converted is not None else image
            return image.convert("RGB"), srgb_profile()
        except (ImageCms.PyCMSError, OSError):  # damaged, or made for another colour model than the image's
            return image.convert("RGB"), None
    return image.convert("RGB"), None


@functools.cache
def srgb_profile() -> bytes:
    """An sRGB profile, the same bytes every time."""
    data = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    data[24:36] = struct.pack(">6H", 2000, 1, 1, 0, 0, 0)  # its creation time, which would be now
    return bytes(data)


def exif_orientation(image: Image.Image) -> int:
    """EXIF orientation 1..8. Metadata that cannot be read counts as none: the picture itself is sound."""
    try:
        value = image.getexif().get(_ORIENTATION_TAG, 1)
    except Exception:  # noqa: BLE001 - damaged EXIF raises almost anything
        return 1
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def upright(pixels: Array, orientation: int) -> Array:
    """Undo an EXIF orientation. Returns a writable copy in memory order."""
    if orientation >= 5:
        pixels = pixels.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return np.array(pixels, order="C")


def eight_bits(values: Array) -> Array:
    return ((values.astype(np.uint32) + 128) // 257).astype(np.uint8)
