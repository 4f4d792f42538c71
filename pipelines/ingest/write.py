"""The second pass of an ingest: from accepted photographs to rows and shards. No Ray."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from pyarrow import fs as pafs

from models import images
from models.images import ImageError, Photo, eight_bits
from models.paths import child, filesystem, replacing
from pipelines.corpus import CORPUS_SCHEMA, Location, Missing, image_id_of, parquet_file, read_places
from pipelines.ingest.config import IngestConfig
from pipelines.ingest.depth import BadDepth, DepthReport, inspect_depth, parse_depth, store_depth, suspicious_line

SHARD_COLUMNS = ["uri", "place", "depth", "size", "image_id", "width", "height", "phash", "pair_id"]
_GROUP_BYTES = 128 << 20  # a row group is held in memory
_MAX_DEPTH_BYTES = 1 << 30
_REPORT = b"ingest"  # key of a shard's rejects and suspicious depth maps in its Parquet metadata
_SHORT = ["image_id", "uri", "domain", "split", "width", "height", "phash", "pair_id"]
_SUFFIX = {"jpeg": "JPEG", "png": "PNG", "webp": "WEBP"}


class RowError(ImageError):
    """A photograph that decodes and still cannot be used; ``code`` is the reason."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class Estimator(Protocol):
    """Depth of a photograph without a map: (H, W, 3) uint8 to (H, W), larger = nearer."""

    def estimate(self, pixels: NDArray[np.uint8]) -> NDArray[Any]:
        """Estimate one photograph's depth."""


@dataclass(frozen=True)
class Written:
    """What came of a shard: rows and row groups in its file (none when everything was rejected), rows with depth, the
    rejects (``image_id``, ``reason``, ``message``), and depth maps to look at.
    """

    name: str
    rows: int
    row_groups: int
    depth: int
    rejects: list[dict[str, str]]
    suspicious: list[dict[str, Any]]


def write_shard(name: str, table: pa.Table, config: IngestConfig, model: Estimator | None = None) -> Written:
    """Read a shard's photographs once more and write its Parquet file.

    The file appears whole or not at all, and its name stands for its content: one that is there already, from an
    attempt that was cut off or a task that ran twice, is taken as it is. Memory: one row group.

    Args:
        name: of the file in ``config.out``; it starts with the split.
        table: :data:`SHARD_COLUMNS` of its photographs, in order.
        config: domain, sizes, encoding.
        model: estimates the depth of photographs without a map.
    """
    uri = child(config.out, name)
    files, path = filesystem(uri)
    if files.get_file_info(path).type == pafs.FileType.File:
        with parquet_file(uri) as file:
            metadata = file.metadata
        return Written(name, metadata.num_rows, metadata.num_row_groups, **json.loads(metadata.metadata[_REPORT]))
    report: dict[str, Any] = {"rejects": [], "suspicious": [], "depth": 0}
    rows = groups = 0
    with (
        replacing(uri, durable=True) as stream,
        pq.ParquetWriter(
            stream, CORPUS_SCHEMA, compression="none", use_dictionary=["domain", "split"], write_statistics=_SHORT
        ) as writer,
    ):
        for chunk in _chunks(table, config.rows_per_group):
            group = list(_rows(chunk, name.partition("-")[0], config, model, report))
            if group:
                writer.write_table(pa.Table.from_pylist(group, CORPUS_SCHEMA), row_group_size=len(group))
                rows, groups = rows + len(group), groups + 1
                report["depth"] += sum(row["depth"] is not None for row in group)
        writer.add_key_value_metadata({_REPORT: json.dumps(report).encode()})
    return Written(name, rows, groups, **report)


