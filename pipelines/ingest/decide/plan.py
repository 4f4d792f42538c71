"""How accepted photographs are cut into shards, part by part."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipelines.corpus import SPLITS, Location, split_of
from pipelines.ingest.config import IngestConfig
from pipelines.ingest.decide.parts import Work, by_text, gather, load, scatter, store
from pipelines.ingest.decide.rows import SHEET, accepted, changed
from pipelines.ingest.write import SHARD_COLUMNS

ASSIGNED = pa.schema([("row", pa.int64()), ("part", pa.int64()), ("number", pa.int64())])
_MIN_FILES = 8  # a small corpus still gives every worker something to read
_MIN_ROWS = 4


@dataclass(frozen=True)
class PlannedShard:
    """One Parquet file to write: its name, where its rows are (a table of a file), and how many.

    Attributes:
        part, number: of the plan.
        depth: photographs that have a depth map.
    """

    name: str
    uri: str
    part: int
    number: int
    rows: int
    depth: int

    def table(self) -> pa.Table:
        """Read its photographs, in order: ``SHARD_COLUMNS``."""
        return load(self.uri, self.number, SHARD_COLUMNS)


def plan_shards(
    work: Work, config: IngestConfig, held: Sequence[str] = (), sizes: Mapping[str, int] | None = None
) -> list[PlannedShard]:
    """Assign every accepted photograph to a shard and return the shards that have to be written.

    A shard of the present corpus stays when all of its photographs and depth maps do; the others' are written anew. New
    shards hold one split each. Photographs that can be read one by one are ordered by their ids, which is a random
    order; those out of Parquet, Arrow and compressed tar files stay beside their neighbors.

    Args:
        work: holds the sheet; ``shard`` is filled for shards that stay, ``assigned`` says it of the others.
        config: sizes and fractions.
        held: files of ``HELD``: the shards of the present corpus, as far as it was made with the same settings.
        sizes: photographs in each of them.
    """
    found: Counter[str] = Counter()
    for counts in work.run(partial(_found, held=held), work.jobs(sheet="sheet") if held else []):
        found.update(counts)
    staying = sorted(name for name, size in (sizes or {}).items() if size == found[name])
    stay = partial(_stay, held=held, staying=staying, config=config, parts=work.parts)
    work.run(stay, work.jobs(sheet="sheet", out="unplanned"))
    cut_up = partial(_cut, sources=work.places("unplanned"), config=config)
    cuts = work.run(cut_up, work.jobs(out="planned", assigned="assigned"))
    work.clear_stage("unplanned")
    numbers = {split: _next_number(staying, split) for split in SPLITS}
    shards = []
    for part, number, split, digest, rows, depth in itertools.chain.from_iterable(cuts):
        name = f"{split}-{numbers[split]:05d}-{digest}.parquet"
        numbers[split] += 1
        shards.append(PlannedShard(name, work.place("planned", part), part, number, rows, depth))
    return shards


def _rows_held(sheet: pa.Table, held: pa.Table) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return accepted rows that the corpus holds, with the same depth map; and the shards that they are in."""
    rows = accepted(sheet)
    keys = ["image_id", "depth"]
    mine = sheet.select(keys).take(pa.array(rows)).append_column("row", pa.array(rows))
    # a join takes no null for equal to another
    mine, held = (t.set_column(1, "depth", pc.fill_null(t["depth"], "")) for t in (mine.select([*keys, "row"]), held))
    joined = mine.join(held, keys, join_type="inner")
    return joined["row"].to_numpy(), np.array(joined["shard"].to_pylist(), dtype=object)


def _found(part: int, sheet: str, held: Sequence[str]) -> dict[str, int]:
    _, shards = _rows_held(load(sheet), gather(held, part))
    return dict(Counter(shards.tolist()))


def _stay(
    part: int, sheet: str, out: str, held: Sequence[str], staying: Sequence[str], config: IngestConfig, parts: int
) -> None:
    table = load(sheet)
    rows, shards = _rows_held(table, gather(held, part)) if held else (np.zeros(0, np.int64), np.zeros(0, object))
    stay = np.isin(shards.astype(str), np.array(staying, dtype=str))
    store(sheet, SHEET, [table := changed(table, rows[stay], shard=shards[stay])])
    rows = accepted(table)
    rows = rows[np.asarray(pc.equal(table["shard"], ""))[rows]]
    table = table.take(pa.array(rows))
    splits = [split_of(key, config.test_fraction) for key in _split_keys(table)]
    order, target = _order(table, part, parts)
    table = table.select(SHARD_COLUMNS).append_column("split", pa.array(splits, pa.string()))
    table = table.append_column("order", pa.array(order, pa.string())).append_column(
        "row", pa.array((part << 32) + rows)
    )
    scatter(out, table, target, parts)


