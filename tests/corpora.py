"""Small corpora as an ingest leaves them. Not a test: other tests import it."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.corpus import CORPUS_SCHEMA, MANIFEST, SPLITS, Manifest

FILLER = {"uri": "a.png", "width": 64, "height": 48, "phash": "0" * 64}


def write_rows(folder: Path, domain: Any, rows: Iterable[dict[str, Any]], group: int) -> Path:
    """Make a corpus of ``image_id``, ``image``, ``split`` and what else is known of photographs, a shard per split with
    ``group`` of them to a row group.
    """
    folder.mkdir(parents=True)
    whole = [FILLER | {"domain": domain} | row for row in rows]
    splits = {split: [row for row in whole if row["split"] == split] for split in SPLITS}
    shards = {f"{split}-00000.parquet": some for split, some in splits.items() if some}
    for name, some in shards.items():
        pq.write_table(pa.Table.from_pylist(some, CORPUS_SCHEMA), folder / name, row_group_size=group)
    manifest = Manifest(
        domain=domain, found=len(whole), accepted=len(whole), rejected=0, duplicates=0,
        splits={split: len(some) for split, some in splits.items()}, files=tuple(shards),
        row_groups={name: -(-len(some) // group) for name, some in shards.items()},
    )  # fmt: skip
    (folder / MANIFEST).write_text(manifest.model_dump_json())
    return folder
