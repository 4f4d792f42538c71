"""What grows with photographs on the ingest's driver: the decisions over a catalogue of made-up rows, without pixels.

``python -m benchmarks.scaling [--photographs 100000 300000 1000000]`` prints a row for each count, measured in a
process of its own: the processor time of all decisions (filters, equal files, photographs that look the same), as a
multiple of that of the smallest count, and the peak of that process's memory per photograph.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from typing import Any


def measure(count: int) -> dict[str, Any]:
    """Decide about so many photographs; one in 50 is an equal file, none look alike but by chance."""
    import numpy as np
    import pyarrow as pa

    from pipelines.corpus import CATALOGUE_SCHEMA
    from pipelines.ingest.config import IngestConfig
    from pipelines.ingest.decide import Examined, decide

    def peak() -> int:
        return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    before = peak()
    random = np.random.default_rng(0)
    content = np.arange(count)
    content[::50] = content[1::50][: len(content[::50])]  # equal to its neighbor
    hashes = random.integers(0, 1 << 63, (count, 4), dtype=np.int64)[content]
    table = pa.table(
        {
            "uri": pa.array([f"s3://bucket/photographs/{index // 1000:06d}/{index:09d}.jpg" for index in range(count)]),
            "image_id": pa.array([f"{index:032x}" for index in content]),
            "phash": pa.array([row.tobytes() for row in hashes], CATALOGUE_SCHEMA.field("phash").type),
            "width": pa.array(np.full(count, 1280), pa.int32()),
            "height": pa.array(np.full(count, 960), pa.int32()),
            "size": pa.array(random.integers(100_000, 900_000, count), pa.int64()),
            "reason": pa.array([""] * count),
            "message": pa.array([""] * count),
        }
    )
    began = time.process_time()
    sheet = Examined(table, [None] * count)
    decide(sheet, IngestConfig(sources=("photographs",), domain="hazy", out="corpus"))
    seconds = time.process_time() - began
    accepted = int((sheet.status == "accepted").sum())
    return {"photographs": count, "seconds": seconds, "accepted": accepted, "bytes": (peak() - before) / count}


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--photographs", type=int, nargs="+", default=[100_000, 300_000, 1_000_000])
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one is not None:
        print(json.dumps(measure(args.one)))
        return
    rows = []
    for count in sorted(args.photographs):
        command = [sys.executable, "-m", "benchmarks.scaling", "--one", str(count)]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        rows.append(json.loads(done.stdout.splitlines()[-1]))
    print("| photographs | accepted | time, of the first row | bytes of memory per photograph, at the peak |")
    print("| ---: | ---: | ---: | ---: |")
    for row in rows:
        ratio = row["seconds"] / rows[0]["seconds"]
        print(f"| {row['photographs']:,} | {row['accepted']:,} | {ratio:.1f} | {row['bytes']:,.0f} |")


if __name__ == "__main__":
    main()
