"""A label pool to look into, without Ray: the stores of a run, running or not, or a snapshot."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import fs as pafs

from models.config import PoolError
from pseudolabel.pool import (
    MANIFEST,
    Header,
    History,
    LabelPool,
    Manifest,
    PoolStats,
    Record,
    SnapshotError,
    child,
    locate,
    read_manifest,
    read_part,
    record_of,
    shard_folder,
    together,
)

_SHARD = re.compile(r"shard-(\d{5})-of-(\d{5})")
_SUGGESTED = 5


class Contents(Protocol):
    """What a pool holds; each method shows one moment, and never changes anything."""

    @property
    def kind(self) -> str:
        """What it is, in a few words."""
        ...

    def stats(self) -> PoolStats:
        """Its statistics."""
        ...

    def history(self) -> History:
        """What became of the offers over time."""
        ...

    def headers(self) -> Iterator[tuple[str, Header]]:
        """Identifiers and scores, without reading the images."""
        ...

    def find(self, image_ids: Sequence[str]) -> dict[str, Record]:
        """The records of some photographs; those it does not hold are left out."""
        ...

    def records(self) -> Iterator[Record]:
        """All records, one after the other."""
        ...

    def __enter__(self) -> Self:
        """Open it."""
        ...

    def __exit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close it."""
        ...


class _Base:
    def __enter__(self) -> Self:
        self._stack = ExitStack()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()


class StoreContents(_Base):
    """The stores of a run on this machine; their owner may go on writing."""

    def __init__(self, folders: Sequence[Path], shards: int) -> None:
        """Look into `folders`, of as many or fewer than `shards`."""
        self._folders, self._shards = folders, shards
        self._pools: list[LabelPool] = []

    def __enter__(self) -> Self:
        """Open the stores for reading.

        Raises:
            PoolError: one of them cannot be read.
        """
        super().__enter__()
        with ExitStack() as opened:
            self._pools = [opened.enter_context(closing(LabelPool(path, readonly=True))) for path in self._folders]
            self._stack = opened.pop_all()
        return self

    @property
    def kind(self) -> str:
        """What it is, in a few words."""
        here = len(self._folders)
        whole = "1 shard" if self._shards == 1 else f"{self._shards} shards"
        return f"store of {whole}" if here == self._shards else f"{here} of {whole}: the others are not on this machine"

    def stats(self) -> PoolStats:
        """Its statistics."""
        return PoolStats.merged([pool.stats() for pool in self._pools])

    def history(self) -> History:
        """What became of the offers over time."""
        return together([pool.history() for pool in self._pools])

    def headers(self) -> Iterator[tuple[str, Header]]:
        """Identifiers and scores, without reading the images."""
        for pool in self._pools:
            yield from pool.headers()

    def find(self, image_ids: Sequence[str]) -> dict[str, Record]:
        """The records of some photographs; those it does not hold are left out."""
        found = [record for pool in self._pools for record in pool.fetch_records(image_ids)]
        return {record.image_id: record for record in found if record is not None}

    def records(self) -> Iterator[Record]:
        """All records, one after the other."""
        for pool in self._pools:
            yield from pool.records()


