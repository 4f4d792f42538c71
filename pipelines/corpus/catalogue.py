"""The catalogue of a corpus: one row for every file that an ingest has seen, and what became of it. No Ray.

It is what makes an ingest resumable and incremental: a file that is listed with the same size and time is not read
again. It is a folder of Parquet files, none of which an ingest holds whole beside another.
"""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Iterator

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pyarrow import fs as pafs

from models.paths import child, filesystem, remove_folder, replacing
from pipelines.corpus.format import Corpus, parquet_file

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
FILE_KEYS = ["uri", "place", "listed", "mtime"]
_PARTS = ".examined"  # folder of what an unfinished ingest has found out
_GROUP = 1 << 16
_GROUPS = 2  # row groups of a piece
Piece = tuple[str, list[int]]  # a Parquet file, and row groups of it: what is read at a time


def pieces(corpus: Corpus) -> list[Piece] | None:
    """Return the catalogue of a corpus, or None where there is none that can be read."""
    found: list[Piece] = []
    try:
        for uri in corpus.catalogue():
            with parquet_file(uri) as file:
                metadata = file.metadata
            if set(CATALOGUE_SCHEMA.names) - set(metadata.schema.to_arrow_schema().names):
                return None  # of another version
            groups = list(range(metadata.num_row_groups))
            found += [(uri, groups[first : first + _GROUPS]) for first in range(0, len(groups), _GROUPS)]
    except (pa.ArrowException, OSError):
        return None
    return found


def read_piece(piece: Piece) -> pa.Table:
    """Read the rows of a piece of the catalogue."""
    uri, groups = piece
    with parquet_file(uri) as file:
        table = file.read_row_groups(groups, columns=CATALOGUE_SCHEMA.names)
    return table.select(CATALOGUE_SCHEMA.names).cast(CATALOGUE_SCHEMA)


def as_examined(table: pa.Table) -> pa.Table:
    """Return what the catalogue knows about files, as :data:`EXAMINED`, before anything is decided."""
    decoded = pc.and_(pc.greater(table["width"], 0), pc.not_equal(table["reason"], ""))
    for name in ("reason", "message"):  # those of decisions are taken anew
        column = table.schema.get_field_index(name)
        table = table.set_column(column, name, pc.if_else(decoded, "", table[name]))
    again = pc.equal(table["reason"], "unreadable")  # perhaps it can be read now
    return table.filter(pc.invert(again)).select(EXAMINED.names)


def write_catalogue_part(uri: str, table: pa.Table) -> None:
    """Write one file of a catalogue."""
    with replacing(uri, durable=True) as stream:
        pq.write_table(table.select(CATALOGUE_SCHEMA.names).cast(CATALOGUE_SCHEMA), stream, row_group_size=_GROUP)


def first_rows(table: pa.Table, keys: str | list[str]) -> pa.Table:
    """Return the first row for each value of the keys."""
    numbered = table.append_column("row", pa.array(range(table.num_rows), pa.int64()))
    rows = numbered.group_by(keys, use_threads=False).aggregate([("row", "min")])["row_min"]
    return table.take(rows)


def split_known(listed: pa.Table, table: pa.Table) -> tuple[pa.Table, pa.Table]:
    """Divide listed files into those that need not be read again, as :data:`EXAMINED`, and those that have to be, as
    listed.

    Args:
        listed: ``uri``, ``key``, ``size``, ``mtime``, ``place`` and ``depth`` of each file.
        table: of :data:`EXAMINED`, one row for each uri, place, size and time.
    """
    listed = listed.rename_columns({"size": "listed"}).select(["uri", "key", "listed", "mtime", "place", "depth"])
    joined = listed.join(table.drop_columns(["key", "depth"]), FILE_KEYS, join_type="left outer")
    fresh = pc.is_null(joined["reason"])
    return joined.filter(pc.invert(fresh)).select(EXAMINED.names), joined.filter(fresh).select(listed.column_names)


def store_part(out: str, digest: str, table: pa.Table) -> None:
    """Keep what a task has found out, for an ingest that goes on after an interruption."""
    with replacing(child(out, f"{_PARTS}/{digest}-{uuid.uuid4().hex}.parquet")) as stream:
        pq.write_table(table, stream)


def read_part(uri: str) -> pa.Table:
    """Return what a task has found out; nothing when it is damaged: those files are examined again."""
    files, path = filesystem(uri)
    with contextlib.suppress(pa.ArrowInvalid, OSError):
        return pq.read_table(path, filesystem=files).select(EXAMINED.names).cast(EXAMINED)
    return EXAMINED.empty_table()


def drop_parts(out: str) -> None:
    """Delete the parts: the catalogue has them all."""
    remove_folder(child(out, _PARTS))


def stored_parts(out: str, digest: str) -> Iterator[str]:
    """Yield the files with the findings of an unfinished ingest's tasks, as far as these examined files in the way that
    ``digest`` stands for.
    """
    root = child(out, _PARTS)
    files, path = filesystem(root)
    if files.get_file_info(path).type == pafs.FileType.Directory:
        for info in files.get_file_info(pafs.FileSelector(path)):
            name = info.path.rpartition("/")[2]
            if name.startswith(f"{digest}-") and name.endswith(".parquet"):
                yield child(root, name)
