"""The label pool: the best pseudo label of every photograph, kept so that nothing acknowledged is ever lost.

No Ray here. One `LabelPool` is one shard; `pseudolabel.pool.actors` puts each behind an actor and
`pseudolabel.pool.client` makes them one pool again.
"""

from __future__ import annotations

import json
import sqlite3
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from models.config import PoolError, Settings
from models.paths import absolute, is_uri
from pseudolabel.coherence import admits
from pseudolabel.pool.entries import LabelEntry, Record, shard_of, to_entry, to_record
from pseudolabel.pool.history import History, Moment, bounded, logged, together
from pseudolabel.pool.increments import files_of, lasting
from pseudolabel.pool.snapshots import (
    MANIFEST,
    Manifest,
    Part,
    full_name,
    read_manifest,
    read_part,
    write_manifest,
    write_part,
)
from pseudolabel.pool.stats import PoolStats
from pseudolabel.pool.store import Store, is_store

# total() of nothing is 0.0, sum() is null.
_SUMS = "select count(*), total(clearness), total(quality), coalesce(sum(teacher_step), 0) from labels"
_PUT = """
    insert into labels values (?, ?, ?, ?, ?, ?, ?, ?, ?)
    on conflict (image_id) do update set
        clearness = excluded.clearness, quality = excluded.quality, teacher_step = excluded.teacher_step,
        label = excluded.label, transmission = excluded.transmission, trust = excluded.trust,
        trust_rows = excluded.trust_rows, trust_columns = excluded.trust_columns
"""


_NOTE = """
    insert into written values (?, ?, ?, ?, ?)
    on conflict (image_id) do update set clearness = excluded.clearness, quality = excluded.quality,
        teacher_step = excluded.teacher_step, file = excluded.file
"""
# A row of a file is live while the label still has the scores and the teacher that were noted.
_LIVE = """
    select file, count(*) from labels indexed by scores join written using (image_id, clearness, quality, teacher_step)
    group by file
"""
# All labels but the live ones of the files that are kept; images are read of these alone.
_CHANGED = """
    select * from labels where image_id in (
        select image_id from labels indexed by scores except
        select image_id from labels indexed by scores join written using (image_id, clearness, quality, teacher_step)
        where file in (select value from json_each(?))
    ) order by image_id
"""


class State(Settings):
    """What a store knows beside its labels.

    Attributes:
        run: id of its run; empty where it has none.
        generation: how often this shard of the run had begun anew when it did.
        settled: whether it has begun its life: something was offered, or it was decided with what it begins.
        history: what became of the offers over time.
    """

    run: str = ""
    generation: int = 0
    settled: bool = False
    history: History = History()


