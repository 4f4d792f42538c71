"""Photographs ready to measure: read, sized, and with haze where they are clear ones. No Ray."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from models import images
from models.haze import HazeConfig, synthesize
from pipelines.corpus import Location, parquet_file, place_name, read_place
from pipelines.evaluate.metrics import Pixels

PLAIN_HAZE = HazeConfig(
    beta=(0.2, 1.5), airlight=(0.6, 1.0), darken_probability=0.0, noise_probability=0.0, jpeg_probability=0.0
)
"""The scattering model alone, at optical depths up to 3 under a light veil: the pairs measure dehazing, not denoising
or brightening, and leave something of every scene to bring back."""


@dataclass(frozen=True)
class Case:
    """One photograph ready to measure: uint8 RGB (H, W, 3), with what there is of it in the same size.

    ``clear`` is its clear version, ``results`` those of other programs by label.
    """

    hazy: Pixels
    clear: Pixels | None
    results: Mapping[str, Pixels]


@dataclass(frozen=True)
class Haze:
    """Of synthetic pairs: how they are hazed, the side of their square, the run's seed."""

    config: HazeConfig
    size: int
    seed: int


@lru_cache(maxsize=2)
def stored(path: str, row_group: int) -> dict[str, tuple[bytes, bytes | None]]:
    """Read image and depth bytes by image id of one row group; cached, because a batch of items shares it."""
    with parquet_file(path) as file:
        table = file.read_row_group(row_group, columns=["image_id", "image", "depth"])
    return {row["image_id"]: (row["image"], row["depth"]) for row in table.to_pylist()}


def photo_seed(image_id: str, seed: int) -> int:
    """Return the seed of a photograph's haze: it depends on its content and the run's seed, not on its place in the
    corpus.
    """
    return (int(image_id[:8], 16) + seed) % 2**31


def pixels_of(data: bytes) -> Pixels:
    """Decode by the image contract to uint8 RGB (H, W, 3); raises `images.ImageError`."""
    return images.eight_bits(images.decode(data).pixels)


def bounded(pixels: Pixels, max_side: int) -> Pixels:
    """Shrink so that the longer side is at most ``max_side``, 0 for any length; never enlarges."""
    height, width = pixels.shape[:2]
    scale = max_side / max(height, width)
    if scale >= 1.0 or not max_side:
        return pixels
    return images.resize(pixels, max(1, round(width * scale)), max(1, round(height * scale)))


def _cover(width: int, height: int, size: int) -> tuple[int, int, int, int]:
    """Size that makes the shorter side ``size``, and the offsets of the center square in it."""
    scale = size / min(height, width)
    wide, high = max(size, round(width * scale)), max(size, round(height * scale))
    return wide, high, (wide - size) // 2, (high - size) // 2


def square(pixels: Pixels, size: int) -> Pixels:
    """Cut the center square of the photograph, its shorter side resized to ``size``."""
    wide, high, left, top = _cover(pixels.shape[1], pixels.shape[0], size)
    return images.resize(pixels, wide, high)[top : top + size, left : left + size]


def square_depth(data: bytes, size: int) -> Tensor:
    """Read a 16-bit depth PNG as 1x1xSxS in [0, 1] (1 = near), cut as `square` cuts its photograph."""
    with Image.open(io.BytesIO(data)) as picture:
        depth = torch.from_numpy(np.array(picture, dtype=np.float32))[None, None] / 65535.0
    wide, high, left, top = _cover(depth.shape[3], depth.shape[2], size)
    depth = torch.nn.functional.interpolate(depth, size=(high, wide), mode="bilinear", align_corners=False)
    return depth[:, :, top : top + size, left : left + size].clamp(0.0, 1.0)


def synthetic_case(pixels: Pixels, depth: bytes | None, image_id: str, haze: Haze) -> Case:
    """Haze a clear photograph at a fixed size; the same photograph and seed give the same pair on every machine."""
    clear = np.ascontiguousarray(square(pixels, haze.size))
    depth_map = None if depth is None else square_depth(depth, haze.size)
    pair = synthesize(images.to_tensor(clear), depth_map, [photo_seed(image_id, haze.seed)], haze.config)
    hazy = pair.hazy
    if (clear == clear[..., :1]).all():  # what took a photograph without color saw none in the haze either
        hazy = hazy.mean(dim=1, keepdim=True).expand_as(hazy)
    return Case(images.to_uint8(hazy)[0], clear, {})


def thumbnail(pixels: Pixels, side: int) -> bytes:
    """Return JPEG bytes of the image, at most ``side`` pixels on its longer side."""
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(bounded(pixels, side))).save(buffer, "JPEG", quality=82)
    return buffer.getvalue()


def beside(path: str, photograph: Pixels, what: str) -> Pixels:
    """Read a picture that must have the size of a photograph.

    Raises:
        OSError: it cannot be read, or has another size.
    """
    try:
        pixels = pixels_of(read_place(Location(path)))
    except (images.ImageError, OSError) as problem:
        raise OSError(f"its {what}, {place_name(path)}: {problem}") from problem
    if pixels.shape != photograph.shape:
        sizes = f"{photograph.shape[1]}x{photograph.shape[0]} and its {what} {pixels.shape[1]}x{pixels.shape[0]}"
        raise OSError(f"the photograph of {place_name(path)} is {sizes}; a pair needs one size")
    return pixels
