"""How programs reach the label pool of a run: typed, batched, asynchronous.

Clients are small and picklable: they hold names, and find the actors by them in whichever process they are used.
Every call goes once to each shard concerned, never once per photograph.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, Generic, TypeVar

import ray
from ray import PlacementGroupID
from ray.exceptions import GetTimeoutError, RayActorError, RayTaskError
from ray.util.placement_group import PlacementGroup, placement_group_table, remove_placement_group

from models.config import LabelingError, PoolError
from models.paths import absolute
from pseudolabel.pool.entries import LabelEntry, Record, shard_of, to_entry, to_record
from pseudolabel.pool.label_pool import new_name
from pseudolabel.pool.shard import Shard
from pseudolabel.pool.snapshots import Manifest, Part, write_manifest
from pseudolabel.pool.stats import PoolStats

T = TypeVar("T")

OWNER = "run-owner"
MAX_PENDING = 8  # calls under way at a time, of offers and of fetches each


def namespace_of(run: str) -> str:
    """Return the Ray namespace of a run's actors: two runs on one cluster never meet."""
    return f"ray-dehaze/{run}"


def shard_name(shard: int) -> str:
    """Name of a pool shard's actor within its run."""
    return f"label-pool-{shard}"


def group_prefix(run: str) -> str:
    """Return what the names of the placement groups of a run's pool begin with."""
    return f"{namespace_of(run)}/pool-"


class Pending(Generic[T]):
    """A call under way."""

    def __init__(self, where: str, refs: list[Any], finish: Callable[[list[Any]], T]) -> None:
        self._where = where
        self._refs = refs
        self._finish = finish

    def done(self) -> bool:
        """Return whether :meth:`result` would not wait."""
        return len(ray.wait(self._refs, num_returns=len(self._refs), timeout=0)[0]) == len(self._refs)

    def result(self, timeout: float | None = None) -> T:
        """Wait for the answer, at most `timeout` seconds.

        Raises:
            TimeoutError: it has not come yet; ask again.
            PoolError: the pool is gone for good, or has refused the call.
        """
        try:
            answers = ray.get(self._refs, timeout=timeout)
        except GetTimeoutError:
            raise TimeoutError(f"{self._where} has not answered within {timeout} s") from None
        except RayActorError as problem:
            raise PoolError(f"{self._where} is gone: {problem}; start it again, its folder is kept") from problem
        except RayTaskError as problem:
            raise _cause(problem) from None
        return self._finish(answers)


def _cause(problem: RayTaskError) -> BaseException:
    cause = getattr(problem, "cause", None)
    return cause if isinstance(cause, PoolError | ValueError | LabelingError) else problem


