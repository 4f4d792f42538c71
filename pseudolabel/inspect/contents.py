"""A label pool to look into, without Ray: the stores of a run, going on or not, or a snapshot. Nothing is changed."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pyarrow import fs as pafs

from models.config import PoolError
from models.paths import absolute, child, filesystem, is_local
from pseudolabel.pool import (
    MANIFEST,
    History,
    LabelPool,
    PoolStats,
    Record,
    SnapshotError,
    is_store,
    path_of,
    read_manifest,
    record_of,
    shard_folder,
    together,
)

_SHARD = re.compile(r"shard-\d{5}-of-(\d{5})")
_SCORES = ("image_id", "clearness", "quality", "teacher_step")
_BATCH = 256


@dataclass(frozen=True)
class Contents:
    """What a pool holds.

    Attributes:
        kind: what it is, in a few words.
        stats: its statistics.
        history: what became of the offers over time.
        scores: a row per label: `image_id`, `clearness`, `quality`, `teacher_step`.
        records: yields the records of some photographs; those that are gone meanwhile are left out.
    """

    kind: str
    stats: PoolStats
    history: History
    scores: pa.Table
    records: Callable[[Sequence[str]], Iterator[Record]]


def open_contents(pool: str) -> Contents:
    """Open the pool at a folder or URI.

    Args:
        pool: folder of a run's stores, folder of one store, or a snapshot (path or URI).

    Raises:
        ConfigError: a URI that pyarrow does not understand.
        PoolError: there is no pool; pools below it are named.
        SnapshotError: a snapshot that is incomplete or cannot be read.
    """
    files, folder = filesystem(absolute(pool))
    if files.get_file_info(f"{folder}/{MANIFEST}").type == pafs.FileType.File:
        return _of_snapshot(pool)
    if is_local(files):
        if stores := _stores(Path(folder)):
            return _of_stores(*stores)
        if not Path(folder).is_dir():
            raise PoolError(f"there is no folder {folder}: give the folder of a label pool or of a snapshot of it")
    below = [child(str(pool), path.removeprefix(f"{folder}/")) for path in sorted(_holders(files, folder, 3))]
    hint = f"; look into {' or '.join(below[-5:])}" if below else ""
    raise PoolError(f"{pool} is neither a label pool nor a snapshot of one{hint}")


def rows(file: Any, image_ids: Collection[str], columns: Sequence[str] | None = None) -> Iterator[dict[str, Any]]:
    """Yield rows of a Parquet file with these `image_id`; of row groups that have none, no other column is read."""
    wanted = pa.array(image_ids, pa.string())
    for group in range(file.num_row_groups):
        # Identifiers first; they are small, and labels are not.
        found = pc.is_in(file.read_row_group(group, ["image_id"])["image_id"], value_set=wanted)
        if pc.any(found).as_py():
            yield from file.read_row_group(group, columns).filter(found).to_pylist()


def _of_stores(folders: Sequence[Path], shards: int) -> Contents:
    pools = [LabelPool(path, readonly=True) for path in folders]

    def records(image_ids: Sequence[str]) -> Iterator[Record]:
        for first in range(0, len(image_ids), _BATCH):  # a reading apiece, so that none lasts
            for pool in pools:
                yield from filter(None, pool.fetch_records(image_ids[first : first + _BATCH]))

    whole = "1 shard" if shards == 1 else f"{shards} shards"
    kind = f"store of {whole}"
    if len(pools) < shards:
        kind = f"{len(pools)} of {whole}: the others are not on this machine"
    stats, history = PoolStats.merged([pool.stats() for pool in pools]), together([pool.history() for pool in pools])
    scores = [pa.table(list(zip(*found, strict=True)), _SCORES) for pool in pools if (found := pool.scores())]
    return Contents(kind, stats, history, pa.concat_tables(scores) if scores else _nothing(), records)


def _of_snapshot(uri: str) -> Contents:
    manifest = read_manifest(uri)
    files, folder = filesystem(absolute(uri))
    names = [file.name for part in manifest.parts for file in part.files]

    @contextmanager
    def opened(name: str) -> Iterator[Any]:
        try:
            with files.open_input_file(path_of(folder, name)) as source:
                yield pq.ParquetFile(source)
        except (OSError, pa.ArrowException, KeyError) as problem:
            raise SnapshotError(f"cannot read {name} of the snapshot {uri}: {problem}") from problem

    def records(image_ids: Sequence[str]) -> Iterator[Record]:
        wanted = set(image_ids)
        for name in reversed(names):  # a later label replaces an earlier one
            found = set()
            with opened(name) as file:
                for row in rows(file, wanted):
                    found.add(row["image_id"])
                    yield record_of(row)
            wanted -= found

    def scores() -> Iterable[pa.Table]:
        # From the latest file on: of a label that stands in several, the first seen counts.
        known: set[str] = set()
        for name in reversed(names):
            with opened(name) as file:
                table = file.read(_SCORES)
            ids = table["image_id"].to_pylist()
            yield table.filter(pa.array([image_id not in known for image_id in ids], pa.bool_()))
            known.update(ids)

    kind = "snapshot" if manifest.step is None else f"snapshot that belongs to the checkpoint of step {manifest.step}"
    stats = PoolStats.merged(part.counters for part in manifest.parts)
    history = together([part.past(manifest.taken) for part in manifest.parts])
    return Contents(kind, stats, history, pa.concat_tables(scores()) if names else _nothing(), records)


def _nothing() -> pa.Table:
    return pa.table({name: pa.array([], pa.string() if name == "image_id" else pa.float64()) for name in _SCORES})


def _stores(folder: Path) -> tuple[list[Path], int] | None:
    if is_store(folder):
        return [folder], 1
    found = {path: int(known[1]) for path in sorted(folder.glob("*")) if (known := _SHARD.fullmatch(path.name))}
    counts = sorted(set(found.values()))
    if len(counts) > 1:
        names = " or ".join(str(folder / shard_folder(0, count)) for count in counts)
        raise PoolError(f"{folder} holds pools of {counts} shards: look into one shard, such as {names}")
    return (list(found), counts[0]) if counts else None


def _holders(files: pafs.FileSystem, folder: str, depth: int) -> Iterator[str]:
    """Yield pools and snapshots up to ``depth`` folders down, as in the output folder of a run."""
    kinds: dict[str, pafs.FileType] = {}
    with suppress(OSError):  # such as a folder of others, which they keep to themselves
        for info in files.get_file_info(pafs.FileSelector(folder, allow_not_found=True)):
            with suppress(UnicodeDecodeError):  # no name of ours
                kinds[info.base_name] = info.type
    # One that nothing had changed for is its manifest; a corpus has other files beside such a one.
    snapshot = MANIFEST in kinds and all(name == MANIFEST or name.startswith("labels-") for name in kinds)
    if snapshot or any(_SHARD.fullmatch(name) or name.endswith(".sqlite") for name in kinds):
        yield folder
    elif depth:
        for name, kind in kinds.items():
            if kind == pafs.FileType.Directory:
                yield from _holders(files, f"{folder}/{name}", depth - 1)
