"""One shard of a run's pool: where its store is, and whether it may go on with what it finds there. No Ray."""

from __future__ import annotations

import logging
import shutil
import socket
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from models.config import PoolError, Settings
from models.paths import absolute, child, read_file, replacing
from pseudolabel.pool.entries import shard_folder
from pseudolabel.pool.label_pool import LabelPool
from pseudolabel.pool.mounts import caches, network_file_system, unfit
from pseudolabel.pool.snapshots import latest_snapshot
from pseudolabel.pool.store import own

SHARD_CPUS = 0.05  # that its actor asks Ray for; a place in a placement group cannot ask for nothing
log = logging.getLogger(__name__)


class ShardRecord(Settings):
    """What lies beside a run's snapshots for each shard: where nodes come and go it says which store is the latest."""

    run: str
    generation: int
    shards: int


@dataclass(frozen=True)
class Shard:
    """One shard of a pool, as it is told to the process that is to be it.

    Attributes:
        folder: of the pool's stores.
        fixed: whether the store must be there; otherwise a local folder is chosen where that one lies on a network or
            is a URI.
        name: of the run on the cluster, which folders that are chosen are called by.
        run: id of the run, another one for each that began anew; empty where any store will do.
        number, count: which shard of how many.
        sync: see :class:`pseudolabel.pool.store.Store`.
        snapshots: folder (path or URI) below which the run takes its snapshots, if it does.
        room: bytes that a folder must have free to be chosen.
    """

    folder: str
    fixed: bool = True
    name: str = ""
    run: str = ""
    number: int = 0
    count: int = 1
    sync: bool = True
    snapshots: str | None = None
    room: int = 0

    @property
    def store(self) -> str:
        """Name of its store within a folder of stores."""
        return shard_folder(self.number, self.count)

    @property
    def record(self) -> str | None:
        """Return where its record is."""
        return None if self.snapshots is None else child(self.snapshots, f"shard-{self.number:05d}.json")


def open_shard(shard: Shard) -> LabelPool:
    """Open the pool of a shard, with the content that it is to begin with.

    A store that is the run's own and its latest is gone on with. Otherwise, as when a node is gone or has come back
    after others took over, or when the store is that of another run, it begins with the run's latest snapshot, or
    empty.

    Raises:
        PoolError: no folder will do, the store cannot be opened, or has another number of shards.
        SnapshotError: there are snapshots, and none can be read.
    """
    folder = _place(shard)
    for other in _of_other_counts(folder, shard):
        own(other, 0.0).close()  # an error where somebody has it
        _remove(other, "it was made with another number of shards")
    path = folder / shard.store
    pool = LabelPool(path, sync=shard.sync)
    try:
        known = _read_record(shard)
        why = _why_not(pool, shard, known)
        if why is not None:
            if pool.state().settled:
                pool.close()
                _remove(path, why)
                pool = LabelPool(path, sync=shard.sync)
            _begin(pool, shard, known)
    except BaseException:
        pool.close()  # the next call tries again
        raise
    return pool


def remove_store(store: Path) -> int:
    """Remove a store that is closed, and the folder of the stores when it was the last; how many bytes it had."""
    size = sum(path.stat().st_size for path in store.glob("*") if path.is_file())
    shutil.rmtree(store, ignore_errors=True)
    with suppress(OSError):  # others are there
        store.parent.rmdir()
    return size


def _place(shard: Shard) -> Path:
    given = shard.folder
    kind = "object storage" if "://" in given else network_file_system(given)
    if kind is None:
        return Path(given)
    if shard.fixed:
        raise PoolError(
            f"the label pool's store {given} lies on {kind} on {socket.gethostname()}, and SQLite is not made "
            "for network file systems: name a folder of a local disk, or leave labels.store out"
        )
    found = list(caches(shard.name))
    whys = [(folder, None if (folder / shard.store).is_dir() else unfit(folder, shard.room)) for folder in found]
    for folder, why in whys:
        if why is None and network_file_system(folder) is None:
            return folder
    told = "; ".join(f"{folder} {why or 'lies on a network'}" for folder, why in whys)
    raise PoolError(
        f"there is no place for the label pool's store on {socket.gethostname()}: {given} lies on {kind}, which "
        f"SQLite is not made for; {told}. Set labels.store to a folder of a local disk with room"
    )


def _of_other_counts(folder: Path, shard: Shard) -> Iterator[Path]:
    """Yield stores of another number of shards; the labels of the run are in a snapshot then, or there are none yet."""
    # shard-00000-of-00002: the last five digits are the count.
    others = [path for path in sorted(folder.glob("shard-*-of-*")) if int(path.name[-5:]) != shard.count]
    if others and not shard.run:
        raise PoolError(
            f"the label pool at {folder} was made with {int(others[0].name[-5:])} shards, not {shard.count}: ask for "
            "as many, or restore a snapshot of it into another folder"
        )
    yield from others


def _why_not(pool: LabelPool, shard: Shard, known: ShardRecord | None) -> str | None:
    """Why the shard cannot go on with its store; None where it can."""
    found = pool.state()
    if not found.settled:
        return "it has not begun"
    if not shard.run:
        return None
    if found.run != shard.run:
        return f"it is of another run ({found.run or 'without an id'}, and this one is {shard.run})"
    if known is not None and (known.shards != shard.count or found.generation < known.generation):
        return (
            f"it is out of date: this shard has begun anew elsewhere (store {found.generation}, now {known.generation})"
        )
    return None


def _begin(pool: LabelPool, shard: Shard, known: ShardRecord | None) -> None:
    generation = 1 if known is None else known.generation + 1
    if shard.run and shard.record is not None:  # first of all: from now on older stores are out of date
        _write_record(shard, generation)
    latest = None if shard.snapshots is None else latest_snapshot(shard.snapshots, shard.run)
    if latest is not None:
        log.warning("the label pool has no store at %s: it begins with the snapshot %s", pool.path, latest)
        pool.restore(latest, shard.number, shard.count)
    pool.begin(shard.run, generation)


def _read_record(shard: Shard) -> ShardRecord | None:
    """What is known of the shard's latest store; nothing where its record is of another run."""
    if not shard.run or shard.record is None:
        return None
    try:
        text = read_file(absolute(shard.record))
        record = None if text is None else ShardRecord.model_validate_json(text)
    except (OSError, ValidationError) as problem:
        raise PoolError(f"cannot read {shard.record}: {problem}") from problem
    return record if record is not None and record.run == shard.run else None


def _write_record(shard: Shard, generation: int) -> None:
    record = ShardRecord(run=shard.run, generation=generation, shards=shard.count)
    try:
        with replacing(str(shard.record), durable=True) as stream:
            stream.write(f"{record.model_dump_json()}\n".encode())
    except OSError as problem:
        raise PoolError(f"cannot write {shard.record}: {problem}") from problem


def _remove(store: Path, why: str) -> None:
    log.warning("the label pool's store %s is removed (%.1f MB): %s", store, remove_store(store) / 1e6, why)
