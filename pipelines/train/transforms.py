"""From corpus rows to training samples: pure functions over some rows at a time, which Ray Data maps. No Ray.

Every function takes rows (``image_id``, ``image``, ``depth`` where it is used) and returns arrays with one entry per
sample, in the order of the rows. Images are uint8 (N, S, S, 3): a quarter of float32 through the object store. Every
pass over a corpus draws fresh crops and fresh haze; a ``seed`` makes them repeatable, whatever rows come together.

Photograph and depth stay aligned: a :class:`Square` is drawn in shares of the photograph, before anything is decoded,
and the same square is cut from the pixels and from the depth map, however many pixels either has, and mirrored or not.
A depth map covers the whole of its photograph.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image, ImageEnhance, ImageFilter, ImageOps
from pydantic import Field, field_validator
from torch import Tensor

from models import images
from models.config import Settings
from models.haze import HazeConfig, jpeg, synthesize
from pipelines.train.methods import DEFECTS

Row = Mapping[str, Any]
Pixels = NDArray[np.uint8]
Samples = dict[str, NDArray[Any]]

Augmentation = Literal["published", "symmetric"]

LEAST_SIDE = 8  # of a square, in pixels of the photograph


class CropConfig(Settings):
    """Square crops.

    Attributes:
        size: side of a crop in pixels.
        scale: range of the crop's side over the photograph's shorter side; the crop is then resized to ``size``.
        per_photo: crops that a photograph gives in one epoch.
    """

    size: int = Field(128, ge=16)
    scale: tuple[float, float] = (0.4, 1.0)
    per_photo: int = Field(2, ge=1)

    @field_validator("scale")
    @classmethod
    def _rises(cls, scale: tuple[float, float]) -> tuple[float, float]:
        if not 0.0 <= scale[0] <= scale[1]:
            raise ValueError("expected two numbers, 0 or more, the smaller one first")
        return scale


@dataclass(frozen=True)
class Square:
    """Where a crop is: ``side`` over the shorter side of the photograph, ``top`` and ``left`` over the room there is
    for it (0 to 1), and whether it is mirrored.
    """

    side: float
    top: float
    left: float
    mirrored: bool

    def place(self, height: int, width: int) -> tuple[int, int, int]:
        """Return top, left and side in pixels of a photograph of this size."""
        side = min(height, width, max(LEAST_SIDE, round(min(height, width) * self.side)))
        return round(self.top * (height - side)), round(self.left * (width - side)), side


def draw_square(crop: CropConfig, random: np.random.Generator) -> Square:
    """Draw a random square, mirrored half of the time."""
    return Square(random.uniform(*crop.scale), random.random(), random.random(), bool(random.random() < 0.5))


def least_shorter_side(squares: Sequence[Square], size: int) -> int:
    """Return how many pixels the shorter side of a photograph needs so that each square has at least ``size``."""
    return max(math.ceil((size + 1) / max(square.side, 1e-6)) for square in squares)


def _generator(row: Row, seed: int | None) -> np.random.Generator:
    return np.random.default_rng(None if seed is None else [seed, zlib.crc32(str(row["image_id"]).encode())])


def decode_pixels(data: bytes, shrink_to: int | None = None) -> Pixels:
    """Decode encoded bytes -> (H, W, 3) uint8 RGB.

    Args:
        data: a whole file.
        shrink_to: a JPEG may come at 1/2, 1/4 or 1/8 of its size as long as its shorter side keeps this many pixels.
    """
    return images.eight_bits(images.decode(data, shrink_to=shrink_to).pixels)


def cut(pixels: Pixels, square: Square, size: int) -> NDArray[np.uint8]:
    """Cut the square of a photograph (H, W, 3) uint8, resampled antialiased to planes (3, ``size``, ``size``)."""
    top, left, side = square.place(*pixels.shape[:2])
    piece = torch.from_numpy(np.array(pixels[top : top + side, left : left + side])).permute(2, 0, 1)[None]
    if side != size:
        piece = F.interpolate(piece, size=(size, size), mode="bicubic", antialias=True)
    planes = piece[0].numpy()
    return np.ascontiguousarray(planes[:, :, ::-1] if square.mirrored else planes)


def cut_depth(depth: NDArray[np.float32], square: Square, shape: tuple[int, ...], size: int) -> NDArray[np.float32]:
    """Cut the same square of the depth map of a photograph of ``shape``: (h, w) float32 to (``size``, ``size``)."""
    top, left, side = square.place(*shape[:2])
    across, down = depth.shape[1] / shape[1], depth.shape[0] / shape[0]
    box = (left * across, top * down, (left + side) * across, (top + side) * down)
    piece = np.asarray(Image.fromarray(depth).resize((size, size), Image.Resampling.BILINEAR, box=box))
    return piece[:, ::-1] if square.mirrored else piece


def _depth_of(row: Row) -> NDArray[np.float32] | None:
    """The corpus's depth map, (h, w) in [0, 1]; None where there is none."""
    if row.get("depth") is None:
        return None
    levels = images.decode(row["depth"]).pixels[..., 0]
    return np.divide(levels, np.iinfo(levels.dtype).max, dtype=np.float32)


