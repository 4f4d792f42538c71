"""Labels as ordinary images and a Parquet index, for programs that know nothing of the pool."""

from __future__ import annotations

import hashlib
import io
from itertools import islice
from typing import Any
from urllib.parse import quote

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image
from pyarrow import fs as pafs

from models.config import PoolError
from models.paths import absolute, child, filesystem, replacing
from pseudolabel.inspect.contents import Contents
from pseudolabel.pool import Record, shard_of, to_entry

INDEX = "index.parquet"
SCHEMA = pa.schema(
    dict.fromkeys(("image_id", "label", "transmission"), pa.string())
    | dict.fromkeys(("width", "height", "trust_rows", "trust_columns"), pa.int32())
    | {"clearness": pa.float64(), "quality": pa.float64(), "teacher_step": pa.int64(), "trust": pa.list_(pa.float32())}
)
_FOLDERS = 256  # images are spread over as many, for file systems that dislike long folders
_LONGEST_NAME = 200
_ROWS = 256


def export(contents: Contents, out: str) -> int:
    """Write `labels/xx/<image_id>.png`, `transmissions/xx/<image_id>.png` and, last of all, `index.parquet`.

    The index has one row per label: the paths of its images below `out`, its scores, and its trust map row by row. An
    export without index is not complete.

    Args:
        contents: the pool.
        out: folder to write, a path or a URI.

    Returns:
        How many labels were written.

    Raises:
        PoolError: there is an export already, or the place cannot be written.
    """
    files, folder = filesystem(absolute(out))
    if files.get_file_info(f"{folder}/{INDEX}").type != pafs.FileType.NotFound:
        raise PoolError(f"{out} holds an export already: choose another folder")
    found = (_written(record, files, folder) for record in contents.records(contents.scores["image_id"].to_pylist()))
    count = 0
    try:
        with replacing(child(out, INDEX)) as sink, pq.ParquetWriter(sink, SCHEMA) as index:
            # An image is written when its row is asked for: one table is in memory.
            while rows := list(islice(found, _ROWS)):
                index.write_table(pa.Table.from_pylist(rows, schema=SCHEMA))
                count += len(rows)
    except OSError as problem:
        raise PoolError(f"cannot export to {out}: {problem}") from problem
    return count


def _written(record: Record, files: Any, folder: str) -> dict[str, Any]:
    entry, name = to_entry(record), _name(record.image_id)
    png = io.BytesIO()
    Image.fromarray(entry.label).save(png, "PNG", compress_level=3)
    paths = {"label": f"labels/{name}", "transmission": f"transmissions/{name}"}
    for path, data in zip(paths.values(), (png.getvalue(), record.transmission), strict=True):
        files.create_dir(f"{folder}/{path}".rpartition("/")[0], recursive=True)
        with files.open_output_stream(f"{folder}/{path}") as sink:
            sink.write(data)
    same = {name: getattr(entry, name) for name in ("image_id", "clearness", "quality", "teacher_step")}
    (height, width), (rows, columns) = entry.transmission.shape, entry.trust.shape
    sizes = {"width": width, "height": height, "trust_rows": rows, "trust_columns": columns}
    return {**same, **paths, **sizes, "trust": entry.trust.ravel()}


def _name(image_id: str) -> str:
    """Return a file name that no identifier can lead out of the folder with."""
    # Dots as well: '..' would lead out.
    safe = quote(image_id, safe=" ").replace(".", "%2E")
    if len(safe) > _LONGEST_NAME:
        safe = hashlib.sha256(image_id.encode()).hexdigest()
    return f"{shard_of(image_id, _FOLDERS):02x}/{safe}.png"
