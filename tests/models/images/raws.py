"""A camera raw file as small as one can be: a DNG."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import tifffile

RED, GREEN, BLUE = range(3)
NEUTRAL = (0.5, 1.0, 0.8)  # what the sensor makes of white
CAMERA = [
    (271, "s", 0, "maker", True), (306, "s", 0, "2020:01:02 03:04:05", True),
    (50706, "B", 4, bytes((1, 4, 0, 0)), True), (50708, "s", 0, "Maker Model", True),
]  # fmt: skip


def scene(height: int = 48, width: int = 64) -> np.ndarray:
    """Linear light: a gray ramp from left to right, red in the top left corner."""
    values = np.repeat(np.linspace(0.02, 0.9, width)[None, :, None], height, axis=0).repeat(3, axis=2)
    values[: height // 3, : width // 3] = 0.7, 0.05, 0.05
    return values


def mosaic(light: np.ndarray) -> np.ndarray:
    """What a sensor below a filter of red, green / green, blue sees, in 16 bits."""
    light = light * NEUTRAL
    seen = light[:, :, GREEN].copy()
    seen[::2, ::2], seen[1::2, 1::2] = light[::2, ::2, RED], light[1::2, 1::2, BLUE]
    return np.rint(seen * 65_535).astype(np.uint16)


def dng(light: np.ndarray | None = None, orientation: int = 1, *tags: Any, sub: bool = False, **options: Any) -> bytes:
    """A DNG of a scene, in the colors of sRGB; the mosaic lies behind a thumbnail if ``sub``."""
    values = mosaic(scene() if light is None else light)
    to_camera = np.linalg.inv([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
    matrix = [part for value in to_camera.ravel() for part in (round(value * 10_000), 10_000)]
    filters = [(33421, "H", 2, (2, 2), True), (33422, "B", 4, bytes((RED, GREEN, GREEN, BLUE)), True)]
    camera = [
        *CAMERA, (274, "H", 1, orientation, True), (50721, "2i", 9, matrix, True),
        (50728, "2I", 3, (1, 2, 1, 1, 4, 5), True), (50778, "H", 1, 21, True), *tags,
    ]  # fmt: skip
    buffer = io.BytesIO()
    with tifffile.TiffWriter(buffer) as file:
        if sub:
            thumbnail = np.zeros((8, 8, 3), np.uint8)
            file.write(thumbnail, photometric="rgb", subifds=1, subfiletype=1, extratags=camera, metadata=None)
            file.write(values, photometric="cfa", extratags=filters, metadata=None, **options)
        else:
            file.write(values, photometric="cfa", extratags=[*filters, *camera], metadata=None, **options)
    return buffer.getvalue()
