"""The label pool: the best pseudo label of every photograph, kept so that nothing acknowledged is ever lost.

No Ray here. One `LabelPool` is one shard; `pseudolabel.pool.actors` puts each behind an actor and
`pseudolabel.pool.client` makes them one pool again.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import lmdb

from models.config import PoolError
from pseudolabel.coherence import admits
from pseudolabel.pool.entries import LabelEntry, Record, shard_of, to_entry, to_record
from pseudolabel.pool.history import History, Moment, bounded, together
from pseudolabel.pool.rows import TABLES, Header, Identity, Rows
from pseudolabel.pool.snapshots import (
    Counters,
    Manifest,
    Part,
    SnapshotError,
    read_manifest,
    read_part,
    write_manifest,
    write_part,
)
from pseudolabel.pool.stats import PoolStats
from pseudolabel.pool.store import Store

__all__ = ["Identity", "LabelEntry", "LabelPool", "PoolError", "PoolStats", "Record", "SnapshotError"]

VERSION = b"1"


class LabelPool:
    """A durable pool of labels in one folder.

    Its memory does not grow with what it holds: scores, counters and images are all in the store, and a lookup touches
    a few pages of it. Several threads may use one pool; its folder belongs to one process at a time.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        map_size: int = 1 << 30,
        sync: bool = True,
        patience: float = 10.0,
        readonly: bool = False,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Open the pool at `path`, or make an empty one there.

        Args:
            path, map_size, sync, patience, readonly: see :class:`pseudolabel.pool.store.Store`.
            clock: seconds since 1970, for the history.

        Raises:
            PoolError: the folder cannot be used, or holds another version.
        """
        self._store = Store(path, databases=TABLES, map_size=map_size, sync=sync, patience=patience, readonly=readonly)
        self.path = self._store.path
        self.restored = 0  # labels read so far by the restore that is under way, or by the last one
        self._clock = clock
        version = self._version() if readonly else self._store.write(lambda t: self._rows(t).version(VERSION))
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
        return self._store.write(lambda transaction: _offer(self._rows(transaction), records, int(self._clock())))

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

    def headers(self) -> Iterator[tuple[str, Header]]:
        """Identifiers and scores of one moment, in order of the identifiers, without reading the images."""
        with self._store.read() as transaction:
            yield from self._rows(transaction).headers()

    def records(self) -> Iterator[Record]:
        """All records of one moment, in order of their identifiers."""
        with self._store.read() as transaction:
            yield from self._rows(transaction).records()

    def stats(self) -> PoolStats:
        """Statistics, in the same time however large the pool is."""
        with self._store.read() as transaction:
            return PoolStats.of(self._rows(transaction).counters())

    def footprint(self) -> tuple[int, int]:
        """Bytes of the index (identifiers and scores, what admission reads) and of the labels; both are on the disk."""
        with self._store.read() as transaction:
            return self._rows(transaction).footprint()

    def history(self) -> History:
        """What became of the offers over time."""
        with self._store.read() as transaction:
            return self._rows(transaction).history()

    def settled(self) -> bool:
        """Whether the pool has begun its life; one whose folder was lost, or that is new, has not."""
        with self._store.read() as transaction:
            return self._rows(transaction).settled()

    def settle(self) -> None:
        """Begin with what is there; :meth:`restore` does so too."""
        self._store.write(lambda transaction: self._rows(transaction).settle())

    def identity(self) -> Identity:
        """Whose pool this is."""
        with self._store.read() as transaction:
            return self._rows(transaction).identity()

    def identify(self, identity: Identity) -> None:
        """Note whose pool this is."""
        self._store.write(lambda transaction: self._rows(transaction).identify(identity))

    def snapshot(self, uri: str | Path, step: int | None = None) -> None:
        """Write the pool of this moment to `uri` as Parquet, atomically; offers may go on meanwhile.

        Args:
            uri: folder of the snapshot.
            step: of the training checkpoint that it belongs to.

        Raises:
            SnapshotError: the place cannot be written; an older snapshot there stays valid.
        """
        part = self.snapshot_part(uri, new_name())
        write_manifest(uri, Manifest(parts=(part,), taken=self._clock(), step=step))

    def snapshot_part(self, uri: str | Path, name: str) -> Part:
        """Write this shard's files of a snapshot; the caller completes it with the manifest of all parts.

        Args:
            uri: folder of the snapshot.
            name: new for each snapshot and shard; the same again overwrites its own files.
        """
        with self._store.read() as transaction:
            rows = self._rows(transaction)
            files = write_part(uri, name, rows.records())
            return Part(counters=rows.counters(), files=files, history=rows.history(), run=rows.identity().run)

    def restore(self, uri: str | Path, shard: int = 0, shards: int = 1, step: int | None = None) -> None:
        """Replace the content by that of a snapshot, taken with any number of shards.

        The old content stays until all of the new is in the store, also when the process dies in between. What is
        offered meanwhile goes to the old content.

        Args:
            uri: folder of the snapshot.
            shard, shards: keep only what belongs to this shard of so many.
            step: of the training checkpoint that it must belong to; None takes any.

        Raises:
            SnapshotError: the snapshot is missing, incomplete, unreadable or of another step; the pool is as it was.
            PoolError: the store cannot be written; the pool is as it was.
        """
        manifest = read_manifest(uri, step)
        same = len(manifest.parts) == shards
        self.restored = 0
        with self._emptied():
            counters = Counters()
            for part in (manifest.parts[shard],) if same else manifest.parts:
                for chunk in read_part(uri, part):
                    mine = [record for record in chunk if same or shard_of(record.image_id, shards) == shard]
                    counters = _added(counters, mine)
                    self._fill(mine)
                    self.restored += len(mine)
            if same:
                self._go_live(manifest.parts[shard].counters, manifest.parts[shard].history)
            else:
                counters = _with_totals(counters, manifest, shard)
                self._go_live(counters, _history_of(counters, manifest, shard))

    def close(self) -> None:
        """Close the store; safe to call twice."""
        self._store.close()

    def _version(self) -> bytes:
        with self._store.read() as transaction:
            return self._rows(transaction).version(None)

    def _rows(self, transaction: lmdb.Transaction, *, idle: bool = False) -> Rows:
        return Rows(transaction, self._store.tables, idle=idle)

    @contextmanager
    def _emptied(self) -> Iterator[None]:
        """The idle side to fill: empty at first, and again after a failure, for nobody would read what it holds."""
        self._clear()
        try:
            yield
        except BaseException:
            with suppress(PoolError):  # what went wrong first is what to tell; the next restore clears it too
                self._clear()
            raise

    def _clear(self) -> None:
        self._store.write(lambda transaction: self._rows(transaction, idle=True).clear())

    def _fill(self, records: Sequence[Record]) -> None:
        def work(transaction: lmdb.Transaction) -> None:
            rows = self._rows(transaction, idle=True)
            for record in records:
                rows.put(record)

        self._store.write(work)

    def _go_live(self, counters: Counters, history: History) -> None:
        def work(transaction: lmdb.Transaction) -> None:
            rows = self._rows(transaction, idle=True)
            rows.go_live()
            rows.count(counters)
            rows.remember(history)
            rows.settle()

        self._store.write(work)


def new_name() -> str:
    """A name for :meth:`LabelPool.snapshot_part` that was never used before."""
    return uuid.uuid4().hex[:12]


def _offer(rows: Rows, records: Sequence[Record], now: int) -> list[bool]:
    before = rows.counters()
    total = before.model_dump()
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
    after = Counters(**total)
    rows.count(after)
    rows.log(_moment(now, after, before, max(record.teacher_step for record in records)))
    return answers


def _moment(at: int, after: Counters, before: Counters, step: int) -> Moment:
    """What happened between two states of the counters."""
    return Moment(
        at=at,
        offered=after.offered - before.offered,
        accepted=after.accepted - before.accepted,
        replaced=after.replaced - before.replaced,
        size=after.size,
        clearness_sum=after.clearness_sum,
        quality_sum=after.quality_sum,
        step=step,
    )


def _added(counters: Counters, records: Sequence[Record]) -> Counters:
    return counters.model_copy(
        update={
            "size": counters.size + len(records),
            "clearness_sum": counters.clearness_sum + sum(r.clearness for r in records),
            "quality_sum": counters.quality_sum + sum(r.quality for r in records),
            "step_sum": counters.step_sum + sum(r.teacher_step for r in records),
        }
    )


def _with_totals(counters: Counters, manifest: Manifest, shard: int) -> Counters:
    """With another number of shards nobody knows who was offered what: the first takes the counts of all."""
    names = ("offered", "accepted", "replaced") if shard == 0 else ()
    return counters.model_copy(update={n: sum(getattr(p.counters, n) for p in manifest.parts) for n in names})


def _history_of(counters: Counters, manifest: Manifest, shard: int) -> History:
    """The first shard takes the history of all too; each begins with a moment that says what it holds now."""
    past = together([part.history for part in manifest.parts])
    if not past.moments:
        return past
    begin = _moment(past.last + 1, counters, counters, past.moments[-1].step)
    return bounded(past.model_copy(update={"moments": (*(past.moments if shard == 0 else ()), begin)}))
