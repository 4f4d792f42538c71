"""How accepted photographs are cut into shards. No Ray, no pixels."""

from __future__ import annotations

import hashlib
import itertools
import json
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipelines.corpus import SPLITS, Location, split_of
from pipelines.ingest.config import IngestConfig
from pipelines.ingest.decide import Examined

_MIN_FILES = 8  # a small corpus still gives every worker something to read
_MIN_ROWS = 4


@dataclass(frozen=True)
class PlannedShard:
    """One Parquet file to write: the rows of the sheet that go into it, in order."""

    name: str
    rows: NDArray[Any]


def plan_shards(
    sheet: Examined, config: IngestConfig, existing: dict[str, list[tuple[str, str | None]]]
) -> list[PlannedShard]:
    """Assign every accepted photograph to a shard and return the shards that have to be written.

    A shard of the present corpus stays when all of its photographs and depth maps do; the others' are written anew. New
    shards hold one split each. Photographs that can be read one by one are ordered by their ids, which is a random
    order; those out of Parquet, Arrow and compressed tar files stay beside their neighbors.

    Args:
        sheet: decided; its ``shard`` column is filled.
        config: sizes and fractions.
        existing: by shard of the present corpus the image ids and the places of their depth maps, as far as it was made
            with the same settings.
    """
    rows = sheet.open()
    depth = sheet.table["depth"].to_pylist()
    row_of = {(sheet.ids[row], depth[row]): row for row in rows}
    for name, held in existing.items():
        if held and all(key in row_of for key in held):
            sheet.shard[[row_of[key] for key in held]] = name
    rows = rows[sheet.shard[rows] == ""]
    bytes_ = _stored_bytes(sheet, rows, config)
    splits = np.array([split_of(_split_key(sheet, row), config.test_fraction) for row in rows], dtype=object)
    numbers = {split: _next_number(sheet.shard, split) for split in SPLITS}
    shards = []
    for split in SPLITS:
        mine = np.flatnonzero(splits == split)
        mine = mine[np.argsort(_order(sheet, rows[mine]), kind="stable")]
        for number, part in enumerate(cut(bytes_[mine], config.shard_mb * 2**20), start=numbers[split]):
            chosen = rows[mine[part]]
            name = f"{split}-{number:05d}-{_digest(sheet, chosen, config)}.parquet"
            sheet.shard[chosen] = name
            shards.append(PlannedShard(name, chosen))
    return shards


def _split_key(sheet: Examined, row: int) -> str:
    """A hash: of the scene where it is known, so that its hazy and its clear photographs are on one side."""
    scene = sheet.pairs[row]
    return str(sheet.ids[row]) if scene is None else hashlib.sha256(scene.encode()).hexdigest()


def _order(sheet: Examined, rows: NDArray[Any]) -> NDArray[Any]:
    keys = []
    for row, text in zip(rows, sheet.table["place"].take(pa.array(rows, pa.int64())).to_pylist(), strict=True):
        place = Location.of(text)
        keys.append(f"1 {place.container} {place.position:012d}" if place.sequential else f"0 {sheet.ids[row]}")
    return np.array(keys, dtype=str)


def _stored_bytes(sheet: Examined, rows: NDArray[Any], config: IngestConfig) -> NDArray[Any]:
    """About how many bytes each photograph and its depth map will take."""
    picked = sheet.table.take(pa.array(rows, pa.int64()))
    width, height, size = (picked[name].to_numpy().astype(np.float64) for name in ("width", "height", "size"))
    scale = np.minimum(1.0, (config.max_side or np.inf) / np.maximum(1, np.maximum(width, height)))
    depth = np.where(pc.is_valid(picked["depth"]).to_numpy(zero_copy_only=False), 0.7 * width * height, 0.0)
    return np.asarray((size + depth) * scale**2)


def cut(sizes: NDArray[Any], largest: float) -> list[NDArray[Any]]:
    """Consecutive parts of about equal size, at most about ``largest``, and several even when there are few rows."""
    if not len(sizes):
        return []
    total = np.cumsum(sizes)
    count = max(int(-(-total[-1] // largest)), min(_MIN_FILES, len(sizes) // _MIN_ROWS), 1)
    edges = np.searchsorted(total, np.arange(1, count) * total[-1] / count)
    bounds = [0, *np.unique(edges).tolist(), len(sizes)]
    return [np.arange(a, b) for a, b in itertools.pairwise(bounds) if b > a]


def _next_number(names: NDArray[Any], split: str) -> int:
    numbers = [int(name.split("-")[1]) for name in set(names.tolist()) if name.startswith(f"{split}-")]
    return max(numbers, default=-1) + 1


def _digest(sheet: Examined, rows: NDArray[Any], config: IngestConfig) -> str:
    """Stands for a shard's content: a file of that name that is there already need not be written again."""
    depth = sheet.table["depth"].take(pa.array(rows, pa.int64())).to_pylist()
    content = [config.storing(), sheet.ids[rows].tolist(), depth, config.rows_per_group]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:8]
