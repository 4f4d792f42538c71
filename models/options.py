"""How one photograph is dehazed, for every door: command line, HTTP, MLflow."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from models.config import Settings

Format = Literal["JPEG", "PNG", "WEBP", "AVIF", "TIFF", "BMP"]
Output = Literal["image", "transmission", "side-by-side"]
# Of what is written; HEIC is only read.
MEDIA_TYPES: dict[str, str] = {
    "JPEG": "image/jpeg", "PNG": "image/png", "WEBP": "image/webp", "AVIF": "image/avif",
    "TIFF": "image/tiff", "BMP": "image/bmp",
}  # fmt: skip


class DehazeOptions(Settings):
    """How one photograph is dehazed: ``strength`` 0 gives the input back, 1 the network's scene; ``format`` None
    keeps the input's, but gives a JPEG for HEIC, which is only read; ``quality`` is for JPEG, WebP and AVIF;
    ``keep_metadata`` writes EXIF (with the place it was taken), XMP and resolution again; ``output`` may also be the
    transmission as a gray picture (white: no haze), or the input and the result side by side; ``wrap`` lets the picture
    go on from its right end to its left, None where its XMP says that it is a panorama of 360 degrees.
    """

    strength: float = Field(1.0, ge=0.0, le=1.0)
    format: Format | None = None
    quality: int = Field(95, ge=1, le=100)
    keep_metadata: bool = False
    output: Output = "image"
    wrap: bool | None = None


DEFAULT_OPTIONS = DehazeOptions()
