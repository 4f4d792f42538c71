"""Pixels to tensors and back, and other sizes. :mod:`models.images` offers these functions too."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

if TYPE_CHECKING:  # as in models.images
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
