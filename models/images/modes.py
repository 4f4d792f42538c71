"""Bit depths and orientations: what decoded samples need to become upright pixels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from models.images.limits import UnsupportedFormat

Array = NDArray[Any]
Model = Literal["GRAY", "RGB", "CMYK", "LAB", "ICCLAB"]


@dataclass(frozen=True)
class Samples:
    """Pixels as a file stores them, before colors and orientation are dealt with.

    Attributes:
        values: (H, W, 1, 3 or 4) of any depth.
        model: what the channels are.
        alpha: (H, W) of the same dtype, or None.
        inverted: white is zero.
        premultiplied: the colors were multiplied by alpha.
    """

    values: Array
    model: Model
    alpha: Array | None = None
    inverted: bool = False
    premultiplied: bool = False


def whole_numbers(values: Array) -> Array:
    """Samples of any depth as uint8 or uint16, in native byte order.

    Raises:
        UnsupportedFormat: floats outside [0, 1] or integers outside 0..65535, whose white is anyone's guess.
    """
    if values.dtype.kind == "u" and values.dtype.itemsize <= 2:
        native: Array = values.astype(f"u{values.dtype.itemsize}", copy=False)
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
    """(H, W, C) colors that were multiplied by ``alpha``, as they were before; black where it is 0."""
    white = np.iinfo(values.dtype).max
    whole = np.maximum(alpha.astype(np.uint32), 1)[:, :, None]
    result: Array = np.minimum((values * np.uint32(white) + whole // 2) // whole, white).astype(values.dtype)
    return result


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
