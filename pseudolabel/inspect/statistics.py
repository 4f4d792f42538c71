"""What is in a label pool, told as text that fits a terminal."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime

import numpy as np

from pseudolabel.inspect.contents import Contents
from pseudolabel.pool import History, PoolStats, bounded

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
    """Count labels by their scores, and choose some.

    Args:
        contents: the pool.
        count: how many photographs to choose of each kind.
        seed: of the random choice.
    """
    clearness, quality = (contents.scores[name].to_numpy().clip(0, 1) for name in ("clearness", "quality"))
    order = np.argsort(clearness + quality, kind="stable")
    # Without the best, so that in a small pool nothing is best and worst at once.
    rest = order[: max(len(order) - count, 0)]
    chosen = (order[::-1][:count], rest[:count], np.random.default_rng(seed).permutation(rest[count:])[:count])
    best, worst, others = (contents.scores["image_id"].take(places).to_pylist() for places in chosen)
    counts = {
        "clearness": np.histogram(clearness, BINS, (0, 1))[0].tolist(),
        "quality": np.histogram(quality, BINS, (0, 1))[0].tolist(),
    }
    return Survey(contents.kind, contents.stats, contents.history, **counts, best=best, worst=worst, others=others)


def told(found: Survey, name: str, *, block: str = "█") -> str:
    """Return the survey as text, at most 80 columns wide.

    Args:
        found: the survey.
        name: of the pool.
        block: what bars are made of; `#` where the terminal knows nothing else.
    """
    stats = found.stats
    parts = [
        f"""\
label pool {name}
  {found.kind}
  labels      {stats.size:>12,}
  offered     {stats.offered:>12,}
  accepted    {stats.accepted:>12,}  {stats.acceptance_rate:.1%}; {stats.replaced:,} replaced a label
  clearness   {stats.mean_clearness:>12.3f}  mean
  quality     {stats.mean_quality:>12.3f}  mean
  teacher step{stats.mean_teacher_step:>12,.0f}  mean"""
    ]
    if found.history.moments:
        parts.append("\n".join(_over_time(found.history, block)))
    if stats.size:
        parts.append("\n".join(_histograms(found.clearness, found.quality, block)))
    return "\n\n".join(parts)


def _over_time(history: History, block: str) -> Iterator[str]:
    history = bounded(history, ROWS)
    units = ((86400, "d"), (3600, "h"), (60, "min"), (1, "s"))
    size, unit = next(known for known in units if history.width >= known[0])
    yield f"Acceptance over time, in spans of {history.width / size:.3g} {unit} (UTC); scores are means of the pool"
    yield f"  {'from':<16} {'offered':>9} {'rate':>6} {'':<{_BAR}} {'labels':>9} {'clear':>5} {'qual.':>5}"
    pattern = "%Y-%m-%d %H:%M" if history.width >= 60 else "  %m-%d %H:%M:%S"
    for moment in history.moments:
        rate, size = moment.accepted / max(moment.offered, 1), max(moment.size, 1)
        shown = f"{rate:>6.1%}" if moment.offered else f"{'':>6}"
        yield (
            f"  {datetime.fromtimestamp(moment.at * history.width, UTC):{pattern}} {moment.offered:>9,} {shown} "
            f"{_bar(rate, _BAR, block):<{_BAR}} {moment.size:>9,} {moment.clearness_sum / size:>5.3f} "
            f"{moment.quality_sum / size:>5.3f}"
        )


def _histograms(clearness: list[int], quality: list[int], block: str) -> Iterator[str]:
    used = [index for index in range(BINS) if clearness[index] or quality[index]]
    yield f"{'Labels by clearness':<40}{'Labels by quality'}"
    for index in range(min(used), max(used) + 1):
        span = f"{index / BINS:.2f}-{(index + 1) / BINS:.2f}"
        cells = [f"{_bar(c[index] / max(c), 15, block):<15} {c[index]:>10,}" for c in (clearness, quality)]
        yield f"  {span} {cells[0]:<28} {span} {cells[1]}".rstrip()


def _bar(share: float, width: int, block: str) -> str:
    # What is not nothing shows.
    return block * (max(round(share * width), 1) if share > 0 else 0)
