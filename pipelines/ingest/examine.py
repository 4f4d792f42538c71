"""The first pass of an ingest: read every new file once, decode it, and note what can be said of it. No Ray."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from models import images
from models.images import ImageError, ImageLimits, check_bytes, eight_bits
from pipelines.corpus import EXAMINED, Location, image_id_of, perceptual_hash, read_places

_THUMBNAIL = 128  # long side on which haze is estimated
_WINDOW = 5  # of the dark channel, in pixels of the thumbnail
_OMEGA = 0.95
_FILES, _BYTES = 64, 256 << 20  # of a task: what an interruption may cost


def portions(files: pa.Table) -> Iterator[pa.Table]:
    """Yield the files of one task after the other, bounded in number and bytes. Entries of a container are side by
    side, in its order, and those of a compressed archive in one portion, because each portion has to unpack it from its
    beginning.
    """
    places = [Location.of(text) for text in files["place"].to_pylist()]
    order = sorted(range(len(places)), key=lambda row: (places[row].container, places[row].position))
    sizes = files["listed"].to_pylist()
    first = count = size = 0
    for number, row in enumerate(order):
        full = count >= _FILES or size + sizes[row] > _BYTES
        before = places[order[number - 1]]
        unpacked = places[row].base == "stream" and places[row].container == before.container
        if count and full and not unpacked:
            yield files.take(order[first:number])
            first, count, size = number, 0, 0
        count, size = count + 1, size + sizes[row]
    if count:
        yield files.take(order[first:])


def examine(files: pa.Table, limits: ImageLimits) -> pa.Table:
    """Read and decode files.

    Args:
        files: ``uri, key, listed, mtime, place, depth``.
        limits: what the decoder accepts.

    Returns:
        Table of ``EXAMINED``; ``reason`` is "" for photographs that can be used, and
        ``message`` then holds the decoder's notes. Memory: one file and its pixels.
    """
    rows = files.to_pylist()
    places = [Location.of(row["place"]) for row in rows]
    readable = []
    for i, place in enumerate(places):
        try:
            check_bytes(place.length, limits)
        except ImageError as problem:
            rows[i] |= _nothing(problem.code, str(problem))
        else:
            readable.append(i)
    for number, data in read_places([places[i] for i in readable]):
        rows[readable[number]] |= _examine(data, limits)
    return pa.Table.from_pylist(rows, EXAMINED)


def _examine(data: bytes | OSError, limits: ImageLimits) -> dict[str, Any]:
    if isinstance(data, OSError):
        return _nothing("unreadable", f"cannot read the file: {data.strerror or data}")
    found = {"size": len(data), "image_id": image_id_of(data)}
    try:
        photo = images.decode(data, limits)
    except ImageError as problem:
        return _nothing(problem.code, str(problem)) | found
    pixels = eight_bits(photo.pixels)
    return found | {
        "width": pixels.shape[1],
        "height": pixels.shape[0],
        "phash": perceptual_hash(pixels),
        "haze": haze_density(pixels),
        "reason": "",
        "message": "; ".join(photo.notes),
    }


def _nothing(reason: str, message: str) -> dict[str, Any]:
    return {
        "size": 0, "image_id": "", "width": 0, "height": 0, "phash": bytes(32), "haze": math.nan,
        "reason": reason, "message": message,
    }  # fmt: skip


def haze_density(pixels: NDArray[np.uint8]) -> float:
    """Estimate the haze of a photograph: 1 - mean transmission by the dark channel prior (He et al., TPAMI
    2011).

    A rough figure from a thumbnail, to sort and to draw a histogram by; white walls and snow count as haze.

    Args:
        pixels: (H, W, 3) RGB.

    Returns:
        0 (none) to 0.95 (nothing but haze).
    """
    small = Image.fromarray(pixels)
    small.thumbnail((_THUMBNAIL, _THUMBNAIL), Image.Resampling.BOX)
    values = np.asarray(small, np.float32) / 255
    dark = _dark_channel(values)
    brightest = np.argsort(dark, axis=None)[-max(1, dark.size // 1000) :]
    airlight = np.maximum(values.reshape(-1, 3)[brightest].mean(axis=0), 0.05)
    return float(_OMEGA * _dark_channel(np.minimum(values / airlight, 1.0)).mean())


def _dark_channel(values: NDArray[Any]) -> NDArray[Any]:
    lowest = Image.fromarray(np.rint(values.min(axis=2) * 255).astype(np.uint8))
    return np.asarray(lowest.filter(ImageFilter.MinFilter(_WINDOW)), np.float32) / 255
