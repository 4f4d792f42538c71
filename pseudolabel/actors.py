"""The label pool on Ray: its shards, thin shells around :class:`pseudolabel.pool.LabelPool`, and whose run it is."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from pseudolabel.client import OWNER, LabelPoolClient, namespace_of, shard_name
from pseudolabel.entries import PoolError, Record, shard_folder
from pseudolabel.history import History
from pseudolabel.mounts import network_file_system
from pseudolabel.pool import LabelPool, PoolStats
from pseudolabel.rounds import LabelingError
from pseudolabel.snapshots import absolute, latest_snapshot

log = logging.getLogger(__name__)

PATIENCE = 20.0  # seconds until Ray has surely taken down what belonged to a dead program
GROUPS = {"fetch": 1, "slow": 1}  # threads of a shard, beside the one for offers


class LabelPoolShard:
    """One shard of the pool behind an actor. Offers are idempotent, so Ray may repeat every call after a restart.

    Offers, fetches and the slow calls run in threads of their own: LMDB serves readers while somebody writes. Where its
    folder is gone with a node, it begins with the latest snapshot.
    """

    def __init__(self, path: str, shard: int, shards: int, sync: bool, snapshots: str | None = None) -> None:
        self._path, self._shard, self._shards, self._sync = path, shard, shards, sync
        self._snapshots = snapshots
        self._opening = threading.Lock()
        self._pool: LabelPool | None = None

    def describe(self) -> tuple[str, int]:
        """Folder of the pool and number of shards; opens the store."""
        self._open()
        return self._path, self._shards

    def offer(self, records: list[Record]) -> list[bool]:
        """See :meth:`LabelPool.offer_records`."""
        return self._open().offer_records(records)

    @ray.method(concurrency_group="fetch")
    def fetch(self, image_ids: list[str]) -> list[Record | None]:
        """See :meth:`LabelPool.fetch_records`."""
        return self._open().fetch_records(image_ids)

    @ray.method(concurrency_group="fetch")
    def stats(self) -> PoolStats:
        """See :meth:`LabelPool.stats`."""
        return self._open().stats()

    @ray.method(concurrency_group="fetch")
    def history(self) -> History:
        """See :meth:`LabelPool.history`."""
        return self._open().history()

    @ray.method(concurrency_group="slow")
    def ids(self) -> list[str]:
        """See :meth:`LabelPool.ids`."""
        return self._open().ids()

    @ray.method(concurrency_group="slow")
    def snapshot_part(self, uri: str, name: str) -> dict[str, Any]:
        """See :meth:`LabelPool.snapshot_part`."""
        return self._open().snapshot_part(uri, f"{name}-{self._shard:05d}").model_dump()

    @ray.method(concurrency_group="slow")
    def restore(self, uri: str, step: int | None) -> None:
        """See :meth:`LabelPool.restore`."""
        self._open().restore(uri, self._shard, self._shards, step)

    def close(self) -> None:
        """Close the store."""
        with self._opening:
            if self._pool is not None:
                self._pool.close()

    def _open(self) -> LabelPool:
        # Not in the constructor: its errors would reach callers as the death of an actor, not as what they are.
        with self._opening:
            if self._pool is None:
                self._pool = self._opened()
            return self._pool

    def _opened(self) -> LabelPool:
        folder = Path(self._path)
        others = {int(path.name.rpartition("-")[2]) for path in folder.glob("shard-*-of-*")} - {self._shards}
        if others:
            raise PoolError(
                f"the label pool at {folder} was made with {others.pop()} shards, not {self._shards}: ask for as many, "
                "or restore a snapshot of it into another folder"
            )
        kind = network_file_system(folder)
        if kind is not None:
            log.warning(
                "the label pool's store %s lies on %s, and LMDB is not made for network file systems: set labels.store "
                "to a folder of a local disk",
                folder,
                kind,
            )
        pool = LabelPool(folder / shard_folder(self._shard, self._shards), sync=self._sync)
        try:
            if not pool.settled():
                self._begin(pool)
        except BaseException:
            pool.close()  # the next call tries again
            raise
        return pool

    def _begin(self, pool: LabelPool) -> None:
        latest = latest_snapshot(self._snapshots) if self._snapshots is not None else None
        if latest is None:
            pool.settle()
        else:
            log.warning("the label pool has no store at %s: it begins with the snapshot %s", pool.path, latest)
            pool.restore(latest, self._shard, self._shards)


class RunOwner:
    """Its name is taken as long as the program lives that made it."""


@contextmanager
def owned(run: str) -> Iterator[None]:
    """Have a run to oneself: no other program on the cluster has it meanwhile, nor shuts its pool down.

    Raises:
        LabelingError: another program has it.
    """
    options = ray.remote(RunOwner).options(name=OWNER, namespace=namespace_of(run), num_cpus=0, max_restarts=-1)
    owner = take_name(options.remote, run, "is going on already, in another program on this cluster: wait for its end")
    try:
        yield
    finally:
        ray.kill(owner)


def take_name(make: Callable[[], Any], run: str, otherwise: str) -> Any:
    """The actor that `make` makes, as soon as its name is free: it may be that of a program that has just died.

    Raises:
        LabelingError: it is not free for long, and that is `otherwise`.
    """
    until = time.monotonic() + PATIENCE
    while True:
        try:
            return make()
        except ValueError as problem:  # how Ray says that a name is taken
            if time.monotonic() > until:
                raise LabelingError(f"run '{run}' {otherwise}") from problem
            time.sleep(0.5)


def start_pool(
    run: str,
    path: str | Path,
    shards: int = 1,
    *,
    num_cpus: float = 0.05,
    detached: bool = True,
    max_pending: int = 8,
    sync: bool = True,
    snapshots: str | Path | None = None,
) -> LabelPoolClient:
    """Start the pool of a run, or find it when it is running already, as after the death of the driver.

    Args:
        run: name of the run; its actors are in a namespace of their own.
        path: folder of the stores, on the machines where the shards run; an existing pool there is reopened.
        shards: number of actors. One does for a machine; more spread memory and faults over nodes.
        num_cpus: what each shard asks of Ray.
        detached: whether it outlives the program that started it, until :meth:`LabelPoolClient.shutdown`.
        max_pending: see :class:`LabelPoolClient`.
        sync: see :class:`pseudolabel.store.Store`.
        snapshots: folder (path or URI) below which this run takes its snapshots. A shard whose store is not there, as
            when its node is gone, begins with the latest of them; without this it begins empty.

    Raises:
        PoolError: the folder cannot be used, or the run has another pool already; no shard that was not running before
            is left behind.
    """
    folder = str(Path(path).absolute())
    remote = ray.remote(concurrency_groups=GROUPS)(LabelPoolShard)  # type: ignore[call-overload]  # Ray's stubs lag
    nodes = _nodes(num_cpus)
    running = [_is_running(shard_name(shard), run) for shard in range(shards)]
    actors = []
    for shard in range(shards):
        options = remote.options(
            name=shard_name(shard),
            namespace=namespace_of(run),
            get_if_exists=True,
            lifetime="detached" if detached else None,
            max_restarts=-1,
            max_task_retries=-1,
            num_cpus=num_cpus,
            # Where its store is, as long as that node lives.
            scheduling_strategy=NodeAffinitySchedulingStrategy(nodes[shard % len(nodes)], soft=True),
        )
        actors.append(options.remote(folder, shard, shards, sync, None if snapshots is None else absolute(snapshots)))
    client = LabelPoolClient(run, shards, max_pending=max_pending, actors=actors)
    try:
        _check_pool(client, folder)
    except BaseException:
        for actor in (actor for actor, before in zip(actors, running, strict=True) if not before):
            ray.kill(actor)
        raise
    return client


def _check_pool(client: LabelPoolClient, folder: str) -> None:
    """That every shard can open its store, and that it is the store that was asked for."""
    for found in client.describe():
        if tuple(found) != (folder, client.shards):
            raise PoolError(
                f"run '{client.run}' already has a label pool of {found[1]} shards at {found[0]}: choose another run "
                "name, or shut that pool down"
            )


def _is_running(name: str, run: str) -> bool:
    try:
        ray.get_actor(name, namespace=namespace_of(run))
    except ValueError:
        return False
    return True


def _nodes(num_cpus: float) -> list[str]:
    known = ray.nodes()  # type: ignore[no-untyped-call]
    alive = sorted((node for node in known if node["Alive"]), key=lambda node: str(node["NodeID"]))
    roomy = [str(n["NodeID"]) for n in alive if n["Resources"].get("CPU", 0) >= num_cpus]
    return roomy or [str(n["NodeID"]) for n in alive]
