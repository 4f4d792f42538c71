"""What the HTTP service costs over the predictor, what an overload does to it, and whether its memory grows.

``python -m benchmarks.serving [--parts overhead overload soak] [--out serving.json]`` starts the service as ``python -m
serving`` does, on loopback, and prints a table for each part:

- *overhead*: answers per second and latency with 1, 8 and 32 clients, against a loop in another process with as many
  threads that does the same work on the same file: decode, dehaze, encode, and the scores of input and result. The two
  run in turn on the same cores; the client runs on the others, where there are any.
- *overload*: requests arrive five times as fast as the service can answer them, for a minute.
- *soak*: many sizes and formats, scores, archives and damaged files, for ``--minutes``.

Memory is that of all processes of the service, Ray's own included; shared pages count once.
"""

from __future__ import annotations

import argparse
import io
import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.serving_load import Request
from benchmarks.serving_parts import Plan, Row, overhead, overload, soak
from models import images
from models.images import Photo
from pipelines.demo import SOURCES

PHOTOGRAPH = "china"
SIZES = ((160, 120), (321, 481), (640, 480), (1024, 683))
PARTS = ("overhead", "overload", "soak")


def photograph() -> Photo:
    """Read one of the photographs that the demo's samples are cut from, 640x427. Its haze makes no difference here."""
    return images.read_image(next(source for source in SOURCES if source.name == PHOTOGRAPH).file())


def file_of(photo: Photo, width: int, height: int, kind: str = "JPEG") -> bytes:
    """Return a photograph, resized, as a file."""
    return images.encode(Photo(images.resize(photo.pixels, width, height)), kind, 92)


def mixture(photo: Photo) -> list[Request]:
    """Return requests of all kinds, the same every time, in an order without a pattern."""
    made = []
    for width, height in SIZES:
        for kind in ("JPEG", "PNG", "WEBP", "TIFF", "BMP"):
            data = file_of(photo, width, height, kind)
            made += [Request("/v1/dehaze", data), Request("/v1/dehaze", data[: len(data) // 2])]
        made.append(Request("/v1/dehaze?output=side-by-side&format=png", file_of(photo, width, height)))
        made.append(Request("/v1/score", file_of(photo, width, height)))
    deep = photo.pixels[:200, :300].astype(np.uint16) * 257
    made.append(Request("/v1/dehaze", images.encode(Photo(deep), "PNG")))
    made.append(Request("/v1/batch", _archive({f"{n}.jpg": file_of(photo, 200 + 40 * n, 200) for n in range(4)})))
    return [made[index] for index in np.random.default_rng(1).permutation(len(made))]


def _archive(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return buffer.getvalue()


def overhead_table(rows: list[Row]) -> str:
    """Return the rows as a Markdown table."""
    lines = [
        "| cores | clients | answers/s | share of the loop | of dehazing alone | p50, s | p99, s | failed |",
        "| ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for row in rows:
        if row["concurrency"] == 1:
            lines.append(f"| {row['cores']} | loop | {row['loop_rate']:.2f} | 1 | | {row['loop_s']:.3f} | | |")
        lines.append(
            f"| {row['cores']} | {row['concurrency']} | {row['rate']:.2f} | {row['share']:.2f} "
            f"| {row['share_of_dehazing_alone']:.2f} | {row['p50_s']:.3f} | {row['p99_s']:.3f} | {row['failed']} |"
        )
    return "\n".join(lines)


def overload_table(row: Row) -> str:
    """Return the row as Markdown."""
    seconds = {name: row[f"{name}_s"] for name in ("unloaded", "saturated", "accepted", "refused")}
    lines = ["| | p50, s | p99, s |", "| --- | ---: | ---: |"]
    lines += [f"| {name} | {pair['p50']:.3f} | {pair['p99']:.3f} |" for name, pair in seconds.items()]
    lines += [
        "",
        f"{row['sent']} requests at {row['offered']:.1f}/s, capacity {row['capacity']:.2f}/s",
        f"{row['accepted']} accepted, {row['refused'] / row['sent']:.0%} refused; statuses {row['statuses']}",
        f"{row['answers_per_s']:.2f} answers/s meanwhile",
        "MiB: " + ", ".join(f"{name} {value:.0f}" for name, value in row["memory_mb"].items()),
        f"normal latency again {row['normal_after_s']:.1f} s after the last request",
    ]
    return "\n".join(lines)


def soak_table(row: Row) -> str:
    """Return the row as Markdown."""
    lines = ["| process | after warm-up, MiB | at the end, MiB |", "| --- | ---: | ---: |"]
    lines += [f"| {title} | {pair[0]:.0f} | {pair[1]:.0f} |" for title, pair in row["by_process_mb"].items()]
    lines.append(f"| all | {row['warm_mb']:.0f} | {row['end_mb']:.0f} ({row['growth']:+.1%}) |")
    told = f"{row['requests']} requests in {row['minutes']:g} min, {row['failed']} failed; statuses {row['statuses']}; "
    return "\n".join([*lines, "", told + ("the same replicas" if row["same_replicas"] else "REPLICAS WERE RESTARTED")])


def _measure(part: str, args: argparse.Namespace, plan: Plan, photo: Photo) -> Any:
    request = Request("/v1/dehaze", file_of(photo, *map(int, args.size.split("x"))))
    if part == "overhead":
        rows = overhead(plan, request, args.cores, args.seconds, args.rounds)
        return rows, overhead_table(rows)
    if part == "overload":
        row = overload(plan, request, args.overload_seconds, args.sources)
        return row, overload_table(row)
    row = soak(plan, mixture(photo), args.minutes, args.concurrency)
    return row, soak_table(row)


def main() -> None:
    """Measure what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=["overhead", "overload"])
    parser.add_argument("--out", type=Path, help="JSON with everything; parts that it has already stay")
    parser.add_argument("--model", default="corun-compact")
    parser.add_argument("--threads", type=int, default=2, help="of torch, in the replica and in the loop")
    parser.add_argument("--settings", type=json.loads, default={}, help="further ones of the service, as JSON")
    parser.add_argument("--photo", type=Path, help="(default: china.jpg of scikit-learn)")
    parser.add_argument("--size", default="640x480", help="that it is resized to")
    parser.add_argument("--cores", type=int, nargs="+", default=[2, 4], help="overhead: for the service and the loop")
    parser.add_argument("--seconds", type=float, default=8.0, help="overhead: per measurement, at least")
    parser.add_argument("--rounds", type=int, default=2, help="overhead")
    parser.add_argument("--overload-seconds", type=float, default=60.0)
    parser.add_argument("--sources", type=int, default=4, help="overload: addresses that the requests come from")
    parser.add_argument("--minutes", type=float, default=20.0, help="soak")
    parser.add_argument("--concurrency", type=int, default=4, help="soak")
    args = parser.parse_args()
    plan = Plan(args.model, args.threads, args.settings)
    photo = images.read_image(args.photo) if args.photo else photograph()
    found = json.loads(args.out.read_text()) if args.out and args.out.exists() else {}
    for part in args.parts:
        found[part], table = _measure(part, args, plan, photo)
        print(f"\n{part}\n\n{table}", flush=True)
        if args.out:
            args.out.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
