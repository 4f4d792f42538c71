"""How fast the label pool takes and gives labels, and what it costs beside them.

``python -m benchmarks.pool [--entries 1000 1000000] [--shards 1 2 4] [--label-bytes 100000]`` prints one JSON line per
measurement, all in one run:

- ``store``: the pool itself in one process, statistics per second too, and what its files have beside the labels;
- ``pool``: the pool on a Ray of its own, offers and fetches per second by several clients at once;
- ``restore``: entries per second that a pool is given back from a snapshot, all of full size (``--restore 20000``);
- ``snapshot``: what a store's snapshots take, the whole and the next one after 1 % of the labels have changed, and its
  way back (``--snapshot 10000 1000000``: all labels of full size and each its own bytes).

A thousand of the entries, spread over all of the index, have labels of the size asked for, and what is offered and
fetched are these; the others have tiny ones, so that a million fit a small disk. So the same bytes move whatever the
number of entries, and the pages that are read stay in memory. Labels are compressed already: this measures the pool.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from itertools import repeat
from pathlib import Path
from typing import Any

import numpy as np
import ray

from pseudolabel.pool import (
    LabelPool,
    LabelPoolClient,
    Record,
    namespace_of,
    shard_folder,
    shard_name,
    shard_of,
    start_pool,
)

FULL = 1000  # entries with labels of full size
BATCH = 32  # candidates per call
DEPTH = 4  # calls that a client has under way
WARM = 0.5  # seconds before each measurement
FILL = 5000  # entries per transaction when a pool is filled


def image_id(number: int) -> str:
    """Return an identifier like those of photographs: 32 hexadecimal digits, in no order."""
    return f"{number * 0x9E3779B97F4A7C15F39CC0605CEDC835 % 2**128:032x}"


def record(number: int, score: float, label: bytes) -> Record:
    """Return a record whose transmission has a tenth of its label's bytes, as with photographs."""
    trust = b"\0" * min(324, len(label))
    return Record(image_id(number), score, score, 0, label, label[: len(label) // 10], trust, (len(trust) // 4, 1))


def offers(entries: int, label_bytes: int, seed: int) -> Iterator[list[Record]]:
    """Yield batches of candidates for random full-size entries, each better than all before it from any process.

    Otherwise the pool would refuse some, or take them for repetitions: it would answer without writing.
    """
    random = np.random.default_rng(seed)
    label = random.bytes(label_bytes)
    while True:
        score = 0.2 + time.monotonic() / 1e8  # one clock for all processes of a machine
        yield [record(int(n), score, label) for n in random.integers(0, min(entries, FULL), BATCH)]


def questions(entries: int, seed: int) -> Iterator[list[str]]:
    """Yield batches of identifiers of random full-size entries."""
    random = np.random.default_rng(seed)
    while True:
        yield [image_id(int(n)) for n in random.integers(0, min(entries, FULL), BATCH)]


def fill(store: LabelPool, numbers: Sequence[int], label_bytes: int) -> None:
    """Put the entries in."""
    label = np.random.default_rng(0).bytes(label_bytes)
    for start in range(0, len(numbers), FILL):
        some = numbers[start : start + FILL]
        store.offer_records([record(n, 0.1, label if n < FULL else b"tiny label") for n in some])


def rate(calls: Iterator[Any], call: Callable[[Any], Any], seconds: float) -> float:
    """Return the items per second, one batch after the other, once the calls have warmed up."""
    warm = time.perf_counter() + WARM
    while time.perf_counter() < warm:
        call(next(calls))
    began, done = time.perf_counter(), 0
    while time.perf_counter() - began < seconds:
        call(next(calls))
        done += BATCH
    return done / (time.perf_counter() - began)


def stores(folder: Path, entries: int, label_bytes: int, seconds: float) -> None:
    """Measure the store alone and print its figures."""
    path = folder / f"store-{entries}"
    store = LabelPool(path)
    fill(store, range(entries), label_bytes)
    store.close()
    full = len(record(0, 0, bytes(label_bytes)).label) * 1.1 * min(entries, FULL)
    beside = sum(file.stat().st_size for file in path.iterdir()) - full
    store = LabelPool(path)
    offered = rate(offers(entries, label_bytes, 0), store.offer_records, seconds)
    fetched = rate(questions(entries, 1), store.fetch_records, seconds)
    counted = rate(repeat(None), lambda _: store.stats(), seconds) / BATCH
    store.close()
    tell(
        "store",
        entries=entries,
        offers=offered,
        fetches=fetched,
        statistics=counted,
        bytes_beside_labels_per_entry=beside / entries,
    )


class Client:
    """Offers or fetches with several calls under way, from a process of its own."""

    def __init__(self, pool: LabelPoolClient, entries: int, label_bytes: int, seed: int) -> None:
        self._pool = pool
        self._offers, self._questions = offers(entries, label_bytes, seed), questions(entries, seed)
        self._pool.stats()

    def run(self, kind: str, seconds: float) -> tuple[int, float]:
        """Return the items done and the seconds they took; no call is begun after ``seconds``."""
        calls: Iterator[Any] = self._offers if kind == "offers" else self._questions
        send: Any = self._pool.offer_records_async if kind == "offers" else self._pool.prefetch_records
        under_way: deque[Any] = deque()
        began, done = time.perf_counter(), 0
        while time.perf_counter() - began < seconds:
            under_way.append(send(next(calls)))
            if len(under_way) >= DEPTH:
                done += len(under_way.popleft().result())
        done += sum(len(pending.result()) for pending in under_way)
        return done, time.perf_counter() - began


def anonymous_bytes() -> int:
    """Return the bytes of memory of this process that are not the page cache's."""
    for line in Path("/proc/self/smaps_rollup").read_text().splitlines():
        if line.startswith("Anonymous:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("this kernel does not tell a process's anonymous memory")


def shard_memory(run: str, shards: int) -> int:
    """Return the bytes of anonymous memory of all shards' processes together."""
    actors = [ray.get_actor(shard_name(shard), namespace=namespace_of(run)) for shard in range(shards)]
    return sum(ray.get([actor.__ray_call__.remote(lambda _: anonymous_bytes()) for actor in actors]))


def pools(folder: Path, entries: int, shards: int, args: argparse.Namespace) -> None:
    """Measure the pool behind its actors and print its figures."""
    path, run = folder / f"pool-{entries}-{shards}", f"benchmark-{entries}-{shards}"
    for shard in range(shards):
        store = LabelPool(path / shard_folder(shard, shards), sync=False)
        fill(store, [n for n in range(entries) if shard_of(image_id(n), shards) == shard], args.label_bytes)
        store.close()
    client = start_pool(run, path, shards)
    remote: Any = ray.remote(num_cpus=0.1)(Client)
    clients = [remote.remote(client, entries, args.label_bytes, seed) for seed in range(args.clients)]
    memory, before = shard_memory(run, shards), client.stats()
    found = {}
    for kind in ("offers", "fetches"):
        ray.get([one.run.remote(kind, WARM) for one in clients])
        done = ray.get([one.run.remote(kind, args.seconds) for one in clients])
        found[kind] = sum(count / seconds for count, seconds in done)
    after = client.stats()
    tell(
        "pool",
        entries=entries,
        shards=shards,
        clients=args.clients,
        **found,
        written_share=(after.replaced - before.replaced) / (after.offered - before.offered),
        shard_memory_mb=memory / shards / 1e6,
        shard_memory_after_mb=shard_memory(run, shards) / shards / 1e6,
    )
    for one in clients:
        ray.kill(one)
    client.shutdown()


def restores(folder: Path, entries: int, shards: int, args: argparse.Namespace) -> None:
    """Measure how fast a snapshot is put back, as by a resumed run: all shards at once, twice."""
    path, run, snapshot = folder / f"restore-{shards}", f"restore-{shards}", folder / f"snapshot-{shards}"
    client, label = start_pool(run, path, shards), np.random.default_rng(0).bytes(args.label_bytes)
    starts = range(0, entries, BATCH)
    offers = [client.offer_records_async([record(n, 0.1, label) for n in range(at, at + BATCH)]) for at in starts]
    for offer in offers:  # a snapshot does not wait for them
        offer.result()
    client.snapshot(snapshot, 1)
    seconds = []
    for _ in range(2):
        began = time.perf_counter()
        client.restore(snapshot, 1)
        seconds.append(time.perf_counter() - began)
    size = client.stats().size
    tell("restore", entries=size, shards=shards, first=size / seconds[0], second=size / seconds[1])
    client.shutdown(remove=True)


def snapshots(folder: Path, entries: int, label_bytes: int) -> None:
    """Measure a whole snapshot of a store, the next one after 1 % of its labels have changed, and the way back."""
    place, random = folder / f"snapshots-{entries}", np.random.default_rng(0)
    store = LabelPool(place / "store", sync=False)

    def offer(numbers: range, score: float) -> None:
        for start in numbers[::FILL]:
            some = range(start, min(start + FILL, numbers.stop))
            store.offer_records([record(n, score, random.bytes(label_bytes)) for n in some])

    def take(name: str, base: Path | None) -> dict[str, Any]:
        began = time.perf_counter()
        store.snapshot(place / "all" / name, base=base)
        taken = {f"{name}_seconds": time.perf_counter() - began}
        return taken | {f"{name}_bytes": sum(file.stat().st_size for file in (place / "all" / name).rglob("*.*"))}

    offer(range(entries), 0.1)
    found = take("whole", None)
    offer(range(entries // 100), 0.2)
    found |= take("next", place / "all" / "whole")
    began = time.perf_counter()
    store.restore(place / "all" / "next")
    found["restore_seconds"] = time.perf_counter() - began
    tell("snapshot", entries=store.stats().size, label_bytes=label_bytes, **found)
    store.close()
    shutil.rmtree(place)


def tell(what: str, **values: Any) -> None:
    """Print one JSON line."""
    shown = {
        key: round(value, 3 if abs(value) < 10 else 1) if isinstance(value, float) else value
        for key, value in values.items()
    }
    print(json.dumps({"what": what, **shown}), flush=True)


def main() -> None:
    """Measure all that was asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--entries", type=int, nargs="*", default=[1000, 1_000_000])
    parser.add_argument("--restore", type=int, nargs="*", default=[20_000], help="entries that are restored")
    parser.add_argument("--snapshot", type=int, nargs="*", default=[], help="entries of a store that snapshots are of")
    parser.add_argument("--shards", type=int, nargs="*", default=[1, 2, 4], help="none: the store alone")
    parser.add_argument("--label-bytes", type=int, default=100_000, help="of what is offered (288x288: about 100,000)")
    parser.add_argument("--clients", type=int, default=2, help="processes that offer and fetch at the same time")
    parser.add_argument("--seconds", type=float, default=4.0, help="per measurement")
    parser.add_argument("--folder", type=Path, help="where the stores are made (default: the temporary folder)")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=args.folder) as name:
        folder = Path(name)
        for entries in args.entries:
            stores(folder, entries, args.label_bytes, args.seconds)
        for entries in args.snapshot:
            snapshots(folder, entries, args.label_bytes)
        if not args.shards:
            return
        ray.init(
            address="local", num_cpus=4, include_dashboard=False, object_store_memory=1 << 30, logging_level="ERROR"
        )
        for entries in args.entries:
            for shards in args.shards:
                pools(folder, entries, shards, args)
        for entries in args.restore:
            for shards in args.shards:
                restores(folder, entries, shards, args)
        ray.shutdown()


if __name__ == "__main__":
    main()