class LabelPool:
    """A durable pool of labels in one folder.

    Its memory does not grow with what it holds: scores and images are all in the store, and a lookup touches a few
    pages of it. Several threads may use one pool; its folder belongs to one process at a time.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        sync: bool = True,
        readonly: bool = False,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Open the pool at `path`, or make an empty one there.

        Args:
            path: see :class:`pseudolabel.pool.store.Store`, for the next two as well.
            sync: wait for the disk.
            readonly: change nothing.
            clock: seconds since 1970, for the history.

        Raises:
            PoolError: the folder is not on this machine, cannot be used, or holds another version, a snapshot, or the
                shards of a pool.
        """
        folder = _folder_of(path)
        self._store = Store(folder, sync=sync, readonly=readonly)
        self.path = self._store.path
        self.restored = 0  # labels read so far by the restore that is under way, or by the last one
        self._clock = clock

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
        with self._store.write() as db:
            return _offer(db, records, int(self._clock()))

    def fetch(self, image_ids: Sequence[str]) -> list[LabelEntry | None]:
        """Return entries in the order of `image_ids`, None where there is none."""
        return [None if record is None else to_entry(record) for record in self.fetch_records(image_ids)]

    def fetch_records(self, image_ids: Sequence[str]) -> list[Record | None]:
        """Do :meth:`fetch` without decompressing."""
        query = "select * from labels where image_id = ?"
        with self._store.read() as db:
            rows = [db.execute(query, [image_id]).fetchone() for image_id in image_ids]
        return [None if row is None else _record(row) for row in rows]

    def ids(self) -> list[str]:
        """Return the identifiers of all photographs that have a label, sorted."""
        return [row[0] for row in self.scores()]

    def scores(self) -> list[tuple[str, float, float, int]]:
        """Return identifiers, clearness, quality and teacher step of all labels, in order of the identifiers."""
        with self._store.read() as db:
            return db.execute("select image_id, clearness, quality, teacher_step from labels order by 1").fetchall()

    def stats(self) -> PoolStats:
        """Return statistics; the scores of all labels are read for them."""
        with self._store.read() as db:
            return _stats(db, _state(db).history)

    def state(self) -> State:
        """Return what is known beside the labels."""
        with self._store.read() as db:
            return _state(db)

    def history(self) -> History:
        """Return what became of the offers over time."""
        return self.state().history

    def begin(self, run: str = "", generation: int = 0) -> None:
        """Note whose pool this is. From now on an empty pool is empty on purpose."""
        with self._store.write() as db:
            _keep(db, _state(db), run=run, generation=generation, settled=True)

    def snapshot(self, uri: str | Path, step: int | None = None, base: str | Path | None = None) -> None:
        """Write the pool of this moment to `uri` as Parquet, atomically; offers may go on meanwhile.

        Args:
            uri: folder of the snapshot.
            step: of the training checkpoint that it belongs to.
            base: an earlier one beside it: only what changed since is written, and both share the rest of their files.
                :func:`pseudolabel.pool.drop_snapshots` removes snapshots that share.

        Raises:
            SnapshotError: the place cannot be written; an older snapshot there stays valid.
        """
        part = self.snapshot_part(uri, new_name(), base)
        write_manifest(uri, Manifest.of((part,), self._clock(), step))

    def snapshot_part(
        self, uri: str | Path, name: str, base: str | Path | None = None, shard: int = 0, shards: int = 1
    ) -> Part:
        """Write this shard's files of a snapshot; the caller completes it with the manifest of all parts.

        Args:
            uri: folder of the snapshot.
            name: new for each snapshot and shard; the same again overwrites its own files.
            base: see :meth:`snapshot`.
            shard: which part it is.
            shards: how many parts there are.
        """
        before = () if base is None else files_of(base, uri, shard, shards)
        with self._store.read() as db:
            state = _state(db)
            files = lasting(before, dict(db.execute(_LIVE).fetchall())) if before else []
            known = json.dumps([file.name for file in files])
            every = "select * from labels order by image_id"
            rows = db.execute(_CHANGED, [known]) if files else db.execute(every)
            # Rows are noted as they pass; with each file that is there, those in it go to the
            # store.
            noted: list[tuple[Any, ...]] = []  # of the file that is being written
            for file in write_part(uri, name, _noting(map(_record, rows), noted)):
                files.append(file)
                self._note(noted[: file.rows], full_name(uri, file.name))
                del noted[: file.rows]
            counters = _stats(db, state.history)
        return Part(counters=counters, files=tuple(files), history=state.history, run=state.run)

    def _note(self, scores: Sequence[tuple[Any, ...]], file: str) -> None:
        """Note that a file of a snapshot has labels with these scores. The snapshot's base says whether it was
        completed.
        """
        with self._store.write() as db:
            db.executemany(_NOTE, ((*values, file) for values in scores))

    def restore(self, uri: str | Path, shard: int = 0, shards: int = 1, step: int | None = None) -> None:
        """Replace the content by that of a snapshot, taken with any number of shards.

        The old content stays until all of the new is in the store, also when the process dies in between. What is
        offered meanwhile goes to the old content.

        Args:
            uri: folder of the snapshot.
            shard: keep only what belongs to this shard.
            shards: of how many.
            step: of the training checkpoint that it must belong to; None takes any.

        Raises:
            SnapshotError: the snapshot is missing, incomplete, unreadable or of another step; the pool is as it was.
            PoolError: the store cannot be written; the pool is as it was.
        """
        manifest = read_manifest(uri, step)
        # With as many shards as then, a part is a shard's own; else each looks through all of them.
        same = len(manifest.parts) == shards
        parts = manifest.parts[shard : shard + 1] if same else manifest.parts
        past = together([part.past(manifest.taken) for part in parts])
        self.restored = 0
        with self._store.replace() as db:
            for file, chunk in (chunk for part in parts for chunk in read_part(uri, part)):
                mine = [record for record in chunk if same or shard_of(record.image_id, shards) == shard]
                _put(db, mine)
                if same:
                    db.executemany(_NOTE, ((*_scores(record), file) for record in mine))
                self.restored += len(mine)
            if past.moments and not same:  # nobody knows who was offered what: the first shard takes the past of all
                size, clearness, quality, _ = db.execute(_SUMS).fetchone()
                now = Moment(past.last + 1, 0, 0, 0, size, clearness, quality, past.moments[-1].step)
                past = bounded(past.model_copy(update={"moments": (*(() if shard else past.moments), now)}))
            # Run and generation are the store's own, whoever took the snapshot.
            _keep(db, self.state(), settled=True, history=past)

    def close(self) -> None:
        """Close the store; safe to call twice."""
        self._store.close()


