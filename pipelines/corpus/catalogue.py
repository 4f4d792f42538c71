"""The catalogue of a corpus: one row for every file that an ingest has seen, and what became of it. No Ray.

It is what makes an ingest resumable and incremental: a file that is listed with the same size and time is not read
again. About 700 bytes a photograph, held on the driver; images never pass through it.
"""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Iterator

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pyarrow import fs as pafs

from models.paths import child, filesystem, replacing
from pipelines.corpus.format import CATALOGUE

EXAMINED = pa.schema(
    [
        ("uri", pa.string()),  # unique, for people: a path, archive.zip#member, rows.parquet#17
        ("key", pa.string()),  # path below the source without suffix
        ("place", pa.string()),  # where to read it: pipelines.corpus.sources.Place
        ("depth", pa.string()),  # place of its depth map, or null
        ("listed", pa.int64()),  # bytes and time by which an unchanged file is recognized
        ("mtime", pa.int64()),
        ("size", pa.int64()),  # bytes read
        ("image_id", pa.string()),  # "" when it could not be read
        ("width", pa.int32()),  # upright, as it is in the source; 0 when it could not be decoded
        ("height", pa.int32()),
        ("phash", pa.binary(32)),
        ("haze", pa.float32()),  # density in [0, 1], NaN when it could not be decoded
        ("reason", pa.string()),  # why it cannot be used, or ""
        ("message", pa.string()),
    ]
)
CATALOGUE_SCHEMA = pa.schema(
    [
        *EXAMINED,
        ("pair_id", pa.string()),
        ("status", pa.string()),  # accepted, duplicate, rejected
        ("same_as", pa.string()),  # uri of the photograph that a duplicate repeats
        ("distance", pa.int16()),  # bits of the perceptual hash between the two
        ("shard", pa.string()),  # file name of the shard of an accepted one
    ]
)
_PARTS = ".examined"  # folder of what an unfinished ingest has found out
_KEYS = ["uri", "place", "listed", "mtime"]


def known(out: str, digest: str, catalogue: pa.Table | None) -> pa.Table:
    """What is known about files, from a finished ingest and from an interrupted one.

    Args:
        out: folder of the corpus.
        digest: stands for how files are examined; what was found in another way does not count.
        catalogue: of the finished ingest, when it examined files in this way.

    Returns:
        Table of :data:`EXAMINED`, one row per uri, place, size and time.
    """
    tables = [EXAMINED.empty_table()]
    if catalogue is not None:
        tables.append(catalogue.select(EXAMINED.names))
    for uri in _parts(out, digest):
        files, path = filesystem(uri)
        with contextlib.suppress(pa.ArrowInvalid, OSError):  # damaged: those files are examined again
            tables.append(pq.read_table(path, filesystem=files).select(EXAMINED.names).cast(EXAMINED))
    return first_rows(pa.concat_tables(tables), _KEYS)


def first_rows(table: pa.Table, keys: str | list[str]) -> pa.Table:
    """The first row for each value of the keys."""
    numbered = table.append_column("row", pa.array(range(table.num_rows), pa.int64()))
    rows = numbered.group_by(keys, use_threads=False).aggregate([("row", "min")])["row_min"]
    return table.take(rows)


def split_known(listed: pa.Table, table: pa.Table) -> tuple[pa.Table, pa.Table]:
    """Files that need not be read again, as :data:`EXAMINED`, and those that have to be, as they were listed."""
    listed = listed.rename_columns({"size": "listed"}).select(["uri", "key", "listed", "mtime", "place", "depth"])
    joined = listed.join(table.drop_columns(["key", "depth"]), _KEYS, join_type="left outer")
    fresh = pc.is_null(joined["reason"])
    return joined.filter(pc.invert(fresh)).select(EXAMINED.names), joined.filter(fresh).select(listed.column_names)


def store_part(out: str, digest: str, table: pa.Table) -> None:
    """Keep what a task has found out, for an ingest that goes on after an interruption."""
    with replacing(child(out, f"{_PARTS}/{digest}-{uuid.uuid4().hex}.parquet")) as stream:
        pq.write_table(table, stream)


def drop_parts(out: str) -> None:
    """Delete the parts: the catalogue has them all."""
    files, path = filesystem(child(out, _PARTS))
    if files.get_file_info(path).type == pafs.FileType.Directory:
        files.delete_dir(path)


def _parts(out: str, digest: str) -> Iterator[str]:
    root = child(out, _PARTS)
    files, path = filesystem(root)
    if files.get_file_info(path).type == pafs.FileType.Directory:
        for info in files.get_file_info(pafs.FileSelector(path)):
            name = info.path.rpartition("/")[2]
            if name.startswith(f"{digest}-") and name.endswith(".parquet"):
                yield child(root, name)


def read_catalogue(out: str) -> pa.Table | None:
    """The catalogue of a corpus, or None where there is none that can be read."""
    files, path = filesystem(child(out, CATALOGUE))
    if files.get_file_info(path).type != pafs.FileType.File:
        return None
    try:
        return pq.read_table(path, filesystem=files).select(CATALOGUE_SCHEMA.names).cast(CATALOGUE_SCHEMA)
    except (pa.ArrowException, KeyError):  # of another version, or damaged
        return None


def write_catalogue(out: str, table: pa.Table) -> None:
    """Replace the catalogue, in one step."""
    with replacing(child(out, CATALOGUE), durable=True) as stream:
        pq.write_table(table.select(CATALOGUE_SCHEMA.names).cast(CATALOGUE_SCHEMA), stream, row_group_size=1 << 16)
