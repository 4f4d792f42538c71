"""What an ingest will do, from names and hashes alone: files found, duplicates, shards. No Ray, no pixels.

The tables here hold one row of about 200 bytes per photograph and live on the driver: ten million photographs take
about 2 GB there. Images never pass through it.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field, field_validator

from models.images import IMAGE_SUFFIXES, ImageLimits
from models.settings import Settings
from pipelines.corpus import SPLITS, Domain, absolute, split_of
from pipelines.ingest_files import list_files, list_holdout, match_depth, texts

DEPTH_SUFFIXES = frozenset({".png", ".npy"})
LAYOUT = 1  # raise it when the same sources would give other rows, so that finished corpora are made anew
_MIN_FILES = 8  # a small corpus still gives every worker something to read
_MIN_ROWS = 4


class IngestConfig(Settings):
    """An ingest: folders of photographs to one corpus.

    Attributes:
        sources: folders (searched recursively) or single files, as paths or URIs.
        domain: ``hazy`` or ``clear``; a corpus holds one of them.
        out: folder of the corpus, made if missing.
        depth: folder with a depth map per photograph, found by the same relative path or, failing that, the same name
            (``.png`` or ``.npy``; larger is nearer). Photographs without one get none.
        holdout: photographs that must not get in: a folder, a corpus, or a text file of image ids.
        max_side: longer photographs are reduced to it; 0 keeps every size.
        min_side: photographs with a shorter side are rejected.
        test_fraction: share of photographs in the test split.
        rows_per_file, rows_per_group: upper bounds.
        concurrency: tasks at a time; None for as many as there are CPUs.
        limits: what the decoder accepts.
    """

    sources: tuple[str, ...] = Field(min_length=1)
    domain: Domain
    out: str
    depth: str | None = None
    holdout: str | None = None
    max_side: int = Field(1600, ge=0)
    min_side: int = Field(32, ge=1)
    test_fraction: float = Field(0.2, ge=0.0, le=1.0)
    rows_per_file: int = Field(256, ge=1)
    rows_per_group: int = Field(64, ge=1)
    concurrency: int | None = Field(None, ge=1)
    limits: ImageLimits = ImageLimits()

    @field_validator("out", "depth", "holdout")
    @classmethod
    def _absolute(cls, value: str | None) -> str | None:
        return None if value is None else absolute(value)

    @field_validator("sources")
    @classmethod
    def _all_absolute(cls, values: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(absolute(value) for value in values)


@dataclass(frozen=True)
class Survey:
    """The files an ingest is about: tables with ``uri``, ``key`` (path, no suffix), ``size``, ``mtime``."""

    photographs: pa.Table
    depth: pa.Table | None
    holdout: pa.Table | None
    fingerprint: str


@dataclass(frozen=True)
class Shard:
    """One Parquet file to write: its photographs in order, each with its depth map's uri or None."""

    name: str
    uris: list[str]
    image_ids: list[str]
    depths: list[str | None]


@dataclass(frozen=True)
class Decision:
    """What becomes of the files that were found.

    Attributes:
        keep: table of ``uri, image_id`` sorted by id, one row per content.
        duplicates: table of ``uri, image_id, same_as``.
        rejects: ``uri, reason, message``, sorted by uri.
    """

    keep: pa.Table
    duplicates: pa.Table
    rejects: list[dict[str, str]]


def survey(config: IngestConfig) -> Survey:
    """List everything the ingest depends on.

    Raises:
        ConfigError: a folder is missing, or there is no photograph in it.
    """
    tables = [list_files(source, IMAGE_SUFFIXES, "photographs") for source in config.sources]
    photographs = pa.concat_tables(tables)
    if len(tables) > 1:  # sources may overlap: a file is found once
        first = photographs.append_column("row", pa.array(np.arange(photographs.num_rows)))
        rows = first.group_by("uri", use_threads=False).aggregate([("row", "min")])["row_min"]
        photographs = photographs.take(rows)
    depth = None if config.depth is None else list_files(config.depth, DEPTH_SUFFIXES, "depth maps")
    holdout = None if config.holdout is None else list_holdout(config.holdout)
    print_of = hashlib.sha256(f"{LAYOUT} {config.model_dump_json(exclude={'out', 'concurrency'})}".encode())
    for table in (photographs, depth, holdout):
        for row in [] if table is None else table.sort_by("uri").to_pylist():
            print_of.update(f"\n{row['uri']} {row['size']} {row['mtime']}".encode())
        print_of.update(b"\n--")
    return Survey(photographs, depth, holdout, print_of.hexdigest()[:32])


def decide(hashed: pa.Table, held_out: set[str]) -> Decision:
    """Choose one file per content: the first by uri.

    Args:
        hashed: ``uri, image_id, reason, message``; a reason means that the file could not be read.
        held_out: image ids that must not get in.
    """
    readable = pc.equal(hashed["reason"], "")
    rejects = hashed.filter(pc.invert(readable)).select(["uri", "reason", "message"]).to_pylist()
    rows = (
        hashed.filter(readable).select(["uri", "image_id"]).sort_by([("image_id", "ascending"), ("uri", "ascending")])
    )
    if held_out:
        banned = pc.is_in(rows["image_id"], value_set=pa.array(sorted(held_out), pa.string()))
        rejects += [
            reject(uri, "held_out", "its content is in the held-out set") for uri in texts(rows.filter(banned)["uri"])
        ]
        rows = rows.filter(pc.invert(banned))
    ids = rows["image_id"].to_numpy()
    first = np.ones(len(ids), dtype=bool)
    first[1:] = ids[1:] != ids[:-1]
    keep = rows.filter(pa.array(first))
    original = keep["uri"].take(pa.array(np.cumsum(first) - 1)) if len(ids) else rows["uri"]
    duplicates = rows.append_column("same_as", original).filter(pa.array(~first))
    return Decision(keep, duplicates, sorted(rejects, key=lambda row: row["uri"]))


def reject(uri: str, reason: str, message: str) -> dict[str, str]:
    """A row of ``rejects/``."""
    return {"uri": uri, "reason": reason, "message": message}


def plan_shards(keep: pa.Table, config: IngestConfig, plan: Survey) -> list[Shard]:
    """Cut the photographs into shards of one split each, in the order of their ids (which is a random one)."""
    uris, ids = texts(keep["uri"]), texts(keep["image_id"])
    depth_of = match_depth(plan.photographs, plan.depth) if plan.depth is not None else {}
    shards = []
    for split in SPLITS:
        rows = [i for i, image_id in enumerate(ids) if split_of(image_id, config.test_fraction) == split]
        for number, part in enumerate(cut(rows, config.rows_per_file)):
            name = f"{split}-{number:05d}-{plan.fingerprint[:8]}.parquet"
            mine = [uris[i] for i in part]
            shards.append(Shard(name, mine, [ids[i] for i in part], [depth_of.get(uri) for uri in mine]))
    return shards


def cut(rows: Sequence[Any], largest: int) -> list[list[Any]]:
    """Nearly equal consecutive parts: at most ``largest`` long, and several even when there are few rows."""
    count = max(-(-len(rows) // largest), min(_MIN_FILES, len(rows) // _MIN_ROWS), min(1, len(rows)))
    edges = [round(i * len(rows) / count) for i in range(count + 1)] if count else [0]
    return [list(rows[a:b]) for a, b in itertools.pairwise(edges)]
