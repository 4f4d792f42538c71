"""From corpus rows to training samples: pure functions that Ray Data maps over rows. No Ray.

Samples are uint8 arrays: a quarter of float32 through the object store. Every pass over a corpus draws fresh crops
and fresh haze; a ``seed`` makes them repeatable.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image, ImageEnhance, ImageFilter, ImageOps
from pydantic import Field
from torch import Tensor

from models import images
from models.physics import HazeConfig, jpeg, synthesize
from models.settings import Settings

Row = Mapping[str, Any]
Pixels = NDArray[np.uint8]

DEFECTS = ("blurry", "noisy", "compressed", "badly exposed", "colour-cast")


class CropConfig(Settings):
    """Square crops: ``size`` in pixels, ``scale`` the range of the crop's side over the photograph's shorter side."""

    size: int = Field(128, ge=16)
    scale: tuple[float, float] = (0.4, 1.0)
    per_photo: int = Field(2, ge=1)


def _generator(row: Row, seed: int | None) -> np.random.Generator:
    return np.random.default_rng(None if seed is None else [seed, zlib.crc32(str(row["image_id"]).encode())])


def decode_pixels(data: bytes) -> Pixels:
    """Encoded bytes -> (H, W, 3) uint8 RGB."""
    pixels = images.decode(data).pixels
    return pixels if pixels.dtype == np.uint8 else images.to_uint8(images.to_tensor(pixels))[0]


def random_crop(pixels: Pixels, depth: Pixels | None, crop: CropConfig, random: np.random.Generator) -> tuple[Any, Any]:
    """A random square, mirrored half of the time, and the same square of the depth map where there is one."""
    height, width = pixels.shape[:2]
    side = max(8, int(min(height, width) * random.uniform(*crop.scale)))
    top, left = random.integers(0, height - side + 1), random.integers(0, width - side + 1)
    step = 1 if random.random() < 0.5 else -1
    cut = [
        None if whole is None else np.ascontiguousarray(whole[top : top + side, left : left + side][:, ::step])
        for whole in (pixels, depth)
    ]
    square = images.resize(np.asarray(cut[0]), crop.size, crop.size)
    if cut[1] is None:
        return square, None
    return square, np.asarray(Image.fromarray(cut[1]).resize((crop.size, crop.size), Image.Resampling.BILINEAR))


def _depth_of(row: Row, shape: tuple[int, ...]) -> Pixels | None:
    """The corpus's 16-bit depth map as uint8 of the photograph's size; None where there is none."""
    if row.get("depth") is None:
        return None
    levels = images.decode(row["depth"]).pixels[..., 0]
    eight = (levels // 257).astype(np.uint8) if levels.dtype == np.uint16 else levels
    return np.asarray(Image.fromarray(eight).resize((shape[1], shape[0]), Image.Resampling.BILINEAR))


def synthetic_pairs(row: Row, crop: CropConfig, haze: HazeConfig, seed: int | None = None) -> list[dict[str, Any]]:
    """A clear photograph -> ``crop.per_photo`` pairs ``hazy``, ``clear`` (S, S, 3), uint8."""
    random = _generator(row, seed)
    pixels = decode_pixels(row["image"])
    depth = _depth_of(row, pixels.shape)
    samples = []
    for _ in range(crop.per_photo):
        clear, cut = random_crop(pixels, depth, crop, random)
        near = None if cut is None else images.to_tensor(cut[..., None])
        pair = synthesize(images.to_tensor(clear), near, [int(random.integers(2**31))], haze)
        samples.append({"hazy": images.to_uint8(pair.hazy)[0], "clear": clear})
    return samples


def unpaired_crop(row: Row, crop: CropConfig, seed: int | None = None) -> list[dict[str, Any]]:
    """A photograph of either domain -> ``crop.per_photo`` crops ``image`` (S, S, 3) uint8; partners are unknown."""
    random = _generator(row, seed)
    pixels = decode_pixels(row["image"])
    return [{"image": random_crop(pixels, None, crop, random)[0]} for _ in range(crop.per_photo)]


def strong_augmentation(pixels: Pixels, random: np.random.Generator) -> Pixels:
    """Two of contrast, brightness, posterize, sharpness and blur: photometric only, so labels stay aligned."""
    image = Image.fromarray(pixels)
    for kind in random.choice(5, size=2, replace=False):
        if kind == 0:
            image = ImageEnhance.Contrast(image).enhance(random.uniform(0.6, 1.4))
        elif kind == 1:
            image = ImageEnhance.Brightness(image).enhance(random.uniform(0.7, 1.3))
        elif kind == 2:
            image = ImageOps.posterize(image, int(random.integers(5, 8)))
        elif kind == 3:
            image = ImageEnhance.Sharpness(image).enhance(random.uniform(0.2, 1.8))
        else:
            image = image.filter(ImageFilter.GaussianBlur(random.uniform(0.1, 1.2)))
    return np.asarray(image)


def real_photograph(row: Row, size: int, seed: int | None = None) -> list[dict[str, Any]]:
    """A hazy photograph, whole, as a ``size`` square: ``image_id``, ``photo`` and ``strong``, its augmentation."""
    photo = images.resize(decode_pixels(row["image"]), size, size)
    strong = strong_augmentation(photo, _generator(row, seed))
    return [{"image_id": row["image_id"], "photo": photo, "strong": strong}]


def _defect(image: Tensor, kind: int, severity: float, random: np.random.Generator) -> Tensor:
    """One quality defect, mild at severity 0 and gross at 1. 3HW in [0, 1] -> 3HW."""
    if kind == 0:
        reach = 1 + int(4 * severity)
        line = torch.exp(-0.5 * (torch.arange(-reach, reach + 1) / (0.4 + 2.2 * severity)) ** 2)
        kernel = (line[:, None] * line[None, :] / line.sum() ** 2).expand(3, 1, -1, -1)
        padded = F.pad(image[None], (reach,) * 4, mode="replicate")
        return F.conv2d(padded, kernel, groups=3)[0]
    if kind == 1:
        noise = torch.from_numpy(random.standard_normal(tuple(image.shape)).astype(np.float32))
        return image + (0.02 + 0.14 * severity) * noise
    if kind == 2:
        return jpeg(image, int(30 - 26 * severity))
    if kind == 3:
        if random.random() < 0.6:
            return image ** (1.3 + 2.2 * severity)
        return image * (1.2 + 1.3 * severity)
    gains = torch.from_numpy((1 + severity * 0.5 * random.uniform(-1, 1, 3)).astype(np.float32))[:, None, None]
    grey = image.mean(dim=0, keepdim=True)
    return grey + (image * gains - grey) * (1 + 1.2 * severity)


def scorer_samples(row: Row, crop: CropConfig, haze: HazeConfig, seed: int | None = None) -> list[dict[str, Any]]:
    """A clear photograph -> images with haze of known density and perhaps a defect.

    Each has ``image`` (S, S, 3) uint8, ``density`` = 1 - mean transmission, ``depth`` = mean optical depth
    ``-ln T``, ``quality`` in [0, 1] and ``defect``: 0 for none, else 1 + the place in ``DEFECTS``.
    """
    random = _generator(row, seed)
    pixels = decode_pixels(row["image"])
    samples = []
    for _ in range(crop.per_photo):
        clear, _none = random_crop(pixels, None, crop, random)
        image, density, depth = images.to_tensor(clear), 0.0, 0.0
        if random.random() < 0.75:
            pair = synthesize(image, None, [int(random.integers(2**31))], haze)
            image, density = pair.hazy, 1.0 - float(pair.transmission.mean())
            depth = float(-pair.transmission.log().mean())
        defect, quality = 0, 1.0
        if random.random() < 0.5:
            severity, kind = random.uniform(0.2, 1.0), int(random.integers(len(DEFECTS)))
            image, defect, quality = _defect(image[0], kind, severity, random)[None], 1 + kind, 1.0 - severity
        samples.append(
            {
                "image": images.to_uint8(image)[0],
                "density": np.float32(density),
                "depth": np.float32(depth),
                "quality": np.float32(quality),
                "defect": np.int64(defect),
            }
        )
    return samples
