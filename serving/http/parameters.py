"""The query of a request that dehazes: how, and by which model."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import Depends, Query
from pydantic.json_schema import SkipJsonSchema

from models.options import DEFAULT_CONTROLS, DehazeOptions, Share, Smoothing, Strength, VideoOptions
from serving.config import ServingConfig
from serving.http.openapi import FORMAT
from serving.http.requests import read_options


def _said(name: str) -> Any:
    """Describe a parameter of the query as its option does."""
    return Query(description=DehazeOptions.model_fields[name].description)


Absent = SkipJsonSchema[None]  # a parameter is left out; there is no null in a URL
Format = Annotated[
    str | Absent, Query(description="default: that of the input; JPEG for HEIC", json_schema_extra=FORMAT)
]
Quality = Annotated[int, Query(ge=1, le=100, description="of JPEG, WebP and AVIF")]
Wrap = Annotated[
    bool | Absent, Query(description="the ends meet, as of a panorama of 360 degrees; default: where its XMP says so")
]
_SMOOTHING = VideoOptions.model_fields["smoothing"]
Seconds = Annotated[
    Smoothing | Absent,
    Query(description=f"of a video: {_SMOOTHING.description} (default: {_SMOOTHING.default})"),
]
Output = Annotated[Literal["image", "transmission", "side-by-side"], Query()]


async def _options(
    strength: Annotated[Strength, _said("strength")] = DEFAULT_CONTROLS.strength,
    distance: Annotated[Share, _said("distance")] = DEFAULT_CONTROLS.distance,
    keep_exposure: Annotated[bool, _said("keep_exposure")] = DEFAULT_CONTROLS.keep_exposure,
    protect: Annotated[bool, _said("protect")] = DEFAULT_CONTROLS.protect,
    format: Format = None,  # noqa: A002 - the name in the URL
    quality: Quality = 95,
    output: Output = "image",
    wrap: Wrap = None,
) -> DehazeOptions:
    return read_options(
        format, strength=strength, distance=distance, keep_exposure=keep_exposure, protect=protect, quality=quality,
        output=output, wrap=wrap,
    )  # fmt: skip


Options = Annotated[DehazeOptions, Depends(_options)]


def named_model(config: ServingConfig) -> Any:
    """Return the query's parameter ``model``."""
    models = [config.default_name, *config.models]
    return Query(None, description="a name of /v1/models", json_schema_extra={"enum": models})
