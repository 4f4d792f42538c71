"""What is in a label pool, counted in one pass over its scores, and told as text that fits a terminal."""

from __future__ import annotations

import heapq
import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime

from pseudolabel.inspect.contents import Contents
from pseudolabel.pool import Header, History, PoolStats, bounded

BINS = 20
ROWS = 16  # of the table over time
_BAR = 20


@dataclass
class Survey:
    """What a pool holds. Photographs are best and worst by the mean of their scores; no photograph is chosen twice.

    Attributes:
        kind: what was looked at.
        stats, history: of the whole pool.
        clearness, quality: labels per bin of 1/20, from 0 to 1.
        best, worst, others: identifiers; the others are chosen at random.
    """

    kind: str
    stats: PoolStats
    history: History
    clearness: list[int] = field(default_factory=lambda: [0] * BINS)
    quality: list[int] = field(default_factory=lambda: [0] * BINS)
    best: list[str] = field(default_factory=list)
    worst: list[str] = field(default_factory=list)
    others: list[str] = field(default_factory=list)


def survey(contents: Contents, count: int = 0, seed: int = 0) -> Survey:
    """Look through all scores once.

    Args:
        contents: the pool.
        count: how many photographs to choose of each kind.
        seed: of the random choice.
    """
    found = Survey(contents.kind, contents.stats(), contents.history())
    chosen = _Choice(count, random.Random(seed))
    for image_id, header in contents.headers():
        found.clearness[_bin(header.clearness)] += 1
        found.quality[_bin(header.quality)] += 1
        if count:
            chosen.see(image_id, header)
    found.best, found.worst, found.others = chosen.made()
    return found


def _bin(score: float) -> int:
    return min(max(int(score * BINS), 0), BINS - 1)


class _Choice:
    """Best, worst and random ones of a stream, in memory for as many as are chosen."""

    def __init__(self, count: int, chance: random.Random) -> None:
        self._count, self._chance, self._seen = count, chance, 0
        self._best: list[tuple[float, str]] = []
        self._worst: list[tuple[float, str]] = []
        self._any: list[str] = []

    def see(self, image_id: str, header: Header) -> None:
        mean = (header.clearness + header.quality) / 2
        for heap, item in ((self._best, (mean, image_id)), (self._worst, (-mean, image_id))):
            (heapq.heappush if len(heap) < self._count else heapq.heappushpop)(heap, item)
        self._seen += 1
        if len(self._any) < 3 * self._count:  # two thirds may turn out to be best and worst ones
            self._any.append(image_id)
        elif (place := self._chance.randrange(self._seen)) < len(self._any):
            self._any[place] = image_id

    def made(self) -> tuple[list[str], list[str], list[str]]:
        best = [image_id for _, image_id in sorted(self._best, reverse=True)]
        worst = [image_id for _, image_id in sorted(self._worst, reverse=True) if image_id not in best]
        others = [image_id for image_id in self._any if image_id not in (*best, *worst)]
        self._chance.shuffle(others)
        return best, worst, others[: self._count]


def told(found: Survey, name: str, *, block: str = "█") -> str:
    """The survey as text, at most 80 columns wide.

    Args:
        found: the survey.
        name: of the pool.
        block: what bars are made of; `#` where the terminal knows nothing else.
    """
    parts = ["\n".join(_summary(found, name))]
    if found.history.moments:
        parts.append("\n".join(_over_time(found.history, block)))
    if found.stats.size:
        parts.append("\n".join(_histograms(found, block)))
    return "\n\n".join(parts)


def _summary(found: Survey, name: str) -> Iterator[str]:
    stats = found.stats
    yield f"label pool {name}"
    yield f"  {found.kind}"
    yield f"  labels      {stats.size:>12,}"
    yield f"  offered     {stats.offered:>12,}"
    yield f"  accepted    {stats.accepted:>12,}  {stats.acceptance_rate:.1%}; {stats.replaced:,} replaced a label"
    yield f"  clearness   {stats.mean_clearness:>12.3f}  mean"
    yield f"  quality     {stats.mean_quality:>12.3f}  mean"
    yield f"  teacher step{stats.mean_teacher_step:>12,.0f}  mean"


def _over_time(history: History, block: str) -> Iterator[str]:
    history = bounded(history, ROWS)
    yield f"Acceptance over time, in spans of {_duration(history.width)} (UTC); scores are means of the pool"
    yield f"  {'from':<16} {'offered':>9} {'rate':>6} {'':<{_BAR}} {'labels':>9} {'clear':>5} {'qual.':>5}"
    for moment in history.moments:
        rate, size = moment.accepted / max(moment.offered, 1), max(moment.size, 1)
        bar = _bar(rate, _BAR, block)
        shown = f"{rate:>6.1%}" if moment.offered else f"{'':>6}"
        yield (
            f"  {_when(moment.at * history.width, history.width)} {moment.offered:>9,} {shown} {bar:<{_BAR}} "
            f"{moment.size:>9,} {moment.clearness_sum / size:>5.3f} {moment.quality_sum / size:>5.3f}"
        )


def _when(seconds: int, width: int) -> str:
    pattern = "%Y-%m-%d %H:%M" if width >= 60 else "  %m-%d %H:%M:%S"
    return datetime.fromtimestamp(seconds, UTC).strftime(pattern)


def _duration(seconds: int) -> str:
    for unit, name in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= unit:
            return f"{seconds / unit:.3g} {name}"
    return f"{seconds} s"


def _histograms(found: Survey, block: str) -> Iterator[str]:
    both = (found.clearness, found.quality)
    used = [index for counts in both for index, count in enumerate(counts) if count]
    yield f"{'Labels by clearness':<40}{'Labels by quality'}"
    for index in range(min(used), max(used) + 1):
        low, high = index / BINS, (index + 1) / BINS
        cells = [_histogram_cell(counts, index, block) for counts in both]
        yield f"  {low:.2f}-{high:.2f} {cells[0]:<28} {low:.2f}-{high:.2f} {cells[1]}".rstrip()


def _histogram_cell(counts: Iterable[int], index: int, block: str) -> str:
    values = list(counts)
    return f"{_bar(values[index] / max(values), 15, block):<15} {values[index]:>10,}"


def _bar(share: float, width: int, block: str) -> str:
    length = round(share * width)
    return block * (max(length, 1) if share > 0 else 0)
