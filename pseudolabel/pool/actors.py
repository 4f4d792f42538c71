"""The label pool on Ray: its shards, thin shells around :class:`pseudolabel.pool.LabelPool`, and whose run it is."""

from __future__ import annotations

import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import ray
from ray.util.placement_group import PlacementGroup, placement_group, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from models.config import LabelingError, PoolError
from models.paths import absolute
from pseudolabel.pool.client import OWNER, LabelPoolClient, group_prefix, namespace_of, shard_name
from pseudolabel.pool.entries import Record
from pseudolabel.pool.label_pool import LabelPool
from pseudolabel.pool.shard import SHARD_CPUS, Shard, open_shard, remove_store
from pseudolabel.pool.stats import PoolStats

PATIENCE = 20.0  # seconds until Ray has surely taken down what belonged to a dead program
GROUPS = {"fetch": 1, "slow": 1}  # threads of a shard, beside the one for offers


class LabelPoolShard:
    """One shard of the pool behind an actor. Offers are idempotent, so Ray may repeat every call after a restart.

    Offers, fetches and the slow calls run in threads of their own: the store serves readers while somebody writes.
    """

    def __init__(self, shard: Shard) -> None:
        self._shard = shard
        self._opening = threading.Lock()
        self._pool: LabelPool | None = None
        self._began = time.time()

    def describe(self) -> tuple[Shard, str, str]:
        """Return what it was told, where its store is, and on which host; opens the store."""
        return self._shard, str(self._open().path), socket.gethostname()

    @ray.method(concurrency_group="fetch")
    def about(self) -> dict[str, Any]:
        """Return facts for a list of runs: `host`, `pid`, `since`, and `store`, `labels` where the pool is open."""
        about = {"host": socket.gethostname(), "pid": os.getpid(), "since": self._began}
        pool = self._pool
        return about if pool is None else about | {"store": str(pool.path), "labels": pool.stats().size}

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

    @ray.method(concurrency_group="slow")
    def ids(self) -> list[str]:
        """See :meth:`LabelPool.ids`."""
        return self._open().ids()

    @ray.method(concurrency_group="slow")
    def snapshot_part(self, uri: str, name: str, base: str | None) -> dict[str, Any]:
        """See :meth:`LabelPool.snapshot_part`."""
        number, count = self._shard.number, self._shard.count
        return self._open().snapshot_part(uri, f"{name}-{number:05d}", base, number, count).model_dump()

    @ray.method(concurrency_group="slow")
    def restore(self, uri: str, step: int | None) -> None:
        """See :meth:`LabelPool.restore`."""
        self._open().restore(uri, self._shard.number, self._shard.count, step)

    @ray.method(concurrency_group="fetch")
    def restored(self) -> int:
        """See :attr:`LabelPool.restored`."""
        return 0 if self._pool is None else self._pool.restored

    def close(self, remove: bool = False) -> int:
        """Close the store, and remove it if asked to; bytes that were removed."""
        with self._opening:
            if self._pool is None:
                return 0
            # It stays here, closed: late calls are told so, and open no new store.
            self._pool.close()
            return remove_store(self._pool.path) if remove else 0

    def _open(self) -> LabelPool:
        # Not in the constructor: its errors would reach callers as the death of an actor, not as what they are.
        with self._opening:
            if self._pool is None:
                self._pool = open_shard(self._shard)
            return self._pool


class RunOwner:
    """Its name is taken as long as the program lives that made it; it says which program that is."""

    def __init__(self, about: dict[str, Any]) -> None:
        self._about = about

    def about(self) -> dict[str, Any]:
        """Return `host`, `pid` and `since` of the program."""
        return self._about


