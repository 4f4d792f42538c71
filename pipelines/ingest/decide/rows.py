"""What becomes of the photographs of one part, which holds all that have the same content: filters, banned ones, equal
files. From sizes and hashes alone; plain functions of tables.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipelines.corpus import BITS, CATALOGUE_SCHEMA, EXAMINED
from pipelines.ingest.config import IngestConfig
from pipelines.ingest.discover import pair_ids

_KEPT = ("image_id", "moves", "bare", "uri")  # equal files in the order in which they are kept
SHEET = CATALOGUE_SCHEMA.append(pa.field("old", pa.bool_()))  # whether the corpus holds the photograph already


def undecided(examined: pa.Table, config: IngestConfig, settled: pa.ChunkedArray) -> pa.Table:
    """Return rows of ``EXAMINED`` as a sheet: accepted unless they cannot be used. ``settled``: ids that the corpus
    holds.
    """
    count = examined.num_rows
    nothing, empty = pa.nulls(count, pa.string()), pa.array([""] * count, pa.string())
    columns = {name: examined[name] for name in EXAMINED.names} | {
        "pair_id": pa.array(pair_ids(examined["key"].to_pylist(), config.layout, config.pair_by), pa.string()),
        "status": pc.if_else(pc.equal(examined["reason"], ""), "accepted", "rejected"),
        "same_as": nothing,
        "distance": pa.array(np.zeros(count, np.int16)),
        "shard": empty,
        "old": pc.is_in(examined["image_id"], value_set=settled.combine_chunks()),
    }
    return pa.table(columns).select(SHEET.names).cast(SHEET)


def accepted(sheet: pa.Table) -> NDArray[Any]:
    """Return the indices of the rows that are still accepted."""
    return np.flatnonzero(np.asarray(pc.equal(sheet["status"], "accepted")))


def changed(sheet: pa.Table, rows: NDArray[Any], **values: Any) -> pa.Table:
    """Return a sheet with other values in some rows: one for all of them, or one for each."""
    if not len(rows):
        return sheet
    mask = np.zeros(sheet.num_rows, bool)
    mask[rows] = True
    order = np.argsort(rows)
    for name, value in values.items():
        column = sheet.schema.get_field_index(name)
        field = sheet.field(column)
        put = pa.array(value[order], field.type) if isinstance(value, np.ndarray) else pa.scalar(value, field.type)
        array = pc.replace_with_mask(sheet[name].combine_chunks(), pa.array(mask), put)
        sheet = sheet.set_column(column, field, array)
    return sheet


def rejected(sheet: pa.Table, rows: NDArray[Any], reason: Any, messages: Sequence[str]) -> pa.Table:
    """Turn rows down."""
    return changed(sheet, rows, status="rejected", reason=reason, message=np.array(messages, dtype=object))


def duplicate(sheet: pa.Table, rows: NDArray[Any], reason: str, same_as: Any, distance: Any) -> pa.Table:
    """Mark rows as repeating what there is already."""
    return changed(sheet, rows, status="duplicate", reason=reason, same_as=same_as, distance=distance)


def filtered(sheet: pa.Table, config: IngestConfig) -> pa.Table:
    """Reject photographs that are too small or too long."""
    rows = accepted(sheet)
    width, height = (sheet[name].to_numpy()[rows] for name in ("width", "height"))
    short, long = np.minimum(width, height), np.maximum(width, height)
    small, narrow = short < config.min_side, long > config.max_aspect * short
    findings = {
        "too_small": (small, f"has a side below {config.min_side} pixels"),
        "too_long": (narrow & ~small, f"is more than {config.max_aspect:g} times as long as wide"),
    }
    for reason, (where, what) in findings.items():
        sizes = zip(width[where], height[where], strict=True)
        sheet = rejected(sheet, rows[where], reason, [f"{w}x{h} {what}" for w, h in sizes])
    return sheet


def banned(
    sheet: pa.Table, reason: str, rows: NDArray[Any], known: pa.Table, names: NDArray[Any], far: NDArray[Any]
) -> pa.Table:
    """Reject photographs that are banned: held out, or part of another corpus.

    Args:
        sheet: one part.
        reason: ``held_out`` or ``other_corpus``.
        rows: those that are accepted.
        known: ``image_id`` and ``name`` of what is banned, as far as it belongs to this part.
        names: of what each of ``rows`` looks like, None where it looks like nothing there.
        far: bits between the two.
    """
    ids = sheet["image_id"].take(pa.array(rows))
    index = pc.index_in(ids, value_set=known["image_id"].combine_chunks())
    same = np.asarray(pc.is_valid(index))
    near = (names != None) & ~same  # noqa: E711 - of each
    if reason == "held_out":
        sheet = rejected(sheet, rows[same], "held_out", ["its content is in the held-out set"] * int(same.sum()))
        found = zip(names[near], far[near], strict=True)
        return rejected(
            sheet, rows[near], "held_out", [f"looks like held-out {n} ({d} of {BITS} bits differ)" for n, d in found]
        )
    held = np.array(known["name"].take(index.drop_null()).to_pylist(), dtype=object)
    sheet = duplicate(sheet, rows[same], "other_corpus", held, 0)
    return duplicate(sheet, rows[near], "other_corpus", names[near], far[near])


def _with_map(table: pa.Table) -> pa.ChunkedArray:
    """Return a text for each photograph with its depth map."""
    return pc.binary_join_element_wise(table["image_id"], pc.fill_null(table["depth"], ""), " ")


def unequal(sheet: pa.Table, held: pa.Table) -> pa.Table:
    """Keep one of equal files, and mark the others as duplicates: the one with the depth map that the corpus holds
    (``image_id`` and ``depth`` of ``held``), else the first by uri that has a map, else the first by uri.
    """
    rows = accepted(sheet)
    table = sheet.select(["image_id", "uri", "depth"]).take(pa.array(rows))
    moves = pc.invert(pc.is_in(_with_map(table), value_set=_with_map(held).combine_chunks()))
    table = table.append_column("moves", moves).append_column("bare", pc.is_null(table["depth"]))
    rows = rows[pc.sort_indices(table, [(key, "ascending") for key in _KEPT]).to_numpy()]
    if not len(rows):
        return sheet
    ids = sheet["image_id"].take(pa.array(rows)).to_numpy(zero_copy_only=False)
    first = np.concatenate([[True], ids[1:] != ids[:-1]])
    original = rows[np.flatnonzero(first)][np.cumsum(first) - 1][~first]
    uris = np.array(sheet["uri"].take(pa.array(original)).to_pylist(), dtype=object)
    return duplicate(sheet, rows[~first], "exact", uris, 0)
