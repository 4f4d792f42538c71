"""Pool entries: as arrays for those who use them, as compact records for the store and the wire."""

from __future__ import annotations

import io
import zlib
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

LARGEST_SIDE = 16383  # pixels; where WebP ends


@dataclass(frozen=True, eq=False)
class LabelEntry:
    """The pseudo label of one photograph, at label size.

    Attributes:
        image_id: content hash of the photograph.
        label: (H, W, 3) uint8 RGB, the dehazed photograph.
        transmission: (H, W) uint8, 0..255 for 0..1.
        trust: (gh, gw) float32 in [0, 1] per block, high where the label is free of haze.
        clearness, quality: global scores in [0, 1], higher is better.
        teacher_step: training step of the teacher that made it.
    """

    image_id: str
    label: NDArray[np.uint8]
    transmission: NDArray[np.uint8]
    trust: NDArray[np.float32]
    clearness: float
    quality: float
    teacher_step: int


@dataclass(frozen=True)
class Record:
    """An entry as it is stored and sent: about 40 % of its pixels' size, and the pool never decodes it.

    `label` is lossless WebP, `transmission` is PNG, `trust` little-endian float32 of shape `trust_shape`.
    """

    image_id: str
    clearness: float
    quality: float
    teacher_step: int
    label: bytes
    transmission: bytes
    trust: bytes
    trust_shape: tuple[int, int]


def shard_of(image_id: str, shards: int) -> int:
    """Return the shard, 0 to `shards - 1`, that keeps `image_id`; the same in every process and on every machine."""
    # Python's own hash of a text differs between processes.
    return zlib.crc32(image_id.encode()) % shards


def shard_folder(shard: int, shards: int) -> str:
    """Name of a shard's folder within the folder of its pool."""
    return f"shard-{shard:05d}-of-{shards:05d}"


def _check(entry: LabelEntry) -> None:
    side = f"label of '{entry.image_id}'"
    if not entry.image_id:
        raise ValueError("image_id must not be empty")
    if entry.label.dtype != np.uint8 or entry.label.ndim != 3 or entry.label.shape[2] != 3:
        raise ValueError(f"{side} must be (H, W, 3) uint8, not {entry.label.shape} {entry.label.dtype}")
    if min(entry.label.shape[:2]) < 1 or max(entry.label.shape) > LARGEST_SIDE:
        raise ValueError(f"{side} must have sides of 1 to {LARGEST_SIDE} pixels, not {entry.label.shape[:2]}")
    if entry.transmission.dtype != np.uint8 or entry.transmission.shape != entry.label.shape[:2]:
        raise ValueError(f"transmission of the {side} is {entry.transmission.shape} {entry.transmission.dtype}")
    if entry.trust.ndim != 2:
        raise ValueError(f"trust of the {side} must be (gh, gw), not {entry.trust.shape}")


def _compressed(pixels: NDArray[np.uint8], **options: Any) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, **options)
    return stream.getvalue()


def to_record(entry: LabelEntry) -> Record:
    """Compress `entry`, losslessly.

    WebP at its fastest lossless setting is smaller than PNG for labels and quicker both ways (288x288 photographs:
    101 against 131 KiB, 5 against 12 ms in, 2.5 against 4 ms out); PNG is better for transmissions.

    Raises:
        ValueError: a shape, type or identifier that the pool does not keep.
    """
    _check(entry)
    trust = np.ascontiguousarray(entry.trust, dtype="<f4")
    return Record(
        image_id=entry.image_id,
        clearness=float(entry.clearness),
        quality=float(entry.quality),
        teacher_step=int(entry.teacher_step),
        # Where it is lossless, quality means effort.
        label=_compressed(entry.label, format="WEBP", lossless=True, method=0, quality=25, exact=True),
        transmission=_compressed(entry.transmission, format="PNG", compress_level=1),
        trust=trust.tobytes(),
        trust_shape=(trust.shape[0], trust.shape[1]),
    )


def _pixels(data: bytes, mode: str) -> NDArray[np.uint8]:
    with Image.open(io.BytesIO(data), formats=("WEBP", "PNG")) as image:
        return np.array(image.convert(mode))


def to_entry(record: Record) -> LabelEntry:
    """Decompress a record of :func:`to_record`; the arrays are the caller's own."""
    return LabelEntry(
        image_id=record.image_id,
        label=_pixels(record.label, "RGB"),
        transmission=_pixels(record.transmission, "L"),
        trust=np.frombuffer(record.trust, dtype="<f4").reshape(record.trust_shape).astype(np.float32),
        clearness=record.clearness,
        quality=record.quality,
        teacher_step=record.teacher_step,
    )
