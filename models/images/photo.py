"""A decoded photograph: the form next to files, which :mod:`models.images` offers too; and what samples need to become
one.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from models.images.limits import ImageError, UnsupportedFormat

if TYPE_CHECKING:  # torch takes a second to import
    from torch import Tensor

Array = NDArray[Any]  # uint8 unless a docstring says more
_BAND = 1 << 18  # pixels at a time: floats of a whole photograph would take four times its memory
Model = Literal["GRAY", "RGB", "CMYK", "LAB", "ICCLAB"]


def to_tensor(pixels: Array) -> Tensor:
    """Convert (H, W, 3) or (N, H, W, 3) uint8 or uint16 to float32 NCHW in [0, 1]; one image becomes a batch of one."""
    import torch

    if pixels.ndim not in (3, 4) or pixels.dtype not in (np.uint8, np.uint16):
        raise ValueError(f"pixels are {pixels.dtype}{pixels.shape}; expected uint8 or uint16 (H, W, C) or (N, H, W, C)")
    batch = pixels if pixels.ndim == 4 else pixels[None]
    planes = np.stack([batch[..., channel] for channel in range(batch.shape[-1])], axis=1)  # cheapest on integers
    return torch.from_numpy(np.divide(planes, np.iinfo(batch.dtype).max, dtype=np.float32))


def floats(images: Tensor) -> Tensor:
    """Return N3HW in [0, 1], of whatever float, as float32; what a caller gives is checked before a network says so in
    its own words. Their range is not looked at.

    Raises:
        ImageError: it is no such tensor.
    """
    import torch

    if not isinstance(images, torch.Tensor):
        raise ImageError(
            f"images are a {type(images).__name__}; expected a tensor, as models.images.to_tensor makes it"
        )
    if images.dim() != 4 or images.shape[1] != 3 or not images.numel() or not images.is_floating_point():
        raise ImageError(
            f"images are {images.dtype} {tuple(images.shape)}; expected floats in [0, 1], (N, 3, H, W), as "
            "models.images.to_tensor makes them of pixels"
        )
    return images.float()


def to_uint8(image: Tensor) -> NDArray[np.uint8]:
    """Convert NCHW float to NHWC uint8: clamped to [0, 1], half rounded up. Inverse of :func:`to_tensor` on uint8."""
    return quantize(image, np.dtype(np.uint8))


def resize(pixels: Array, width: int, height: int) -> Array:
    """Resample uint8 or uint16, (H, W, 3) or (H, W), antialiased: Lanczos where it shrinks, bicubic where it grows."""
    if pixels.shape[:2] == (height, width):
        return pixels
    shrinks = width < pixels.shape[1] or height < pixels.shape[0]
    kind = Image.Resampling.LANCZOS if shrinks else Image.Resampling.BICUBIC
    if pixels.dtype == np.uint8:
        return np.array(Image.fromarray(pixels).resize((width, height), kind))
    # Pillow has no colors of 16 bits: channel by channel, as floats.
    if pixels.ndim == 3:
        return np.stack([resize(channel, width, height) for channel in np.moveaxis(pixels, 2, 0)], axis=2)
    smooth = np.asarray(Image.fromarray(pixels.astype(np.float32)).resize((width, height), kind))
    rounded: Array = np.clip(np.rint(smooth), 0, np.iinfo(pixels.dtype).max).astype(pixels.dtype)
    return rounded


def quantize(image: Tensor, dtype: np.dtype[Any]) -> Array:
    """Convert NCHW float to NHWC of an unsigned ``dtype``: clamped to [0, 1], half rounded up."""
    images, channels, height, width = image.shape
    levels, rows = np.empty((images, height, width, channels), dtype), max(1, _BAND // max(1, width))
    for top in range(0, height, rows):
        band = image[:, :, top : top + rows].detach().float().clamp(0, 1)
        scaled = band.mul_(np.iinfo(dtype).max).add_(0.5).cpu().numpy()
        for channel in range(channels):
            levels[:, top : top + rows, :, channel] = scaled[:, channel]
    return levels


@dataclass(frozen=True)
class Metadata:
    """What tells about a photograph, without its pixels.

    Attributes:
        exif: a little-endian EXIF block without ``Exif\\0\\0``: orientation 1, no thumbnail, no maker's note.
        xmp: an XMP packet whose orientation is 1 and that holds no thumbnail.
        dpi: dots per inch across and down the upright picture.
        iptc: a block of IPTC records without a preview.
        texts: (keyword, text) of a PNG; a JPEG's comment has the keyword "Comment".
    """

    exif: bytes | None = None
    xmp: bytes | None = None
    dpi: tuple[float, float] | None = None
    iptc: bytes | None = None
    texts: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Photo:
    """A decoded photograph, upright and in sRGB.

    Attributes:
        pixels: (H, W, 3) RGB; uint8, or uint16 for sources with more than 8 bits (0..65535).
        alpha: (H, W) of the same dtype, or None.
        icc: the sRGB profile to embed again when the source had a profile, else None.
        format: of the source, such as ``"JPEG"``.
        metadata: EXIF, XMP and resolution, cleaned; None when the source tells nothing.
        gray: the source has one channel of color, and so has what is written, as long as the pixels are neutral.
        notes: plain sentences on what is not as the file has it, whatever is written from it: parts that are missing,
            an HDR gain map or further frames that are left out.
        dropped: kinds of metadata in the file that no result keeps, such as "thumbnail"; see :func:`lost`.

    Raises:
        ImageError: pixels or alpha are none of these.
    """

    pixels: Array
    alpha: Array | None = None
    icc: bytes | None = None
    format: str = "PNG"
    metadata: Metadata | None = None
    gray: bool = False
    notes: tuple[str, ...] = ()
    dropped: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        pixels, alpha = self.pixels, self.alpha
        if pixels.ndim != 3 or pixels.shape[2] != 3 or pixels.dtype not in (np.uint8, np.uint16):
            raise ImageError(
                f"pixels are {pixels.dtype} {pixels.shape}; expected uint8 or uint16 (H, W, 3), with alpha apart"
            )
        if alpha is not None and (alpha.shape, alpha.dtype) != (pixels.shape[:2], pixels.dtype):
            raise ImageError(
                f"alpha is {alpha.dtype} {alpha.shape}; expected {pixels.dtype} {pixels.shape[:2]}, as the pixels"
            )

    def tensor(self) -> Tensor:
        """Return the pixels as float32 (1, 3, H, W) in [0, 1]."""
        return to_tensor(self.pixels)

    def with_tensor(self, image: Tensor) -> Photo:
        """Return this photo with other pixels: ``image`` is (1, 3, H, W) float, clamped to [0, 1].

        Raises:
            ValueError: another shape than (1, 3, H, W), or another size while there is alpha to go with it.
        """
        if image.dim() != 4 or image.shape[:2] != (1, 3):
            raise ValueError(f"image is {tuple(image.shape)}; expected (1, 3, H, W)")
        if self.alpha is not None and tuple(image.shape[2:]) != self.alpha.shape:
            raise ValueError(f"image is {tuple(image.shape[2:])} but the alpha channel is {self.alpha.shape}")
        return replace(self, pixels=quantize(image, self.pixels.dtype)[0])


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
    """Convert samples of any depth to uint8 or uint16, in native byte order.

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


def at_full_scale(values: Array, bits: int) -> Array:
    """Spread uint16 samples of fewer bits over all of uint16."""
    white = (1 << bits) - 1
    result: Array = ((values * np.uint32(65_535) + white // 2) // white).astype(np.uint16)
    return result


def straight(values: Array, alpha: Array) -> Array:
    """Divide (H, W, C) colors by the ``alpha`` that they were multiplied by; black where it is 0."""
    white = np.iinfo(values.dtype).max
    # In 32 bits, which 65535 squared just fits into; half is rounded up.
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
    """Round uint16 to uint8; return uint8 as it is."""
    if values.dtype == np.uint8:
        return values
    return ((values.astype(np.uint32) + 128) // 257).astype(np.uint8)
