"""What an ingest is told: one strict configuration."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator
from pydantic.config import JsonDict

from models.config import Settings
from models.images import ImageLimits
from models.paths import absolute
from pipelines.corpus import BITS, Domain
from pipelines.ingest.depth import DepthOrder, is_depth_model
from pipelines.ingest.layouts import LAYOUTS, LayoutName

_DEPTH: JsonDict = {"group": "depth maps"}
_OUT: JsonDict = {"group": "what does not get in"}
_STORED: JsonDict = {"group": "how it is stored"}
VERSION = 3  # raise it when the same sources would give other rows, so that finished corpora are made anew


class IngestConfig(Settings):
    """An ingest: photographs to one corpus. Its fields are the flags of the command."""

    sources: tuple[str, ...] = Field(
        min_length=1,
        description="folder (searched recursively), file, glob, zip or tar archive, Parquet or Arrow file; path or URI",
        json_schema_extra={"positional": True, "metavar": "SRC"},
    )
    domain: Domain = Field(description="what the photographs are; a corpus holds one kind")
    out: str = Field(description="folder of the corpus, made if missing", json_schema_extra={"metavar": "DIR"})
    append: bool = Field(
        False, description="add to the corpus in --out; without it, it is made to hold these sources and nothing else"
    )
    layout: LayoutName = Field(
        "plain",
        description="of a published dataset: which files are photographs of the domain, which are depth maps, and "
        "which show one scene",
    )
    depth: str | None = Field(
        None,
        description="depth maps with the photographs' relative paths or names (.png .tif .npy .npz .mat), or a depth "
        "model's folder or hub name; photographs without one get none",
        json_schema_extra=_DEPTH | {"metavar": "DIR|MODEL"},
    )
    depth_order: DepthOrder | None = Field(
        None,
        description="larger values are nearer, or farther (default: the layout's, else near; checked on a sample)",
        json_schema_extra=_DEPTH,
    )
    depth_device: Literal["auto", "cpu", "cuda"] = Field(
        "cpu",
        description="where the depth model runs; auto: on a GPU where the cluster has any",
        json_schema_extra=_DEPTH,
    )
    depth_gpus: float | None = Field(
        None,
        ge=0.0,
        description="of Ray for each depth model; may be a fraction (default: 1 for cuda, else 0)",
        json_schema_extra=_DEPTH,
    )
    holdout: tuple[str, ...] = Field(
        (),
        description="keep these out, and what looks like them: photographs, a corpus, or a list of image ids",
        json_schema_extra=_OUT | {"metavar": "SRC"},
    )
    against: tuple[str, ...] = Field(
        (), description="what these corpora have counts as duplicate", json_schema_extra=_OUT | {"metavar": "CORPUS"}
    )
    near_duplicates: int = Field(
        32,
        ge=-1,
        le=BITS // 3,
        description="bits of 256 of a perceptual hash in which copies may differ; 0: same look, -1: equal files only",
        json_schema_extra=_OUT | {"metavar": "BITS"},
    )
    holdout_bits: int = Field(
        56,
        ge=-1,
        le=BITS // 3,
        description="the same for --holdout and --against, where both photographs of one scene should be recognized",
        json_schema_extra=_OUT | {"metavar": "BITS"},
    )
    min_side: int = Field(32, ge=1, description="reject smaller photographs", json_schema_extra=_OUT)
    max_aspect: float = Field(
        8.0, ge=1.0, description="reject photographs that are longer than X times wide", json_schema_extra=_OUT
    )
    strict_files: bool = Field(
        True,
        description="do not reject damaged files whose picture is there all the same, such as a JPEG without its end "
        "marker: they are stored as they are, and other readers of the corpus may stumble over them",
        json_schema_extra=_OUT,
    )
    max_side: int = Field(1600, ge=0, description="reduce longer photographs; 0: never", json_schema_extra=_STORED)
    encode: Literal["keep", "jpeg", "png", "webp"] = Field(
        "keep", description="format to store; keep: files as they are unless reduced", json_schema_extra=_STORED
    )
    quality: int = Field(
        95,
        ge=1,
        le=100,
        description="of JPEG and WebP that are encoded anew",
        json_schema_extra=_STORED | {"metavar": "Q"},
    )
    pair_by: str | None = Field(
        None,
        description="over paths without suffix; the first group names the scene",
        json_schema_extra=_STORED | {"metavar": "REGEX"},
    )
    test_fraction: float = Field(
        0.2, ge=0.0, le=1.0, description="share of photographs, or scenes, in the test split", json_schema_extra=_STORED
    )
    shard_mb: float = Field(128.0, gt=0.0, description="MiB of photographs per file", json_schema_extra=_STORED)
    rows_per_group: int = Field(64, ge=1, description="photographs per row group at most", json_schema_extra=_STORED)
    concurrency: int | None = Field(None, ge=1, description="tasks at a time (default: as many as CPUs)")
    limits: ImageLimits = ImageLimits()
    prune: float | None = Field(
        None,
        ge=0.0,
        description="delete shards of former ingests that are out of the corpus for DAYS days (default: they stay for "
        "the training runs that read them)",
        json_schema_extra={"metavar": "DAYS"},
    )
    card: bool = Field(True, description="do not write card.html")

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
        """Return what larger values of the depth maps mean."""
        return self.depth_order or LAYOUTS[self.layout].depth_order or "near"

    def estimates_depth(self) -> bool:
        """Return whether ``depth`` is a model."""
        return self.depth is not None and is_depth_model(self.depth)

    def accepted(self) -> ImageLimits:
        """Return the limits of the decoder, with ``strict_files``."""
        return self.limits.model_copy(update={"strict": self.limits.strict or self.strict_files})

    def examining(self) -> str:
        """Return a digest of how files are examined: findings made in another way have to be made again."""
        return hashlib.sha256(f"{VERSION} {self.accepted().model_dump_json()}".encode()).hexdigest()[:8]

    def storing(self) -> dict[str, Any]:
        """Return the settings that must be as they were for shards to stay, and for photographs to be added."""
        names = {"domain", "max_side", "encode", "quality", "test_fraction", "depth_order", "layout", "pair_by"}
        model = self.depth if self.estimates_depth() else None
        return {"version": VERSION, "depth_model": model, **self.model_dump(mode="json", include=names)}

    def deciding(self) -> dict[str, Any]:
        """Return the settings that turn photographs down; adding some to a corpus decides on all of it anew."""
        names = {"near_duplicates", "holdout_bits", "min_side", "max_aspect", "holdout", "against"}
        return self.model_dump(mode="json", include=names)