def _split_keys(table: pa.Table) -> Iterable[str]:
    """Yield a hash of the scene where it is known, so that its hazy and its clear photographs are on one side; else the
    id.
    """
    for image_id, scene in zip(table["image_id"].to_pylist(), table["pair_id"].to_pylist(), strict=True):
        yield image_id if scene is None else hashlib.sha256(scene.encode()).hexdigest()


def _order(table: pa.Table, part: int, parts: int) -> tuple[list[str], NDArray[np.int64]]:
    """Return the keys that photographs are sorted by, and the parts of the plan that they go to."""
    order, containers = [], []
    for text, image_id in zip(table["place"].to_pylist(), table["image_id"].to_pylist(), strict=True):
        place = Location.of(text)
        # The first digit keeps the two kinds apart; zeros before the position make texts sort as numbers do.
        order.append(f"1 {place.container} {place.position:012d}" if place.sequential else f"0 {image_id}")
        containers.append(place.container if place.sequential else None)
    column = pa.chunked_array([pa.array(containers, pa.string())])
    near = np.asarray(pc.is_valid(column))
    # Neighbors in a container have to meet in one part of the plan; the others stay in the part of the sheet.
    target = np.full(len(order), part)
    target[near] = by_text(column.filter(pa.array(near)), parts)
    return order, target


def _cut(part: int, out: str, assigned: str, sources: Sequence[str], config: IngestConfig) -> list[list[Any]]:
    table = gather(sources, part)
    parts: list[pa.Table] = []
    shards = []
    for split in SPLITS:
        mine = table.filter(pc.equal(table["split"], split)).sort_by([("order", "ascending"), ("row", "ascending")])
        for rows in cut(_stored_bytes(mine, config), config.shard_mb * 2**20):
            piece = mine.slice(rows[0], len(rows))
            depth = piece.num_rows - piece["depth"].null_count
            shards.append([part, len(parts), split, _digest(piece, config), piece.num_rows, depth])
            parts.append(piece)
    store(out, table.schema, parts)
    rows = np.concatenate([np.zeros(0, np.int64), *(piece["row"].to_numpy() for piece in parts)])
    numbers = np.repeat(np.arange(len(parts)), [piece.num_rows for piece in parts])
    found = pa.table([rows, np.full(len(rows), part), numbers], schema=ASSIGNED)
    # The upper 32 bits of a row are its part of the sheet.
    scatter(assigned, found, rows >> 32, len(sources))
    return shards


def _stored_bytes(table: pa.Table, config: IngestConfig) -> NDArray[Any]:
    """About how many bytes each photograph and its depth map will take."""
    width, height, size = (table[name].to_numpy().astype(np.float64) for name in ("width", "height", "size"))
    scale = np.minimum(1.0, (config.max_side or np.inf) / np.maximum(1, np.maximum(width, height)))
    depth = np.where(np.asarray(pc.is_valid(table["depth"])), 0.7 * width * height, 0.0)
    return np.asarray((size + depth) * scale**2)


def cut(sizes: NDArray[Any], largest: float) -> list[NDArray[Any]]:
    """Cut rows into consecutive parts of about equal size, at most about ``largest``, and several even when there are
    few rows.
    """
    if not len(sizes):
        return []
    total = np.cumsum(sizes)
    count = max(int(-(-total[-1] // largest)), min(_MIN_FILES, len(sizes) // _MIN_ROWS), 1)
    # The rows at which each share of the bytes is reached; a photograph larger than a share makes equal edges.
    edges = np.searchsorted(total, np.arange(1, count) * total[-1] / count)
    bounds = [0, *np.unique(edges).tolist(), len(sizes)]
    return [np.arange(a, b) for a, b in itertools.pairwise(bounds) if b > a]


def _next_number(names: Sequence[str], split: str) -> int:
    numbers = [int(name.split("-")[1]) for name in names if name.startswith(f"{split}-")]
    return max(numbers, default=-1) + 1


def _digest(piece: pa.Table, config: IngestConfig) -> str:
    """Return a digest of a shard's content: a file of that name that is there already need not be written again."""
    ids, depth = piece["image_id"].to_pylist(), piece["depth"].to_pylist()
    content = [config.storing(), ids, depth, config.rows_per_group]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:8]