@contextmanager
def owned(run: str) -> Iterator[None]:
    """Have a run to oneself: no other program on the cluster has it meanwhile, nor shuts its pool down.

    Raises:
        LabelingError: another program has it.
    """
    options = ray.remote(RunOwner).options(name=OWNER, namespace=namespace_of(run), num_cpus=0, max_restarts=-1)
    about = {"host": socket.gethostname(), "pid": os.getpid(), "since": time.time()}
    otherwise = "is going on already, in another program on this cluster: wait for its end"
    owner = take_name(lambda: options.remote(about), run, otherwise)
    try:
        yield
    finally:
        ray.kill(owner)


def take_name(make: Callable[[], Any], run: str, otherwise: str) -> Any:
    """Return the actor that `make` makes, as soon as its name is free: it may be that of a program that has just died.

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
    snapshots: str | Path | None = None,
    run_id: str = "",
    fixed: bool = True,
    room: int = 0,
) -> LabelPoolClient:
    """Start the pool of a run, or find it when it is running already; it ends with the program that started it.

    Args:
        run: name of the run; its actors are in a namespace of their own.
        path: folder of the stores, on the machines where the shards run; an existing pool there is reopened.
        shards: number of actors. One does for a machine; more spread memory and faults over nodes.
        snapshots: folder (path or URI) below which this run takes its snapshots. A shard whose store is not there, as
            when its node is gone, begins with the latest of them; without this it begins empty.
        run_id: another one for each run that began anew under this name: stores and snapshots of others are not gone on
            with. Without it any will do.
        fixed: whether the stores must be in `path`; otherwise each shard chooses a local folder of its own machine
            where `path` lies on a network or is a URI.
        room: bytes that such a folder must have free, for each shard.

    Raises:
        PoolError: the folder cannot be used, or the run has another pool already; no shard that was not running before
            is left behind.
    """
    kept = None if snapshots is None else absolute(snapshots)
    told = Shard(absolute(path), fixed, run, run_id, count=shards, snapshots=kept, room=room)
    # Asked before, as only those that this call starts are ended when something is wrong.
    running = [_is_running(shard_name(shard), run) for shard in range(shards)]
    # A shard's place in the group is bound to a node for as long as that lives: it starts again where its store is.
    group = None if all(running) else _spread(run, shards)
    actors = [_start_shard(replace(told, number=shard), group) for shard in range(shards)]
    client = LabelPoolClient(run, shards, actors=actors)
    try:
        _check_pool(client, told)
    except BaseException:
        for actor in (actor for actor, before in zip(actors, running, strict=True) if not before):
            ray.kill(actor)
        if group is not None:
            remove_placement_group(group)
        raise
    return client


def _start_shard(shard: Shard, group: PlacementGroup | None) -> Any:
    """The actor of a shard, which may be running already."""
    remote = ray.remote(concurrency_groups=GROUPS)(LabelPoolShard)  # type: ignore[call-overload]  # Ray's stubs lag
    options = remote.options(
        name=shard_name(shard.number),
        namespace=namespace_of(shard.name),
        get_if_exists=True,
        max_restarts=-1,
        max_task_retries=-1,
        num_cpus=SHARD_CPUS,
        scheduling_strategy=None if group is None else PlacementGroupSchedulingStrategy(group, shard.number),
    )
    return options.remote(shard)


def _spread(run: str, shards: int) -> PlacementGroup:
    bundles = [{"CPU": SHARD_CPUS} for _ in range(shards)]
    group: PlacementGroup = placement_group(bundles, "SPREAD", name=f"{group_prefix(run)}{uuid.uuid4().hex[:8]}")
    return group


def _check_pool(client: LabelPoolClient, told: Shard) -> None:
    """Check that every shard can open its store, and that it is the store that was asked for."""
    for found, _, _ in client.describe():
        if (found.folder, found.count, found.run) != (told.folder, told.count, told.run):
            raise PoolError(
                f"run '{client.run}' already has a label pool of {found.count} shards at {found.folder}: choose "
                "another run name, or shut that pool down"
            )


def _is_running(name: str, run: str) -> bool:
    try:
        ray.get_actor(name, namespace=namespace_of(run))
    except ValueError:
        return False
    return True
