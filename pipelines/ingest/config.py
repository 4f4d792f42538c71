"""What an ingest is told: one strict configuration."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator

from models.config import Settings
from models.images import ImageLimits
from models.paths import absolute
from pipelines.corpus import BITS, Domain
from pipelines.ingest.depth import DepthOrder, is_depth_model
from pipelines.ingest.layouts import LAYOUTS, LayoutName

VERSION = 3  # raise it when the same sources would give other rows, so that finished corpora are made anew


class IngestConfig(Settings):
    """An ingest: photographs to one corpus.

    Attributes:
        sources: folders (searched recursively), files, globs, zip and tar archives, Parquet and Arrow files; paths or
            URIs.
        domain: ``hazy`` or ``clear``; a corpus holds one of them.
        out: folder of the corpus, made if missing.
        append: add to the corpus that is there; without it the corpus is made to hold these sources and nothing else.
        layout: the dataset's layout (:mod:`pipelines.ingest.layouts`): which files are the domain's photographs, which
            are depth maps, and which photographs show one scene.
        depth: folder with a depth map per photograph, found by the same relative path or, failing that, the same
            name; or a depth model, as a folder or a name on a hub. Photographs without one get none.
        depth_order: what larger values of the maps mean; None takes the layout's, else ``near``, and is checked on a
            sample.
        depth_device: where the depth model runs: ``cpu``, ``cuda``, or ``auto`` for a GPU where the cluster has any.
        depth_gpus: that each task with a depth model asks of Ray, may be a fraction; None is 1 on ``cuda``.
        holdout: photographs that must not get in: folders, corpora, or text files of image ids.
        against: corpora whose photographs count as duplicates here.
        near_duplicates: bits of the 256-bit perceptual hash in which two photographs may differ to count as one; -1
            looks for equal files only.
        holdout_bits: the same against ``holdout`` and ``against``, where the hazy and the clear photograph of one scene
            should be recognised too.
        pair_by: regular expression over a photograph's path without suffix; its first group names the scene.
        strict_files: reject files that are damaged although their picture is there, or nearly, such as a JPEG without
            its end marker: other readers of a corpus may stumble over them. Without it they are stored as they are.
        max_side: longer photographs are reduced to it; 0 keeps every size.
        min_side: photographs with a shorter side are rejected.
        max_aspect: photographs that are longer, in relation to their width, are rejected.
        encode: format that photographs are stored in; ``keep`` leaves files as they are unless they are reduced.
        quality: of JPEG and WebP, where photographs are encoded anew.
        test_fraction: share of photographs, or scenes, in the test split.
        shard_mb: MiB of photographs per file.
        rows_per_group: upper bound.
        concurrency: tasks at a time; None for as many as there are CPUs.
        limits: what the decoder accepts.
        prune: delete shards that are out of the corpus for so many days; None keeps them for the runs that read them.
        card: write ``card.html``.
    """

    sources: tuple[str, ...] = Field(min_length=1)
    domain: Domain
    out: str
    append: bool = False
    layout: LayoutName = "plain"
    depth: str | None = None
    depth_order: DepthOrder | None = None
    depth_device: Literal["auto", "cpu", "cuda"] = "cpu"
    depth_gpus: float | None = Field(None, ge=0.0)
    holdout: tuple[str, ...] = ()
    against: tuple[str, ...] = ()
    near_duplicates: int = Field(32, ge=-1, le=BITS // 3)
    holdout_bits: int = Field(56, ge=-1, le=BITS // 3)
    pair_by: str | None = None
    strict_files: bool = True
    max_side: int = Field(1600, ge=0)
    min_side: int = Field(32, ge=1)
    max_aspect: float = Field(8.0, ge=1.0)
    encode: Literal["keep", "jpeg", "png", "webp"] = "keep"
    quality: int = Field(95, ge=1, le=100)
    test_fraction: float = Field(0.2, ge=0.0, le=1.0)
    shard_mb: float = Field(128.0, gt=0.0)
    rows_per_group: int = Field(64, ge=1)
    concurrency: int | None = Field(None, ge=1)
    limits: ImageLimits = ImageLimits()
    prune: float | None = Field(None, ge=0.0)
    card: bool = True

    @field_validator("out")
    @classmethod
    def _absolute(cls, value: str) -> str:
        return absolute(value)

    @field_validator("depth")
    @classmethod
    def _absolute_unless_a_name(cls, value: str | None) -> str | None:
        if value is None or (is_depth_model(value) and not Path(value).exists()):  # a model on a hub
            return value
        return absolute(value)

    @field_validator("sources", "holdout", "against")
    @classmethod
    def _all_absolute(cls, values: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(absolute(value) for value in values)

    @field_validator("pair_by")
    @classmethod
    def _has_a_group(cls, value: str | None) -> str | None:
        try:
            if value is not None and re.compile(value).groups < 1:
                raise ValueError("expected a regular expression with a group, such as '([0-9]+)_hazy'")
        except re.error as problem:
            raise ValueError(f"not a regular expression: {problem}") from problem
        return value

    def order(self) -> DepthOrder:
        """What larger values of the depth maps mean."""
        return self.depth_order or LAYOUTS[self.layout].depth_order or "near"

    def estimates_depth(self) -> bool:
        """Whether ``depth`` is a model."""
        return self.depth is not None and is_depth_model(self.depth)

    def accepted(self) -> ImageLimits:
        """What the decoder accepts, with ``strict_files``."""
        return self.limits.model_copy(update={"strict": self.limits.strict or self.strict_files})

    def examining(self) -> str:
        """Stands for how files are examined: what was found out in another way has to be found out again."""
        return hashlib.sha256(f"{VERSION} {self.accepted().model_dump_json()}".encode()).hexdigest()[:8]

    def storing(self) -> dict[str, Any]:
        """What a corpus must have been made with for its shards to stay, and for photographs to be added to it."""
        names = {"domain", "max_side", "encode", "quality", "test_fraction", "depth_order", "layout", "pair_by"}
        model = self.depth if self.estimates_depth() else None
        return {"version": VERSION, "depth_model": model, **self.model_dump(mode="json", include=names)}

    def deciding(self) -> dict[str, Any]:
        """What photographs are turned down by; adding some to a corpus decides on all of it anew."""
        names = {"near_duplicates", "holdout_bits", "min_side", "max_aspect", "holdout", "against"}
        return self.model_dump(mode="json", include=names)
