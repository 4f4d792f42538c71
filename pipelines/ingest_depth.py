"""Depth maps beside photographs: read, checked, and stored as 16-bit PNG at the photograph's size. No Ray."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from models import images
from models.images import ImageError
from pipelines.corpus import filesystem

_ASPECT_TOLERANCE = 0.05
_TOP = 65_535


class BadDepth(ImageError):  # noqa: N818 - named for its code, like its siblings in models.images
    """A depth map that cannot belong to its photograph."""

    code = "bad_depth"


def read_depth(uri: str, width: int, height: int) -> bytes:
    """Read a depth map for a photograph of ``width`` x ``height``.

    Args:
        uri: ``.npy`` with (H, W) numbers, or a greyscale ``.png`` of 8 or 16 bits; larger is nearer. It may have
            another size than the photograph, but not another shape.

    Returns:
        A 16-bit PNG of (height, width): smallest value 0, largest 65535, resampled bilinearly.

    Raises:
        BadDepth: unreadable, not two-dimensional, not finite, constant, or of another aspect.
        OSError: the file went away.
    """
    files, path = filesystem(uri)
    with files.open_input_stream(path) as stream:
        data = stream.read()
    values = _parse(data, path)
    if values.ndim != 2 or 0 in values.shape:
        raise BadDepth(f"depth map {path} has shape {values.shape}; expected (H, W)")
    if not np.isfinite(values).all():
        raise BadDepth(f"depth map {path} has values that are not finite")
    low, high = float(values.min()), float(values.max())
    if low == high:
        raise BadDepth(f"depth map {path} is {low:g} everywhere")
    aspect = (values.shape[1] / values.shape[0]) / (width / height)
    if abs(aspect - 1) > _ASPECT_TOLERANCE:
        raise BadDepth(f"depth map {path} is {values.shape[1]}x{values.shape[0]}, the photograph {width}x{height}")
    unit = Image.fromarray(((values - low) / (high - low)).astype(np.float32))
    resized = np.asarray(unit.resize((width, height), Image.Resampling.BILINEAR))
    buffer = io.BytesIO()
    Image.fromarray(np.rint(resized * _TOP).astype(np.uint16)).save(buffer, "PNG")
    return buffer.getvalue()


def _parse(data: bytes, path: str) -> NDArray[Any]:
    """(H, W) float64 of a file's content; a trailing or leading axis of length 1 is dropped."""
    if path.lower().endswith(".npy"):
        try:
            values: NDArray[Any] = np.load(io.BytesIO(data), allow_pickle=False).astype(np.float64)
        except (ValueError, TypeError, EOFError, OSError, MemoryError) as problem:
            raise BadDepth(f"depth map {path} is no array file: {problem}") from problem
        if values.ndim == 3 and 1 in (values.shape[0], values.shape[2]):
            values = values.squeeze(0 if values.shape[0] == 1 else 2)
        return values
    try:
        pixels = images.decode(data).pixels
    except ImageError as problem:
        raise BadDepth(f"depth map {path}: {problem}") from problem
    if (pixels != pixels[:, :, :1]).any():
        raise BadDepth(f"depth map {path} is a colour picture; expected greyscale")
    return pixels[:, :, 0].astype(np.float64)
