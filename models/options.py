"""How a photograph or a video is dehazed, for every door: command line, HTTP, MLflow. No torch, so help is quick."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, ValidatorFunctionWrapHandler, WrapValidator

from models.config import Settings

Format = Literal["JPEG", "PNG", "WEBP", "AVIF", "TIFF", "BMP"]
Output = Literal["image", "transmission", "side-by-side"]
# Of what is written; HEIC and raw files are only read.
MEDIA_TYPES: dict[str, str] = {
    "JPEG": "image/jpeg", "PNG": "image/png", "WEBP": "image/webp", "AVIF": "image/avif",
    "TIFF": "image/tiff", "BMP": "image/bmp",
}  # fmt: skip
OTHER_NAMES = {"jpg": "JPEG", "tif": "TIFF"}  # as files are called


Share = Annotated[float, Field(ge=0.0, le=1.0)]
Smoothing = Annotated[float, Field(ge=0.0, le=10.0)]


def _strength(value: Any, known: ValidatorFunctionWrapHandler) -> Any:
    try:
        return known(value)
    except ValidationError:  # of two kinds at once, which says less
        raise ValueError("expected a number from -1 to 2, or auto") from None


Strength = Annotated[Annotated[float, Field(ge=-1.0, le=2.0)] | Literal["auto"], WrapValidator(_strength)]


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


class DehazeOptions(Controls):
    """How one photograph is dehazed, beside the :class:`Controls`. ``output`` may also be the transmission as a gray
    picture (white: no haze), or the input and the result side by side.
    """

    format: Format | None = Field(
        None,
        description="of the results (default: each file's own; JPEG for HEIC and raw files, which are only read)",
        json_schema_extra={"other_names": dict(OTHER_NAMES)},
    )
    quality: int = Field(95, ge=1, le=100, description="of JPEG, WebP and AVIF, 1 to 100")
    keep_metadata: bool = Field(
        False,
        description="write EXIF, XMP, IPTC, texts and resolution again, with the place of the photograph (default: "
        "drop them)",
    )
    output: Output = "image"
    wrap: bool | None = Field(
        None,
        description="the picture is a panorama of 360 degrees whose ends meet (default: where its XMP says so)",
    )


class VideoOptions(Controls):
    """How a video is dehazed, beside the controls.

    Attributes:
        keep_metadata: copy the file's tags, with the place where it was taken.
        keep_dates: give the result the time of modification of the source.
        wrap: the picture goes on from its right end to its left.
    """

    codec: str | None = Field(None, description="encoder, such as libx265 (default: libx264; in WebM libvpx-vp9)")
    crf: int | None = Field(
        None, ge=0, le=63, description="of the encoder, lower is better (default: the encoder's own)"
    )
    smoothing: Smoothing = Field(0.5, description="seconds of the average over time, its time constant; 0: none")
    keep_metadata: bool = False
    keep_dates: bool = False
    wrap: bool = False


MULTIPLE = 8  # that networks want of sides; images are padded, tiles are made so


class InferenceConfig(Settings):
    """How images are dehazed: precision and memory.

    Images are composed in float32 whatever the precision: it would be seen in 16-bit results. What an image needs
    beyond the memory is kept in the machine's memory (GPU) or in temporary files (CPU); with a network that cannot do
    so, the image is dehazed in tiles.

    Attributes:
        overlap: of neighboring tiles, in pixels.
        working_side: long side in pixels of the smaller version in which the network sees a photograph of more than a
            quarter of a megapixel; what it does there is done to every pixel (:mod:`models.inference.guided`). None
            shows it all pixels, those of borders too, which is exact, and at 12 megapixels takes some twenty times as
            long. With ``tile`` too it is exact.
        compile: through ``torch.compile``; pays off for many images of few sizes on a GPU.
    """

    precision: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        "auto",
        description="of convolutions and matrix products; auto is float16 on a GPU, else float32; where the numbers "
        "of a network do not fit into float16, it runs in float32",
    )
    memory_mb: int | None = Field(
        None,
        ge=16,
        description="working memory for one photograph, beside it and the weights, in MiB (default: half of what is "
        "free)",
    )
    tile: int | None = Field(
        None,
        ge=128,
        multiple_of=MULTIPLE,
        description="dehaze in tiles of this many pixels a side, whatever memory there is; packaged networks need none "
        "(docs/explanation/exact-and-fast-inference.md)",
    )
    overlap: int = Field(64, ge=0, le=512)
    working_side: int | None = Field(384, ge=128)
    compile: bool = False


DEFAULT_CONTROLS = Controls()
DEFAULT_OPTIONS = DehazeOptions()
