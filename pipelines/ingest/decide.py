"""What becomes of every file that an ingest has seen: accepted, rejected, or a duplicate. From sizes and hashes
alone.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipelines.corpus import BITS, CATALOGUE_SCHEMA, Hashes, as_words, closest, same_as, words_of
from pipelines.ingest.config import IngestConfig


@dataclass(frozen=True)
class Banned:
    """What must not get in: image ids, perceptual hashes, and what to call it."""

    reason: Literal["held_out", "other_corpus"]
    ids: set[str] = field(default_factory=set)
    hashes: Hashes = field(default_factory=lambda: as_words([]))
    names: Sequence[str] = ()  # of the hashes


class Examined:
    """The catalogue while decisions are taken: its rows, and what becomes of each; and what was left out, by kind."""

    def __init__(
        self, examined: pa.Table, pairs: Sequence[str | None], left_out: Mapping[str, int] | None = None
    ) -> None:
        self.table = examined
        self.left_out = dict(left_out or {})
        self.pairs = np.array(list(pairs), dtype=object)
        count = examined.num_rows
        self.reason = np.array(examined["reason"].to_pylist(), dtype=object)
        self.message = np.array(examined["message"].to_pylist(), dtype=object)
        self.status = np.where(self.reason == "", "accepted", "rejected").astype(object)
        self.same_as = np.full(count, None, dtype=object)
        self.distance = np.zeros(count, np.int16)
        self.shard = np.full(count, "", dtype=object)
        self.uris = examined["uri"].to_numpy(zero_copy_only=False)
        self.ids = examined["image_id"].to_numpy(zero_copy_only=False)
        self.hashes = words_of(examined["phash"])

    def open(self) -> NDArray[Any]:
        """Rows that are still accepted."""
        return np.flatnonzero(self.status == "accepted")

    def reject(self, rows: NDArray[Any], reason: str, messages: Sequence[str]) -> None:
        """Turn rows down."""
        self.status[rows], self.reason[rows] = "rejected", reason
        self.message[rows] = np.array(messages, dtype=object)

    def duplicate(self, rows: NDArray[Any], reason: str, same_as: Any, distance: Any) -> None:
        """Mark rows as repeating what there is already."""
        self.status[rows], self.reason[rows] = "duplicate", reason
        self.same_as[rows], self.distance[rows] = same_as, distance

    def rows(self, rows: Any) -> pa.Table:
        """What was found out about some rows, with their scenes."""
        pairs = pa.array(self.pairs[rows].tolist(), pa.string())
        return self.table.take(pa.array(rows, pa.int64())).append_column("pair_id", pairs)

    def catalogue(self) -> pa.Table:
        """The rows as they are now."""
        table = self.table.drop_columns(["reason", "message"])
        for name in ("reason", "message", "status", "same_as", "shard"):
            table = table.append_column(name, pa.array(getattr(self, name).tolist(), pa.string()))
        table = table.append_column("pair_id", pa.array(self.pairs.tolist(), pa.string()))
        table = table.append_column("distance", pa.array(self.distance, pa.int16()))
        return table.select(CATALOGUE_SCHEMA.names).cast(CATALOGUE_SCHEMA)


def decide(sheet: Examined, config: IngestConfig, banned: Sequence[Banned] = (), settled: Collection[str] = ()) -> None:
    """What becomes of every file: filters, held-out photographs, equal files, photographs that look the same.

    Of equal files the first by uri is kept, of similar photographs the largest; what the corpus holds already
    (``settled``: image ids) comes before both, so that adding photographs moves none.
    """
    _filter(sheet, config)
    for ban in banned:
        _ban(sheet, ban, config.holdout_bits)
    rows = sheet.open()
    old = np.array([image_id in settled for image_id in sheet.ids], dtype=bool)
    rows = rows[np.lexsort((sheet.uris[rows].astype(str), ~old[rows], sheet.ids[rows].astype(str)))]
    _equal(sheet, rows)
    if config.near_duplicates >= 0:
        _similar(sheet, config.near_duplicates, old)


def _filter(sheet: Examined, config: IngestConfig) -> None:
    rows = sheet.open()
    width, height = (sheet.table[name].to_numpy()[rows] for name in ("width", "height"))
    short, long = np.minimum(width, height), np.maximum(width, height)
    small, narrow = short < config.min_side, long > config.max_aspect * short
    findings = {
        "too_small": (small, f"has a side below {config.min_side} pixels"),
        "too_long": (narrow & ~small, f"is more than {config.max_aspect:g} times as long as wide"),
    }
    for reason, (where, what) in findings.items():
        sizes = zip(width[where], height[where], strict=True)
        sheet.reject(rows[where], reason, [f"{w}x{h} {what}" for w, h in sizes])


def _ban(sheet: Examined, ban: Banned, bits: int) -> None:
    rows = sheet.open()
    same = np.array([sheet.ids[row] in ban.ids for row in rows], dtype=bool)
    index, far = closest(sheet.hashes[rows], ban.hashes, max(bits, 0))
    near = (index >= 0) & ~same & (bits >= 0)
    names = np.array([*ban.names, ""], dtype=object)[index]  # index -1: ""
    if ban.reason == "held_out":
        sheet.reject(rows[same], "held_out", ["its content is in the held-out set"] * int(same.sum()))
        found = zip(names[near], far[near], strict=True)
        sheet.reject(rows[near], "held_out", [f"looks like held-out {n} ({d} of {BITS} bits differ)" for n, d in found])
        return
    known = [name or "the other corpus" for name in names[same]]
    sheet.duplicate(rows[same], "other_corpus", np.array(known, dtype=object), 0)
    sheet.duplicate(rows[near], "other_corpus", names[near], far[near])


def _equal(sheet: Examined, rows: NDArray[Any]) -> None:
    """``rows`` are sorted by image id, the one to keep first."""
    ids = sheet.ids[rows].astype(str)
    first = np.ones(len(rows), dtype=bool)
    first[1:] = ids[1:] != ids[:-1]
    original = rows[np.flatnonzero(first)][np.cumsum(first) - 1] if len(rows) else rows
    sheet.duplicate(rows[~first], "exact", sheet.uris[original[~first]], 0)


def _similar(sheet: Examined, bits: int, old: NDArray[Any]) -> None:
    rows = sheet.open()
    pixels = sheet.table["width"].to_numpy()[rows].astype(np.int64) * sheet.table["height"].to_numpy()[rows]
    rows = rows[np.lexsort((sheet.uris[rows].astype(str), -sheet.table["size"].to_numpy()[rows], -pixels, ~old[rows]))]
    kept, far = same_as(sheet.hashes[rows], bits, groups=sheet.pairs[rows])
    repeats = (kept >= 0) & ~old[rows]
    sheet.duplicate(rows[repeats], "near", sheet.uris[rows[kept[repeats]]], far[repeats])