@dataclass(frozen=True)
class _Crop:
    """A crop: planes (3, S, S), depth (S, S) or None, the generator of its photograph and the seed of its haze."""

    planes: NDArray[np.uint8]
    depth: NDArray[np.float32] | None
    random: np.random.Generator
    seed: int


def _crops(rows: Iterable[Row], crop: CropConfig, seed: int | None, *, with_depth: bool = False) -> list[_Crop]:
    """``crop.per_photo`` crops of each row."""
    found = []
    for row in rows:
        random = _generator(row, seed)
        squares = [draw_square(crop, random) for _ in range(crop.per_photo)]
        pixels = decode_pixels(row["image"], shrink_to=least_shorter_side(squares, crop.size))
        depth = _depth_of(row) if with_depth else None
        for square in squares:
            near = None if depth is None else cut_depth(depth, square, pixels.shape, crop.size)
            found.append(_Crop(cut(pixels, square, crop.size), near, random, int(random.integers(2**31))))
    return found


def _scaled(crops: Sequence[_Crop]) -> Tensor:
    """Return the crops as N3SS in [0, 1]."""
    return torch.from_numpy(np.divide(np.stack([crop.planes for crop in crops]), 255, dtype=np.float32))


def _interleaved(crops: Sequence[_Crop]) -> NDArray[np.uint8]:
    """Return the crops as (N, S, S, 3) uint8."""
    planes = np.stack([crop.planes for crop in crops])
    return np.stack([planes[:, channel] for channel in range(3)], axis=-1)


def synthetic_pairs(rows: Iterable[Row], crop: CropConfig, haze: HazeConfig, seed: int | None = None) -> Samples:
    """Clear photographs -> ``crop.per_photo`` pairs ``hazy``, ``clear`` of each, with the ``transmission`` (N, S, S)
    and the ``airlight`` (N, 3) of their haze, and the ``tint`` (N, 3) of the light on the scene.
    """
    crops = _crops(rows, crop, seed, with_depth=True)
    clear = _interleaved(crops)
    hazy, transmission = np.empty_like(clear), np.empty(clear.shape[:3], np.uint8)
    airlight, tint = np.empty((2, len(crops), 3), np.float32)
    for known in (False, True):  # measured depth and made-up depth
        chosen = [index for index, one in enumerate(crops) if (one.depth is not None) == known]
        if chosen:
            some = [crops[index] for index in chosen]
            depth = torch.from_numpy(np.stack([np.asarray(one.depth) for one in some])[:, None]) if known else None
            made = synthesize(_scaled(some), depth, [one.seed for one in some], haze)
            hazy[chosen] = images.to_uint8(made.hazy)
            transmission[chosen] = made.transmission[:, 0].mul(255).round_().byte().numpy()
            airlight[chosen], tint[chosen] = made.airlight.numpy(), made.tint.numpy()
    return {"hazy": hazy, "clear": clear, "transmission": transmission, "airlight": airlight, "tint": tint}


def on_device(device: torch.device | str, values: NDArray[Any]) -> Any:
    """Put an array of a batch on a device: uint8 images (N, H, W, 3) as N3HW and maps (N, H, W) as N1HW in [0, 1],
    numbers as a tensor, names as they are. A GPU gets bytes, and divides them itself.
    """
    if values.dtype.kind in "OU":
        return values
    if values.dtype != np.uint8:
        return torch.from_numpy(values.copy()).to(device)
    maps = values if values.ndim == 4 else values[..., None]
    if torch.device(device).type == "cpu":
        return images.to_tensor(maps)
    levels = torch.from_numpy(np.ascontiguousarray(maps)).to(device)
    return levels.permute(0, 3, 1, 2).to(torch.float32).div_(255)


def unpaired_crops(rows: Iterable[Row], crop: CropConfig, seed: int | None = None) -> Samples:
    """Cut ``crop.per_photo`` crops ``image`` of each photograph, of either domain; partners are unknown."""
    return {"image": _interleaved(_crops(rows, crop, seed))}


_CHANGES: dict[Augmentation, tuple[tuple[str, float, float], ...]] = {
    "published": (
        ("Contrast", 0.05, 0.95), ("Contrast", 0.25, 0.95), ("Brightness", 0.05, 0.95), ("bits", 4, 8),
        ("Sharpness", 0.05, 0.95), ("blur", 1, 5),
    ),
    "symmetric": (
        ("Contrast", 0.6, 1.4), ("Brightness", 0.7, 1.3), ("bits", 5, 8), ("Sharpness", 0.2, 1.8), ("blur", 0.1, 1.2),
    ),
}  # fmt: skip
"""What may be done to a photograph, and how much; 1 leaves contrast, brightness and sharpness as they are."""