class SnapshotContents(_Base):
    """A snapshot, wherever `pyarrow.fs` can read."""

    def __init__(self, uri: str, manifest: Manifest) -> None:
        """Look into the snapshot at `uri`."""
        self._uri, self._manifest = uri, manifest

    @property
    def kind(self) -> str:
        """What it is, in a few words."""
        step = self._manifest.step
        return "snapshot" if step is None else f"snapshot that belongs to the checkpoint of step {step}"

    def stats(self) -> PoolStats:
        """Its statistics."""
        return PoolStats.merged([PoolStats.of(part.counters) for part in self._manifest.parts])

    def history(self) -> History:
        """What became of the offers over time."""
        return together([part.history for part in self._manifest.parts])

    def headers(self) -> Iterator[tuple[str, Header]]:
        """Identifiers and scores, without reading the images."""
        names = ["image_id", *Header._fields]
        for batch in (batch for file in self._files() for batch in file.iter_batches(columns=names)):
            for image_id, *scores in zip(*(batch[name].to_pylist() for name in names), strict=True):
                yield image_id, Header._make(scores)

    def find(self, image_ids: Sequence[str]) -> dict[str, Record]:
        """The records of some photographs; those it does not hold are left out."""
        wanted = set(image_ids)
        found: dict[str, Record] = {}
        for file in self._files():
            for group in range(file.num_row_groups if len(found) < len(image_ids) else 0):
                names = file.read_row_group(group, columns=["image_id"])["image_id"].to_pylist()
                if here := [row for row, name in enumerate(names) if name in wanted]:
                    records = map(record_of, file.read_row_group(group).take(here).to_pylist())
                    found |= {record.image_id: record for record in records}
        return found

    def records(self) -> Iterator[Record]:
        """All records, one after the other."""
        for part in self._manifest.parts:
            for chunk in read_part(self._uri, part):
                yield from chunk

    def _files(self) -> Iterator[Any]:
        filesystem, folder = locate(self._uri)
        for file in (file for part in self._manifest.parts for file in part.files):
            try:
                with filesystem.open_input_file(f"{folder}/{file.name}") as source:
                    yield pq.ParquetFile(source)
            except (OSError, pa.ArrowException, KeyError) as problem:
                raise SnapshotError(f"cannot read {file.name} of the snapshot {self._uri}: {problem}") from problem


def open_contents(pool: str) -> Contents:
    """The pool at a folder or URI, to be used in a `with` statement.

    Args:
        pool: folder of a run's stores, folder of one store, or a snapshot (path or URI).

    Raises:
        PoolError: there is no pool; pools below it are named.
        SnapshotError: a snapshot that is incomplete or cannot be read.
    """
    filesystem, folder = _located(pool)
    if filesystem.get_file_info(f"{folder}/{MANIFEST}").type == pafs.FileType.File:
        return SnapshotContents(pool, read_manifest(pool))
    if isinstance(filesystem, pafs.LocalFileSystem):
        stores = _stores(Path(folder))
        if stores is not None:
            return stores
        if not Path(folder).is_dir():
            raise PoolError(f"there is no folder {folder}: give the folder of a label pool or of a snapshot of it")
    below = _pools_below(filesystem, folder)
    hint = f"; look into {' or '.join(child(pool, name) for name in below)}" if below else ""
    raise PoolError(f"{pool} is neither a label pool nor a snapshot of one{hint}")


def _located(pool: str) -> tuple[pafs.FileSystem, str]:
    try:
        return locate(pool)
    except (pa.ArrowException, ValueError) as problem:
        raise PoolError(f"cannot open '{pool}': {problem}") from problem


def _stores(folder: Path) -> StoreContents | None:
    if (folder / "data.mdb").is_file():
        return StoreContents([folder], 1)
    found = sorted(path for path in folder.glob("shard-*") if _SHARD.fullmatch(path.name))
    counts = {int(path.name.rpartition("-")[2]) for path in found}
    if len(counts) > 1:
        names = " or ".join(str(folder / shard_folder(0, count)) for count in sorted(counts))
        raise PoolError(f"{folder} holds pools of {sorted(counts)} shards: look into one shard, such as {names}")
    return StoreContents(found, counts.pop()) if counts else None


def _pools_below(filesystem: pafs.FileSystem, folder: str) -> list[str]:
    """Pools and snapshots up to three folders down, as in the output folder of a run; paths below `folder`."""
    found = sorted(_holders(filesystem, folder, depth=3))
    return [path.removeprefix(f"{folder}/") for path in found][-_SUGGESTED:]


def _holders(filesystem: pafs.FileSystem, folder: str, depth: int) -> Iterator[str]:
    below = filesystem.get_file_info(pafs.FileSelector(folder, allow_not_found=True))
    names = {info.base_name for info in below}
    snapshot = MANIFEST in names and any(name.startswith("labels-") for name in names)
    if snapshot or "data.mdb" in names or any(_SHARD.fullmatch(name) for name in names):
        yield folder
    elif depth:
        for info in below:
            if info.type == pafs.FileType.Directory:
                yield from _holders(filesystem, info.path, depth - 1)