def _folder_of(path: str | Path) -> Path:
    """The folder of a store; one that holds a pool in another form is refused, as a new store there would be empty."""
    place = absolute(path)
    if is_uri(place):
        raise PoolError(f"{path} is no folder of this machine: open the pool in one; its snapshots may go to a URI")
    folder = Path(place)
    if not is_store(folder):
        if (folder / MANIFEST).exists():
            raise PoolError(f"{folder} holds a snapshot: open a pool in another folder, and restore it there")
        if shard := min(folder.glob("shard-*-of-*"), default=None):
            raise PoolError(f"{folder} holds the shards of a label pool: open one of them, such as {shard}")
    return folder


def _scores(record: Record) -> tuple[Any, ...]:
    return record.image_id, record.clearness, record.quality, record.teacher_step


def _noting(records: Iterable[Record], noted: list[tuple[Any, ...]]) -> Iterator[Record]:
    """Yield the records and note each as it passes."""
    for record in records:
        noted.append(_scores(record))
        yield record


def new_name() -> str:
    """Return a name for :meth:`LabelPool.snapshot_part` that was never used before."""
    return uuid.uuid4().hex[:12]


def _offer(db: sqlite3.Connection, records: Sequence[Record], now: int) -> list[bool]:
    state = _state(db)
    history = state.history
    answers = []
    for new in records:
        held = "select clearness, quality, teacher_step from labels where image_id = ?"
        old = db.execute(held, [new.image_id]).fetchone()
        # `old and` gives None where nothing is held.
        accepted = admits(old and old[0], old and old[1], new.clearness, new.quality)
        moment = Moment(now, 1, int(accepted), 0, 0, 0.0, 0.0, new.teacher_step)
        if accepted and old != (new.clearness, new.quality, new.teacher_step):
            _put(db, [new])
            moment = moment._replace(
                replaced=int(old is not None),
                size=int(old is None),
                clearness_sum=new.clearness - (old[0] if old else 0),
                quality_sum=new.quality - (old[1] if old else 0),
            )
        history = logged(history, moment)
        answers.append(accepted)
    _keep(db, state, settled=True, history=history)
    return answers


def _stats(db: sqlite3.Connection, history: History) -> PoolStats:
    size, *sums = db.execute(_SUMS).fetchone()
    return PoolStats(**dict(zip(PoolStats.model_fields, (size, *history.totals(), *sums), strict=True)))


def _state(db: sqlite3.Connection) -> State:
    return State.model_validate_json(db.execute("select json from state").fetchone()[0])


def _keep(db: sqlite3.Connection, state: State, **changes: Any) -> None:
    db.execute("update state set json = ?", [state.model_copy(update=changes).model_dump_json()])


def _put(db: sqlite3.Connection, records: Iterable[Record]) -> None:
    rows = (
        (r.image_id, r.clearness, r.quality, r.teacher_step, r.label, r.transmission, r.trust, *r.trust_shape)
        for r in records
    )
    db.executemany(_PUT, rows)


def _record(row: tuple[Any, ...]) -> Record:
    image_id, clearness, quality, teacher_step, label, transmission, trust, *shape = row
    return Record(image_id, clearness, quality, teacher_step, label, transmission, trust, (shape[0], shape[1]))
