"""What runs on a cluster: the runs that have a label pool or label workers there, and an end for those nobody needs."""

from __future__ import annotations

import importlib
import logging
import os
import socket
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import ray
from ray.exceptions import RayError

from models.config import ConfigError, PoolError, starting_ray
from pseudolabel.labeling import COORDINATOR, LabelingClient
from pseudolabel.pool import OWNER, Pending, find_actor, namespace_of, remove_groups

ANSWER_SECONDS = 5.0
PREFIX = namespace_of("")


@dataclass
class Running:
    """A run on the cluster.

    Attributes:
        run: its name.
        owner: `host`, `pid` and `since` of the program that it belongs to; empty where there is none.
        shards: the same of each shard of its pool, with `store` and `labels` where the store is open; empty where one
            does not answer.
        labels_made: whether label workers are at work.
    """

    run: str
    owner: dict[str, Any] = field(default_factory=dict)
    shards: list[dict[str, Any]] = field(default_factory=list)
    labels_made: bool = False

    def told(self) -> str:
        """Return a line about the run."""
        known = [about for about in (self.owner, *self.shards) if about]
        hosts = ", ".join(sorted({about["host"] for about in self.shards if about})) or "no node"
        labels = sum(about.get("labels", 0) for about in self.shards)
        begun = min((about["since"] for about in known), default=time.time())
        whose = f"of process {self.owner['pid']} on {self.owner['host']}" if self.owner else "of no program any more"
        busy = ", label workers" if self.labels_made else ""
        return (
            f"{self.run}: {len(self.shards)} shards on {hosts} with {labels:,} labels{busy}, "
            f"for {_span(time.time() - begun)}, {whose}"
        )


def _span(seconds: float) -> str:
    for size, unit in ((86400, "days"), (3600, "hours"), (60, "minutes")):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} seconds"


@contextmanager
def joined(address: str | None) -> Iterator[None]:
    """Be part of the cluster at `address`, else at `RAY_ADDRESS`, else of that on this machine.

    Raises:
        ConfigError, PoolError: there is none.
    """
    address = address or os.environ.get("RAY_ADDRESS") or "auto"
    if ray.is_initialized():
        yield
        return
    what, remedy = f"the Ray cluster at '{address}' cannot be joined", "use the Ray and the Python that run there"
    with answering(address), starting_ray(what, remedy):
        try:
            ray.init(address=address, namespace="ray-dehaze", logging_level=logging.ERROR, log_to_driver=False)
        except ConnectionError:
            raise PoolError(f"no Ray cluster answers at '{address}': give its --address, as host:port") from None
    try:
        yield
    finally:
        ray.shutdown()


@contextmanager
def answering(address: str) -> Iterator[None]:
    """Be sure that somebody answers at an address, and that Ray can join there for the length of a ``with`` block.

    The cluster that a command starts for itself listens on loopback alone. Ray would look for it at the address that
    this machine has for others, where nobody answers.

    Raises:
        ConfigError: nobody answers, where `ray.init` would retry for minutes and then end the process; or this is no
            address.
    """
    found = _found_here() if address == "auto" else address
    if found is None:
        yield
        return
    # From the right, as IPv6 addresses hold colons too.
    host, colon, port = found.removeprefix("ray://").rpartition(":")
    if not colon or not port.isdigit():
        raise ConfigError(f"Ray address '{address}' is neither host:port nor ray://host:port nor 'auto'")
    host = host.strip("[]")
    try:
        _answer(host, int(port))
    except OSError as problem:
        where = f"'{address}'" if found == address else f"{found}, which Ray takes for 'auto' here"
        raise ConfigError(f"no Ray cluster answers at {where}: {problem}; name one that runs") from problem
    services: Any = importlib.import_module("ray._private.services")
    constants: Any = importlib.import_module("ray._private.ray_constants")
    before = constants.ENABLE_RAY_CLUSTER
    try:
        if (reached := services.resolve_ip_for_localhost(host)) != host:
            _answer(reached, int(port))
    except OSError:
        constants.ENABLE_RAY_CLUSTER = False  # what RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER=0 says before Ray is imported
    try:
        yield
    finally:
        constants.ENABLE_RAY_CLUSTER = before


def _answer(host: str, port: int) -> None:
    socket.create_connection((host, port), timeout=ANSWER_SECONDS).close()


def _found_here() -> str | None:
    """Return the address that Ray takes for ``auto``; None where it finds none, which it says itself."""
    services: Any = importlib.import_module("ray._private.services")  # there is no public way to ask
    try:
        return str(services.get_ray_address_from_environment("auto", None))
    except ConnectionError:
        return None


def running() -> list[Running]:
    """List all runs on the cluster that this process is part of."""
    found: dict[str, set[str]] = defaultdict(set)
    for actor in ray.util.list_named_actors(all_namespaces=True):
        if actor["namespace"].startswith(PREFIX):
            found[actor["namespace"].removeprefix(PREFIX)].add(actor["name"])
    return [_about(run, names) for run, names in sorted(found.items())]


def _about(run: str, names: set[str]) -> Running:
    owner = _ask(OWNER, run) if OWNER in names else {}
    shards = [_ask(name, run) for name in sorted(names - {OWNER, COORDINATOR})]
    return Running(run, owner, shards, COORDINATOR in names)


def _ask(name: str, run: str) -> dict[str, Any]:
    """Ask an actor about itself; an empty answer where it is gone or does not answer soon."""
    about: dict[str, Any] = {}
    with suppress(RayError, PoolError, TimeoutError):
        ref = find_actor(name, run, "nobody").about.remote()
        about = Pending(name, [ref], lambda answers: dict(answers[0])).result(ANSWER_SECONDS)
    return about


def stop(run: str, *, force: bool = False) -> Running:
    """End all that a run has on the cluster: label workers, pool, places. Its stores stay.

    Args:
        run: its name.
        force: also when the program is there that it belongs to, which will then fail.

    Returns:
        what it was.

    Raises:
        PoolError: there is no such run, or its program is at work.
    """
    known = {one.run: one for one in running()}
    if run not in known:
        there = f"there are: {', '.join(known)}" if known else "there is none at all"
        raise PoolError(f"no run '{run}' is on this cluster; {there}")
    owner = known[run].owner
    if owner and not force:
        raise PoolError(
            f"run '{run}' belongs to process {owner['pid']} on {owner['host']}, which is at work: end that, and the "
            "run ends with it, or use --force"
        )
    LabelingClient(run).stop()
    for actor in ray.util.list_named_actors(all_namespaces=True):
        if actor["namespace"] == namespace_of(run):
            _end(actor["name"], run)
    remove_groups(run)
    return known[run]


def _end(name: str, run: str) -> None:
    with suppress(ValueError):  # gone meanwhile
        actor = ray.get_actor(name, namespace=namespace_of(run))
        if name not in (OWNER, COORDINATOR):
            with suppress(RayError):
                ray.get([actor.close.remote()], timeout=ANSWER_SECONDS)
        ray.kill(actor)
