"""The label pool: the best pseudo label of every photograph, kept so that nothing acknowledged is ever lost.

No Ray here. One `LabelPool` is one shard; `pseudolabel.actors` puts each behind an actor and `pseudolabel.client`
makes them one pool again.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import lmdb

from pseudolabel.coherence import admits
from pseudolabel.entries import LabelEntry, PoolError, Record, shard_of, to_entry, to_record
from pseudolabel.rows import TABLES, Rows
from pseudolabel.snapshots import (
    Counters,
    Manifest,
    Part,
    SnapshotError,
    read_manifest,
    read_part,
    write_manifest,
    write_part,
)
from pseudolabel.store import Store

__all__ = ["LabelEntry", "LabelPool", "PoolError", "PoolStats", "Record", "SnapshotError"]

VERSION = b"1"


@dataclass(frozen=True)
class PoolStats:
    """Statistics of a pool or of several shards together; means are 0 while it is empty.

    `offered`, `accepted` and `replaced` count over the pool's whole life, restarts and restores included. A call that
    was retried counts again: they are indicators, while `size` and the means are exact.
    """

    size: int = 0
    offered: int = 0
    accepted: int = 0
    replaced: int = 0
    acceptance_rate: float = 0.0
    mean_clearness: float = 0.0
    mean_quality: float = 0.0
    mean_teacher_step: float = 0.0

    @classmethod
    def of(cls, counters: Counters) -> PoolStats:
        """Statistics from counters."""
        size = max(counters.size, 1)
        return cls(
            size=counters.size,
            offered=counters.offered,
            accepted=counters.accepted,
            replaced=counters.replaced,
            acceptance_rate=counters.accepted / max(counters.offered, 1),
            mean_clearness=counters.clearness_sum / size,
            mean_quality=counters.quality_sum / size,
            mean_teacher_step=counters.step_sum / size,
        )

    @classmethod
    def merged(cls, shards: Sequence[PoolStats]) -> PoolStats:
        """Statistics of all `shards` together; means are weighted by size."""
        total = Counters(
            size=sum(s.size for s in shards),
            offered=sum(s.offered for s in shards),
            accepted=sum(s.accepted for s in shards),
            replaced=sum(s.replaced for s in shards),
            clearness_sum=sum(s.mean_clearness * s.size for s in shards),
            quality_sum=sum(s.mean_quality * s.size for s in shards),
            step_sum=sum(round(s.mean_teacher_step * s.size) for s in shards),
        )
        return cls.of(total)


class LabelPool:
    """A durable pool of labels in one folder.

    Its memory does not grow with what it holds: scores, counters and images are all in the store, and a lookup touches
    a few pages of it. Several threads may use one pool; its folder belongs to one process at a time.
    """

    def __init__(self, path: str | Path, *, map_size: int = 1 << 30, sync: bool = True, patience: float = 10.0) -> None:
        """Open the pool at `path`, or make an empty one there.

        Args:
            path, map_size, sync, patience: see :class:`pseudolabel.store.Store`.

        Raises:
            PoolError: the folder cannot be used, or holds another version.
        """
        self._store = Store(path, databases=TABLES, map_size=map_size, sync=sync, patience=patience)
        self.path = self._store.path
        version = self._store.write(lambda transaction: self._rows(transaction).version(VERSION))
        if version != VERSION:
            self.close()
            raise PoolError(f"the label pool at {path} has version {version!r}; this program reads {VERSION!r}")

    def offer(self, entries: Sequence[LabelEntry]) -> list[bool]:
        """Offer candidates; see :meth:`offer_records`.

        Raises:
            ValueError: an entry has the wrong shape or type; none of them was offered.
            PoolError: the store cannot be written; none of them was taken.
        """
        return self.offer_records([to_record(entry) for entry in entries])

    def offer_records(self, records: Sequence[Record]) -> list[bool]:
        """Offer candidates one after the other, and commit before answering.

        Each is admitted by :func:`pseudolabel.coherence.admits`. A candidate with the very scores and teacher step of
        what is held is the same offer again, from a call that was retried: it is acknowledged, but nothing is written
        and it does not count as a replacement.

        Returns:
            For each candidate whether it was accepted. What was accepted survives the death of the process.
        """
        if not records:
            return []
        return self._store.write(lambda transaction: _offer(self._rows(transaction), records))

    def fetch(self, image_ids: Sequence[str]) -> list[LabelEntry | None]:
        """Entries in the order of `image_ids`, None where there is none."""
        return [None if record is None else to_entry(record) for record in self.fetch_records(image_ids)]

    def fetch_records(self, image_ids: Sequence[str]) -> list[Record | None]:
        """Like :meth:`fetch`, still compressed."""
        with self._store.read() as transaction:
            rows = self._rows(transaction)
            return [rows.get(image_id) for image_id in image_ids]

    def ids(self) -> list[str]:
        """Identifiers of all photographs that have a label, sorted."""
        with self._store.read() as transaction:
            return list(self._rows(transaction).ids())

    def stats(self) -> PoolStats:
        """Statistics, in the same time however large the pool is."""
        with self._store.read() as transaction:
            return PoolStats.of(self._rows(transaction).counters())

    def snapshot(self, uri: str | Path) -> None:
        """Write the pool of this moment to `uri` as Parquet, atomically; offers may go on meanwhile.

        Raises:
            SnapshotError: the place cannot be written; an older snapshot there stays valid.
        """
        write_manifest(uri, Manifest(parts=(self.snapshot_part(uri, new_name()),)))

    def snapshot_part(self, uri: str | Path, name: str) -> Part:
        """Write this shard's files of a snapshot; the caller completes it with the manifest of all parts.

        Args:
            uri: folder of the snapshot.
            name: new for each snapshot and shard; the same again overwrites its own files.
        """
        with self._store.read() as transaction:
            rows = self._rows(transaction)
            return write_part(uri, name, rows.records(), rows.counters())

    def restore(self, uri: str | Path, shard: int = 0, shards: int = 1) -> None:
        """Replace the content by that of a snapshot, taken with any number of shards.

        The old content stays until all of the new is in the store, also when the process dies in between. What is
        offered meanwhile goes to the old content.

        Args:
            uri: folder of the snapshot.
            shard, shards: keep only what belongs to this shard of so many.

        Raises:
            SnapshotError: the snapshot is missing, incomplete or unreadable; the pool is as it was.
            PoolError: the store cannot be written; the pool is as it was.
        """
        manifest = read_manifest(uri)
        same = len(manifest.parts) == shards
        self._store.write(lambda transaction: self._rows(transaction, idle=True).clear())
        counters = Counters()
        for part in (manifest.parts[shard],) if same else manifest.parts:
            for chunk in read_part(uri, part):
                mine = [record for record in chunk if same or shard_of(record.image_id, shards) == shard]
                counters = _added(counters, mine)
                self._fill(mine)
        self._go_live(manifest.parts[shard].counters if same else _with_history(counters, manifest, shard))

    def close(self) -> None:
        """Close the store; safe to call twice."""
        self._store.close()

    def _rows(self, transaction: lmdb.Transaction, *, idle: bool = False) -> Rows:
        return Rows(transaction, self._store.tables, idle=idle)

    def _fill(self, records: Sequence[Record]) -> None:
        def work(transaction: lmdb.Transaction) -> None:
            rows = self._rows(transaction, idle=True)
            for record in records:
                rows.put(record)

        self._store.write(work)

    def _go_live(self, counters: Counters) -> None:
        def work(transaction: lmdb.Transaction) -> None:
            rows = self._rows(transaction, idle=True)
            rows.go_live()
            rows.count(counters)

        self._store.write(work)


def new_name() -> str:
    """A name for :meth:`LabelPool.snapshot_part` that was never used before."""
    return uuid.uuid4().hex[:12]


def _offer(rows: Rows, records: Sequence[Record]) -> list[bool]:
    total = rows.counters().model_dump()
    answers = []
    for new in records:
        old = rows.header(new.image_id)
        accepted = admits(old and old.clearness, old and old.quality, new.clearness, new.quality)
        again = old == (new.clearness, new.quality, new.teacher_step)
        if accepted and not again:
            rows.put(new)
            total["size"] += old is None
            total["replaced"] += old is not None
            total["clearness_sum"] += new.clearness - (old.clearness if old else 0)
            total["quality_sum"] += new.quality - (old.quality if old else 0)
            total["step_sum"] += new.teacher_step - (old.teacher_step if old else 0)
        answers.append(accepted)
    total["offered"] += len(records)
    total["accepted"] += sum(answers)
    rows.count(Counters(**total))
    return answers


def _added(counters: Counters, records: Sequence[Record]) -> Counters:
    return counters.model_copy(
        update={
            "size": counters.size + len(records),
            "clearness_sum": counters.clearness_sum + sum(r.clearness for r in records),
            "quality_sum": counters.quality_sum + sum(r.quality for r in records),
            "step_sum": counters.step_sum + sum(r.teacher_step for r in records),
        }
    )


def _with_history(counters: Counters, manifest: Manifest, shard: int) -> Counters:
    """With another number of shards nobody knows who was offered what: the first takes the history of all."""
    names = ("offered", "accepted", "replaced") if shard == 0 else ()
    return counters.model_copy(update={n: sum(getattr(p.counters, n) for p in manifest.parts) for n in names})