def _chunks(table: pa.Table, largest: int) -> Iterator[list[dict[str, Any]]]:
    """Rows for one row group each: at most ``largest`` (evenly: 68 rows are 34 + 34, not 64 + 4), bounded in bytes."""
    length = -(-table.num_rows // -(-table.num_rows // largest))
    chunk: list[dict[str, Any]] = []
    size = 0
    for row in table.to_pylist():
        if chunk and (len(chunk) == length or size + row["size"] > _GROUP_BYTES):
            yield chunk
            chunk, size = [], 0
        chunk.append(row)
        size += row["size"]
    yield chunk


def _rows(
    chunk: Sequence[dict[str, Any]], split: str, config: IngestConfig, model: Estimator | None, report: dict[str, Any]
) -> Iterator[dict[str, Any]]:
    """Yield rows of a chunk; photographs that cannot be used, and depth maps that look wrong, go to the report."""
    photographs = dict(read_places([Location.of(row["place"]) for row in chunk]))
    maps = dict(_read_depth(chunk))
    for i, row in enumerate(chunk):
        try:
            made, checked = make_row(row, _unchanged(photographs.pop(i), row), maps.pop(i, None), config, model)
        except ImageError as problem:
            report["rejects"].append({"image_id": row["image_id"], "reason": problem.code, "message": str(problem)})
            continue
        if checked is not None and checked.suspicions:
            label = Location.of(row["depth"]).label if row["depth"] else "estimated"
            report["suspicious"].append(suspicious_line(row["uri"], label, checked))
        yield made | {"split": split}


def _unchanged(data: bytes | OSError, row: dict[str, Any]) -> bytes:
    if isinstance(data, OSError):
        raise RowError("unreadable", f"cannot read the file: {data.strerror or data}") from data
    if image_id_of(data) != row["image_id"]:
        raise RowError("changed", "the file changed while it was being ingested")
    return data


def make_row(
    row: dict[str, Any],
    data: bytes,
    depth: bytes | OSError | None,
    config: IngestConfig,
    model: Estimator | None = None,
) -> tuple[dict[str, Any], DepthReport | None]:
    """Return one photograph as a row of :data:`~pipelines.corpus.CORPUS_SCHEMA` without ``split``, and a report on its
    depth map.

    The file's own bytes are kept, unless the photograph is longer than ``max_side`` or ``encode`` names another
    format: then it is encoded anew, by default as JPEG of quality 95, or as PNG when it has alpha or 16 bits.

    Args:
        row: the photograph's row of :data:`SHARD_COLUMNS`.
        data: the whole file.
        depth: its depth map's file, or the error that reading it met; None when it has none.
        config: domain, sizes, encoding.
        model: estimates depth where there is no map.

    Raises:
        ImageError: whose ``code`` is the reason to reject it.
    """
    width, height = row["width"], row["height"]
    reduce = bool(config.max_side) and max(width, height) > config.max_side
    photo = images.decode(data, config.accepted()) if reduce or config.encode != "keep" or depth or model else None
    if reduce and photo is not None:
        photo = _reduced(photo, config.max_side)
        height, width = photo.pixels.shape[:2]
    stored = data
    if photo is not None and (reduce or _SUFFIX.get(config.encode, photo.format) != photo.format):
        stored = images.encode(photo, _format(photo, config), config.quality)
    checked, png = (None, None) if photo is None else _depth(row, photo, depth, config, model)
    return {
        "image_id": row["image_id"],
        "uri": row["uri"],
        "domain": config.domain,
        "image": stored,
        "depth": png,
        "pair_id": row["pair_id"],
        "width": width,
        "height": height,
        "phash": row["phash"].hex(),
    }, checked


def _format(photo: Photo, config: IngestConfig) -> str:
    if config.encode != "keep":
        return _SUFFIX[config.encode]
    return "PNG" if photo.alpha is not None or photo.pixels.dtype != np.uint8 else "JPEG"


def _reduced(photo: Photo, max_side: int) -> Photo:
    height, width = photo.pixels.shape[:2]
    scale = max_side / max(width, height)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    alpha = None if photo.alpha is None else images.resize(photo.alpha, *size)
    return replace(photo, pixels=images.resize(photo.pixels, *size), alpha=alpha)


def _depth(
    row: dict[str, Any], photo: Photo, depth: bytes | OSError | None, config: IngestConfig, model: Estimator | None
) -> tuple[DepthReport | None, bytes | None]:
    if isinstance(depth, OSError):
        raise RowError(BadDepth.code, f"cannot read the depth map: {depth.strerror or depth}") from depth
    pixels = eight_bits(photo.pixels)
    height, width = pixels.shape[:2]
    if depth is not None:
        label = Location.of(row["depth"]).label
        png = store_depth(parse_depth(depth, label), width, height, config.order(), name=label)
    elif model is not None:
        png = store_depth(model.estimate(pixels), width, height, "near")
    else:
        return None, None
    return inspect_depth(png, pixels), png


def sample_depth(rows: Iterable[dict[str, Any]], config: IngestConfig) -> tuple[list[DepthReport], list[str]]:
    """Check the depth maps of a few photographs, before all of them are taken: return reports, and the faults of those
    that cannot be used at all.
    """
    rows = list(rows)
    photographs = dict(read_places([Location.of(row["place"]) for row in rows]))
    maps = dict(_read_depth(rows))
    reports, bad = [], []
    for i, row in enumerate(rows):
        if i not in maps:
            continue
        try:
            _, checked = make_row(row, _unchanged(photographs[i], row), maps[i], config)
        except ImageError as problem:
            if problem.code == BadDepth.code:
                bad.append(str(problem))
            continue
        if checked is not None:
            reports.append(checked)
    return reports, bad


def _read_depth(rows: Sequence[dict[str, Any]]) -> Iterator[tuple[int, bytes | OSError]]:
    """The files of the rows' depth maps, by index, where there is one."""
    places = {i: Location.of(row["depth"]) for i, row in enumerate(rows) if row["depth"] is not None}
    fitting = [i for i, place in places.items() if place.length <= _MAX_DEPTH_BYTES]
    for i in places.keys() - set(fitting):
        yield i, OSError(f"{places[i].label} has {places[i].length:,} bytes; at most {_MAX_DEPTH_BYTES:,} are read")
    for number, data in read_places([places[i] for i in fitting]):
        if not isinstance(data, Missing):
            yield fitting[number], data