class _Window:
    """Calls of one kind under way, at most `size` of them: a further one waits until one is answered."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._lock = threading.Lock()
        self._refs: list[Any] = []

    def send(self, call: Callable[[], Any]) -> Any:
        """Return the reference that `call` returns, as soon as there is room for it."""
        with self._lock:
            # With the lock in hand, so that others queue up behind; `ray.wait` returns (ready,
            # rest).
            while len(self._refs) >= self._size:
                self._refs = ray.wait(self._refs, num_returns=1)[1]
            ref = call()
            self._refs.append(ref)
            return ref


class LabelPoolClient:
    """One label pool, however many shards it has; picklable, safe to use from several threads.

    At most :data:`MAX_PENDING` calls that offer are under way per client, and as many that fetch; a further one waits
    until the pool has kept up, so that a slow pool slows its producers instead of growing a queue.

    Attributes:
        run: that the pool belongs to.
        shards: how many it has.
    """

    _offers: _Window
    _fetches: _Window
    _actors: dict[int, Any]

    def __init__(self, run: str, shards: int, *, actors: Sequence[Any] = ()) -> None:
        """Address the pool that :func:`pseudolabel.pool.actors.start_pool` has started for `run`.

        Args:
            run: name of the run.
            shards: number of shards it was started with.
            actors: handles of the shards; those who started them hold them, for Ray ends actors that nobody holds.
        """
        if shards < 1:
            raise ValueError(f"shards must be positive, not {shards}")
        self.run, self.shards = run, shards
        self._prepare()
        self._actors.update(enumerate(actors))

    def offer(self, entries: Sequence[LabelEntry]) -> list[bool]:
        """Offer candidates and wait; see :meth:`pseudolabel.pool.LabelPool.offer_records`."""
        return self.offer_async(entries).result()

    def offer_async(self, entries: Sequence[LabelEntry]) -> Pending[list[bool]]:
        """Offer candidates. What the result says was accepted is durable.

        Raises:
            ValueError: an entry that the pool does not keep; nothing was sent.
        """
        return self.offer_records_async([to_record(entry) for entry in entries])

    def offer_records_async(self, records: Sequence[Record]) -> Pending[list[bool]]:
        """Do :meth:`offer_async` for candidates that are compressed already."""
        places = self._places([record.image_id for record in records])
        calls = [(self._shard(shard).offer, [records[i] for i in where]) for shard, where in sorted(places.items())]
        refs = [self._offers.send(partial(method.remote, mine)) for method, mine in calls]
        return self._pending(refs, lambda answers: _in_order(answers, places, len(records)))

    def fetch(self, image_ids: Sequence[str]) -> list[LabelEntry | None]:
        """Return entries in the order of `image_ids`, None where there is none yet."""
        return self.prefetch(image_ids).result()

    def prefetch(self, image_ids: Sequence[str]) -> Pending[list[LabelEntry | None]]:
        """Ask for entries now and take them later. They are decompressed by `result`, in the caller's thread."""
        return self._prefetch(image_ids, lambda records: [None if r is None else to_entry(r) for r in records])

    def prefetch_records(self, image_ids: Sequence[str]) -> Pending[list[Record | None]]:
        """Do :meth:`prefetch` without decompressing."""
        return self._prefetch(image_ids, lambda records: records)

    def ids(self) -> list[str]:
        """Return the identifiers of all photographs that have a label, sorted."""
        return self._all("ids", lambda parts: sorted(image_id for part in parts for image_id in part)).result()

    def describe(self) -> list[tuple[Shard, str, str]]:
        """Return for each shard its :class:`Shard`, the place of its store, and its host."""
        return self._all("describe", list).result()

    def stats(self) -> PoolStats:
        """Return statistics of all shards together."""
        return self._all("stats", PoolStats.merged).result()

    def snapshot(self, uri: str | Path, step: int | None = None, base: str | Path | None = None) -> None:
        """Write all shards to `uri`, atomically: the snapshot is there when this returns, and not before.

        Each shard's part is of one moment; an offer under way may be in one part and not yet in another.

        Args:
            uri: a URI that every shard can write, or a local path when all run on this machine.
            step: of the training checkpoint that it belongs to.
            base: an earlier one, see :meth:`pseudolabel.pool.LabelPool.snapshot`.

        Raises:
            SnapshotError: the place cannot be written; an older snapshot there stays valid.
        """
        target, taken = absolute(uri), time.time()
        parts = self._all("snapshot_part", list, target, new_name(), None if base is None else absolute(base)).result()
        write_manifest(target, Manifest.of(tuple(Part.model_validate(part) for part in parts), taken, step))

    def restore(self, uri: str | Path, step: int | None = None) -> None:
        """Replace the content of all shards by a snapshot, taken with any number of shards.

        Args:
            uri: folder of the snapshot.
            step: of the training checkpoint that it must belong to; None takes any.

        Raises:
            SnapshotError: the snapshot is missing, incomplete, unreadable or of another step.
        """
        self.restore_async(uri, step).result()

    def restore_async(self, uri: str | Path, step: int | None = None) -> Pending[None]:
        """Begin :meth:`restore`."""
        return self._all("restore", lambda _: None, absolute(uri), step)

    def restored(self) -> Pending[int]:
        """Count the labels that the shards have read so far of the snapshot that is being restored; ask now, take it
        later.
        """
        return self._all("restored", sum)

    def shutdown(self, *, remove: bool = False) -> int:
        """Close the stores and stop the shards' actors. What they hold stays in their folders, unless it is removed.

        Args:
            remove: remove the stores, as at the end of a run whose labels are in a snapshot.

        Returns:
            bytes that were removed.
        """
        removed = 0
        for shard in range(self.shards):
            try:
                actor = ray.get_actor(shard_name(shard), namespace=namespace_of(self.run))
            except ValueError:
                continue  # was stopped before
            with suppress(PoolError, RayTaskError, TimeoutError):  # it holds nothing that is not on the disk
                removed += self._pending([actor.close.remote(remove)], sum).result(60)
            ray.kill(actor)
        remove_groups(self.run)
        self._prepare()
        return removed

    def _prefetch(self, image_ids: Sequence[str], finish: Callable[[list[Record | None]], T]) -> Pending[T]:
        places = self._places(image_ids)
        calls = [(self._shard(shard).fetch, [image_ids[i] for i in where]) for shard, where in sorted(places.items())]
        refs = [self._fetches.send(partial(method.remote, ids)) for method, ids in calls]
        return self._pending(refs, lambda answers: finish(_in_order(answers, places, len(image_ids))))

    def _places(self, image_ids: Sequence[str]) -> dict[int, list[int]]:
        places: dict[int, list[int]] = {}
        for index, image_id in enumerate(image_ids):
            places.setdefault(shard_of(image_id, self.shards), []).append(index)
        return places

    def _all(self, method: str, finish: Callable[[list[Any]], T], *arguments: Any) -> Pending[T]:
        refs = [getattr(self._shard(shard), method).remote(*arguments) for shard in range(self.shards)]
        return self._pending(refs, finish)

    def _pending(self, refs: list[Any], finish: Callable[[list[Any]], T]) -> Pending[T]:
        return Pending(f"the label pool of run '{self.run}'", refs, finish)

    def _shard(self, shard: int) -> Any:
        if shard not in self._actors:
            self._actors[shard] = find_actor(shard_name(shard), self.run, "start_pool")
        return self._actors[shard]

    def _prepare(self) -> None:
        self._offers, self._fetches = (_Window(MAX_PENDING) for _ in range(2))
        self._actors = {}

    def __getstate__(self) -> dict[str, Any]:
        return {"run": self.run, "shards": self.shards}

    def __setstate__(self, state: dict[str, Any]) -> None:
        # Locks and handles stay in the process that had them.
        self.__dict__.update(state)
        self._prepare()


def find_actor(name: str, run: str, starter: str) -> Any:
    try:
        return ray.get_actor(name, namespace=namespace_of(run))
    except ValueError:
        raise PoolError(f"run '{run}' has no actor '{name}' on this cluster; {starter} starts it") from None


def remove_groups(run: str) -> None:
    """Give back the places that the shards of a run had."""
    for group, about in placement_group_table().items():
        if about["name"].startswith(group_prefix(run)) and about["state"] != "REMOVED":
            remove_placement_group(PlacementGroup(PlacementGroupID(bytes.fromhex(group))))


def _in_order(answers: list[list[T]], places: Mapping[int, list[int]], count: int) -> list[T]:
    """Return the answers of the shards in the order of the question."""
    slots: dict[int, T] = {}
    # Calls were sent in the order of the shards.
    for answer, shard in zip(answers, sorted(places), strict=True):
        slots.update(zip(places[shard], answer, strict=True))
    return [slots[index] for index in range(count)]
