"""A decoded photograph: the form next to files. :mod:`models.images` offers it too."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from models.images.metadata import Metadata

if TYPE_CHECKING:  # torch takes a second to import
    from torch import Tensor

Array = NDArray[Any]


def to_tensor(pixels: Array) -> Tensor:
    """(H, W, 3) or (N, H, W, 3) uint8 or uint16 to float32 NCHW in [0, 1]; one image becomes a batch of one."""
    import torch

    if pixels.ndim not in (3, 4) or pixels.dtype not in (np.uint8, np.uint16):
        raise ValueError(f"pixels are {pixels.dtype}{pixels.shape}; expected uint8 or uint16 (H, W, C) or (N, H, W, C)")
    batch = pixels if pixels.ndim == 4 else pixels[None]
    planes = np.stack([batch[..., channel] for channel in range(batch.shape[-1])], axis=1)  # cheapest on integers
    return torch.from_numpy(np.divide(planes, np.iinfo(batch.dtype).max, dtype=np.float32))


def to_uint8(image: Tensor) -> NDArray[np.uint8]:
    """NCHW float to NHWC uint8: clamped to [0, 1], half rounded up. Inverse of :func:`to_tensor` on uint8."""
    return quantise(image, np.dtype(np.uint8))


def resize(pixels: Array, width: int, height: int) -> Array:
    """Resample uint8 or uint16, (H, W, 3) or (H, W), antialiased: Lanczos where it shrinks, bicubic where it grows."""
    if pixels.shape[:2] == (height, width):
        return pixels
    shrinks = width < pixels.shape[1] or height < pixels.shape[0]
    kind = Image.Resampling.LANCZOS if shrinks else Image.Resampling.BICUBIC
    if pixels.dtype == np.uint8:
        return np.array(Image.fromarray(pixels).resize((width, height), kind))
    if pixels.ndim == 3:
        return np.stack([resize(channel, width, height) for channel in np.moveaxis(pixels, 2, 0)], axis=2)
    smooth = np.asarray(Image.fromarray(pixels.astype(np.float32)).resize((width, height), kind))
    rounded: Array = np.clip(np.rint(smooth), 0, np.iinfo(pixels.dtype).max).astype(pixels.dtype)
    return rounded


def quantise(image: Tensor, dtype: np.dtype[Any]) -> Array:
    """NCHW float to NHWC of an unsigned ``dtype``: clamped to [0, 1], half rounded up."""
    top = np.iinfo(dtype).max
    levels = image.detach().float().clamp(0, 1).mul_(top).add_(0.5).cpu().numpy().astype(dtype)
    return np.stack([levels[:, channel] for channel in range(levels.shape[1])], axis=-1)


@dataclass(frozen=True)
class Photo:
    """A decoded photograph, upright and in sRGB.

    Attributes:
        pixels: (H, W, 3) RGB; uint8, or uint16 for sources with more than 8 bits (0..65535).
        alpha: (H, W) of the same dtype, or None.
        icc: the sRGB profile to embed again when the source had a profile, else None.
        format: of the source, such as ``"JPEG"``.
        metadata: EXIF, XMP and resolution, cleaned; None when the source tells nothing.
        grey: the source has one channel of color, and so has what is written, as long as the pixels are neutral.
        notes: plain sentences on what is not as the file has it, whatever is written from it: parts that are missing,
            an HDR gain map or further frames that are left out.
        dropped: kinds of metadata in the file that no result keeps, such as "thumbnail"; see :func:`lost`.
    """

    pixels: Array
    alpha: Array | None = None
    icc: bytes | None = None
    format: str = "PNG"
    metadata: Metadata | None = None
    grey: bool = False
    notes: tuple[str, ...] = ()
    dropped: tuple[str, ...] = ()

    def tensor(self) -> Tensor:
        """The pixels as float32 (1, 3, H, W) in [0, 1]."""
        return to_tensor(self.pixels)

    def with_tensor(self, image: Tensor) -> Photo:
        """This photo with other pixels: ``image`` is (1, 3, H, W) float, clamped to [0, 1].

        Raises:
            ValueError: another shape than (1, 3, H, W), or another size while there is alpha to go with it.
        """
        if image.dim() != 4 or image.shape[:2] != (1, 3):
            raise ValueError(f"image is {tuple(image.shape)}; expected (1, 3, H, W)")
        if self.alpha is not None and tuple(image.shape[2:]) != self.alpha.shape:
            raise ValueError(f"image is {tuple(image.shape[2:])} but the alpha channel is {self.alpha.shape}")
        return replace(self, pixels=quantise(image, self.pixels.dtype)[0])
