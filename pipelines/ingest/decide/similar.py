"""Photographs of a corpus that look the same, found and decided over parts.

The rule is that of one list in order of preference (what the corpus holds already, then the largest): a photograph that
looks like an earlier one that is kept repeats the first such, and is no model for later ones, so that a chain of small
changes does not swallow photographs that differ. Photographs of one scene never repeat each other (its hazes look
alike).

All photographs get a rank in that order; pairs that look alike are found among those that agree in a part of their
hashes; and the pairs are gone through by rank. Only the last is one process: it holds a bit for each photograph.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipelines.corpus import BANDS, EXHAUSTIVE, bands, close_pairs, close_pairs_by, words_of
from pipelines.ingest.decide.parts import Job, Work, gather, hashes_of, load, scatter, store
from pipelines.ingest.decide.rows import accepted

VERDICT = pa.schema([("row", pa.int64()), ("same_as", pa.string()), ("distance", pa.int16())])
_RANKED = pa.schema([("rank", pa.int64()), ("row", pa.int64()), ("phash", pa.binary(32)), ("scene", pa.uint64())])
_PAIR = pa.schema(
    [
        ("first", pa.int64()),  # ranks
        ("second", pa.int64()),
        ("row", pa.int64()),  # of the second
        ("distance", pa.int16()),
        ("many", pa.bool_()),  # whether others have the very same hash as the second
    ]
)
_MODEL = _RANKED.append(_PAIR.field("many"))
_ORDER = [("old", "descending"), ("pixels", "descending"), ("size", "descending"), ("uri", "ascending")]
_KEYS = [name for name, _ in _ORDER]
_SAMPLES = 64  # of a part, to cut the order of all into parts
_TOGETHER = 4  # bands that are on the disk at a time: 50 bytes for each and a photograph
_FINE = 1 << 20  # rows of a part of one band


def find_similar(work: Work, bits: int) -> list[str]:
    """Find what repeats another photograph; returns files of ``VERDICT`` by part of the sheet. ``row`` is the part,
    shifted by 32 bits, and the row there.
    """
    samples = work.run(_sample, [{"sheet": sheet} for sheet in work.places("sheet")])
    count = sum(sample["open"] for sample in samples)
    if not count:
        return []
    cuts = _cuts([row for sample in samples for row in sample["rows"]], work.parts)
    sizes = work.run(partial(_to_ranks, cuts=cuts), work.jobs(sheet="sheet", out="order"))
    starts = np.concatenate([[0], np.sum(sizes, axis=0).cumsum()]).tolist()
    rank = partial(_rank, sources=work.places("order"), starts=starts)
    work.run(rank, work.jobs(out="ranked", looks="looks"))
    work.clear_stage("order")
    models = partial(_models, sources=work.places("looks"), starts=starts)
    work.run(models, work.jobs(out="models", followers="followers"))
    work.clear_stage("looks")
    pairs = _pairs_of_all(work, bits, starts) if count * count <= EXHAUSTIVE else _pairs(work, bits, starts, count)
    verdicts = _resolve(work, pairs, starts)
    for stage in ("models", "followers", "pairs", "ranked"):
        work.clear_stage(stage)
    return verdicts


def _open(sheet: str) -> tuple[pa.Table, NDArray[Any]]:
    """Load the accepted rows, with the columns that order them."""
    table = load(sheet, columns=["old", "width", "height", "size", "uri", "phash", "pair_id", "status"])
    rows = accepted(table)
    table = table.take(pa.array(rows))
    width, height = (table[name].to_numpy().astype(np.int64) for name in ("width", "height"))
    pixels = pa.array(width * height)
    old = pc.cast(table["old"], pa.int8())
    return table.append_column("pixels", pixels).drop_columns("old").append_column("old", old), rows


def _sample(sheet: str) -> Job:
    table, rows = _open(sheet)
    table = table.select(_KEYS)
    order = pc.sort_indices(table, _ORDER)
    chosen = np.unique(np.linspace(0, len(rows) - 1, min(_SAMPLES, len(rows))).astype(np.int64))
    return {"open": len(rows), "rows": table.take(order.take(pa.array(chosen))).to_pylist() if len(rows) else []}


def _cuts(rows: list[dict[str, Any]], parts: int) -> list[dict[str, Any]]:
    """The rows at which the order of all is cut."""
    order = pc.sort_indices(pa.Table.from_pylist(rows), _ORDER).to_pylist()
    return [rows[order[len(rows) * part // parts]] for part in range(1, parts)]


def _to_ranks(sheet: str, part: int, out: str, cuts: list[dict[str, Any]]) -> list[int]:
    table, rows = _open(sheet)
    keys = table.select(_KEYS).append_column("row", pa.array(np.arange(len(rows))))
    # The cuts are sorted in among the rows, each before the row that equals it (row -1). The number of cuts before
    # a row is its part.
    edges = pa.Table.from_pylist([cut | {"row": -1} for cut in cuts], keys.schema)
    order = pc.sort_indices(pa.concat_tables([keys, edges]), [*_ORDER, ("row", "ascending")]).to_numpy()
    passed = np.cumsum(order >= len(rows))[order < len(rows)]
    targets = np.zeros(len(rows), np.int64)
    targets[order[order < len(rows)]] = passed
    count = len(cuts) + 1
    numbers = pa.array((part << 32) + rows)
    table = table.select([*_KEYS, "phash"]).append_column("row", numbers).append_column("scene", _scenes(table))
    scatter(out, table, targets, count)
    sizes: list[int] = np.bincount(targets, minlength=count).tolist()
    return sizes


def _scenes(table: pa.Table) -> pa.Array:
    """Return a number for each scene, 0 for none."""
    # Odd numbers, because 0 stands for no scene.
    numbers = hashes_of(pc.fill_null(table["pair_id"], "")) | np.uint64(1)
    return pa.array(np.where(np.asarray(pc.is_valid(table["pair_id"])), numbers, np.uint64(0)))


def _rank(part: int, out: str, looks: str, sources: Sequence[str], starts: list[int]) -> None:
    table = gather(sources, part)
    table = table.take(pc.sort_indices(table.select(_KEYS), _ORDER))
    store(out, pa.schema([("uri", pa.string())]), [table.select(["uri"])])
    ranks = pa.array(np.arange(starts[part], starts[part] + table.num_rows))
    table = table.append_column("rank", ranks).select(_RANKED.names).cast(_RANKED)
    # Equal hashes have to meet in one part. Different factors keep equal words of a hash from canceling each other.
    mixed = np.bitwise_xor.reduce(words_of(table["phash"]) * np.array([1, 3, 5, 7], np.uint64), axis=1)
    parts = len(sources)
    scatter(looks, table, np.asarray((mixed ^ (mixed >> np.uint64(32))) % np.uint64(parts), np.int64), parts)


def _models(part: int, out: str, followers: str, sources: Sequence[str], starts: list[int]) -> None:
    """Keep one of photographs with the very same hash and no scene: a finding about the first holds for all of them.
    Thousands of blank pictures would be millions of pairs.
    """
    table = gather(sources, part)
    words, scene, rank = words_of(table["phash"]), table["scene"].to_numpy(), table["rank"].to_numpy()
    # The last key counts most: equal hashes side by side, of these the ones without a scene first, and by rank.
    order = np.lexsort((rank, scene != 0, *words.T))
    words, lone = words[order], scene[order] == 0
    follows = np.zeros(len(order), bool)
    follows[1:] = (words[1:] == words[:-1]).all(axis=1) & lone[1:] & lone[:-1]
    # The running maximum is the place of the last row that follows none: the first of its group.
    first = rank[order][np.maximum.accumulate(np.where(follows, 0, np.arange(len(order))))]
    many = np.zeros(len(order), bool)
    # True of a row that follows none while the next row follows it.
    many[:-1] = follows[1:] & ~follows[:-1]
    table = table.take(pa.array(order)).append_column("many", pa.array(many))
    store(out, _MODEL, [table.filter(pa.array(~follows))])
    behind = table.filter(pa.array(follows))
    found = pa.table([first[follows], behind["rank"], behind["row"], np.zeros(behind.num_rows), many[follows]], _PAIR)
    scatter(followers, found, _part_of(first[follows], starts), len(sources))


def _part_of(ranks: NDArray[Any], starts: list[int]) -> NDArray[np.int64]:
    return np.searchsorted(starts, ranks, side="right") - 1


def _pairs_of_all(work: Work, bits: int, starts: list[int]) -> list[str]:
    """Compare all: few photographs."""
    table = gather(work.places("models"), 0)
    found = _pair_table(table, close_pairs(words_of(table["phash"]), bits))
    scatter(work.place("pairs"), found, _part_of(found["first"].to_numpy(), starts), work.parts)
    return [work.place("pairs")]


def _pairs(work: Work, bits: int, starts: list[int], count: int) -> list[str]:
    """Compare what agrees in a band, some bands at a time."""
    pairs: list[str] = []
    fine = -(-count // _FINE)
    for first in range(0, BANDS, _TOGETHER):
        chosen = list(range(first, first + _TOGETHER))
        work.run(
            partial(_to_bands, chosen=chosen, fine=fine),
            [{"models": work.place("models", p), "out": work.place("bands", p)} for p in range(work.parts)],
        )
        outs = [work.place("pairs", first * fine + number) for number in range(fine)]
        work.run(
            partial(_pairs_of_bands, sources=work.places("bands"), chosen=chosen, fine=fine, bits=bits, starts=starts),
            [{"number": number, "out": out} for number, out in enumerate(outs)],
        )
        work.clear_stage("bands")
        pairs += outs
    return pairs


def _to_bands(models: str, out: str, chosen: list[int], fine: int) -> None:
    table = load(models)
    keys = bands(words_of(table["phash"]))[:, chosen].astype(np.int64)
    # The 16-bit values of a band are cut into `fine` stretches, and each band has such parts of its own.
    targets = (keys * fine >> 16) + np.arange(len(chosen)) * fine
    scatter(out, pa.concat_tables([table] * len(chosen)).combine_chunks(), targets.T.ravel(), fine * len(chosen))


def _pairs_of_bands(
    number: int, out: str, sources: Sequence[str], chosen: list[int], fine: int, bits: int, starts: list[int]
) -> None:
    def parts() -> Iterator[pa.Table]:
        for place, band in enumerate(chosen):
            table = gather(sources, place * fine + number)
            yield _pair_table(table, close_pairs_by(words_of(table["phash"]), band, bits))

    found = pa.concat_tables(list(parts()))
    scatter(out, found, _part_of(found["first"].to_numpy(), starts), len(starts) - 1)


def _pair_table(table: pa.Table, pairs: Iterator[tuple[NDArray[Any], ...]]) -> pa.Table:
    """Pairs of rows as ranks, the first to be preferred, without those of one scene."""
    pieces = list(pairs)  # tens of thousands, of a few pairs each
    if not pieces:
        return _PAIR.empty_table()
    one, other, far = (np.concatenate(parts) for parts in zip(*pieces, strict=True))
    rank, row, scene, many = (table[name].to_numpy() for name in ("rank", "row", "scene", "many"))
    # Photographs of one scene are no copies of each other, however alike.
    use = (scene[one] != scene[other]) | (scene[one] == 0)
    ordered = rank[one] < rank[other]
    i, j = np.where(ordered, one, other)[use], np.where(ordered, other, one)[use]
    return pa.table([rank[i], rank[j], row[j], far[use], many[j]], schema=_PAIR)


def _resolve(work: Work, pairs: list[str], starts: list[int]) -> list[str]:
    """Go through all pairs by rank. A bit for each photograph says whether it repeats another."""
    parts = work.parts
    gone = bytearray(starts[-1] // 8 + 1)
    given: dict[int, tuple[str, int]] = {}  # what became of those whose hash others have too
    for part in range(parts):
        uris = load(work.place("ranked", part))["uri"].combine_chunks()
        said: list[tuple[int, str, int]] = []
        for first, second, row, far, many in _by_rank(gather(pairs, part)):
            # A photograph that has gone takes no other with it: the other may not be like the one that stays.
            if gone[first >> 3] >> (first & 7) & 1 or gone[second >> 3] >> (second & 7) & 1:
                continue
            gone[second >> 3] |= 1 << (second & 7)
            uri = uris[first - starts[part]].as_py()
            said.append((row, uri, far))
            if many:
                given[second] = uri, far
        for first, _, row, _, _ in _by_rank(gather(work.places("followers"), part)):
            said.append((row, *given.get(first, (uris[first - starts[part]].as_py(), 0))))
        table = pa.table([pa.array(values) for values in zip(*said, strict=True)] or [[], [], []], schema=VERDICT)
        scatter(work.place("verdicts", part), table, table["row"].to_numpy() >> 32, parts)
    return work.places("verdicts")


def _by_rank(pairs: pa.Table) -> Iterator[tuple[Any, ...]]:
    table = pairs.sort_by([("first", "ascending"), ("second", "ascending")])
    return zip(*(table[name].to_pylist() for name in _PAIR.names), strict=True)
