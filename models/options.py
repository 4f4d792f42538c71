"""How one photograph is dehazed, for every door: command line, HTTP, MLflow."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, ValidatorFunctionWrapHandler, field_validator

from models.config import Settings

Format = Literal["JPEG", "PNG", "WEBP", "AVIF", "TIFF", "BMP"]
Output = Literal["image", "transmission", "side-by-side"]
# Of what is written; HEIC is only read.
MEDIA_TYPES: dict[str, str] = {
    "JPEG": "image/jpeg", "PNG": "image/png", "WEBP": "image/webp", "AVIF": "image/avif",
    "TIFF": "image/tiff", "BMP": "image/bmp",
}  # fmt: skip


Share = Annotated[float, Field(ge=0.0, le=1.0)]
Strength = Annotated[float, Field(ge=-1.0, le=2.0)] | Literal["auto"]


class Controls(Settings):
    """How much is changed in a photograph or a video, and where; :mod:`models.inference.controls` does it."""

    strength: Strength = Field(
        1.0,
        description="0 keeps the haze, 1 removes it, up to 2 goes beyond, down to -1 adds as much again; auto: 1, or "
        "less where there is hardly any haze",
    )
    distance: Share = Field(
        0.0,
        description="change only what is farther than this share of the scene's optical distance, softly; 0: all",
    )
    keep_exposure: bool = Field(
        False, description="what is near, without haze, keeps its brightness, and the rest follows it"
    )
    protect: bool = Field(False, description="keep the sky and highlights as they are")

    @field_validator("strength", mode="wrap")
    @classmethod
    def _strength(cls, value: Any, known: ValidatorFunctionWrapHandler) -> Any:
        try:
            return known(value)
        except ValidationError:  # of two kinds at once, which says less
            raise ValueError("expected a number from -1 to 2, or auto") from None


class DehazeOptions(Controls):
    """How one photograph is dehazed: see :class:`Controls`, and ``format`` None
    keeps the input's, but gives a JPEG for HEIC, which is only read; ``quality`` is for JPEG, WebP and AVIF;
    ``keep_metadata`` writes EXIF (with the place it was taken), XMP and resolution again; ``output`` may also be the
    transmission as a gray picture (white: no haze), or the input and the result side by side; ``wrap`` lets the picture
    go on from its right end to its left, None where its XMP says that it is a panorama of 360 degrees.
    """

    format: Format | None = None
    quality: int = Field(95, ge=1, le=100)
    keep_metadata: bool = False
    output: Output = "image"
    wrap: bool | None = None


DEFAULT_CONTROLS = Controls()
DEFAULT_OPTIONS = DehazeOptions()
