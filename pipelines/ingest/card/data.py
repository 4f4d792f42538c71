"""What a data card says of a corpus: counts and histograms of its catalogue, and the photographs to show. No Ray.

The catalogue has a row for every file found, so everything here is done by columns; only the few rows that are shown
become Python objects.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from pydantic import Field

from models.config import Settings
from pipelines.corpus import words_of
from pipelines.reports import Row

Rows = NDArray[np.int64]  # positions in the catalogue

COLUMNS = (
    "uri", "place", "size", "mtime", "image_id", "width", "height", "phash", "haze", "depth", "pair_id", "status",
    "reason", "message", "same_as", "distance", "shard",
)  # fmt: skip
DUPLICATE_KINDS = ("near", "other_corpus", "exact")
BANDS = ("lowest", "middle", "highest")
_SIDES = (0, *(digit << bits for bits in range(4, 16) for digit in (2, 3)), 1 << 17)
_BYTES = (0, *(digit * 10**zeros for zeros in range(3, 9) for digit in (1, 2, 5)))
_HAZE_BINS = 20
_HAZE = tuple(i / _HAZE_BINS for i in range(_HAZE_BINS + 1))
_MOST = 1 << 18
_FEW_BINS = 5


class CardSettings(Settings):
    """How much a card shows, which also bounds how much is read for it.

    ``samples``, ``pairs`` and ``rejects`` count photographs, pairs of duplicates and rejects; ``band`` photographs from
    each of the lowest, middle and highest haze densities; ``suspects`` suspicious depth maps. ``seed`` chooses which.
    """

    samples: int = Field(24, ge=0, le=100)
    pairs: int = Field(12, ge=0, le=100)
    rejects: int = Field(24, ge=0, le=100)
    band: int = Field(6, ge=0, le=100)
    suspects: int = Field(12, ge=0, le=100)
    seed: int = 0


@dataclass(frozen=True)
class Histogram:
    """Counts per bin by series; bin ``i`` is ``edges[i] <= value < edges[i + 1]``, the last one without an end."""

    edges: tuple[float, ...]
    series: Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class Facts:
    """Counts of a catalogue.

    Attributes:
        duplicates: by kind.
        bytes, pixels: of the accepted photographs' original files, in total.
        depth, pairs, measured: accepted photographs with a depth map, a pair id, a haze density.
        sides, sizes, haze: of the accepted photographs: long side in pixels, file in bytes, density by split.
        mean_haze: by split, of those where it was measured.
    """

    duplicates: Mapping[str, int]
    bytes: int
    pixels: int
    depth: int
    pairs: int
    measured: int
    sides: Histogram
    sizes: Histogram
    haze: Histogram
    mean_haze: Mapping[str, float]


@dataclass(frozen=True)
class CardChoice:
    """The rows to show: accepted ones, by density, (kept or None, dropped), rejects by reason, suspicious maps.

    ``suspects`` pairs what was said of a depth map with its photograph's row, which is None when it has none.
    """

    samples: list[Row]
    bands: dict[str, list[Row]]
    pairs: list[tuple[Row | None, Row]]
    rejects: dict[str, list[Row]]
    suspects: list[tuple[Mapping[str, Any], Row | None]]


def facts(catalogue: Iterable[pa.Table]) -> Facts:
    """Count everything, by columns, table after table."""
    kinds: Counter[str] = Counter()
    total: Counter[str] = Counter()
    sides, sizes, haze = (Histogram(tuple(edges), {}) for edges in (_SIDES, _BYTES, _HAZE))
    for table in catalogue:
        kinds.update(_counts(table["reason"].filter(pc.equal(table["status"], "duplicate"))))
        columns = ["width", "height", "size", "haze", "depth", "pair_id", "shard"]
        accepted = table.select(columns).filter(pc.equal(table["status"], "accepted"))
        width, height, size = (_integers(accepted[name]) for name in ("width", "height", "size"))
        density = _densities(accepted)
        test = np.asarray(pc.starts_with(accepted["shard"], "test-").fill_null(False), bool)
        splits = {"train": density[~test], "test": density[test]}
        splits = {name: values[~np.isnan(values)] for name, values in splits.items()}
        total.update(bytes=int(size.sum()), pixels=int((width * height).sum()))
        total.update({name: accepted.num_rows - accepted[name].null_count for name in ("depth", "pair_id")})
        total.update({name: float(values.sum()) for name, values in splits.items()})
        sides = _added(sides, histogram({"photographs": np.maximum(width, height)}, _SIDES))
        sizes = _added(sizes, histogram({"photographs": size}, _BYTES))
        haze = _added(haze, histogram(splits, _HAZE))
    measured = {name: sum(counts) for name, counts in haze.series.items()}
    return Facts(
        duplicates={kind: kinds[kind] for kind in _in_order(kinds)},
        bytes=total["bytes"],
        pixels=total["pixels"],
        depth=total["depth"],
        pairs=total["pair_id"],
        measured=sum(measured.values()),
        sides=occupied(sides),
        sizes=occupied(sizes),
        haze=haze,
        mean_haze={name: total[name] / count for name, count in measured.items() if count},
    )


def _added(one: Histogram, other: Histogram) -> Histogram:
    """Add up two histograms of the same edges; the first may have no series yet."""
    found = {name: np.add(one.series.get(name, 0), counts) for name, counts in other.series.items()}
    return Histogram(one.edges, {name: tuple(counts.tolist()) for name, counts in found.items()})


def histogram(series: Mapping[str, NDArray[Any]], edges: Sequence[float]) -> Histogram:
    """Count values between the edges; values outside of them count in the first or the last bin."""
    counts = {}
    for name, values in series.items():
        bins = np.clip(np.searchsorted(edges, values, side="right") - 1, 0, len(edges) - 2)
        counts[name] = tuple(np.bincount(bins, minlength=len(edges) - 1).tolist())
    return Histogram(tuple(edges), counts)


def occupied(whole: Histogram) -> Histogram:
    """Return a histogram without the empty bins at both ends; a few stay, as a single bar says little about where it
    stands.
    """
    filled = np.flatnonzero(np.sum(list(whole.series.values()), axis=0))
    if not len(filled):
        return Histogram(whole.edges[:2], {name: counts[:1] for name, counts in whole.series.items()})
    first, last = int(filled[0]), int(filled[-1])
    while last - first + 1 < min(_FEW_BINS, len(whole.edges) - 1):
        first, last = max(0, first - 1), min(len(whole.edges) - 2, last + 1)
    return Histogram(
        whole.edges[first : last + 2], {name: counts[first : last + 1] for name, counts in whole.series.items()}
    )


def choose(
    catalogue: Iterable[pa.Table], suspicious: Iterable[Mapping[str, Any]], settings: CardSettings
) -> CardChoice:
    """Choose what to show: at random, but the same for the same catalogue and seed, in whatever order its rows are.

    Args:
        catalogue: its tables; they are read twice.
        suspicious: what was said of depth maps.
        settings: how much to show.
    """
    tried = _at_random(catalogue, settings.seed, _MOST)
    priority = priorities(tried, settings.seed)
    status = tried["status"]
    accepted, rejected, duplicates = (_where(pc.equal(status, s)) for s in ("accepted", "rejected", "duplicate"))
    suspects = _suspects(suspicious, settings.suspects)
    dropped = _dropped(tried, duplicates, priority, settings.pairs)
    wanted = {row["same_as"] for row in dropped} | {suspect["uri"] for suspect in suspects}
    known = {uri: row for table in catalogue for uri, row in _by_uri(table, wanted).items()} if wanted else {}
    return CardChoice(
        samples=_rows(tried, _first(accepted, settings.samples, priority)),
        bands=_bands(tried, accepted, priority, settings.band),
        pairs=[(known.get(row["same_as"]), row) for row in dropped],
        rejects=_by_reason(tried, rejected, settings.rejects, (priority,)),
        suspects=[(suspect, known.get(suspect["uri"])) for suspect in suspects],
    )


def _at_random(catalogue: Iterable[pa.Table], seed: int, most: int) -> pa.Table:
    """Choose ``most`` rows at random; all where there are no more."""
    rows = None
    for table in catalogue:
        rows = table if rows is None else pa.concat_tables([rows, table])
        if rows.num_rows > most:
            chosen = np.sort(np.argpartition(priorities(rows, seed), most)[:most])
            rows = rows.take(pa.array(chosen))
    return rows if rows is not None else pa.table({name: [] for name in COLUMNS})


def priorities(catalogue: pa.Table, seed: int) -> NDArray[np.uint64]:
    """Return a random number per row that follows from the row and the seed, not from its place in the table.

    Numbers of the row are folded together with SplitMix64's finaliser (Steele et al., OOPSLA 2014).
    """
    mixed = np.full(catalogue.num_rows, seed % 2**64, dtype=np.uint64)
    lengths = (pc.binary_length(catalogue[name]) for name in ("uri", "place"))
    columns = [catalogue["size"], catalogue["mtime"], *lengths]
    numbers = [column.fill_null(0).to_numpy().astype(np.uint64) for column in columns]
    for number in (words_of(catalogue["phash"])[:, 0], *numbers):
        mixed += np.uint64(0x9E3779B97F4A7C15)
        mixed ^= number
        mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        mixed ^= mixed >> np.uint64(31)
    return mixed


def shares(counts: Mapping[str, int], total: int) -> dict[str, int]:
    """Divide ``total`` places as evenly as the counts allow; earlier names get what is left over."""
    given = dict.fromkeys(counts, 0)
    left = min(total, sum(counts.values()))
    while left:
        for name, count in counts.items():
            if left and given[name] < count:
                given[name] += 1
                left -= 1
    return given


def _bands(catalogue: pa.Table, accepted: Rows, priority: NDArray[np.uint64], each: int) -> dict[str, list[Row]]:
    haze = _densities(catalogue)[accepted]
    order = accepted[np.lexsort((priority[accepted], haze))][: np.count_nonzero(~np.isnan(haze))]  # NaN sorts last
    each = min(each, len(order) // len(BANDS))
    starts = (0, (len(order) - each) // 2, len(order) - each)
    return {name: _rows(catalogue, order[a : a + each]) for name, a in zip(BANDS, starts, strict=True)}


def _dropped(catalogue: pa.Table, duplicates: Rows, priority: NDArray[np.uint64], most: int) -> list[Row]:
    """Duplicates of every kind, the most doubtful first: those that are farthest from what they are a copy of."""
    doubt = -_integers(catalogue["distance"])
    groups = _by_reason(catalogue, duplicates, most, (priority, doubt))
    return [row for kind in _in_order(groups) for row in groups[kind]]


def _suspects(suspicious: Iterable[Mapping[str, Any]], most: int) -> list[Mapping[str, Any]]:
    """Some depth maps of every suspicion, the rarest suspicion first."""
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for suspect in suspicious:
        groups.setdefault(" ".join(suspect["suspicions"]), []).append(suspect)
    counts = {words: len(groups[words]) for words in sorted(groups, key=lambda words: (len(groups[words]), words))}
    return [
        suspect
        for words, share in shares(counts, most).items()
        for suspect in heapq.nsmallest(share, groups[words], key=lambda suspect: str(suspect["uri"]))
    ]


def _in_order(kinds: Iterable[str]) -> list[str]:
    """Sort kinds of duplicates, those that may be wrong first; an unknown one goes last."""
    known = {kind: place for place, kind in enumerate(DUPLICATE_KINDS)}
    return sorted(kinds, key=lambda kind: (known.get(kind, len(known)), kind))


def _by_reason(catalogue: pa.Table, rows: Rows, most: int, keys: tuple[NDArray[Any], ...]) -> dict[str, list[Row]]:
    """Some rows of every reason, the most frequent one first."""
    reasons = catalogue["reason"].take(pa.array(rows))
    counts = dict(sorted(_counts(reasons).items(), key=lambda item: (-item[1], item[0])))
    return {
        reason: _rows(catalogue, _first(rows[_where(pc.equal(reasons, reason))], share, *keys))
        for reason, share in shares(counts, most).items()
        if share
    }


def _by_uri(catalogue: pa.Table, uris: set[str]) -> dict[str, Row]:
    wanted = pa.array(sorted(uri for uri in uris if uri), catalogue["uri"].type)
    return {row["uri"]: row for row in _rows(catalogue, _where(pc.is_in(catalogue["uri"], value_set=wanted)))}


def _first(rows: Rows, count: int, *keys: NDArray[Any]) -> Rows:
    """The first of ``rows`` by ``keys``, of which the last one counts most."""
    order: Rows = rows[np.lexsort([key[rows] for key in keys])[:count]]
    return order


def _rows(catalogue: pa.Table, rows: Rows) -> list[Row]:
    """Return few rows as objects; slices, because `take` on a column of more than 2 GiB of text would fail."""
    return [catalogue.slice(int(row), 1).to_pylist()[0] for row in rows]


def _where(mask: Any) -> Rows:
    return np.flatnonzero(np.asarray(mask.fill_null(False)))


def _counts(column: Any) -> dict[str, int]:
    found = pc.value_counts(column.fill_null(""))
    return {str(item["values"]): item["counts"] for item in found.to_pylist()}


def _integers(column: Any) -> NDArray[np.int64]:
    values: NDArray[np.int64] = column.fill_null(0).to_numpy().astype(np.int64)
    return values


def _densities(table: pa.Table) -> NDArray[np.float64]:
    """Return the haze of each row, in [0, 1], NaN where it was not measured."""
    values: NDArray[np.float64] = table["haze"].fill_null(float("nan")).to_numpy().astype(np.float64)
    return values
