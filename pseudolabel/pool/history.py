"""What became of the offers over time, in bounded space: the older and longer a history, the coarser its moments."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from pydantic import Field

from models.config import Settings

LONGEST = 128  # moments; all of them are read and written with each call that offers


class Moment(NamedTuple):
    """What happened in one span of time, and what the pool was at its end.

    Attributes:
        at: the span begins `at` times the history's width after 1970.
        offered, accepted, replaced: candidates within the span.
        size, clearness_sum, quality_sum: of the pool at the end of the span.
        step: of the newest teacher that offered something up to then.
    """

    at: int
    offered: int
    accepted: int
    replaced: int
    size: int
    clearness_sum: float
    quality_sum: float
    step: int

    def then(self, later: Moment) -> Moment:
        """Join both as one span, under the `at` of `later`."""
        return later._replace(
            offered=self.offered + later.offered,
            accepted=self.accepted + later.accepted,
            replaced=self.replaced + later.replaced,
            step=max(self.step, later.step),
        )


class History(Settings):
    """Moments in order of time, each `width` seconds long; spans in which nothing was offered are left out."""

    width: int = Field(1, ge=1)
    moments: tuple[Moment, ...] = ()

    @property
    def last(self) -> int:
        """Return `at` of the latest moment, -1 when there is none."""
        return self.moments[-1].at if self.moments else -1

    def totals(self) -> tuple[int, int, int]:
        """Return how many candidates were offered, accepted, and accepted in place of a label."""
        now = self.moments
        return sum(m.offered for m in now), sum(m.accepted for m in now), sum(m.replaced for m in now)


def widened(history: History, width: int) -> History:
    """Return the history in moments of `width` seconds, a multiple of the present width."""
    merged: dict[int, Moment] = {}
    for moment in history.moments:
        place = moment._replace(at=moment.at * history.width // width)
        merged[place.at] = merged[place.at].then(place) if place.at in merged else place
    return History(width=width, moments=tuple(merged.values()))


def bounded(history: History, longest: int = LONGEST) -> History:
    """Return the history in at most `longest` moments: their width doubles until they fit."""
    while len(history.moments) > longest:
        history = widened(history, 2 * history.width)
    return history


def logged(history: History, moment: Moment) -> History:
    """Return the history with the latest events added.

    Args:
        history: what was before.
        moment: its `at` in seconds since 1970; its size and sums are what the pool has gained.
    """
    last = history.moments[-1] if history.moments else Moment(-1, 0, 0, 0, 0, 0.0, 0.0, 0)
    now = moment._replace(
        at=max(moment.at // history.width, last.at),  # a clock set back does not change the past
        size=last.size + moment.size,
        clearness_sum=last.clearness_sum + moment.clearness_sum,
        quality_sum=last.quality_sum + moment.quality_sum,
    )
    past = history.moments if now.at > last.at else history.moments[:-1]
    return bounded(history.model_copy(update={"moments": (*past, now if now.at > last.at else last.then(now))}))


def together(histories: Sequence[History]) -> History:
    """Join the histories of several shards. A shard that was offered nothing in a span keeps what it held before."""
    # Widths are powers of two, so the widest is a multiple of the others.
    width = max((history.width for history in histories), default=1)
    rows = [{moment.at: moment for moment in widened(history, width).moments} for history in histories]
    held: list[Moment | None] = [None] * len(rows)
    moments = []
    for index in sorted({index for row in rows for index in row}):
        now = [row[index] for row in rows if index in row]
        # What a shard held last, it still holds.
        held = [row.get(index, old) for row, old in zip(rows, held, strict=True)]
        whole = [moment for moment in held if moment]
        moments.append(
            Moment(
                at=index,
                offered=sum(m.offered for m in now),
                accepted=sum(m.accepted for m in now),
                replaced=sum(m.replaced for m in now),
                size=sum(m.size for m in whole),
                clearness_sum=sum(m.clearness_sum for m in whole),
                quality_sum=sum(m.quality_sum for m in whole),
                step=max(m.step for m in whole),
            )
        )
    return bounded(History(width=width, moments=tuple(moments)))
