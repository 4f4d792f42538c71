"""From files to rows and shards: what the workers of an ingest do. No Ray."""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image
from pyarrow import fs as pafs

from models import images
from models.image_modes import eight_bits
from models.images import ImageError, ImageLimits, Photo
from pipelines.corpus import CORPUS_SCHEMA, child, filesystem, image_id_of, replacing, split_of
from pipelines.ingest_depth import read_depth
from pipelines.ingest_plan import Decision, IngestConfig, Shard, reject

HASHED_SCHEMA = pa.schema([(name, pa.string()) for name in ("uri", "image_id", "reason", "message")])
_READERS = 4  # reading waits, for disks and more so for object stores
_CHUNK = 1 << 20
_GROUP_BYTES = 128 << 20  # a row group is held in memory
_QUALITY = 95
_REJECTS = b"rejects"  # key of a shard's own rejects in its Parquet metadata
_SHORT = ["image_id", "uri", "domain", "split", "width", "height", "phash"]


class RowError(ImageError):
    """A photograph that decodes and still cannot be used; ``code`` is the reason."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


@dataclass(frozen=True)
class Written:
    """What came of a shard: rows and row groups in its file (none when everything was rejected)."""

    name: str
    rows: int
    row_groups: int
    rejects: list[dict[str, str]]


def hash_files(files: pa.Table, limits: ImageLimits) -> pa.Table:
    """Content hashes: table of ``uri, size`` to ``uri, image_id, reason, message`` (reason "" = read)."""
    with ThreadPoolExecutor(_READERS) as pool:
        rows = list(pool.map(lambda row: _hash_file(row["uri"], row["size"], limits), files.to_pylist()))
    return pa.Table.from_pylist(rows, HASHED_SCHEMA)


def _hash_file(uri: str, size: int, limits: ImageLimits) -> dict[str, str]:
    if size > limits.max_bytes:  # not worth reading
        problem = f"the file has {size:,} bytes; at most {limits.max_bytes:,} are accepted"
        return {"image_id": "", **reject(uri, images.ImageTooLarge.code, problem)}
    digest = hashlib.sha256()
    files, path = filesystem(uri)
    try:
        with files.open_input_stream(path) as stream:
            while chunk := stream.read(_CHUNK):
                digest.update(chunk)
    except OSError as problem:
        return {"image_id": "", **reject(uri, "unreadable", _sentence(problem))}
    return {"image_id": digest.hexdigest()[:32], **reject(uri, "", "")}


def make_row(uri: str, data: bytes, depth: str | None, config: IngestConfig) -> dict[str, Any]:
    """One photograph as a row of :data:`~pipelines.corpus.CORPUS_SCHEMA`.

    The file's own bytes are kept, unless the photograph is longer than ``max_side``: then it is reduced and encoded
    anew, as JPEG of quality 95, or as PNG when it has alpha or 16 bits.

    Args:
        uri: where the photograph came from.
        data: the whole file.
        depth: uri of its depth map, or None.
        config: domain, sizes and limits.

    Raises:
        ImageError: whose ``code`` is the reason to reject it.
    """
    import imagehash

    photo = images.decode(data, config.limits)
    height, width = photo.pixels.shape[:2]
    if min(width, height) < config.min_side:
        raise RowError("too_small", f"{width}x{height} has a side below {config.min_side} pixels")
    stored = data
    if config.max_side and max(width, height) > config.max_side:
        photo = _reduce(photo, config.max_side)
        height, width = photo.pixels.shape[:2]
        deep = photo.alpha is not None or photo.pixels.dtype != np.uint8
        stored = images.encode(photo, "PNG" if deep else "JPEG", _QUALITY)
    image_id = image_id_of(data)
    pixels = photo.pixels if photo.pixels.dtype == np.uint8 else eight_bits(photo.pixels)
    return {
        "image_id": image_id,
        "uri": uri,
        "domain": config.domain,
        "image": stored,
        "depth": None if depth is None else read_depth(depth, width, height),
        "pair_id": None,
        "width": width,
        "height": height,
        "phash": str(imagehash.phash(Image.fromarray(pixels))),
        "split": split_of(image_id, config.test_fraction),
    }


def _reduce(photo: Photo, max_side: int) -> Photo:
    height, width = photo.pixels.shape[:2]
    scale = max_side / max(width, height)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    alpha = None if photo.alpha is None else images.resize(photo.alpha, *size)
    return replace(photo, pixels=images.resize(photo.pixels, *size), alpha=alpha)


def write_shard(shard: Shard, config: IngestConfig) -> Written:
    """Decode and check a shard's photographs and write its Parquet file.

    The file appears whole or not at all, and its name stands for its content: one that is there already, from an
    attempt that was cut off or a task that ran twice, is taken as it is. Memory: one row group.
    """
    uri = child(config.out, shard.name)
    files, path = filesystem(uri)
    if files.get_file_info(path).type == pafs.FileType.File:
        with files.open_input_file(path) as stream:
            metadata = pq.read_metadata(stream)
        rejects = json.loads(metadata.metadata[_REJECTS])
        return Written(shard.name, metadata.num_rows, metadata.num_row_groups, rejects)
    rejected: list[dict[str, str]] = []
    rows = groups = 0
    with (
        replacing(uri) as stream,
        pq.ParquetWriter(
            stream, CORPUS_SCHEMA, compression="none", use_dictionary=["domain", "split"], write_statistics=_SHORT
        ) as writer,
    ):
        for group in _row_groups(_rows(shard, config, rejected), config.rows_per_group, len(shard.uris)):
            writer.write_table(pa.Table.from_pylist(group, CORPUS_SCHEMA), row_group_size=len(group))
            rows, groups = rows + len(group), groups + 1
        writer.add_key_value_metadata({_REJECTS: json.dumps(rejected).encode()})
    return Written(shard.name, rows, groups, rejected)


def list_rejects(decision: Decision, written: Iterable[Written]) -> tuple[list[dict[str, str]], list[dict[str, str]]]:
    """All rejects and all duplicates of an ingest, sorted by uri.

    A copy of a photograph that turned out unusable is no duplicate of anything in the corpus: it shares the reason.
    """
    bad = {row["image_id"]: row for shard in written for row in shard.rejects}
    rejects = decision.rejects + [reject(row["uri"], row["reason"], row["message"]) for row in bad.values()]
    duplicates = []
    for row in decision.duplicates.to_pylist():
        original = bad.get(row["image_id"])
        if original is None:
            duplicates.append({"uri": row["uri"], "same_as": row["same_as"]})
        else:
            rejects.append(reject(row["uri"], original["reason"], original["message"]))
    return sorted(rejects, key=lambda row: row["uri"]), sorted(duplicates, key=lambda row: row["uri"])


def _rows(shard: Shard, config: IngestConfig, rejected: list[dict[str, str]]) -> Iterable[dict[str, Any]]:
    """The shard's rows; photographs that cannot be used are added to ``rejected``."""
    for uri, image_id, depth in zip(shard.uris, shard.image_ids, shard.depths, strict=True):
        try:
            files, path = filesystem(uri)
            with files.open_input_stream(path) as stream:
                data = stream.read()
            if image_id_of(data) != image_id:
                raise RowError("changed", "the file changed while it was being ingested")
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # Pillow's, about metadata; what matters is raised
                yield make_row(uri, data, depth, config)
        except ImageError as problem:
            rejected.append({"image_id": image_id, **reject(uri, problem.code, str(problem))})
        except OSError as problem:
            rejected.append({"image_id": image_id, **reject(uri, "unreadable", _sentence(problem))})


def _row_groups(rows: Iterable[dict[str, Any]], largest: int, total: int) -> Iterable[list[dict[str, Any]]]:
    """Lists of rows, at most ``largest`` long (evenly: 68 rows are 34 + 34, not 64 + 4) and bounded in bytes."""
    length = -(-total // -(-total // largest))
    group: list[dict[str, Any]] = []
    size = 0
    for row in rows:
        group.append(row)
        size += len(row["image"]) + len(row["depth"] or b"")
        if len(group) == length or size >= _GROUP_BYTES:
            yield group
            group, size = [], 0
    if group:
        yield group


def _sentence(problem: OSError) -> str:
    return f"cannot read the file: {problem.strerror or problem}"