def strong_augmentation(pixels: Pixels, random: np.random.Generator, kind: Augmentation = "published") -> Pixels:
    """Change colors and light only, so that labels stay aligned: (H, W, 3) uint8 to the same.

    ``published`` is Colabator's, two draws with replacement, which mostly takes contrast and light away, so that the
    student has more to undo than the teacher whose label it gets; ``symmetric`` makes two different changes, which take
    away and add alike, and less of either.
    """
    image, changes, published = Image.fromarray(pixels), _CHANGES[kind], kind == "published"
    for index in random.integers(6, size=2) if published else random.choice(5, size=2, replace=False):
        what, low, high = changes[index]
        if what == "bits":
            image = ImageOps.posterize(image, int(random.integers(int(low), int(high), endpoint=True)))
        elif what == "blur":
            radius = random.choice([1, 3, 5]) if published else random.uniform(low, high)
            image = image.filter(ImageFilter.GaussianBlur(float(radius)))
        else:
            image = getattr(ImageEnhance, what)(image).enhance(random.uniform(low, high))
    return np.asarray(image)


class RealConfig(Settings):
    """How a real photograph looks to the student.

    Attributes:
        size: side of the square that it is resized to.
        augmentation: see :func:`strong_augmentation`.
        jpeg_probability: of a pass through a JPEG encoder before that.
        jpeg_quality: of that encoder, both ends included.
    """

    size: int = Field(288, ge=1)
    augmentation: Augmentation = "published"
    jpeg_probability: float = Field(0.5, ge=0, le=1)
    jpeg_quality: tuple[float, float] = (30, 95)


def real_photographs(rows: Iterable[Row], config: RealConfig, seed: int | None = None) -> Samples:
    """Return hazy photographs, whole, as squares: ``image_id``, ``photo``, and ``strong``, the input of the student."""
    ids, photos, strong = [], [], []
    for row in rows:
        ids.append(row["image_id"])
        photos.append(images.resize(decode_pixels(row["image"]), config.size, config.size))  # as label workers do
        strong.append(_as_seen(photos[-1], config, _generator(row, seed)))
    return {"image_id": np.array(ids), "photo": np.stack(photos), "strong": np.stack(strong)}


def _as_seen(photo: Pixels, config: RealConfig, random: np.random.Generator) -> Pixels:
    if random.random() < config.jpeg_probability:
        quality = int(random.integers(int(config.jpeg_quality[0]), int(config.jpeg_quality[1]), endpoint=True))
        photo = images.to_uint8(jpeg(images.to_tensor(photo)[0], quality)[None])[0]
    return strong_augmentation(photo, random, config.augmentation)


def _defect(image: Tensor, kind: int, severity: float, random: np.random.Generator) -> Tensor:
    """One quality defect, mild at severity 0 and gross at 1. 3HW in [0, 1] -> 3HW."""
    if kind == 0:
        reach = 1 + round(4 * severity)
        line = torch.exp(-0.5 * (torch.arange(-reach, reach + 1) / (0.4 + 2.2 * severity)) ** 2)
        kernel = (line[:, None] * line[None, :] / line.sum() ** 2).expand(3, 1, -1, -1)
        padded = F.pad(image[None], (reach,) * 4, mode="replicate")
        return F.conv2d(padded, kernel, groups=3)[0]
    if kind == 1:
        noise = torch.from_numpy(random.standard_normal(tuple(image.shape)).astype(np.float32))
        return image + (0.02 + 0.14 * severity) * noise
    if kind == 2:
        return jpeg(image, round(30 - 26 * severity))
    if kind == 3:
        if random.random() < 0.6:
            return image ** (1.3 + 2.2 * severity)
        return image * (1.2 + 1.3 * severity)
    gains = torch.from_numpy((1 + severity * 0.5 * random.uniform(-1, 1, 3)).astype(np.float32))[:, None, None]
    gray = image.mean(dim=0, keepdim=True)
    return gray + (image * gains - gray) * (1 + 1.2 * severity)


def scorer_samples(rows: Iterable[Row], crop: CropConfig, haze: HazeConfig, seed: int | None = None) -> Samples:
    """Clear photographs -> images with haze of known density and perhaps a defect, ``crop.per_photo`` of each.

    ``image``, ``density`` = 1 - mean transmission, ``quality`` in [0, 1] and ``defect``: 0 for none, else 1 + the
    place in ``DEFECTS``.
    """
    crops = _crops(rows, crop, seed)
    clear, made = _scaled(crops), synthesize(_scaled(crops), None, [one.seed for one in crops], haze)
    density = 1.0 - made.transmission.mean((1, 2, 3))
    finished, qualities, defects = [], [], []
    for index, one in enumerate(crops):
        hazed, spoilt = one.random.random() < 0.75, one.random.random() < 0.5
        image, defect, quality = (made.hazy if hazed else clear)[index], 0, 1.0
        if not hazed:
            density[index] = 0.0
        if spoilt:
            severity, kind = one.random.uniform(0.2, 1.0), int(one.random.integers(len(DEFECTS)))
            image, defect, quality = _defect(image, kind, severity, one.random), 1 + kind, 1.0 - severity
        finished.append(image)
        qualities.append(quality)
        defects.append(defect)
    return {
        "image": images.to_uint8(torch.stack(finished)),
        "density": density.numpy(),
        "quality": np.array(qualities, np.float32),
        "defect": np.array(defects, np.int64),
    }
