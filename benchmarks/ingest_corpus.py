"""A corpus of any length for benchmarks: some photographs, many times over, without the disk that they would take."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from models import images
from pipelines.corpus import CORPUS_SCHEMA, MANIFEST, Domain, Manifest, image_id_of, require_corpus
from pipelines.demo import BROKEN, make_samples

ROWS_PER_SHARD, ROWS_PER_GROUP = 256, 64  # as the ingest writes them


def sample_rows(folder: Path, domain: Domain) -> Iterator[dict[str, Any]]:
    """Yield a row of a corpus for each sample in a folder."""
    for path in sorted(folder.glob("*.jpg")):
        if path.name != BROKEN:
            data = path.read_bytes()
            height, width = images.decode(data).pixels.shape[:2]
            yield {
                "image_id": image_id_of(data), "uri": str(path), "domain": domain, "image": data, "depth": None,
                "pair_id": None, "width": width, "height": height, "phash": "0" * 16, "split": "train",
            }  # fmt: skip


def describe(folder: Path, domain: Domain, count: int, row_groups: dict[str, int]) -> None:
    """Write the manifest of a corpus of ``count`` photographs to train on, with the row groups of each of its files."""
    manifest = Manifest(
        domain=domain, found=count, accepted=count, rejected=0, duplicates=0, splits={"train": count},
        files=tuple(row_groups), row_groups=row_groups,
    )  # fmt: skip
    (folder / MANIFEST).write_text(manifest.model_dump_json())


def rows_of(uri: str, domain: str, split: str | None = None, columns: list[str] | None = None) -> Iterator[Any]:
    """Yield rows of a corpus as dictionaries, shard by shard, ordered by content hash within each."""
    for file in require_corpus(uri, domain).files(split):
        for batch in pq.ParquetFile(file).iter_batches(batch_size=16, columns=columns):
            yield from batch.to_pylist()


def make_corpus(out: Path, count: int, clear: str | None) -> str:
    """Make a clear corpus of ``count`` photographs below ``out``, in whole shards: one real shard, and links to it.

    The photographs are up to 256 of the corpus ``clear``, or else of those inside scikit-image and scikit-learn.
    """
    shard, folder = out / "shard.parquet", out / f"corpus-{count}"
    folder.mkdir(parents=True)
    if not shard.exists():
        rows = rows_of(clear, "clear", "train") if clear else sample_rows(make_samples(out / "samples").clear, "clear")
        some = list(itertools.islice(rows, ROWS_PER_SHARD))
        table = pa.Table.from_pylist(list(itertools.islice(itertools.cycle(some), ROWS_PER_SHARD)), CORPUS_SCHEMA)
        pq.write_table(table, shard, compression="none", row_group_size=ROWS_PER_GROUP)
    shards = -(-count // ROWS_PER_SHARD)
    names = [f"train-{index:06d}.parquet" for index in range(shards)]
    for name in names:
        (folder / name).symlink_to(shard)
    describe(folder, "clear", shards * ROWS_PER_SHARD, dict.fromkeys(names, ROWS_PER_SHARD // ROWS_PER_GROUP))
    return str(folder)
