"""Bit depths and orientations: what decoded samples need to become upright pixels."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from models.images.limits import UnsupportedFormat

Array = NDArray[Any]
Model = Literal["GRAY", "RGB", "CMYK", "LAB", "ICCLAB"]

_ORIENTATION_TAG = 0x0112
_XMP_ORIENTATION = re.compile(rb"\btiff:Orientation(?:\s*=\s*[\"']|>)\s*([1-8])")


@dataclass(frozen=True)
class Samples:
    """Pixels as a deep file stores them, before colours and orientation are dealt with.

    Attributes:
        values: (H, W, 1, 3 or 4) of any depth.
        model: what the channels are.
        alpha: (H, W) of the same dtype, or None.
        inverted: white is zero.
        premultiplied: the colours were multiplied by alpha.
    """

    values: Array
    model: Model
    alpha: Array | None = None
    inverted: bool = False
    premultiplied: bool = False


def sixteen_bits(values: Array) -> Array:
    """Samples of any depth as uint16, in native byte order.

    Raises:
        UnsupportedFormat: floats outside [0, 1] or integers outside 0..65535, whose white is anyone's guess.
    """
    if values.dtype.kind == "u" and values.dtype.itemsize == 2:
        native: Array = values.astype(np.uint16, copy=False)
        return native
    low, high = values.min(), values.max()
    floats = values.dtype.kind == "f"
    white = 1.0 if floats else 65_535
    if not (low >= 0 and high <= white):  # also False for NaN
        kind = "float" if floats else f"{values.dtype.itemsize * 8}-bit"
        raise UnsupportedFormat(f"{kind} values run from {low} to {high}; expected 0 to {white}")
    if not floats:
        return values.astype(np.uint16)
    scaled = values.astype(np.float32 if values.dtype.itemsize < 8 else np.float64) * 65_535
    rounded: Array = np.rint(scaled).astype(np.uint16)
    return rounded


def straight(values: Array, alpha: Array) -> Array:
    """uint16 (H, W, C) colours that were multiplied by ``alpha``, as they were before; black where it is 0."""
    whole = np.maximum(alpha.astype(np.uint32), 1)
    result = np.empty_like(values)
    for channel in range(values.shape[2]):
        scaled = (values[:, :, channel].astype(np.uint32) * 65_535 + whole // 2) // whole
        result[:, :, channel] = np.minimum(scaled, 65_535)
    return result


def deep_grey(image: Image.Image) -> Array:
    """Greyscale of more than 8 bits that Pillow read, as (H, W) uint16.

    Raises:
        UnsupportedFormat: as :func:`sixteen_bits`.
    """
    return sixteen_bits(np.asarray(image))


def exif_orientation(image: Image.Image) -> int:
    """EXIF orientation 1..8. Metadata that cannot be read counts as none: the picture itself is sound."""
    try:  # not the method of PNG files, which would decode the pixels to look behind them
        value = Image.Image.getexif(image).get(_ORIENTATION_TAG, 1)
    except Exception:  # noqa: BLE001 - damaged EXIF raises almost anything
        return 1
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def xmp_orientation(xmp: bytes) -> int:
    """The orientation that XMP tells, 1..8: what counts where EXIF tells none."""
    found = _XMP_ORIENTATION.search(xmp)
    return int(found[1]) if found else 1


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
    """uint16 rounded to uint8; uint8 as it is."""
    if values.dtype == np.uint8:
        return values
    return ((values.astype(np.uint32) + 128) // 257).astype(np.uint8)
