"""What grows with files in an ingest's listing: empty files, in folders of a thousand or in one.

``python -m benchmarks.listing [--files 100000 1000000] [--flat]`` prints a row for each count, measured in processes of
their own: the peak of memory of the driver before it lists and at its end, that of the largest task, and the processor
time of all as a multiple of that of the first count.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.scaling import STORE, Watch


def make(folder: Path, count: int, each: int) -> None:
    """Make ``count`` empty files, ``each`` in a folder."""
    for number in range(count):
        below = folder / f"{number // each:06d}"
        if number % each == 0:
            below.mkdir(parents=True)
        (below / f"{number:09d}.jpg").touch()


def peak() -> int:
    """Return the peak memory of this process so far, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def measure(source: str, folder: str) -> dict[str, Any]:
    """List it."""
    import ray

    from pipelines.cluster import data_context_defaults
    from pipelines.ingest.config import IngestConfig
    from pipelines.ingest.decide import Work
    from pipelines.ingest.first_pass import spool
    from pipelines.ingest.survey import survey
    from pipelines.ingest.tree import complete

    ray.init(object_store_memory=STORE, include_dashboard=False, log_to_driver=False)
    data_context_defaults()
    work = Work(folder)
    before, watch = peak(), Watch(folder)
    plan = complete(work, survey(IngestConfig(sources=(source,), domain="hazy", out=folder)))
    spooled = spool(work, "spooled", plan.photographs)
    found = watch.stop()
    return {"found": spooled.photographs, "files": len(spooled.files), "before": before, "driver": peak()} | found


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--files", type=int, nargs="+", default=[100_000, 1_000_000])
    parser.add_argument("--flat", action="store_true", help="all files in one folder")
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one is not None:
        print(json.dumps(measure(*args.one)))
        return
    first = 0.0
    print("| files | driver before | driver | largest process | processor time, of the first row | tables |")
    print("| ---: | ---: | ---: | ---: | ---: | ---: |")
    for count in sorted(args.files):
        with tempfile.TemporaryDirectory() as folder:
            make(Path(folder) / "in", count, count if args.flat else 1000)
            command = [sys.executable, "-m", "benchmarks.listing", "--one", f"{folder}/in", f"{folder}/work"]
            done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
            row = json.loads(done.stdout.splitlines()[-1])
        first = first or row["seconds"]
        sizes = " | ".join(f"{row[name] / 2**20:,.0f} MiB" for name in ("before", "driver", "bytes"))
        print(f"| {row['found']:,} | {sizes} | {row['seconds'] / first:.1f} | {row['files']} |", flush=True)


if __name__ == "__main__":
    main()
