"""What grows with photographs in an ingest's decisions: those about made-up rows of a catalogue, without pixels.

``python -m benchmarks.scaling [--photographs 1000000 3000000 10000000]`` prints a row for each count, measured in
processes of its own: the processor time of all decisions and of the plan of shards, over all processes, as a
multiple of that of the first count; the peak of memory of the largest process; and what lay on the disk meanwhile. Of
the rows one in 50 is an equal file, and one in ten looks like another.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from functools import partial
from pathlib import Path
from typing import Any

STORE = 256 << 20  # of Ray's objects: nothing large passes through them


def made_up(source: int, out: str, count: int, parts: int) -> None:
    """Write made-up findings about ``count`` photographs in the form that the first pass leaves. Runs in a task."""
    import numpy as np
    import pyarrow as pa

    from pipelines.corpus import EXAMINED
    from pipelines.ingest.decide import by_content, scatter

    random = np.random.default_rng(source)
    content = np.arange(count)
    content[::50] = content[1::50][: len(content[::50])]  # equal to its neighbor
    hashes = random.integers(0, 256, (count, 32), dtype=np.uint8)
    near = np.arange(5, count, 10)
    hashes[near] = hashes[near - 2]  # also of one that has gone: chains
    for _ in range(8):
        hashes[near, random.integers(0, 32, len(near))] ^= 1 << random.integers(0, 8, len(near), dtype=np.uint8)
    hashes = hashes[content]
    sizes, first = random.integers(100_000, 900_000, count)[content], source * count
    names = [f"s3://bucket/photographs/{i // 1000:06d}/{i:09d}.jpg" for i in range(first, first + count)]
    table = pa.table(
        {
            "uri": names,
            "key": [name[12:-4] for name in names],
            "place": [f"file|0|{size}|{name}" for size, name in zip(sizes, names, strict=True)],
            "depth": pa.nulls(count, pa.string()),
            "listed": sizes,
            "mtime": np.full(count, 1 << 60),
            "size": sizes,
            "image_id": [f"{(first + i) * 0x9E3779B97F4A7C15 % 2**64:016x}{first + i:016x}" for i in content.tolist()],
            "width": np.full(count, 1280),
            "height": np.full(count, 960),
            "phash": [row.tobytes() for row in hashes],
            "haze": np.full(count, 0.5),
            "reason": [""] * count,
            "message": [""] * count,
        }
    ).cast(EXAMINED)
    scatter(out, table, by_content(table, parts), parts)


def measure(count: int, folder: str) -> dict[str, Any]:
    """Decide about so many photographs."""
    import ray

    from pipelines.cluster import data_context_defaults
    from pipelines.ingest.config import IngestConfig
    from pipelines.ingest.decide import ROWS, Work, decide, plan_shards

    ray.init(object_store_memory=STORE, include_dashboard=False, log_to_driver=False)
    data_context_defaults()
    parts = -(-count // ROWS)
    work = Work(str(Path(folder) / "work"), parts)
    sources = [{"source": part, "out": work.place("examined", part)} for part in range(parts)]
    work.run(partial(made_up, count=count // parts, parts=parts), sources)
    watch = Watch(folder)
    config = IngestConfig(sources=("photographs",), domain="hazy", out=folder)
    decide(work, config, [source["out"] for source in sources])
    shards = plan_shards(work, config)
    accepted = sum(shard.rows for shard in shards)
    return {"photographs": count, "accepted": accepted, "shards": len(shards)} | watch.stop()


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:  # a part that has been dealt with since it was listed
        return 0


class Watch:
    """Looks at this process and those below it, twice a second."""

    def __init__(self, folder: str) -> None:
        import psutil

        self.peak = self.disk = 0
        self.folder = folder
        self.seconds: dict[int, float] = {}
        self.tree = psutil.Process()
        self.ended = threading.Event()
        self.began = time.monotonic()
        self.look()
        self.before = sum(self.seconds.values())
        self.thread = threading.Thread(target=self.run)
        self.thread.start()

    def run(self) -> None:
        """Watch until told to stop."""
        while not self.ended.wait(0.5):
            self.look()

    def look(self) -> None:
        """Note memory and processor time."""
        import psutil

        for process in [self.tree, *self.tree.children(recursive=True)]:
            try:
                self.peak = max(self.peak, process.memory_info().rss)
                times = process.cpu_times()
            except psutil.Error:
                continue
            self.seconds[process.pid] = times.user + times.system
        files = (
            Path(folder) / name
            for folder, _, names in os.walk(self.folder)
            for name in names
            if name.endswith(".arrow")
        )
        self.disk = max(self.disk, sum(map(_size, files)))

    def stop(self) -> dict[str, float]:
        """Stop watching and return what was seen: processor seconds, wall seconds, and peaks of memory and disk in
        bytes.
        """
        self.ended.set()
        self.thread.join()
        self.look()
        wall = time.monotonic() - self.began
        cpu = sum(self.seconds.values()) - self.before
        return {"seconds": cpu, "wall": wall, "bytes": self.peak, "disk": self.disk}


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--photographs", type=int, nargs="+", default=[1_000_000, 3_000_000, 10_000_000])
    parser.add_argument("--folder", help="for the tables meanwhile (default: that of temporary files)")
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one is not None:
        print(json.dumps(measure(args.one, args.folder)))
        return
    rows = []
    print("| photographs | accepted | processor time, of the first row | for each | largest process | disk for each |")
    print("| ---: | ---: | ---: | ---: | ---: | ---: |")
    for count in sorted(args.photographs):
        with tempfile.TemporaryDirectory(dir=args.folder) as folder:
            command = [sys.executable, "-m", "benchmarks.scaling", "--one", str(count), "--folder", folder]
            done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        rows.append(row := json.loads(done.stdout.splitlines()[-1]))
        ratio, each = row["seconds"] / rows[0]["seconds"], row["seconds"] / row["photographs"]
        first = rows[0]["seconds"] / rows[0]["photographs"]
        print(
            f"| {row['photographs']:,} | {row['accepted']:,} | {ratio:.1f} | {each / first:.2f} | "
            f"{row['bytes'] / 2**20:,.0f} MiB | {row['disk'] / row['photographs']:,.0f} bytes |",
            flush=True,
        )


if __name__ == "__main__":
    main()
