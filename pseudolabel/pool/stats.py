"""Statistics of a label pool."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pseudolabel.pool.snapshots import Counters


@dataclass(frozen=True)
class PoolStats:
    """Statistics of a pool or of several shards together; means are 0 while it is empty.

    `offered`, `accepted` and `replaced` count over the pool's whole life, restarts and restores included. A call that
    was retried counts again: they are indicators, while `size` and the means are exact.
    """

    size: int = 0
    offered: int = 0
    accepted: int = 0
    replaced: int = 0
    acceptance_rate: float = 0.0
    mean_clearness: float = 0.0
    mean_quality: float = 0.0
    mean_teacher_step: float = 0.0

    @classmethod
    def of(cls, counters: Counters) -> PoolStats:
        """Statistics from counters."""
        size = max(counters.size, 1)
        return cls(
            size=counters.size,
            offered=counters.offered,
            accepted=counters.accepted,
            replaced=counters.replaced,
            acceptance_rate=counters.accepted / max(counters.offered, 1),
            mean_clearness=counters.clearness_sum / size,
            mean_quality=counters.quality_sum / size,
            mean_teacher_step=counters.step_sum / size,
        )

    @classmethod
    def merged(cls, shards: Sequence[PoolStats]) -> PoolStats:
        """Statistics of all `shards` together; means are weighted by size."""
        total = Counters(
            size=sum(s.size for s in shards),
            offered=sum(s.offered for s in shards),
            accepted=sum(s.accepted for s in shards),
            replaced=sum(s.replaced for s in shards),
            clearness_sum=sum(s.mean_clearness * s.size for s in shards),
            quality_sum=sum(s.mean_quality * s.size for s in shards),
            step_sum=sum(round(s.mean_teacher_step * s.size) for s in shards),
        )
        return cls.of(total)
